package io.tidegate

import com.cloudbees.groovy.cps.NonCPS

/** The texts that people read, in one place, so that the log, the gate and the errors agree. */
class Messages implements Serializable {
    private static final long serialVersionUID = 1L
    private static final int MAX_REASON = 2000 // limit of the API, in characters
    private static final int MAX_LINES = 25
    private static final int MAX_BRIEF = 200 // characters of a reason in the log

    /** `14:03:07  shop  traffic_shifted      Traffic goes to v2-4`; the last log lines of an instance follow indented. */
    @NonCPS
    static String event(Map event, String service) {
        boolean personal = ['promoted', 'rollback_requested', 'rolling_back', 'forced'].contains(event.kind)
        String message = personal ? brief(event.message) : event.message
        String line = event.at.substring(11, 19) + '  ' + Keys.serviceName(service) + '  ' + event.kind.padRight(20) + ' ' + message
        Map data = event.data ?: [:]
        return event.kind == 'instance_log' && data.log ? line + '\n' + indented(data.log.toString()) : line
    }

    @NonCPS
    static String events(List events, String service) {
        List lines = []
        for (Map event in events) {
            lines.add(Messages.event(event, service))
        }
        return lines.join('\n')
    }

    /** An error response: its detail, code and every error in it. */
    @NonCPS
    static String refusal(Map response, String server) {
        Map body = response.body
        if (body.isEmpty()) {
            return "Unexpected response from Tidegate at ${server}: ${describe(response)}. Check server.".toString()
        }
        String text = "Tidegate refused: ${body.detail ?: body.title} (${response.status} ${body.code ?: ''})".toString()
        if (body.code == 'key-reused') {
            text += "\n    Give two calls in one stage names of their own, such as stage: 'canary'."
        }
        for (Map error in (body.errors ?: [])) {
            text += '\n    ' + (error.path ?: error.pointer ?: '') + ': ' + error.detail
        }
        return text
    }

    @NonCPS
    static String unavailable(String server, Map response, int patience) {
        return "No response from Tidegate at ${server} for ${patience} s (${describe(response)}). ".toString() +
            'A live rollout continues without the build. Run the stage again to follow it.'
    }

    @NonCPS
    static String noCredential(String id) {
        return "credentials: this job has no credential '${id}' of the kind Username with password. ".toString() +
            'Create it in Jenkins, for this URL, with a Tidegate token as the password; any user name will do.'
    }

    /** The status and the start of the text, or the error when there was no response. */
    @NonCPS
    static String describe(Map response) {
        String text = singleLine(response.body.detail ?: response.text)
        String start = text.length() > 120 ? text.substring(0, 120) + '...' : text
        return response.status == 0 ? start : 'status ' + response.status + (start.isEmpty() ? '' : ': ' + start)
    }

    /** A reason as the API accepts it: one line of at most 2,000 characters. */
    @NonCPS
    static String singleLine(Object text) {
        String line = text == null ? '' : text.toString().replaceAll('[\\x00-\\x1f\\x7f]+', ' ').trim()
        // half of a surrogate pair at the cut would be invalid
        return line.length() > MAX_REASON
            ? line.substring(0, MAX_REASON - 3).replaceAll('[\\ud800-\\udbff]$', '') + '...'
            : line
    }

    /** Why a rollout did not succeed, from its report: verdicts that are not PASS, failed instances and hooks, requests. */
    @NonCPS
    static List evidence(Map report) {
        List lines = []
        List rows = report.verdicts ?: []
        for (int index = 0; index < rows.size(); index++) {
            boolean last = index == rows.size() - 1 || rows[index + 1].step != rows[index].step
            Map verdict = rows[index].verdict
            if (verdict.outcome == 'FAIL' || (last && verdict.outcome != 'PASS')) { // not each one on the way to it
                addVerdict(lines, verdict)
            }
        }
        for (Map failure in (report.failures ?: [])) {
            lines.add(failure.instance + ': ' + failure.detail)
        }
        addTasks(lines, report.tasks ?: [])
        lines.add(requests(report))
        int surplus = lines.size() - MAX_LINES
        return surplus > 0 ? lines.subList(surplus, lines.size()) : lines
    }

    /** The proxy's counts so far, or why they are unknown. An unknown count is never shown as zero. */
    @NonCPS
    static String requests(Map report) {
        if (report.lost != null) {
            return 'Requests: ' + report.requests + ', lost: ' + report.lost + byRelease(report)
        }
        List causes = []
        for (Map step in (report.steps ?: [])) {
            if (step.unknown_reason && !causes.contains(step.unknown_reason)) {
                causes.add(step.unknown_reason)
            }
        }
        return 'Request counts unavailable' + (causes.isEmpty() ? '' : ': ' + causes.join('; '))
    }

    @NonCPS
    private static String byRelease(Map report) {
        List parts = []
        for (Map row in (report.by_release ?: [])) {
            if (row.requests != null) {
                parts.add("${row.release}: ${row.requests} requests, ${row.lost} lost, ${row.errors} errors".toString())
            }
        }
        Map probed = report.probed
        if (probed) {
            parts.add("probes: ${probed.requests} sent, ${probed.failed} failed, ${probed.slow} slow".toString())
        }
        return parts.isEmpty() ? '' : ' (' + parts.join('; ') + ')'
    }

    /** Hooks and API comparisons that did not pass, with their output or findings. */
    @NonCPS
    private static void addTasks(List lines, List tasks) {
        for (Map task in tasks) {
            if (task.state != 'passed' && task.state != 'running') {
                lines.add(task.message)
                String details = task.changes ? task.changes.join('\n') : task.log
                if (details) {
                    lines.add(indented(details))
                }
            }
        }
    }

    /** The verdict: its message without findings, else its outcome and each finding that is not PASS. */
    @NonCPS
    private static void addVerdict(List lines, Map verdict) {
        List findings = verdict.findings ?: []
        lines.add(findings.isEmpty() ? verdict.message : verdict.outcome)
        for (Map finding in findings) {
            if (finding.outcome != 'PASS') {
                lines.add('  ' + finding.check + ': ' + Messages.finding(finding))
            }
        }
    }

    /** The message of a finding without the name of the check, which begins some. */
    @NonCPS
    static String finding(Map finding) {
        String prefix = finding.check + ': '
        return finding.message.startsWith(prefix) ? finding.message.substring(prefix.length()) : finding.message
    }

    /** `2026-12-02 09:43 UTC` of a timestamp of the API. */
    @NonCPS
    static String minute(String timestamp) {
        return timestamp.substring(0, 10) + ' ' + timestamp.substring(11, 16) + ' UTC'
    }

    /** The start of a person's text for a line of the log. */
    @NonCPS
    static String brief(String text) {
        return text.length() > MAX_BRIEF ? text.substring(0, MAX_BRIEF - 3).replaceAll('[\\ud800-\\udbff]$', '') + '...' : text
    }

    /** The release of a rollout that succeeded is no longer live. `newer`: the last rollout that succeeded, if known. */
    @NonCPS
    static String replaced(Map rollout, String live, Map newer) {
        Map build = newer.build ?: [:]
        String by = newer.new == live ? ", deployed by ${build.job ? build.job + ' #' + build.number : newer.requested_by}" : ''
        return "${rollout.service}: ${rollout.new} is no longer live: ${live} is${by}. ".toString() +
            "Rollout ${rollout.id} ended at ${rollout.finished}, and this build has changed nothing. Deploy with a new build.".toString()
    }

    /** Who owns the live rollout. */
    @NonCPS
    static String owner(Map rollout, String link) {
        Map build = rollout.build ?: [:]
        String requester = build.job ? "${build.job} #${build.number} ${build.url ?: ''}" : rollout.requested_by
        return "\n    ${rollout.new}, requested by ${requester}\n    ${link}".toString()
    }

    /** The values of Compose variables as strings, whatever type the Jenkinsfile uses. */
    @NonCPS
    static Map asText(Map values) {
        Map copy = [:]
        for (String name in values.keySet()) {
            copy.put(name, values.get(name).toString())
        }
        return copy
    }

    @NonCPS
    static String indented(String text) {
        return '    ' + text.trim().replace('\n', '\n    ')
    }

    /** `1 h 30 min`. */
    @NonCPS
    static String duration(int seconds) {
        if (seconds < 60) {
            return seconds + ' s'
        }
        int minutes = seconds.intdiv(60)
        int hours = minutes.intdiv(60)
        if (hours == 0) {
            return minutes + ' min'
        }
        return hours + ' h' + (minutes % 60 == 0 ? '' : ' ' + (minutes % 60) + ' min')
    }
}
