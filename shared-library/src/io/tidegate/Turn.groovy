package io.tidegate

import org.jenkinsci.plugins.workflow.steps.FlowInterruptedException

/** Waits until it is this build's turn to deploy. The service keeps the order; a build that stops asking loses its place. */
class Turn implements Serializable {
    private static final long serialVersionUID = 1L
    private static final int MAX_WAIT_SECONDS = 86_400 // a rollout that is live for longer needs a person
    private static final int MAX_SILENCE_SECONDS = 240 // between two requests; the service allows 420
    private static final int PAUSE_SECONDS = 10 // while an earlier build has its turn and no rollout yet

    final Session session

    Turn(Session session) {
        this.session = session
    }

    /** Sends the request until the build need not wait any longer; returns the response. */
    Map take(String path, Map body) {
        Map response = session.client.post(path, body, session.key(''))
        long start = new Date().getTime()
        String shown = ''
        try {
            while (waits(response)) {
                if (response.body.detail != shown) {
                    shown = response.body.detail
                    session.script.echo(shown)
                }
                if (secondsSince(start) > MAX_WAIT_SECONDS) {
                    session.script.error("Not deployed: no turn within ${Messages.duration(MAX_WAIT_SECONDS)}. ${shown}")
                }
                pause(response.body.rollout)
                response = session.client.post(path, body, session.key(''))
            }
        } catch (FlowInterruptedException interruption) {
            leave()
            throw interruption
        }
        return response
    }

    /** Whether another rollout comes first. One of this build is followed instead. */
    private boolean waits(Map response) {
        if (response.status != 409 || response.body.code != 'rollout-in-progress') {
            return false
        }
        if (response.body.position != null || response.body.rollout == null) {
            return true
        }
        Map live = session.client.rollout(response.body.rollout)
        return !Rollouts.ownedBy(live, session.build().job, session.build().number)
    }

    /** Until the live rollout has ended, as long as the service keeps the place. Its events are not this build's. */
    private void pause(String rollout) {
        if (rollout == null) {
            session.script.sleep(time: PAUSE_SECONDS, unit: 'SECONDS')
            return
        }
        long start = new Date().getTime()
        int last = 0
        boolean ended = false
        while (!ended && secondsSince(start) < MAX_SILENCE_SECONDS) {
            Map page = session.client.poll(rollout, last, 'end', MAX_SILENCE_SECONDS - secondsSince(start))
            last = page.events.isEmpty() ? last : page.events[page.events.size() - 1].number
            ended = page.reached
        }
    }

    /** The builds behind this one need not wait for it any longer. Throws nothing, which would hide the abort. */
    private void leave() {
        try {
            session.script.timeout(time: 30, unit: 'SECONDS') {
                String query = '?job=' + Keys.encoded(session.build().job) + '&number=' + session.build().number
                session.client.delete(Keys.servicePath(session.options.service) + '/queue' + query)
            }
        } catch (Exception failure) {
            session.script.echo("Could not leave the queue: ${failure.getMessage()}")
        }
    }

    private static int secondsSince(long start) {
        return (int) Math.round((double) (new Date().getTime() - start) / 1000.0d)
    }
}
