package io.tidegate

import org.jenkinsci.plugins.workflow.steps.FlowInterruptedException

/** Starts a rollout, or continues with the one that this build has started, and follows it. */
class Deploy implements Serializable {
    private static final long serialVersionUID = 1L

    final Session session

    Deploy(Session session) {
        this.session = session
    }

    Map run() {
        return session.outcome.conclude(follow(session.options.until))
    }

    /** Starts the rollout and returns it at `until`. */
    Map follow(String until) {
        Map rollout = start()
        session.own(rollout.id)
        session.follower.service = rollout.service
        session.script.echo("Rollout ${rollout.id} of ${rollout.service} to ${rollout.new}: ${session.client.link(rollout)}")
        return session.handlingAbort(rollout.id) {
            session.follower.follow(rollout.id, until)
        }
    }

    private Map start() {
        new Scopes(session).requireForDeploy()
        Map body = requestBody()
        try {
            String path = Keys.servicePath(session.options.service) + '/rollouts'
            Map response = session.options.onLive == 'fail'
                ? session.client.post(path, body, session.key(''))
                : new Turn(session).take(path, body)
            return response.status < 300 ? response.body : attach(response)
        } catch (FlowInterruptedException interruption) {
            abandonStarted()
            throw interruption
        }
    }

    private Map requestBody() {
        Map options = session.options
        Map body = [build: session.build()]
        if (options.onBuildEnd != null || options.onAbort == 'detach') {
            body.build.on_end = options.onBuildEnd ?: 'detach' // an abort that detaches is not to be undone by the service
        }
        String compose = options.compose
        if (options.file != null) {
            compose = session.workspace.read(options.file)
        }
        if (compose != null) {
            body.compose = compose
            body.variables = Messages.asText(options.variables)
            body.files = files(options)
        }
        if (options.onLive != 'fail') {
            body.on_live = options.onLive
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
            body.reason = Messages.singleLine(options.reason)
        }
        return body
    }

    private Map files(Map options) {
        if (options.files instanceof Map) {
            return options.files
        }
        Map contents = [:]
        for (String name in options.files) {
            contents.put(name, session.workspace.content(Keys.folder(options.file) + name))
        }
        return contents
    }

    /** After a refusal: returns the live rollout if this build has started it, otherwise fails the build. */
    private Map attach(Map response) {
        String code = response.body.code
        if (code == 'superseded') {
            session.script.currentBuild.result = 'NOT_BUILT'
            session.script.error('Not deployed, because a newer build was first: ' + response.body.detail)
        }
        if (code != 'rollout-in-progress' || response.body.rollout == null) {
            session.script.error(Messages.refusal(response, session.client.server))
        }
        Map live = session.client.rollout(response.body.rollout)
        boolean same = session.options.image == null || session.options.image == live.image
        if (!Rollouts.ownedBy(live, session.build().job, session.build().number) || !same) {
            String refusal = Messages.refusal(response, session.client.server)
            session.script.error(refusal + Messages.owner(live, session.client.link(live)))
        }
        session.script.echo("This build has already started rollout ${live.id}. Following it.")
        return live
    }

    /** The build was aborted during the request: handles the rollout if the service started it all the same. */
    private void abandonStarted() {
        try {
            session.script.timeout(time: 60, unit: 'SECONDS') {
                Map response = session.client.get(Keys.servicePath(session.options.service))
                Map live = response.status == 200 ? response.body.live_rollout : null
                if (live != null && Rollouts.ownedBy(live, session.build().job, session.build().number)) {
                    session.handleAbort(live.id)
                }
            }
        } catch (Exception failure) {
            session.script.echo("The build was aborted. Unknown whether a rollout has started: ${failure.getMessage()}")
        }
    }
}
