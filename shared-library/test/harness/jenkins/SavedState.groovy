package jenkins

/** Serialises the state of the pipeline at each step, as Jenkins does, and fails where Jenkins would. */
class SavedState {
    private final Collection<String> secrets

    SavedState(Collection<String> secrets) {
        this.secrets = secrets
    }

    /** Checks the arguments or the result of a step. A body is saved with everything it refers to. */
    void check(String step, Object value) {
        plainKeys(step, value)
        String state = new String(bytes(step, value), 'ISO-8859-1')
        if (secrets.any { state.contains(it) }) {
            throw new IllegalStateException("${step}: the token would be saved with the build")
        }
    }

    private static byte[] bytes(String step, Object value) {
        ByteArrayOutputStream target = new ByteArrayOutputStream()
        try {
            new StateOutput(target).writeObject(value)
        } catch (NotSerializableException problem) {
            throw new IllegalStateException("${step}: cannot be saved across a restart: ${problem.message}", problem)
        }
        return target.toByteArray()
    }

    private static void plainKeys(String step, Object value) {
        if (value instanceof Map) {
            value.each { name, item ->
                if (!(name instanceof String)) {
                    throw new IllegalStateException("${step}: the map key ${name} is a ${name.getClass().simpleName}, not a String")
                }
                plainKeys(step, item)
            }
        } else if (value instanceof List) {
            value.each { plainKeys(step, it) }
        }
    }
}
