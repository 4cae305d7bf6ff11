package io.tidegate

/** Asks a person in Jenkins to approve and shows the evidence. Occupies no executor unless its stage does. */
class Gate implements Serializable {
    private static final long serialVersionUID = 1L

    /** How the reason begins when the service has ended the input instead of a person; no approval then. */
    static final String CLOSED = 'Tidegate closed this input: '

    final script
    final Map options
    Map shown = null // what the last input has shown
    boolean entered = false // whether the build has passed the milestone before the approval
    boolean left = false // and the one after it

    Gate(script, Map options) {
        this.script = script
        this.options = options
    }

    /**
     * Opens an input with the evidence and returns `approver` and `reason`. An abort and the timeout are thrown as `input`
     * throws them. Called again for the same approval, it logs what has changed since.
     */
    Map open(Map rollout, Map report, String link, int seconds) {
        enter()
        Map rows = Evidence.rows(rollout, report)
        String changes = shown == null ? '' : Evidence.changes(shown, rows)
        if (shown == null || !changes.isEmpty()) {
            String news = changes.isEmpty() ? '' : 'The gate opens again. Changed since it was opened:\n' + changes + '\n'
            script.echo(news + Evidence.table(rollout, rows, link))
        }
        shown = rows
        def answer = null
        if (seconds > 0) {
            script.timeout(time: seconds, unit: 'SECONDS') {
                answer = input(rollout, report, link)
            }
        } else {
            answer = input(rollout, report, link)
        }
        boolean form = answer instanceof Map
        return [
            approver: form ? answer.approver : answer,
            reason  : form && answer.reason ? answer.reason : '',
        ]
    }

    /** The ID is the same while the approval is for the same: a click on a page that was opened before still counts. */
    private input(Map rollout, Map report, String link) {
        Map approval = rollout.approval
        Map parameters = [
            id                : 'Tidegate-' + rollout.id + '-' + approval.step + '-' + approval.binding,
            message           : Evidence.question(rollout, report, options.message),
            ok                : options.ok ?: 'Promote',
            submitterParameter: 'approver',
            parameters        : [
                script.string(name: 'reason', defaultValue: '', description: Evidence.description(rollout, shown, link)),
            ],
        ]
        if (options.submitter) {
            parameters.submitter = options.submitter
        }
        return script.input(parameters)
    }

    private void enter() {
        if (!entered) {
            if (script.env.NODE_NAME && script.env.WORKSPACE) {
                script.echo("This gate occupies an executor of ${script.env.NODE_NAME}. " +
                    'Put its stage under `agent none` to free it.')
            }
            milestone()
            entered = true
        }
    }

    /** After an approval, before it is sent: a newer build that has come this far ends this one. */
    void leave() {
        if (!left) {
            milestone()
            left = true
        }
    }

    /** A newer build that passes here ends an older one that waits. Jenkins allows no milestones inside `parallel`. */
    private void milestone() {
        if (options.milestone) {
            script.milestone()
        }
    }
}
