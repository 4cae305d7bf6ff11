package played

/** The base of every script: what it does not know itself is a step, of the library for a Jenkinsfile, or of Jenkins. */
abstract class PlayedScript extends Script {
    /** The variable with the library's steps: it gives what one returned, in a list, and an empty one for what is no step. */
    static final String LIBRARY = 'the library'

    Object methodMissing(String name, Object arguments) {
        Closure library = (Closure) binding.variables[LIBRARY]
        List found = library == null ? [] : library.call(name, arguments as List)
        return found.isEmpty() ? binding.getVariable('build').step(name, arguments as List) : found[0]
    }
}
