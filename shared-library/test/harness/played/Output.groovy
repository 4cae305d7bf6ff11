package played

import groovy.transform.CompileStatic

/** Writes objects as Jenkins does; the script itself it keeps in its own way. */
@CompileStatic
class Output extends ObjectOutputStream {
    Output(OutputStream target) {
        super(target)
        enableReplaceObject(true)
    }

    @Override
    protected Object replaceObject(Object value) {
        return value instanceof Script ? 'the script' : value
    }
}
