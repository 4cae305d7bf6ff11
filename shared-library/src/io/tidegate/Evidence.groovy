package io.tidegate

import com.cloudbees.groovy.cps.NonCPS

/**
 * What a person is shown for a decision. Jenkins shows the question as a heading, in which line breaks collapse; the
 * description of the parameter under the field, with a markup formatter that may or may not allow HTML; and the log as it is.
 */
class Evidence implements Serializable {
    private static final long serialVersionUID = 1L
    private static final int MAX_VALUE = 600 // characters of one line of the description
    private static final int NAME_WIDTH = 14
    private static final String DETECTABLE = 'minimum detectable rate '

    /** The longest heading, in characters. */
    static final int MAX_QUESTION = 160

    /** Whether a text can be the heading: one line, and short. */
    @NonCPS
    static boolean isQuestion(String text) {
        return text.length() <= MAX_QUESTION && !text.matches('(?s).*[\\x00-\\x1f\\x7f].*')
    }

    /** `Promote shop v5-2 to 2 of 5 instances? 0 of 164 requests lost, PASS: ...`, as much of it as fits. */
    @NonCPS
    static String question(Map rollout, Map report, String message) {
        String text = message ?: heading(rollout, report)
        String separator = ' '
        boolean isShown = false // the verdict is there in several lengths
        for (String fact in facts(rollout, report)) {
            boolean verdict = rollout.verdict != null && fact.startsWith(rollout.verdict.outcome)
            if (!(verdict && isShown) && text.length() + separator.length() + fact.length() <= MAX_QUESTION) {
                text = text + separator + fact
                separator = ', '
                isShown = isShown || verdict
            }
        }
        return text.length() > MAX_QUESTION ? text.substring(0, MAX_QUESTION - 3) + '...' : text
    }

    @NonCPS
    private static String heading(Map rollout, Map report) {
        String name = Keys.serviceName(rollout.service)
        int peers = (report.peers ?: []).size()
        if (peers > 0) {
            String others = peers > 1 ? peers + ' others' : Keys.serviceName(report.peers[0].service) + ' ' + report.peers[0].new
            String doubt = rollout.approval.kind == 'decision' ? ' although the checks did not pass' : ''
            return "Promote ${name} ${rollout.new} and ${others} of its group${doubt}?".toString()
        }
        if (rollout.approval.kind == 'decision') {
            return "Promote ${name} ${rollout.new} although its checks did not pass?".toString()
        }
        Map next = nextRoute(rollout)
        return next.isEmpty()
            ? "Promote ${name} ${rollout.new}?".toString()
            : "Promote ${name} ${rollout.new} to ${next.count} of ${next.total} instances?".toString()
    }

    /** How many instances of the new release receive traffic after the approval; empty if that does not change. */
    @NonCPS
    private static Map nextRoute(Map rollout) {
        int before = rollout.steps[rollout.cursor].route.get(rollout.new) ?: 0
        for (int index = rollout.cursor + 1; index < rollout.steps.size(); index++) {
            int count = rollout.steps[index].route.get(rollout.new) ?: 0
            if (count != before) {
                return [count: count, total: Math.max(count, target(rollout))]
            }
        }
        return [:]
    }

    /** How many instances receive traffic at the end; in between there may be more, of both releases. */
    @NonCPS
    private static int target(Map rollout) {
        Map route = rollout.steps[rollout.steps.size() - 1].route
        int total = 0
        for (String release in route.keySet()) {
            total += route.get(release)
        }
        return total
    }

    /** The shortest statements about losses and checks, the most important first. */
    @NonCPS
    private static List facts(Map rollout, Map report) {
        List facts = []
        if (report.lost != null) {
            facts.add(report.requests == 0 ? 'no requests yet' : "${report.lost} of ${report.requests} requests lost".toString())
        }
        Map verdict = rollout.verdict
        if (verdict == null) {
            facts.add(rollout.steps[rollout.cursor].gate.analyzed ? 'no verdict yet' : 'no checks')
            return facts
        }
        facts.addAll(verdictFacts(verdict))
        return facts
    }

    /** The verdict in several lengths, the longest first; each begins with the outcome. */
    @NonCPS
    private static List verdictFacts(Map verdict) {
        Map deciding = decidingFinding(verdict)
        if (deciding.isEmpty()) {
            return [verdict.message, verdict.outcome]
        }
        boolean named = ['errors', 'latency'].contains(deciding.check) // their messages name what is measured
        String result = firstClause(named ? Messages.finding(deciding) : deciding.message)
        int baseline = result.indexOf(' vs ')
        String candidate = baseline < 0 ? result : result.substring(0, baseline)
        List facts = []
        for (String text in [result + detectable(deciding), candidate + detectable(deciding), candidate, shortResult(deciding)]) {
            facts.add(verdict.outcome + ': ' + text)
        }
        return facts
    }

    @NonCPS
    private static Map decidingFinding(Map verdict) {
        for (Map finding in (verdict.findings ?: [])) {
            if (!finding.shadow && finding.outcome == verdict.outcome) {
                return finding
            }
        }
        return [:]
    }

    /** `errors, few data`: the check and the reason of its outcome, without numbers. */
    @NonCPS
    private static String shortResult(Map finding) {
        boolean clear = ['ok', 'worse', 'limit'].contains(finding.reason)
        return finding.check + (clear ? '' : ', ' + finding.reason.replace('-', ' '))
    }

    @NonCPS
    private static String firstClause(String message) {
        int end = message.indexOf(';')
        return Messages.singleLine(end < 0 ? message : message.substring(0, end))
    }

    @NonCPS
    private static String detectable(Map finding) {
        String message = finding.message ?: ''
        int start = message.indexOf(DETECTABLE)
        if (start < 0) {
            return ''
        }
        String rest = message.substring(start + DETECTABLE.length())
        int end = rest.indexOf(';')
        return ' (too few to see less than ' + (end < 0 ? rest : rest.substring(0, end)) + ')'
    }

    // -- everything, by line ------------------------------------------------------------------------------------------

    /** Names and values of everything that matters for the decision, in the order of reading. */
    @NonCPS
    static Map rows(Map rollout, Map report) {
        Map approval = rollout.approval
        Map step = rollout.steps[rollout.cursor]
        Map rows = [
            Release: "${rollout.old ?: 'nothing'} to ${rollout.new}, step ${rollout.cursor + 1} of ${rollout.steps.size()}".toString(),
            Traffic: route(step.route),
        ]
        if (report.peers) {
            rows.put('Group', 'an approval or a rollback is also for ' + releases(report.peers))
        }
        Map next = nextRoute(rollout)
        if (!next.isEmpty()) {
            rows.put('If approved', "${rollout.new} receives traffic with ${next.count} of ${next.total} instances".toString())
        }
        rows.put('Requests', Messages.requests(report).replace('Requests: ', ''))
        addVerdict(rows, rollout, step)
        for (Map task in (rollout.tasks ?: [])) {
            if (task.state != 'running') {
                rows.put(task.name, task.state + ', ' + task.message)
            }
        }
        if (rollout.paused) {
            rows.put('Paused', 'no step starts until the rollout is resumed')
        }
        if (approval.needed > 1) {
            rows.put('Approvals', "${approval.given.size()} of ${approval.needed}${approvers(approval)}".toString())
        }
        if (approval.roles) {
            rows.put('Approver', 'needs one of the roles: ' + approval.roles.join(', '))
        }
        String requester = rollout.requested_by ?: 'unknown'
        rows.put('Requested by', approval.requester_may_approve == false ? requester + ', who cannot approve it' : requester)
        if (approval.expires) {
            rows.put('Expires', Messages.minute(approval.expires) + ', then ' + approval.on_expiry)
        }
        rows.put('Image', rollout.image + (rollout.digest ? ', digest ' + rollout.digest : ''))
        return rows
    }

    @NonCPS
    private static void addVerdict(Map rows, Map rollout, Map step) {
        Map verdict = rollout.verdict
        if (verdict == null) {
            rows.put('Verdict', step.gate.analyzed ? 'none yet' : 'none: this step has no checks')
            return
        }
        List findings = verdict.findings ?: []
        rows.put('Verdict', findings.isEmpty() ? verdict.message : verdict.outcome)
        for (Map finding in findings) {
            String note = finding.shadow ? ' (shadow check: does not affect the verdict)' : ''
            rows.put('Check ' + finding.check, finding.outcome + ': ' + Messages.finding(finding) + note)
        }
    }

    @NonCPS
    private static String route(Map route) {
        List parts = []
        for (String release in route.keySet()) {
            parts.add(route.get(release) + ' of ' + release)
        }
        return parts.isEmpty() ? 'nothing' : parts.join(', ')
    }

    @NonCPS
    private static String releases(List rollouts) {
        List parts = []
        for (Map rollout in rollouts) {
            parts.add(rollout.service + ' ' + rollout.new)
        }
        return parts.join(', ')
    }

    @NonCPS
    private static String approvers(Map approval) {
        List names = []
        for (Map given in approval.given) {
            names.add(given.by)
        }
        return names.isEmpty() ? '' : ', given by ' + names.join(', ')
    }

    /**
     * The description of the parameter. Jenkins shows each line as one, or with an HTML formatter all in one paragraph: a bullet
     * begins each line, and no character means anything in HTML. The last line lets the service see what was shown.
     */
    @NonCPS
    static String description(Map rollout, Map rows, String link) {
        List lines = ['Reason, recorded with the rollout and in the audit log.']
        for (String name in rows.keySet()) {
            String value = Messages.singleLine(rows.get(name))
            lines.add(name + ': ' + (value.length() > MAX_VALUE ? value.substring(0, MAX_VALUE - 3) + '...' : value))
        }
        lines.add('Details: ' + link)
        lines.add('Evidence version ' + rollout.approval.evidence_id)
        return inert(lines.join('\n\u2022 '))
    }

    /** Without markup, whatever interprets it: characters of HTML become similar ones. */
    @NonCPS
    private static String inert(String text) {
        return text.replace('<', '\u2039').replace('>', '\u203a').replace('&', '\uff06')
    }

    /** The table in the log. The link is the last line, so that Jenkins makes all of it clickable and nothing more. */
    @NonCPS
    static String table(Map rollout, Map rows, String link) {
        String wanted = rollout.approval.kind == 'decision' ? 'a decision' : 'an approval'
        List lines = ["${rollout.service}: ${rollout.new} waits for ${wanted}".toString()]
        for (String name in rows.keySet()) {
            String indent = '\n' + ' '.padRight(NAME_WIDTH + 4)
            lines.add('  ' + name.padRight(NAME_WIDTH) + '  ' + rows.get(name).toString().trim().replace('\n', indent))
        }
        lines.add('  ' + 'Details'.padRight(NAME_WIDTH) + '  ' + link)
        return lines.join('\n')
    }

    /** One line for each row that differs: `Check errors: PASS, ... -> FAIL, ...`. */
    @NonCPS
    static String changes(Map before, Map now) {
        List lines = []
        for (String name in now.keySet()) {
            if (before.get(name) != now.get(name)) {
                lines.add('    ' + name + ': ' + (before.get(name) ?: 'none') + ' -> ' + now.get(name))
            }
        }
        for (String name in before.keySet()) {
            if (!now.containsKey(name)) {
                lines.add('    ' + name + ': ' + before.get(name) + ' -> none')
            }
        }
        return lines.join('\n')
    }
}
