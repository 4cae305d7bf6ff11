package played

/** The base of every script: what it does not know itself is a step. */
abstract class PlayedScript extends Script {
    Object methodMissing(String name, Object arguments) {
        return binding.getVariable('build').step(name, arguments as List)
    }
}
