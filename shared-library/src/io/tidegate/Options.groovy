package io.tidegate

import com.cloudbees.groovy.cps.NonCPS

/** What a step was asked for: every name known and every value of its kind, or one error that tells all mistakes. */
class Options implements Serializable {
    private static final long serialVersionUID = 1L

    /** The options of a step with their defaults filled in. */
    static Map checked(script, String step, Map given) {
        Map env = [
            server   : script.env.TIDEGATE_URL,
            rollout  : script.env.TIDEGATE_ROLLOUT,
            stage    : script.env.STAGE_NAME,
            workspace: script.env.WORKSPACE,
        ]
        Map read = read(step, given, env)
        if (!read.mistakes.isEmpty()) {
            script.error(step + ': ' + read.mistakes.join('\n' + step + ': '))
        }
        return read.values
    }

    /** The names that a step takes, in the order of its help. */
    @NonCPS
    static List<String> known(String step) {
        List<String> what = ['service', 'file', 'compose', 'files', 'image', 'variables', 'force', 'reason', 'onBehalfOf']
        List<String> where = ['server', 'credentials', 'stage', 'patience']
        switch (step) {
            case 'tidegateDeploy': return what + ['until', 'onAbort', 'archive'] + where
            case 'tidegateVerify': return ['rollout', 'wait', 'reason', 'onAbort', 'archive'] + where
            case 'tidegatePromote':
                return ['rollout', 'gate', 'until', 'reason', 'onBehalfOf', 'onAbort', 'archive'] + where
            case 'tidegateRollback': return ['rollout', 'service', 'reason', 'onBehalfOf', 'archive'] + where
            default: return what + ['gate', 'wait', 'onAbort', 'archive'] + where
        }
    }

    /** The names inside `gate`. */
    @NonCPS
    static List<String> knownOfGate() {
        return ['submitter', 'timeout', 'onTimeout', 'reason', 'message', 'ok', 'milestone']
    }

    @NonCPS
    static Map read(String step, Map given, Map env) {
        List<String> mistakes = []
        List<String> known = known(step)
        Map values = defaults(step, env)
        for (Object each in given.keySet()) {
            String name = each.toString()
            if (!known.contains(name)) {
                mistakes.add("there is no option ${name}; the options are ${known.join(', ')}".toString())
            } else if (given.get(each) != null) {
                String mistake = mistakeIn(step, name, given.get(each))
                if (mistake.isEmpty()) {
                    values.put(name, taken(given.get(each)))
                } else {
                    mistakes.add(mistake)
                }
            }
        }
        if (values.gate) {
            values.gate = gate(values.gate == true ? [:] : values.gate, mistakes)
        }
        mistakes.addAll(missing(step, values, env, given))
        return [values: values, mistakes: mistakes]
    }

    @NonCPS
    private static Map defaults(String step, Map env) {
        Map values = [
            server: env.server, credentials: 'tidegate-token', stage: env.stage ?: step, patience: 300, onAbort: 'rollback',
            variables: [:], files: [], reason: '', force: false, archive: false, wait: 600,
            until: step == 'tidegateDeploy' ? 'approval' : 'end',
        ]
        List<String> named = ['tidegateVerify', 'tidegatePromote', 'tidegateRollback']
        return named.contains(step) ? values + [rollout: env.rollout] : values
    }

    @NonCPS
    private static String mistakeIn(String step, String name, Object value) {
        switch (name) {
            case ['force', 'archive']:
                return value instanceof Boolean ? '' : name + ': true or false, not ' + value
            case ['patience', 'wait']:
                return value instanceof Integer && value >= 0 ? '' : name + ': a whole number of seconds, not ' + value
            case 'onAbort':
                return oneOf(name, value, ['rollback', 'detach'])
            case 'until':
                return oneOf(name, value, step == 'tidegateDeploy' ? ['verdict', 'approval', 'end'] : ['approval', 'end'])
            case 'onBehalfOf':
                return value == true || text(value) ? '' : "onBehalfOf: a person's name, or true for who started the build"
            case 'variables':
                return mistakeInVariables(value)
            case 'files':
                return mistakeInFiles(value)
            case 'gate':
                boolean kind = value instanceof Map || value instanceof Boolean
                return kind ? '' : 'gate: a map such as [submitter: \'ops\'], or true'
            case 'server':
                boolean address = value.toString().matches('https?://\\S+')
                return address ? '' : "server: a URL that begins with http, not '${value}'".toString()
            case 'reason':
                return value instanceof CharSequence ? '' : 'reason: a text, not ' + value
            case 'service':
                boolean whole = value.toString().matches('[^/\\s]+/[^/\\s]+')
                return whole ? '' : "service: environment/name such as 'production/shop', not '${value}'".toString()
            default:
                return text(value) ? '' : name + ': a text that is not empty'
        }
    }

    @NonCPS
    private static boolean text(Object value) {
        return value instanceof CharSequence && !value.toString().trim().isEmpty()
    }

    @NonCPS
    private static String oneOf(String name, Object value, List<String> choices) {
        return choices.contains(value.toString()) ? '' : name + ': ' + choices.join(' or ') + ', not ' + value
    }

    @NonCPS
    private static String mistakeInVariables(Object value) {
        if (!(value instanceof Map)) {
            return 'variables: a map such as [VERSION: \'v2\'], not ' + value
        }
        List<String> empty = []
        for (Object name in value.keySet()) {
            if (value.get(name) == null) {
                empty.add(name.toString())
            }
        }
        return empty.isEmpty() ? '' : 'variables: no value for ' + empty.join(', ')
    }

    @NonCPS
    private static String mistakeInFiles(Object value) {
        if (!(value instanceof Map) && !(value instanceof List)) {
            return "files: a list of paths beside the Compose file such as ['app.env'], or a map of their texts, not " + value
        }
        for (Object each in (value instanceof Map ? value.keySet() : value)) {
            if (!text(each) || (value instanceof Map && !(value.get(each) instanceof CharSequence))) {
                return 'files: names, and in a map their texts, not ' + each
            }
        }
        return ''
    }

    /** As Jenkins can keep it: no interpolated strings, neither as values nor as keys. */
    @NonCPS
    private static Object taken(Object value) {
        if (value instanceof List) {
            List listed = []
            for (Object each in value) {
                listed.add(taken(each))
            }
            return listed
        }
        if (!(value instanceof Map)) {
            return value instanceof CharSequence ? value.toString() : value
        }
        Map copy = [:]
        for (Object name in value.keySet()) {
            copy.put(name.toString(), taken(value.get(name)))
        }
        return copy
    }

    @NonCPS
    private static List<String> missing(String step, Map values, Map env, Map given) {
        List<String> mistakes = []
        List<String> known = known(step)
        if (values.server == null && given.server == null) {
            mistakes.add('server: the URL of Tidegate, here or in the environment as TIDEGATE_URL')
        }
        if (known.contains('compose')) {
            mistakes.addAll(missingForDeploy(values, env, given))
        } else if (values.rollout == null && (!known.contains('service') || values.service == null)) {
            String or = known.contains('service') ? ', or service' : ''
            mistakes.add('rollout: no tidegateDeploy of this build came before; name the rollout' + or)
        }
        if (values.force && values.reason.isEmpty()) {
            mistakes.add('reason: needed with force')
        }
        if (values.archive && !env.workspace) {
            mistakes.add('archive: needs a workspace; call the step inside an agent')
        }
        return mistakes
    }

    @NonCPS
    private static List<String> missingForDeploy(Map values, Map env, Map given) {
        List<String> mistakes = []
        if (given.service == null) {
            mistakes.add("service: which one, as environment/name such as 'production/shop'")
        }
        if (values.file != null && values.compose != null) {
            mistakes.add('file and compose: the path of the Compose file or its text, not both')
        }
        if (values.file != null && !env.workspace) {
            mistakes.add('file: needs a workspace; call the step inside an agent, or give the text as compose')
        }
        if (values.files instanceof List && !values.files.isEmpty() && values.file == null) {
            mistakes.add('files: paths are beside the Compose file; give file, or their texts in a map')
        }
        if (values.files instanceof Map && values.file == null && values.compose == null) {
            mistakes.add('files: they belong to a Compose file; give file or compose')
        }
        if (!values.variables.isEmpty() && values.file == null && values.compose == null) {
            mistakes.add('variables: they fill in a Compose file; give file or compose')
        }
        return mistakes
    }

    @NonCPS
    private static Map gate(Map given, List<String> mistakes) {
        Map values = [
            submitter: '', timeout: null, onTimeout: 'rollback', reason: true, message: '', ok: '', milestone: true,
        ]
        for (String name in given.keySet()) {
            if (!knownOfGate().contains(name)) {
                mistakes.add("gate: there is no ${name}; there are ${knownOfGate().join(', ')}".toString())
            } else if (given.get(name) != null) {
                String mistake = mistakeInGate(name, given.get(name))
                mistakes.addAll(mistake.isEmpty() ? [] : ['gate: ' + mistake])
                values.put(name, given.get(name))
            }
        }
        values.timeout = values.timeout == null ? 0 : Math.max(0, seconds(values.timeout))
        return values
    }

    @NonCPS
    private static String mistakeInGate(String name, Object value) {
        switch (name) {
            case ['reason', 'milestone']:
                return value instanceof Boolean ? '' : name + ': true or false, not ' + value
            case 'onTimeout':
                return oneOf(name, value, ['rollback', 'detach'])
            case 'timeout':
                boolean form = seconds(value) > 0
                return form ? '' : "timeout: minutes, a text such as '4h', or [time: 4, unit: 'HOURS'], not " + value
            default:
                return text(value) ? '' : name + ': a text that is not empty'
        }
    }

    /** Of the forms that `timeout` takes; -1 of any other. */
    @NonCPS
    private static int seconds(Object value) {
        Map units = [s: 1, m: 60, h: 3600, d: 86_400, SECONDS: 1, MINUTES: 60, HOURS: 3600, DAYS: 86_400]
        if (value instanceof Integer) {
            return value * 60
        }
        if (value instanceof Map) {
            boolean known = value.time instanceof Integer && units.containsKey(value.unit ?: 'MINUTES') && value.size() <= 2
            return known ? value.time * units.get(value.unit ?: 'MINUTES') : -1
        }
        String form = value.toString()
        if (!form.matches('[0-9]{1,6}[smhd]')) {
            return -1
        }
        int last = form.length() - 1
        return Integer.parseInt(form.substring(0, last)) * units.get(form.substring(last))
    }
}
