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

/** A step of the library by its name, or a Jenkinsfile by its text. */
Script loaded(File vars, Object source, Build build) {
    CompilerConfiguration settings = new CompilerConfiguration(scriptBaseClass: PlayedScript.name, sourceEncoding: 'UTF-8')
    Binding binding = new Binding(build: build, env: build.env, currentBuild: build.currentBuild)
    GroovyShell shell = new GroovyShell(getClass().classLoader, binding, settings)
    return shell.parse(source instanceof File ? source : new File(vars, source + '.groovy'))
}

/** The steps of the library are the script's own methods, as in Jenkins. */
void written(File vars, String jenkinsfile, Build build) {
    File file = File.createTempFile('Jenkinsfile', '.groovy')
    try {
        file.setText(jenkinsfile.replaceFirst(/(?m)^@Library\(.*\) _$/, ''), 'UTF-8')
        Script script = loaded(vars, file, build)
        script.binding.setVariable(PlayedScript.LIBRARY) { String step, List arguments ->
            new File(vars, step + '.groovy').exists() ? [loaded(vars, step, build).call(*arguments)] : []
        }
        script.run()
    } finally {
        file.delete()
    }
}

Map played(File vars, Map scenario) {
    Build build = new Build(scenario)
    List returned = []
    String error = null
    try {
        if (scenario.jenkinsfile) {
            written(vars, scenario.jenkinsfile, build)
        }
        List<Map> steps = scenario.steps ?: []
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
