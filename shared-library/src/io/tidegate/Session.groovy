package io.tidegate

import org.jenkinsci.plugins.workflow.steps.FlowInterruptedException

/** What one call of a step works with: the script that runs, its options, and the parts that talk to the service. */
class Session implements Serializable {
    private static final long serialVersionUID = 1L
    private static final int ABORT_SECONDS = 60 // an aborted build shall end soon, even when the service is silent

    final script
    final String step
    final Map options
    final Client client
    final Follower follower
    final Outcome outcome

    Session(script, String step, Map options) {
        this.script = script
        this.step = step
        this.options = options
        this.client = new Client(script, options)
        this.follower = new Follower(script, client)
        this.outcome = new Outcome(script, client, options)
    }

    static Session of(script, String step, Map given) {
        return new Session(script, step, Options.checked(script, step, given))
    }

    /** This build, as the service knows it. */
    Map build() {
        return [job: script.env.JOB_NAME, number: Integer.parseInt(script.env.BUILD_NUMBER), url: script.env.BUILD_URL ?: '']
    }

    String key(String what) {
        return Keys.of(script.env.JOB_NAME, script.env.BUILD_NUMBER, options.stage + what)
    }

    /** The reason that was given, or which build asks. */
    String reason() {
        return Texts.oneLine(options.reason ?: 'Jenkins: ' + script.env.JOB_NAME + ' #' + script.env.BUILD_NUMBER)
    }

    /** For whom it is asked; empty when the token shall speak for itself. */
    String person() {
        if (options.onBehalfOf != true) {
            return options.onBehalfOf ?: ''
        }
        def causes = script.currentBuild.getBuildCauses('hudson.model.Cause$UserIdCause')
        return causes.isEmpty() ? '' : causes[0].userId ?: ''
    }

    /** A wish's body. */
    Map wish(String reason, String person) {
        Map body = [reason: Texts.oneLine(reason)]
        if (!person.isEmpty()) {
            body.on_behalf_of = person
        }
        return body
    }

    Map rollback(String id, String what, String reason, String person) {
        return client.post('/v1/rollouts/' + id + '/rollback', wish(reason, person), key(what))
    }

    /** When the build is aborted meanwhile, the rollout is turned back or left alone, and the abort goes on. */
    Map guarded(String id, Closure work) {
        try {
            return work()
        } catch (FlowInterruptedException interruption) {
            leave(id)
            throw interruption
        }
    }

    /** What an aborted build does about its rollout. It never hides the abort, so it throws nothing itself. */
    void leave(String id) {
        if (options.onAbort == 'detach') {
            script.echo("The build was aborted; rollout ${id} goes on by itself")
            return
        }
        try {
            script.timeout(time: ABORT_SECONDS, unit: 'SECONDS') {
                String why = 'Jenkins: ' + script.env.JOB_NAME + ' #' + script.env.BUILD_NUMBER + ' was aborted'
                Map answer = rollback(id, '/abort', why, '')
                script.echo(answer.status < 300
                    ? "The build was aborted; rollout ${id} is being turned back"
                    : "The build was aborted. ${Texts.refusal(answer, client.server)}")
            }
        } catch (Exception failure) {
            script.echo("The build was aborted, and rollout ${id} could not be turned back: ${failure.getMessage()}")
        }
    }
}
