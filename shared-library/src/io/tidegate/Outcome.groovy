package io.tidegate

import com.cloudbees.groovy.cps.NonCPS
import org.jenkinsci.plugins.workflow.steps.FlowInterruptedException

/** Sets the build's result from the rollout's state. An unknown result is never a success: it is UNSTABLE. */
class Outcome implements Serializable {
    private static final long serialVersionUID = 1L

    final script
    final Client client
    final Workspace workspace
    final Map options

    Outcome(script, Client client, Workspace workspace, Map options) {
        this.script = script
        this.client = client
        this.workspace = workspace
        this.options = options
    }

    /** Ends a stage that deploys: a rollout that succeeded or waits for approval is a success, any other end an error. */
    Map conclude(Map rollout) {
        archive(rollout)
        if (rollout.phase == 'succeeded') {
            return succeed(rollout)
        }
        if (rollout.phase == 'rolled_back' && rollout.rollback_cause == 'superseded') {
            script.currentBuild.result = 'NOT_BUILT' // by a newer build, which the reason names
        }
        if (Rollouts.finished(rollout)) {
            script.error(failure(rollout))
        }
        if (Rollouts.waiting(rollout)) {
            script.echo("${rollout.service}: ${rollout.new} waits for ${rollout.approval.kind}: ${client.link(rollout)}")
        }
        return Rollouts.summary(rollout, client.link(rollout))
    }

    /** Ends a stage that verifies. A `problem` that is not empty says why there is no verdict. */
    Map reportVerdict(Map rollout, String problem) {
        archive(rollout)
        Map verdict = problem.isEmpty() ? rollout.verdict : [outcome: 'INCONCLUSIVE', message: 'INCONCLUSIVE: ' + problem]
        String text = "${rollout.service}: ${rollout.new}: ${verdict.message}"
        if (verdict.outcome == 'FAIL') {
            script.error(text + '\n' + Messages.indented(evidence(rollout)))
        }
        if (verdict.outcome == 'PASS') {
            script.echo(text)
        } else {
            script.unstable(text)
        }
        return Rollouts.summary(rollout, client.link(rollout)) + [verdict: verdict.outcome, message: verdict.message]
    }

    /** Ends a stage that rolls back. `requested`: this rollout was rolled back, otherwise it leads to the older release. */
    Map reportRollback(Map rollout, boolean requested) {
        archive(rollout)
        if (['refused', 'failed'].contains(rollout.phase) || (rollout.phase == 'rolled_back' && !requested)) {
            script.error(failure(rollout))
        }
        script.echo("${rollout.service}: ${rollout.phase}: ${rollout.reason}")
        return Rollouts.summary(rollout, client.link(rollout))
    }

    /** Ends a stage whose gate was rejected. The rollout has rolled back; the build ends as ABORTED. */
    Map abort(Map rollout, FlowInterruptedException interruption) {
        archive(rollout)
        script.echo(failure(rollout))
        throw interruption
    }

    /** Why the rollout did not succeed, with the evidence. */
    String failure(Map rollout) {
        if (rollout.phase == 'refused') {
            return "${rollout.service}: Tidegate refused ${rollout.new}, nothing was changed: ${rollout.reason}\n" +
                Messages.indented(client.link(rollout))
        }
        String headline = rollout.phase == 'rolled_back'
            ? "${rollout.service}: ${rollout.new} was rolled back: ${rollout.reason}"
            : "${rollout.service}: the rollout to ${rollout.new} ${rollout.phase} and needs manual action: ${rollout.reason}"
        return headline + '\n' + Messages.indented(evidence(rollout))
    }

    private Map succeed(Map rollout) {
        requireLive(rollout)
        Map decisions = decisions(client.events(rollout.id, 0))
        String text = "${rollout.service}: ${rollout.new} is live"
        if (decisions.accepted.isEmpty()) {
            script.echo(text)
        } else {
            script.unstable("${text}, although its checks did not pass: ${decisions.accepted.join('; ')}")
        }
        return Rollouts.summary(rollout, client.link(rollout)) + [approvals: decisions.approvals]
    }

    /** An old rollout, as after "Restart from Stage" of an old build, has succeeded once: that says nothing about now. */
    private void requireLive(Map rollout) {
        Map now = client.requireBody(client.get(Keys.servicePath(rollout.service)))
        if (now.live != rollout.new) {
            String path = '/v1/rollouts?phase=succeeded&limit=1&service=' + Keys.encoded(rollout.service)
            List newer = client.requireBody(client.get(path)).rollouts
            script.error(Messages.replaced(rollout, now.live, newer.isEmpty() ? [:] : newer[0]))
        }
    }

    /** The `approvals` given, and the verdicts other than PASS that were `accepted`: the rollout continued after them. */
    @NonCPS
    private static Map decisions(List events) {
        List approvals = []
        List accepted = []
        Map pending = null
        for (Map event in events) {
            Map data = event.data ?: [:]
            if (event.kind == 'verdict') {
                boolean counts = data.outcome == 'FAIL' || (data.outcome == 'INCONCLUSIVE' && data.final)
                pending = counts ? event : null
            } else if (event.kind == 'promoted') {
                approvals.add([by: data.by, reason: data.reason, at: event.at])
            } else if (['bake_extended', 'traffic_diverged'].contains(event.kind)) {
                pending = null
            } else if (['step_advanced', 'succeeded'].contains(event.kind) && pending != null) {
                accepted.add(pending.message)
                pending = null
            }
        }
        return [approvals: approvals, accepted: accepted]
    }

    private String evidence(Map rollout) {
        return (Messages.evidence(client.report(rollout.id)) + [client.link(rollout)]).join('\n')
    }

    private void archive(Map rollout) {
        if (options.archive) {
            String text = Json.pretty([rollout: rollout, report: client.report(rollout.id)])
            workspace.write('tidegate.json', text)
            Map checks = client.get('/v1/rollouts/' + rollout.id + '/junit')
            if (checks.status == 200) {
                workspace.write('tidegate-checks.xml', checks.text)
            } else {
                script.echo('Cannot write tidegate-checks.xml: ' + Messages.refusal(checks, client.server))
            }
            workspace.archive('tidegate.json, tidegate-checks.xml')
        }
    }
}
