package played

import groovy.json.JsonOutput
import groovy.json.JsonSlurper
import org.jenkinsci.plugins.workflow.steps.FlowInterruptedException

/** A build that plays a scenario: each step is a method here, and everything it did is told at the end. */
class Build {
    private static final Map UNITS = [SECONDS: 1, MINUTES: 60, HOURS: 3600, DAYS: 86_400]

    final Map scenario
    final Env env = new Env()
    final CurrentBuild currentBuild = new CurrentBuild()
    final Kept kept
    final Map told = [echo: [], inputs: [], milestones: 0, requests: [], sleeps: [], unstable: [], written: [:], archived: []]
    private final List<Map> events // of the scenario: inputs, aborts and restarts that are still to come
    private final List<Double> deadlines = [] // of the enclosing `timeout` blocks, in the scenario's time
    private double clock = 0

    Build(Map scenario) {
        this.scenario = scenario
        this.events = (scenario.script ?: []).collect { new LinkedHashMap(it) }
        this.kept = new Kept((scenario.credentials ?: [:]).values())
        env.fill([JOB_NAME: 'shop', BUILD_NUMBER: '1', BUILD_URL: 'http://jenkins.example/job/shop/1/'])
        env.fill(scenario.files == null ? [:] : [WORKSPACE: '/workspace'])
        env.fill(scenario.env ?: [:])
        currentBuild.causes = scenario.causes ?: []
    }

    Object step(String name, List arguments) {
        kept.check(name, arguments)
        String told = about(name, arguments)
        happens('abort', name, told) { throw new FlowInterruptedException('aborted') }
        overdue()
        Object result = this.invokeMethod('_' + name, arguments as Object[])
        happens('restart', name, told) { throw new IllegalStateException('Jenkins was restarted meanwhile') }
        kept.check(name, result)
        return result
    }

    /** `GET /v1/rollouts/…` for a request, the id for an input; for the scenario's `match`. */
    private static String about(String name, List arguments) {
        if (name == 'httpRequest') {
            return arguments[0].httpMode + ' ' + new URL(arguments[0].url).file
        }
        return name == 'input' ? arguments[0].id : ''
    }

    /** An `abort` or a `restart` of the scenario comes at the `call`-th call of its step that matches. */
    private void happens(String kind, String name, String told, Closure what) {
        Map due = events.find { it[kind]?.file && new File(it[kind].file).exists() }
        events.findAll { it[kind] && !it[kind].file && it[kind].step == name && told =~ (it[kind].match ?: '') }.each {
            it.seen = (it.seen ?: 0) + 1
            due = it.seen == (it[kind].call ?: 1) ? it : due
        }
        if (due != null) {
            events.remove(due)
            what()
        }
    }

    private void overdue() {
        if (deadlines && clock > deadlines.min()) {
            throw new FlowInterruptedException('timeout')
        }
    }

    // -- steps --------------------------------------------------------------------------------------------------------

    void _echo(Object message) {
        if ((scenario.credentials ?: [:]).values().any { message.toString().contains(it) }) {
            throw new IllegalStateException('the token is in the log')
        }
        told.echo << message.toString()
    }

    void _error(Object message) {
        throw new Failed(message.toString())
    }

    void _unstable(Object message) {
        told.unstable << message.toString()
        currentBuild.result = 'UNSTABLE'
    }

    Object _stage(String name, Closure body) {
        env.fill([STAGE_NAME: name])
        return body()
    }

    void _milestone() {
        told.milestones++
    }

    void _sleep(Map options) {
        double seconds = options.time * UNITS[options.unit]
        told.sleeps << seconds
        clock += seconds
        Thread.sleep((long) (seconds * 1000 * (scenario.scale ?: 1)))
    }

    Object _timeout(Map options, Closure body) {
        deadlines << clock + options.time * UNITS[options.unit ?: 'MINUTES']
        try {
            return body()
        } finally {
            deadlines.remove(deadlines.size() - 1)
        }
    }

    Map _string(Map options) {
        return options
    }

    Object _withCredentials(List wanted, Closure body) {
        Map<String, String> bound = [:]
        wanted.each {
            String secret = (scenario.credentials ?: [:])[it.credentialsId]
            if (secret == null) {
                throw new Failed("Could not find credentials entry with ID '${it.credentialsId}'")
            }
            bound[it.variable] = secret
        }
        env.bind(bound)
        try {
            return body()
        } finally {
            env.unbind()
        }
    }

    Object _httpRequest(Map options) {
        long begun = System.currentTimeMillis()
        def response = Http.ask(options)
        clock += (System.currentTimeMillis() - begun) / 1000.0
        told.requests << [
            method: options.httpMode,
            path  : new URL(options.url).file,
            status: response.status,
            key   : options.customHeaders.find { it.name == 'Idempotency-Key' }?.value,
            body  : options.requestBody ? new JsonSlurper().parseText(options.requestBody) : null,
        ]
        return response
    }

    Object _input(Map options) {
        told.inputs << (options + [bound: env.bound()])
        Map answer = events.find { it.input }
        if (answer == null) {
            throw new Failed("nobody answers the input ${options.id}")
        }
        events.remove(answer)
        if (answer.input.shown) {
            File shown = new File(answer.input.shown + '.new')
            shown.setText(JsonOutput.toJson([id: options.id, message: options.message]), 'UTF-8')
            shown.renameTo(answer.input.shown)
        }
        return Answer.of(answer.input, options, env, deadlines ? deadlines.min() - clock : 0)
    }

    String _readFile(Map options) {
        String text = (scenario.files ?: [:])[options.file]
        if (text == null) {
            throw new FileNotFoundException(options.file)
        }
        return options.encoding == 'Base64' ? text.getBytes('UTF-8').encodeBase64().toString() : text
    }

    void _writeFile(Map options) {
        told.written[options.file] = options.text
    }

    void _archiveArtifacts(Map options) {
        told.archived << options.artifacts
    }
}
