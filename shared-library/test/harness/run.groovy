/*
 * Simulates builds with the real library: reads one scenario per line, prints one result per line, both as JSON.
 *     groovy -cp shared-library/test/harness:shared-library/src shared-library/test/harness/run.groovy <SCENARIOS
 * README.md has the format.
 */
import groovy.json.JsonOutput
import groovy.json.JsonSlurper
import jenkins.AbortException
import jenkins.Build
import jenkins.PipelineScript
import jenkins.VanishedError
import org.codehaus.groovy.control.CompilerConfiguration
import org.codehaus.groovy.runtime.StackTraceUtils
import org.jenkinsci.plugins.workflow.steps.FlowInterruptedException

File vars = new File(new File(getClass().protectionDomain.codeSource.location.toURI()).parentFile.parentFile.parentFile, 'vars')

/** Compiles a step of the library, given its name, or a Jenkinsfile, given its file. */
Script load(File vars, Object source, Build build) {
    CompilerConfiguration settings = new CompilerConfiguration(scriptBaseClass: PipelineScript.name, sourceEncoding: 'UTF-8')
    Binding binding = new Binding(build: build, env: build.env, currentBuild: build.currentBuild, scm: 'scm')
    GroovyShell shell = new GroovyShell(getClass().classLoader, binding, settings)
    return shell.parse(source instanceof File ? source : new File(vars, source + '.groovy'))
}

/** The result of a step, which Jenkins would save. */
Object returned(Build build, String step, Object result) {
    build.savedState.check(step, result)
    return result
}

/** Runs a Jenkinsfile with the library's steps. */
void runJenkinsfile(File vars, String jenkinsfile, Build build) {
    File file = File.createTempFile('Jenkinsfile', '.groovy')
    try {
        file.setText(jenkinsfile.replaceFirst(/(?m)^@Library\(.*\) _$/, ''), 'UTF-8')
        Script script = load(vars, file, build)
        script.binding.setVariable(PipelineScript.LIBRARY) { String step, List arguments ->
            new File(vars, step + '.groovy').exists() ? [returned(build, step, load(vars, step, build).call(*arguments))] : []
        }
        script.run()
    } finally {
        file.delete()
    }
}

Map simulate(File vars, Map scenario) {
    Build build = new Build(scenario)
    List returned = []
    String error = null
    try {
        if (scenario.jenkinsfile) {
            runJenkinsfile(vars, scenario.jenkinsfile, build)
        }
        List<Map> steps = scenario.steps ?: []
        for (Map call in steps) {
            build.env.fill(call.stage ? [STAGE_NAME: call.stage] : [:])
            Map result = load(vars, call.step, build).call(call.options ?: [:])
            build.savedState.check(call.step, result)
            returned << result
        }
    } catch (VanishedError ignored) {
        build.currentBuild.result = 'VANISHED'
        error = 'the build is gone'
    } catch (FlowInterruptedException interruption) {
        build.currentBuild.result = 'ABORTED'
        error = interruption.message
    } catch (AbortException failure) {
        build.currentBuild.result = 'FAILURE'
        error = failure.message
    } catch (Throwable problem) {
        build.currentBuild.result = 'FAILURE'
        error = problem.toString()
        StackTraceUtils.sanitize(problem).printStackTrace()
    }
    return build.record + [
        result     : build.currentBuild.result,
        error      : error,
        returned   : returned.isEmpty() ? null : returned.last(),
        all        : returned,
        env        : build.env.all(),
    ]
}

System.in.eachLine('UTF-8') { line ->
    println JsonOutput.toJson(simulate(vars, new JsonSlurper().parseText(line)))
    System.out.flush()
}
