package io.tidegate

/** Asks a person in Jenkins, with the evidence before them. It holds no executor unless the stage does. */
class Gate implements Serializable {
    private static final long serialVersionUID = 1L

    final script
    final Map options

    Gate(script, Map options) {
        this.script = script
        this.options = options
    }

    /** What the person answered: `approver` and `reason`. An abort and the timeout are thrown as `input` does. */
    Map ask(Map rollout, Map report, String link, int seconds) {
        if (script.env.NODE_NAME && script.env.WORKSPACE) {
            script.echo("This gate holds an executor of ${script.env.NODE_NAME}; with `agent none` on its stage it would not")
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
        Map question = [
            id                : 'Tidegate-' + rollout.id + '-' + approval.step + '-' + approval.given.size(),
            message           : Texts.question(rollout, report, link, options.message ?: heading(rollout)),
            ok                : options.ok ?: 'Promote',
            submitterParameter: 'approver',
        ]
        if (options.submitter) {
            question.submitter = options.submitter
        }
        if (options.reason) {
            question.parameters = [
                script.string(name: 'reason', defaultValue: '', description: 'Why; kept with the rollout'),
            ]
        }
        return script.input(question)
    }

    private String heading(Map rollout) {
        String what = rollout.approval.kind == 'decision' ? 'The checks could not clear it. Promote ' : 'Promote '
        return what + rollout.new + ' of ' + rollout.service + '?'
    }

    /** An older build that waits is ended when a newer one comes by. Milestones are not possible inside `parallel`. */
    private void milestone() {
        if (options.milestone) {
            script.milestone()
        }
    }
}
