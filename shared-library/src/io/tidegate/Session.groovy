package io.tidegate

import org.jenkinsci.plugins.workflow.steps.FlowInterruptedException

/** The context of one call of a step: the running script, the options, and the parts that use the API. */
class Session implements Serializable {
    private static final long serialVersionUID = 1L
    private static final int ABORT_SECONDS = 60 // an aborted build must end soon, even when the service does not respond

    final script
    final String step
    final Map options
    final Client client
    final Follower follower
    final Outcome outcome
    final Workspace workspace

    Session(script, String step, Map options) {
        this.script = script
        this.step = step
        this.options = options
        this.client = new Client(script, options)
        this.follower = new Follower(script, client)
        this.workspace = new Workspace(script)
        this.outcome = new Outcome(script, client, workspace, options)
    }

    static Session of(script, String step, Map options) {
        return new Session(script, step, Options.checked(script, step, options))
    }

    /** This build, as the API represents it. */
    Map build() {
        return [job: script.env.JOB_NAME, number: Integer.parseInt(script.env.BUILD_NUMBER), url: script.env.BUILD_URL ?: '']
    }

    /** Notes that this build has started a rollout: later steps use it, and `tidegateRollback` rolls it back. */
    void own(String id) {
        script.env.TIDEGATE_ROLLOUT = id
        if (!owned().contains(id)) {
            script.env.TIDEGATE_ROLLOUTS = (owned() + [id]).join(' ')
        }
    }

    /** Notes that a rollout continues without this build, here and in the service, which would roll it back at our end. */
    void disown(String id) {
        try {
            script.timeout(time: ABORT_SECONDS, unit: 'SECONDS') {
                Map response = client.post('/v1/rollouts/' + id + '/detach', signalBody(reason(), ''), key('/detach'))
                if (response.status >= 300 && response.body.code != 'illegal-move') { // it may have ended meanwhile
                    script.echo(Messages.refusal(response, client.server))
                }
            }
        } catch (Exception failure) {
            script.echo("Tidegate does not know that rollout ${id} continues without this build: ${failure.getMessage()}")
        }
        script.env.TIDEGATE_ROLLOUTS = Keys.without(owned(), id).join(' ')
    }

    /** The rollouts that this build has started and not left alone. */
    List owned() {
        return Keys.words(script.env.TIDEGATE_ROLLOUTS)
    }

    /** The Idempotency-Key of a request; `suffix` tells the requests of one stage apart. */
    String key(String suffix) {
        return Keys.of(script.env.JOB_NAME, script.env.BUILD_NUMBER, options.stage + suffix)
    }

    /** The given reason, or the name of the build. */
    String reason() {
        return Messages.singleLine(options.reason ?: 'Jenkins: ' + script.env.JOB_NAME + ' #' + script.env.BUILD_NUMBER)
    }

    /** The person on whose behalf to act; empty: the token acts for itself. */
    String person() {
        if (options.onBehalfOf != true) {
            return options.onBehalfOf ?: ''
        }
        def causes = script.currentBuild.getBuildCauses('hudson.model.Cause$UserIdCause')
        return causes.isEmpty() ? '' : causes[0].userId ?: ''
    }

    /** The body of a promote, rollback or verify request. */
    Map signalBody(String reason, String person) {
        Map body = [reason: Messages.singleLine(reason)]
        if (!person.isEmpty()) {
            body.on_behalf_of = person
        }
        return body
    }

    Map rollback(String id, String suffix, String reason, String person) {
        return client.post('/v1/rollouts/' + id + '/rollback', signalBody(reason, person), key(suffix))
    }

    /** Runs `work`. If the build is aborted meanwhile, handles the rollout and rethrows the abort. */
    Map handlingAbort(String id, Closure work) {
        try {
            return work()
        } catch (FlowInterruptedException interruption) {
            handleAbort(id)
            throw interruption
        }
    }

    /** Rolls back the rollout of an aborted build, or leaves it alone. Throws nothing, which would hide the abort. */
    void handleAbort(String id) {
        if (options.onAbort == 'detach') {
            disown(id)
            script.echo("The build was aborted. Rollout ${id} continues without it.")
            return
        }
        try {
            script.timeout(time: ABORT_SECONDS, unit: 'SECONDS') {
                String reason = 'Jenkins: ' + script.env.JOB_NAME + ' #' + script.env.BUILD_NUMBER + ' was aborted'
                Map response = rollback(id, '/abort', reason, '')
                script.echo(response.status < 300
                    ? "The build was aborted. Rolling back rollout ${id}."
                    : "The build was aborted. ${Messages.refusal(response, client.server)}")
            }
        } catch (Exception failure) {
            script.echo("The build was aborted, and rollout ${id} could not be rolled back: ${failure.getMessage()}")
        }
    }
}
