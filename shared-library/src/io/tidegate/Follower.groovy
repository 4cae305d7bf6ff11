package io.tidegate

import com.cloudbees.groovy.cps.NonCPS

/** Follows a rollout by its events and prints each event once. */
class Follower implements Serializable {
    private static final long serialVersionUID = 1L
    private static final int PAGE = 500 // events in one response
    private static final int FOREVER = Integer.MAX_VALUE

    final script
    final Client client
    int printed = 0 // number of the last event in the log
    String service = '' // begins each line after its time: the log of parallel branches is one

    Follower(script, Client client) {
        this.script = script
        this.client = client
    }

    /** Marks the events so far as printed: an earlier stage of the build has printed them. */
    void skipPast(String id) {
        List events = client.events(id, printed)
        while (!events.isEmpty()) {
            printed = events[events.size() - 1].number
            events = events.size() < PAGE ? [] : client.events(id, printed)
        }
    }

    /** Follows until the service reports that the `verdict`, the `approval` or the `end` is reached; returns the rollout. */
    Map follow(String id, String until) {
        while (true) {
            boolean reached = false
            while (!reached) {
                Map page = client.poll(id, printed, until, FOREVER)
                printEvents(page.events)
                reached = page.reached
            }
            Map rollout = client.rollout(id)
            if (until != 'approval' || Rollouts.finished(rollout) || Rollouts.waiting(rollout)) {
                return rollout
            } // the approval was given, or the rollback has begun, since the poll
        }
    }

    /** Follows until somebody decides on this approval, then to the next approval or the end. */
    Map followPast(String id, Map approval) {
        Map rollout = client.rollout(id)
        while (Rollouts.unchanged(approval, rollout.approval)) {
            if (pollOnce(id, 'end', FOREVER)) {
                rollout = client.rollout(id)
            }
        }
        return follow(id, 'approval')
    }

    /** Follows until the verdict is newer than that of `before`, until the end, or for `seconds`. */
    Map followToVerdict(String id, Map before, int seconds) {
        long end = new Date().getTime() + seconds * 1000L
        String old = before.verdict == null ? '' : before.verdict.at
        Map rollout = client.rollout(id)
        while (!Rollouts.finished(rollout) && new Date().getTime() < end) {
            if (rollout.verdict != null && rollout.verdict.at != old) {
                break
            }
            pollOnce(id, 'end', secondsTo(end))
            rollout = client.rollout(id)
        }
        printEvents(client.events(id, printed))
        return rollout
    }

    /** Whether there were events within `seconds`. */
    private boolean pollOnce(String id, String until, int seconds) {
        Map page = client.poll(id, printed, until, seconds)
        printEvents(page.events)
        return !page.events.isEmpty()
    }

    @NonCPS
    private static int secondsTo(long end) {
        return (int) Math.max(1L, Math.round((double) (end - new Date().getTime()) / 1000.0d))
    }

    /** One line for each event, and one step of the build for all of them. */
    private void printEvents(List events) {
        if (!events.isEmpty()) {
            script.echo(Messages.events(events, service))
            printed = events[events.size() - 1].number
        }
    }
}
