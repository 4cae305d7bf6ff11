package io.tidegate

import org.jenkinsci.plugins.workflow.steps.FlowInterruptedException

/** Starts a rollout, or takes up the one that this build has started, and follows it. */
class Deploy implements Serializable {
    private static final long serialVersionUID = 1L

    final Session session

    Deploy(Session session) {
        this.session = session
    }

    Map run() {
        return session.client.within {
            session.outcome.concluded(followed(session.options.until))
        }
    }

    /** The rollout once it was followed far enough. */
    Map followed(String until) {
        Map rollout = started()
        session.script.env.TIDEGATE_ROLLOUT = rollout.id
        session.script.echo("Rollout ${rollout.id} of ${rollout.service} to ${rollout.new}: ${session.client.link(rollout)}")
        return session.guarded(rollout.id) {
            session.follower.follow(rollout.id, until, null)
        }
    }

    private Map started() {
        Map asked = body()
        try {
            Map answer = session.client.post(Keys.servicePath(session.options.service) + '/rollouts', asked, session.key(''))
            return answer.status < 300 ? answer.body : takenUp(answer)
        } catch (FlowInterruptedException interruption) {
            leaveWhatBegan()
            throw interruption
        }
    }

    private Map body() {
        Map options = session.options
        Map body = [build: session.build()]
        String compose = options.compose
        if (options.file != null) {
            compose = session.script.readFile(file: options.file, encoding: 'UTF-8')
        }
        if (compose != null) {
            body.compose = compose
            body.variables = Texts.asText(options.variables)
            body.files = files(options)
        }
        if (options.image != null) {
            body.image = options.image
        }
        if (!session.person().isEmpty()) {
            body.on_behalf_of = session.person()
        }
        if (options.force) {
            body.force = true
        }
        if (!options.reason.isEmpty()) {
            body.reason = Texts.oneLine(options.reason)
        }
        return body
    }

    /** What the Compose file names beside itself. Read as bytes: nobody knows here what they are. */
    private Map files(Map options) {
        if (options.files instanceof Map) {
            return options.files
        }
        String folder = Keys.folder(options.file)
        Map read = [:]
        for (String name in options.files) {
            read.put(name, [base64: session.script.readFile(file: folder + name, encoding: 'Base64')])
        }
        return read
    }

    /** A refusal may be no reason to fail: the live rollout may be our own. */
    private Map takenUp(Map answer) {
        String code = answer.body.code
        if (code == 'superseded') {
            session.script.currentBuild.result = 'NOT_BUILT'
            session.script.error('Not deployed, a newer build came first: ' + answer.body.detail)
        }
        if (code != 'rollout-in-progress' || answer.body.rollout == null) {
            session.script.error(Texts.refusal(answer, session.client.server))
        }
        Map live = session.client.rollout(answer.body.rollout)
        boolean same = session.options.image == null || session.options.image == live.image
        if (!Rollouts.ownedBy(live, session.build().job, session.build().number) || !same) {
            session.script.error(Texts.refusal(answer, session.client.server) + Texts.owner(live, session.client.link(live)))
        }
        session.script.echo("Rollout ${live.id} was started by this build already; following it")
        return live
    }

    /** Aborted while asking: whether the service had heard it already is found out by what is live. */
    private void leaveWhatBegan() {
        try {
            session.script.timeout(time: 60, unit: 'SECONDS') {
                Map answer = session.client.get(Keys.servicePath(session.options.service))
                Map live = answer.status == 200 ? answer.body.live_rollout : null
                if (live != null && Rollouts.ownedBy(live, session.build().job, session.build().number)) {
                    session.leave(live.id)
                }
            }
        } catch (Exception failure) {
            session.script.echo("The build was aborted; whether a rollout began is not known: ${failure.getMessage()}")
        }
    }
}
