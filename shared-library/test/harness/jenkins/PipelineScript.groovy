package jenkins

/** Base class of every script. An unknown method is a step: of the library in a Jenkinsfile, otherwise of Jenkins. */
abstract class PipelineScript extends Script {
    /** The variable with the library's steps. It returns a list with the step's result; empty: there is no such step. */
    static final String LIBRARY = 'the library'

    void pipeline(Closure definition) {
        new Declarative(this, (Build) binding.getVariable('build')).pipeline(definition)
    }

    Object methodMissing(String name, Object arguments) {
        Closure library = (Closure) binding.variables[LIBRARY]
        List result = library == null ? [] : library.call(name, arguments as List)
        return result.isEmpty() ? binding.getVariable('build').step(name, arguments as List) : result[0]
    }
}
