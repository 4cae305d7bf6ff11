package jenkins

import groovy.transform.CompileStatic

/** Serialises as Jenkins does. Jenkins saves the script itself in another way. */
@CompileStatic
class StateOutput extends ObjectOutputStream {
    StateOutput(OutputStream target) {
        super(target)
        enableReplaceObject(true)
    }

    @Override
    protected Object replaceObject(Object value) {
        return value instanceof Script ? 'the script' : value
    }
}
