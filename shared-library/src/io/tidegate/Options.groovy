package io.tidegate

import com.cloudbees.groovy.cps.NonCPS

/** The options of a step. All mistakes in them are reported in one error. */
class Options implements Serializable {
    private static final long serialVersionUID = 1L

    /** The options with defaults filled in. Mistakes fail the build. */
    static Map checked(script, String step, Map options) {
        Map env = [
            server   : script.env.TIDEGATE_URL,
            rollout  : script.env.TIDEGATE_ROLLOUT,
            stage    : script.env.STAGE_NAME,
            workspace: script.env.WORKSPACE,
        ]
        Map result = read(step, options, env)
        if (!result.mistakes.isEmpty()) {
            script.error(step + ': ' + result.mistakes.join('\n' + step + ': '))
        }
        return result.values
    }

    /** The options of each step, in the order of its help. */
    @NonCPS
    static List<String> known(String step) {
        List<String> release = ['service', 'file', 'compose', 'files', 'image', 'variables', 'force', 'reason', 'onBehalfOf']
        List<String> common = ['server', 'credentials', 'stage', 'patience']
        switch (step) {
            case 'tidegateDeploy': return release + ['until', 'onLive', 'onAbort', 'onBuildEnd', 'archive'] + common
            case 'tidegateVerify': return ['rollout', 'wait', 'reason', 'onAbort', 'archive'] + common
            case 'tidegatePromote':
                return ['rollout', 'gate', 'until', 'reason', 'onBehalfOf', 'onAbort', 'archive'] + common
            case 'tidegateRollback': return ['rollout', 'service', 'reason', 'onBehalfOf', 'archive'] + common
            default: return release + ['gate', 'wait', 'onLive', 'onAbort', 'onBuildEnd', 'archive'] + common
        }
    }

    /** The options of `gate`. */
    @NonCPS
    static List<String> knownOfGate() {
        return ['submitter', 'timeout', 'onTimeout', 'message', 'ok', 'milestone']
    }

    @NonCPS
    static Map read(String step, Map options, Map env) {
        List<String> mistakes = []
        List<String> known = known(step)
        Map values = defaults(step, env)
        for (Object key in options.keySet()) {
            String name = key.toString()
            if (!known.contains(name)) {
                mistakes.add("unknown option ${name}; the options are ${known.join(', ')}".toString())
            } else if (options.get(key) != null) {
                String mistake = mistakeIn(step, name, options.get(key))
                if (mistake.isEmpty()) {
                    values.put(name, storable(options.get(key)))
                } else {
                    mistakes.add(mistake)
                }
            }
        }
        if (values.gate) {
            values.gate = gate(values.gate == true ? [:] : values.gate, mistakes)
        }
        mistakes.addAll(missing(step, values, env, options))
        return [values: values, mistakes: mistakes]
    }

    @NonCPS
    private static Map defaults(String step, Map env) {
        Map values = [
            server: env.server, credentials: 'tidegate-token', stage: env.stage ?: step, patience: 300, onAbort: 'rollback',
            onLive: 'fail', variables: [:], files: [], reason: '', force: false, archive: false, wait: 600,
            until: step == 'tidegateDeploy' ? 'approval' : 'end',
        ]
        List<String> ofRollout = ['tidegateVerify', 'tidegatePromote'] // tidegateRollback: all rollouts of the build
        return ofRollout.contains(step) ? values + [rollout: env.rollout] : values
    }

    @NonCPS
    private static String mistakeIn(String step, String name, Object value) {
        switch (name) {
            case ['force', 'archive']:
                return value instanceof Boolean ? '' : name + ': expected true or false, not ' + value
            case ['patience', 'wait']:
                return value instanceof Integer && value >= 0 ? '' : name + ': expected a whole number of seconds, not ' + value
            case 'onAbort':
                return oneOf(name, value, ['rollback', 'detach'])
            case 'onLive':
                return oneOf(name, value, ['fail', 'wait', 'supersede'])
            case 'onBuildEnd':
                return oneOf(name, value, ['rollback', 'pause', 'detach'])
            case 'until':
                return oneOf(name, value, step == 'tidegateDeploy' ? ['verdict', 'approval', 'end'] : ['approval', 'end'])
            case 'onBehalfOf':
                return value == true || text(value) ? '' : "onBehalfOf: expected a user ID, or true for the user who started the build"
            case 'variables':
                return mistakeInVariables(value)
            case 'files':
                return mistakeInFiles(value)
            case 'gate':
                boolean kind = value instanceof Map || value instanceof Boolean
                return kind ? '' : 'gate: expected a map such as [submitter: \'ops\'], or true'
            case 'server':
                boolean url = value.toString().matches('https?://\\S+')
                return url ? '' : "server: expected a URL that starts with http:// or https://, not '${value}'".toString()
            case 'reason':
                return value instanceof CharSequence ? '' : 'reason: expected text, not ' + value
            case 'service':
                boolean valid = value.toString().matches('[^/\\s]+/[^/\\s]+')
                return valid ? '' : "service: expected environment/name such as 'production/shop', not '${value}'".toString()
            default:
                return text(value) ? '' : name + ': expected text that is not empty'
        }
    }

    @NonCPS
    private static boolean text(Object value) {
        return value instanceof CharSequence && !value.toString().trim().isEmpty()
    }

    @NonCPS
    private static String oneOf(String name, Object value, List<String> choices) {
        return choices.contains(value.toString()) ? '' : name + ': expected ' + choices.join(' or ') + ', not ' + value
    }

    @NonCPS
    private static String mistakeInVariables(Object value) {
        if (!(value instanceof Map)) {
            return 'variables: expected a map such as [VERSION: \'v2\'], not ' + value
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
            return "files: expected a list of paths such as ['app.env'], or a map of file names to contents, not " + value
        }
        for (Object name in (value instanceof Map ? value.keySet() : value)) {
            if (!text(name) || (value instanceof Map && !(value.get(name) instanceof CharSequence))) {
                return 'files: expected file names, and in a map their contents as text, not ' + name
            }
        }
        return ''
    }

    /** A copy that Jenkins can save: without interpolated strings in values or keys. */
    @NonCPS
    private static Object storable(Object value) {
        if (value instanceof List) {
            List listed = []
            for (Object item in value) {
                listed.add(storable(item))
            }
            return listed
        }
        if (!(value instanceof Map)) {
            return value instanceof CharSequence ? value.toString() : value
        }
        Map copy = [:]
        for (Object name in value.keySet()) {
            copy.put(name.toString(), storable(value.get(name)))
        }
        return copy
    }

    @NonCPS
    private static List<String> missing(String step, Map values, Map env, Map options) {
        List<String> mistakes = []
        List<String> known = known(step)
        if (values.server == null && options.server == null) {
            mistakes.add('server: missing; give the URL of Tidegate here or in the environment variable TIDEGATE_URL')
        }
        if (known.contains('compose')) {
            mistakes.addAll(missingForDeploy(values, env, options))
        } else if (values.rollout == null && !known.contains('service')) {
            mistakes.add('rollout: missing, because no tidegateDeploy ran before in this build; restart from the stage that ' +
                'deploys, or give rollout')
        }
        if (values.force && values.reason.isEmpty()) {
            mistakes.add('reason: required with force')
        }
        if (values.archive && !env.workspace) {
            mistakes.add('archive: requires a workspace; call the step inside an agent')
        }
        return mistakes
    }

    @NonCPS
    private static List<String> missingForDeploy(Map values, Map env, Map options) {
        List<String> mistakes = []
        if (options.service == null) {
            mistakes.add("service: missing; give environment/name such as 'production/shop'")
        }
        if (values.file != null && values.compose != null) {
            mistakes.add('file and compose: give the path of the Compose file or its text, not both')
        }
        if (values.files instanceof List && !values.files.isEmpty() && values.file == null) {
            mistakes.add('files: paths are relative to the Compose file; also give file, or give the contents in a map')
        }
        if (values.files instanceof Map && values.file == null && values.compose == null) {
            mistakes.add('files: require a Compose file; also give file or compose')
        }
        if (!values.variables.isEmpty() && values.file == null && values.compose == null) {
            mistakes.add('variables: require a Compose file; also give file or compose')
        }
        return mistakes
    }

    @NonCPS
    private static Map gate(Map options, List<String> mistakes) {
        Map values = [
            submitter: '', timeout: null, onTimeout: 'rollback', message: '', ok: '', milestone: true,
        ]
        for (String name in options.keySet()) {
            if (!knownOfGate().contains(name)) {
                mistakes.add("gate: unknown option ${name}; the options are ${knownOfGate().join(', ')}".toString())
            } else if (options.get(name) != null) {
                String mistake = mistakeInGate(name, options.get(name))
                mistakes.addAll(mistake.isEmpty() ? [] : ['gate: ' + mistake])
                values.put(name, options.get(name))
            }
        }
        values.timeout = values.timeout == null ? 0 : Math.max(0, seconds(values.timeout))
        return values
    }

    @NonCPS
    private static String mistakeInGate(String name, Object value) {
        switch (name) {
            case 'milestone':
                return value instanceof Boolean ? '' : name + ': expected true or false, not ' + value
            case 'onTimeout':
                return oneOf(name, value, ['rollback', 'detach'])
            case 'timeout':
                boolean valid = seconds(value) > 0
                return valid ? '' : "timeout: expected minutes, '4h', or [time: 4, unit: 'HOURS'], not " + value
            case 'message':
                boolean fits = text(value) && Evidence.isQuestion(value.toString())
                return fits ? '' : "message: expected one line of at most ${Evidence.MAX_QUESTION} characters".toString()
            default:
                return text(value) ? '' : name + ': expected text that is not empty'
        }
    }

    /** The seconds of a `timeout`; -1: it is invalid. */
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
        String text = value.toString()
        if (!text.matches('[0-9]{1,6}[smhd]')) {
            return -1
        }
        int last = text.length() - 1
        return Integer.parseInt(text.substring(0, last)) * units.get(text.substring(last))
    }
}
