package jenkins

import groovy.json.JsonOutput
import groovy.json.JsonSlurper
import org.jenkinsci.plugins.workflow.steps.FlowInterruptedException
import org.jenkinsci.plugins.workflow.steps.SynchronousResumeNotSupportedException

/** A simulated build. Each Jenkins step is a method here; `record` collects what the build did. */
class Build {
    /** Steps that run in the background: Jenkins cannot resume them after a restart. All others resume, or take no time. */
    private static final List<String> NON_RESUMABLE = ['httpRequest', 'readFile', 'readTrusted', 'writeFile', 'archiveArtifacts']
    private static final List<String> BLOCKS = ['stage', 'script', 'timeout', 'node', 'withEnv', 'parallel']
    private static final Map UNITS = [SECONDS: 1, MINUTES: 60, HOURS: 3600, DAYS: 86_400]

    final Map scenario
    final Env env = new Env()
    final CurrentBuild currentBuild = new CurrentBuild()
    final SavedState savedState
    final Map record = [echo: [], inputs: [], milestones: 0, requests: [], sleeps: [], unstable: [], written: [:], archived: [],
                        nodes: [:], sh: [], junit: 0]
    private final List<Map> events // inputs, aborts and restarts of the scenario that are still to come
    private final List<Double> deadlines = [] // of the enclosing `timeout` blocks, on `clock`
    private double clock = 0 // simulated seconds
    private final QuietService quiet

    Build(Map scenario) {
        this.scenario = scenario
        this.events = (scenario.script ?: []).collect { new LinkedHashMap(it) }
        this.quiet = new QuietService(scenario.quiet ?: 0, scenario.proxy ?: Integer.MAX_VALUE)
        this.savedState = new SavedState((scenario.credentials ?: [:]).values())
        env.fill([JOB_NAME: 'shop', BUILD_NUMBER: '1', BUILD_URL: 'http://jenkins.example/job/shop/1/'])
        env.fill(scenario.files == null ? [:] : [WORKSPACE: '/workspace'])
        env.fill(scenario.env ?: [:])
        currentBuild.causes = scenario.causes ?: []
    }

    Object step(String name, List arguments) {
        savedState.check(name, arguments)
        String subject = subjectOf(name, arguments)
        interrupt('abort', name, subject) { throw new FlowInterruptedException('aborted') }
        interrupt('vanish', name, subject) { throw new VanishedError() }
        checkDeadlines()
        int nodes = name == 'string' ? 0 : BLOCKS.contains(name) ? 4 : 1 // what Jenkins keeps: a block has two starts and two ends
        record.nodes[name] = (record.nodes[name] ?: 0) + nodes
        quiet.count(nodes)
        Object result = this.invokeMethod('_' + name, arguments as Object[])
        if (NON_RESUMABLE.contains(name)) {
            interrupt('restart', name, subject) { throw new SynchronousResumeNotSupportedException(name) }
        }
        savedState.check(name, result)
        return result
    }

    /** What `match` of a scenario is compared with: `GET /v1/rollouts/…` for a request, the ID for an input. */
    private static String subjectOf(String name, List arguments) {
        if (name == 'httpRequest') {
            return arguments[0].httpMode + ' ' + new URL(arguments[0].url).file
        }
        return name == 'input' ? arguments[0].id ?: '' : ''
    }

    /** Runs `action` if the scenario has an `abort` or `restart` for this call: the `call`-th one that matches. */
    private void interrupt(String kind, String name, String subject, Closure action) {
        Map due = events.find { it[kind]?.file && new File(it[kind].file).exists() }
        events.findAll { it[kind] && !it[kind].file && it[kind].step == name && subject =~ (it[kind].match ?: '') }.each {
            it.calls = (it.calls ?: 0) + 1
            due = it.calls == (it[kind].call ?: 1) ? it : due
        }
        if (due != null) {
            events.remove(due)
            action()
        }
    }

    private void checkDeadlines() {
        if (deadlines && clock > deadlines.min()) {
            throw new FlowInterruptedException('timeout')
        }
    }

    // -- steps --------------------------------------------------------------------------------------------------------

    void _echo(Object message) {
        if ((scenario.credentials ?: [:]).values().any { message.toString().contains(it) }) {
            throw new IllegalStateException('the token is in the log')
        }
        record.echo << message.toString()
    }

    void _error(Object message) {
        throw new AbortException(message.toString())
    }

    void _unstable(Object message) {
        record.unstable << message.toString()
        currentBuild.result = 'UNSTABLE'
    }

    Object _stage(String name, Closure body) {
        env.fill([STAGE_NAME: name])
        return body()
    }

    /** A part of a declarative pipeline that is scripted. */
    Object _script(Closure body) {
        return body()
    }

    Object _node(Object label = null, Closure body) {
        env.fill([WORKSPACE: '/workspace'])
        try {
            return body()
        } finally {
            env.remove('WORKSPACE')
        }
    }

    Object _withEnv(List variables, Closure body) {
        env.fill(variables.collectEntries { [it.split('=')[0], it.substring(it.indexOf('=') + 1)] })
        return body()
    }

    /** One branch after the other. */
    Map _parallel(Map branches) {
        return branches.findAll { it.value instanceof Closure }.collectEntries { [it.key, it.value.call()] }
    }

    /** `shell` in the scenario is the folder where commands run; without it nothing runs, and `sh` has exit statuses by text. */
    Object _sh(Object command) {
        Map options = command instanceof Map ? command : [script: command]
        record.sh << options.script
        Map done = scenario.shell
            ? Shell.run(options.script, scenario.shell, env.all())
            : [status: (scenario.sh ?: [:]).find { options.script.contains(it.key) }?.value ?: 0, output: '']
        if (options.returnStatus) {
            return done.status
        }
        if (done.status != 0) {
            throw new AbortException("script returned exit code ${done.status}: ${done.errors}")
        }
        return options.returnStdout ? done.output : null
    }

    void _checkout(Object source) {
    }

    void _junit(Object options) {
        record.junit++
    }

    void _milestone() {
        record.milestones++
    }

    void _sleep(Map options) {
        double seconds = options.time * UNITS[options.unit]
        record.sleeps << seconds
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

    Object _httpRequest(Map options) {
        Object simulated = quiet.answer(options)
        if (simulated != null) {
            record.quiet = quiet.record()
            return simulated
        }
        long start = System.currentTimeMillis()
        def response = HttpRequest.send(options, scenario.credentials ?: [:])
        clock += (System.currentTimeMillis() - start) / 1000.0
        record.requests << [
            method: options.httpMode,
            path  : new URL(options.url).file,
            status: response.status,
            key   : options.customHeaders.find { it.name == 'Idempotency-Key' }?.value,
            body  : options.requestBody ? new JsonSlurper().parseText(options.requestBody) : null,
        ]
        return response
    }

    Object _input(Map options) {
        record.inputs << (options.id ? options + new InputPage(options).shown() : options)
        Map answer = events.find { it.input }
        if (answer == null) {
            throw new AbortException("the scenario has no answer for the input ${options.id}")
        }
        events.remove(answer)
        if (answer.input.shown) {
            File shown = new File(answer.input.shown + '.new')
            shown.setText(JsonOutput.toJson([id: options.id, message: options.message, description: options.parameters[0].description]), 'UTF-8')
            shown.renameTo(answer.input.shown)
        }
        return InputAnswer.of(answer.input, options, env, deadlines ? deadlines.min() - clock : 0)
    }

    String _readFile(Map options) {
        String text = (scenario.files ?: [:])[options.file]
        if (text == null) {
            throw new FileNotFoundException(options.file)
        }
        return options.encoding == 'Base64' ? text.getBytes('UTF-8').encodeBase64().toString() : text
    }

    /** Reads from the repository of the Jenkinsfile. */
    String _readTrusted(String path) {
        String text = (scenario.repository ?: [:])[path]
        if (text == null) {
            throw new AbortException("${path} not found")
        }
        return text
    }

    void _writeFile(Map options) {
        record.written[options.file] = options.text
    }

    void _archiveArtifacts(Map options) {
        record.archived << options.artifacts
    }
}
