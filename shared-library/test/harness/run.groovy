/*
 * Plays a scenario with the real library and tells as JSON what came of it:
 *     groovy -cp shared-library/test/harness:shared-library/src shared-library/test/harness/run.groovy SCENARIO.json
 * `-` reads it from the standard input. README.md has the format.
 */
import groovy.json.JsonOutput
import groovy.json.JsonSlurper
import org.codehaus.groovy.control.CompilerConfiguration
import org.jenkinsci.plugins.workflow.steps.FlowInterruptedException
import played.Build
import played.Failed
import played.PlayedScript

Map scenario = new JsonSlurper().parseText(args[0] == '-' ? System.in.getText('UTF-8') : new File(args[0]).getText('UTF-8'))
File vars = new File(new File(getClass().protectionDomain.codeSource.location.toURI()).parentFile.parentFile.parentFile, 'vars')
Build build = new Build(scenario)

Script loaded(File vars, String step, Build build) {
    CompilerConfiguration settings = new CompilerConfiguration(scriptBaseClass: PlayedScript.name, sourceEncoding: 'UTF-8')
    Binding binding = new Binding(build: build, env: build.env, currentBuild: build.currentBuild)
    return new GroovyShell(getClass().classLoader, binding, settings).parse(new File(vars, step + '.groovy'))
}

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
    org.codehaus.groovy.runtime.StackTraceUtils.sanitize(problem).printStackTrace()
}
println JsonOutput.prettyPrint(JsonOutput.toJson(build.told + [
    result     : build.currentBuild.result,
    error      : error,
    returned   : returned.isEmpty() ? null : returned.last(),
    all        : returned,
    description: build.currentBuild.description,
    env        : build.env.all(),
]))
