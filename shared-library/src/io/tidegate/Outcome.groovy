package io.tidegate

import com.cloudbees.groovy.cps.NonCPS
import org.jenkinsci.plugins.workflow.steps.FlowInterruptedException

/** From how a rollout stands to how the build stands. Unknown is never good: it is UNSTABLE. */
class Outcome implements Serializable {
    private static final long serialVersionUID = 1L

    final script
    final Client client
    final Map options

    Outcome(script, Client client, Map options) {
        this.script = script
        this.client = client
        this.options = options
    }

    /** The end of a stage that wants the new release: held and succeeded are good, anything else is an error. */
    Map concluded(Map rollout) {
        describe(rollout)
        archive(rollout)
        if (rollout.phase == 'succeeded') {
            return succeeded(rollout)
        }
        if (Rollouts.finished(rollout)) {
            script.error(lost(rollout))
        }
        if (Rollouts.waiting(rollout)) {
            script.echo("${rollout.service}: ${rollout.new} waits for ${rollout.approval.kind}: ${client.link(rollout)}")
        }
        return Rollouts.summary(rollout, client.link(rollout))
    }

    /** The answer of the checks; without one, the `doubt`. */
    Map judged(Map rollout, String doubt) {
        describe(rollout)
        archive(rollout)
        Map verdict = doubt.isEmpty() ? rollout.verdict : [outcome: 'INCONCLUSIVE', message: 'INCONCLUSIVE: ' + doubt]
        String text = "${rollout.service}: ${rollout.new}: ${verdict.message}"
        if (verdict.outcome == 'FAIL') {
            script.error(text + '\n' + Texts.indented(evidence(rollout)))
        }
        if (verdict.outcome == 'PASS') {
            script.echo(text)
        } else {
            script.unstable(text)
        }
        return Rollouts.summary(rollout, client.link(rollout)) + [verdict: verdict.outcome, message: verdict.message]
    }

    /** The end of a stage that wants the old release: the new one `turned` back, or a rollout that leads there. */
    Map returned(Map rollout, boolean turned) {
        describe(rollout)
        archive(rollout)
        if (rollout.phase == 'failed' || (rollout.phase == 'rolled_back' && !turned)) {
            script.error(lost(rollout))
        }
        script.echo("${rollout.service}: ${rollout.phase}: ${rollout.reason}")
        return Rollouts.summary(rollout, client.link(rollout))
    }

    /** The end of a stage at whose gate somebody said no: it was `turned back`, and the build ends as Jenkins wants it. */
    Map aborted(Map rollout, FlowInterruptedException interruption) {
        describe(rollout)
        archive(rollout)
        script.echo(lost(rollout))
        throw interruption
    }

    /** Why it is not serving, with the evidence. */
    String lost(Map rollout) {
        String headline = rollout.phase == 'rolled_back'
            ? "${rollout.service}: ${rollout.new} was turned back: ${rollout.reason}"
            : "${rollout.service}: ${rollout.new} ${rollout.phase}, a person must look: ${rollout.reason}"
        return headline + '\n' + Texts.indented(evidence(rollout))
    }

    private Map succeeded(Map rollout) {
        Map told = story(client.events(rollout.id, 0, false))
        String serves = "${rollout.service}: ${rollout.new} serves"
        if (told.accepted.isEmpty()) {
            script.echo(serves)
        } else {
            script.unstable("${serves}, though the checks could not clear it: ${told.accepted.join('; ')}")
        }
        return Rollouts.summary(rollout, client.link(rollout)) + [approvals: told.approvals]
    }

    /** Who approved, and the verdicts that the rollout went on from without a PASS. */
    @NonCPS
    private static Map story(List events) {
        List approvals = []
        List accepted = []
        Map last = null
        for (Map event in events) {
            Map data = event.data ?: [:]
            if (event.kind == 'verdict') {
                boolean counts = data.outcome == 'FAIL' || (data.outcome == 'INCONCLUSIVE' && data.final)
                last = counts ? event : null
            } else if (event.kind == 'promoted') {
                approvals.add([by: data.by, reason: data.reason, at: event.at])
            } else if (['extended', 'reopened'].contains(event.kind)) {
                last = null
            } else if (['stepped', 'succeeded'].contains(event.kind) && last != null) {
                accepted.add(last.message)
                last = null
            }
        }
        return [approvals: approvals, accepted: accepted]
    }

    private String evidence(Map rollout) {
        return (Texts.evidence(client.report(rollout.id)) + [client.link(rollout)]).join('\n')
    }

    /** One line of the description is this rollout's; the service's CI driver begins it in the same way. */
    private void describe(Map rollout) {
        String before = script.currentBuild.description ?: ''
        script.currentBuild.description = Texts.described(before, rollout, client.link(rollout))
    }

    private void archive(Map rollout) {
        if (options.archive) {
            String text = Json.pretty([rollout: rollout, report: client.report(rollout.id)])
            script.writeFile(file: 'tidegate.json', text: text, encoding: 'UTF-8')
            Map checks = client.get('/v1/rollouts/' + rollout.id + '/junit')
            if (checks.status == 200) {
                script.writeFile(file: 'tidegate-checks.xml', text: checks.text, encoding: 'UTF-8')
            } else {
                script.echo('No tidegate-checks.xml: ' + Texts.refusal(checks, client.server))
            }
            script.archiveArtifacts(artifacts: 'tidegate.json, tidegate-checks.xml')
        }
    }
}
