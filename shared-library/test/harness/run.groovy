/*
 * Plays builds with the real library: a scenario a line on the standard input, what came of it as a line of JSON each.
 *     groovy -cp shared-library/test/harness:shared-library/src shared-library/test/harness/run.groovy <SCENARIOS
 * Each is a build of its own. README.md has the format.
 */
import groovy.json.JsonOutput
import groovy.json.JsonSlurper
import org.codehaus.groovy.control.CompilerConfiguration
import org.codehaus.groovy.runtime.StackTraceUtils
import org.jenkinsci.plugins.workflow.steps.FlowInterruptedException
import played.Build
import played.Failed
import played.PlayedScript

File vars = new File(new File(getClass().protectionDomain.codeSource.location.toURI()).parentFile.parentFile.parentFile, 'vars')

Script loaded(File vars, String step, Build build) {
    CompilerConfiguration settings = new CompilerConfiguration(scriptBaseClass: PlayedScript.name, sourceEncoding: 'UTF-8')
    Binding binding = new Binding(build: build, env: build.env, currentBuild: build.currentBuild)
    return new GroovyShell(getClass().classLoader, binding, settings).parse(new File(vars, step + '.groovy'))
}

Map played(File vars, Map scenario) {
    Build build = new Build(scenario)
    List returned = []
    String error = null
    try {
        List<Map> steps = scenario.steps ?: [scenario]
        for (Map each in steps) {
            build.env.fill(each.stage ? [STAGE_NAME: each.stage] : [:])
            Map answer = loaded(vars, each.step, build).call(each.options ?: [:])
            build.kept.check(each.step, answer)
            returned << answer
        }
    } catch (FlowInterruptedException interruption) {
        build.currentBuild.result = 'ABORTED'
        error = interruption.message
    } catch (Failed failure) {
        build.currentBuild.result = 'FAILURE'
        error = failure.message
    } catch (Throwable problem) {
        build.currentBuild.result = 'FAILURE'
        error = problem.toString()
        StackTraceUtils.sanitize(problem).printStackTrace()
    }
    return build.told + [
        result     : build.currentBuild.result,
        error      : error,
        returned   : returned.isEmpty() ? null : returned.last(),
        all        : returned,
        description: build.currentBuild.description,
        env        : build.env.all(),
    ]
}

System.in.eachLine('UTF-8') { line ->
    println JsonOutput.toJson(played(vars, new JsonSlurper().parseText(line)))
    System.out.flush()
}
