package io.tidegate

import com.cloudbees.groovy.cps.NonCPS

/** What people read: one place, so that the log, the gate and the error say it alike. */
class Texts implements Serializable {
    private static final long serialVersionUID = 1L
    private static final int LONGEST_REASON = 500 // what the service takes
    private static final int MOST_LINES = 25

    /** `14:03:07  shifted        traffic goes to v2-4`; an instance's last log lines stand below. */
    @NonCPS
    static String event(Map event) {
        String line = event.at.substring(11, 19) + '  ' + event.kind.padRight(20) + ' ' + event.message
        Map data = event.data ?: [:]
        return event.kind == 'instance_log' && data.log ? line + '\n' + indented(data.log.toString()) : line
    }

    /** An answer that is no good one: the detail, its code, and every mistake. */
    @NonCPS
    static String refusal(Map answer, String server) {
        Map body = answer.body
        if (body.isEmpty()) {
            return "Tidegate at ${server} answers with ${told(answer)}".toString()
        }
        String text = "Tidegate refuses: ${body.detail ?: body.title} (${answer.status} ${body.code ?: ''})".toString()
        if (body.code == 'key-reused') {
            text += "\n    Two calls of one stage need names of their own: stage: 'canary'"
        }
        for (Map each in (body.errors ?: [])) {
            text += '\n    ' + (each.path ?: each.pointer ?: '') + ': ' + each.detail
        }
        return text
    }

    @NonCPS
    static String silence(String server, Map answer, int patience) {
        return "Tidegate at ${server} gave no answer for ${patience} s (${told(answer)}). ".toString() +
            'A rollout that is under way goes on by itself.'
    }

    @NonCPS
    static String told(Map answer) {
        String text = oneLine(answer.body.detail ?: answer.text)
        String start = text.length() > 120 ? text.substring(0, 120) + '...' : text
        return answer.status == 0 ? start : 'status ' + answer.status + (start.isEmpty() ? '' : ': ' + start)
    }

    /** A reason as the service takes it: one line, not too long. */
    @NonCPS
    static String oneLine(Object text) {
        String line = text == null ? '' : text.toString().replaceAll('[\\x00-\\x1f\\x7f]+', ' ').trim()
        // a cut must leave no half of a character, which the service would refuse
        return line.length() > LONGEST_REASON
            ? line.substring(0, LONGEST_REASON - 3).replaceAll('[\\ud800-\\udbff]$', '') + '...'
            : line
    }

    /** What a person decides on. */
    @NonCPS
    static String question(Map rollout, Map report, String link, String message) {
        Map approval = rollout.approval
        List lines = [message]
        lines.addAll(approval.evidence ?: [])
        lines.add(requests(report))
        if (approval.needed > 1) {
            lines.add("Approvals: ${approval.given.size()} of ${approval.needed}${givers(approval)}".toString())
        }
        if (approval.roles) {
            lines.add('Who may: ' + approval.roles.join(', '))
        }
        if (approval.requester_may_approve == false && rollout.requested_by) {
            lines.add('Asked for by ' + rollout.requested_by + ', who may not approve it')
        }
        if (approval.expires) {
            lines.add('Expires ' + approval.expires + '; then: ' + approval.on_expiry)
        }
        lines.add(link)
        return lines.join('\n')
    }

    @NonCPS
    private static String givers(Map approval) {
        List names = []
        for (Map each in approval.given) {
            names.add(each.by)
        }
        return names.isEmpty() ? '' : ', given by ' + names.join(', ')
    }

    /** Why a rollout did not succeed, from its report: the verdicts that failed, and the instances. */
    @NonCPS
    static List evidence(Map report) {
        List lines = []
        for (Map each in (report.verdicts ?: [])) {
            if (each.verdict.outcome != 'PASS') {
                lines.add(each.verdict.message)
                addFindings(lines, each.verdict.findings ?: [])
            }
        }
        for (Map each in (report.failures ?: [])) {
            lines.add(each.instance + ': ' + each.detail)
        }
        addTasks(lines, report.tasks ?: [])
        lines.add(requests(report))
        int surplus = lines.size() - MOST_LINES
        return surplus > 0 ? lines.subList(surplus, lines.size()) : lines
    }

    /** What the proxy counted so far. What it could not count is told, too: it is no zero. */
    @NonCPS
    private static String requests(Map report) {
        if (report.lost != null) {
            return 'requests seen ' + report.requests + ', lost ' + report.lost + byRelease(report)
        }
        List causes = []
        for (Map each in (report.steps ?: [])) {
            if (each.unknown_reason && !causes.contains(each.unknown_reason)) {
                causes.add(each.unknown_reason)
            }
        }
        return 'requests seen and lost: not known' + (causes.isEmpty() ? '' : ', ' + causes.join('; '))
    }

    @NonCPS
    private static String byRelease(Map report) {
        List told = []
        for (Map each in (report.by_release ?: [])) {
            if (each.requests != null) {
                told.add("${each.release}: ${each.requests} seen, ${each.lost} lost, ${each.errors} errors".toString())
            }
        }
        Map probed = report.probed
        if (probed) {
            told.add("probes: ${probed.requests} sent, ${probed.failed} failed, ${probed.slow} slow".toString())
        }
        return told.isEmpty() ? '' : ' (' + told.join('; ') + ')'
    }

    /** Hooks and comparisons that did not pass, with what they printed or found. */
    @NonCPS
    private static void addTasks(List lines, List tasks) {
        for (Map each in tasks) {
            if (each.state != 'passed' && each.state != 'running') {
                lines.add(each.message)
                String more = each.changes ? each.changes.join('\n') : each.log
                if (more) {
                    lines.add(indented(more))
                }
            }
        }
    }

    @NonCPS
    private static void addFindings(List lines, List findings) {
        for (Map each in findings) {
            if (each.outcome != 'PASS') {
                lines.add('  ' + each.check + ': ' + each.message)
            }
        }
    }

    /** A build's description with the line about this rollout renewed; other lines stay. */
    @NonCPS
    static String described(String before, Map rollout, String link) {
        String beginning = 'Tidegate: ' + rollout.service + ' ' + rollout.new + ' '
        List lines = []
        for (String line in (before.isEmpty() ? [] : before.split('\n'))) {
            if (!line.startsWith(beginning)) {
                lines.add(line)
            }
        }
        String phase = rollout.approval == null ? rollout.phase.replace('_', ' ') : 'waits for a person'
        lines.add(beginning + phase + ', ' + link)
        return lines.join('\n')
    }

    /** Whose the live rollout is. */
    @NonCPS
    static String owner(Map rollout, String link) {
        Map build = rollout.build ?: [:]
        String whose = build.job ? "${build.job} #${build.number} ${build.url ?: ''}" : rollout.requested_by
        return "\n    ${rollout.new}, asked for by ${whose}\n    ${link}".toString()
    }

    /** Values of a Compose file's variables are texts, whatever the Jenkinsfile has. */
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

    /** `1 h 30 min`, for messages. */
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
