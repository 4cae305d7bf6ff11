package played

/** What Jenkins does with a program's state at each step: writes it down. What cannot be written fails here, too. */
class Kept {
    private final Collection<String> secrets

    Kept(Collection<String> secrets) {
        this.secrets = secrets
    }

    /** Arguments and results of a step. A body is kept with all that it can reach, the objects of the library included. */
    void check(String step, Object value) {
        plainKeys(step, value)
        String written = new String(bytes(step, value), 'ISO-8859-1')
        if (step != 'httpRequest' && secrets.any { written.contains(it) }) {
            throw new IllegalStateException("${step}: the token would be written into the build's state")
        }
    }

    private static byte[] bytes(String step, Object value) {
        ByteArrayOutputStream target = new ByteArrayOutputStream()
        try {
            new Output(target).writeObject(value)
        } catch (NotSerializableException problem) {
            throw new IllegalStateException("${step}: cannot be kept across a restart: ${problem.message}", problem)
        }
        return target.toByteArray()
    }

    private static void plainKeys(String step, Object value) {
        if (value instanceof Map) {
            value.each { name, each ->
                if (!(name instanceof String)) {
                    throw new IllegalStateException("${step}: ${name} is a key of ${name.getClass().simpleName}")
                }
                plainKeys(step, each)
            }
        } else if (value instanceof List) {
            value.each { plainKeys(step, it) }
        }
    }
}
