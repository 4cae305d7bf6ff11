package io.tidegate

/** Asks a person in Jenkins to approve and shows the evidence. Occupies no executor unless its stage does. */
class Gate implements Serializable {
    private static final long serialVersionUID = 1L

    final script
    final Map options

    Gate(script, Map options) {
        this.script = script
        this.options = options
    }

    /** Returns `approver` and `reason`. An abort and the timeout are thrown as `input` throws them. */
    Map open(Map rollout, Map report, String link, int seconds) {
        if (script.env.NODE_NAME && script.env.WORKSPACE) {
            script.echo("This gate occupies an executor of ${script.env.NODE_NAME}. Put its stage under `agent none` to free it.")
        }
        milestone()
        def answer = null
        if (seconds > 0) {
            script.timeout(time: seconds, unit: 'SECONDS') {
                answer = input(rollout, report, link)
            }
        } else {
            answer = input(rollout, report, link)
        }
        milestone()
        boolean form = answer instanceof Map
        return [
            approver: form ? answer.approver : answer,
            reason  : form && answer.reason ? answer.reason : '',
        ]
    }

    private input(Map rollout, Map report, String link) {
        Map approval = rollout.approval
        Map parameters = [
            id                : 'Tidegate-' + rollout.id + '-' + approval.step + '-' + approval.given.size(),
            message           : Messages.question(rollout, report, link, options.message ?: heading(rollout)),
            ok                : options.ok ?: 'Promote',
            submitterParameter: 'approver',
        ]
        if (options.submitter) {
            parameters.submitter = options.submitter
        }
        if (options.reason) {
            parameters.parameters = [
                script.string(name: 'reason', defaultValue: '', description: 'Reason, recorded with the rollout'),
            ]
        }
        return script.input(parameters)
    }

    private String heading(Map rollout) {
        String start = rollout.approval.kind == 'decision' ? 'The checks did not pass. Promote ' : 'Promote '
        return start + rollout.new + ' of ' + rollout.service + '?'
    }

    /** A newer build that passes here ends an older one that waits. Jenkins allows no milestones inside `parallel`. */
    private void milestone() {
        if (options.milestone) {
            script.milestone()
        }
    }
}
