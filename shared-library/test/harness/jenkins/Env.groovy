package jenkins

/** `env`: the credentials of the enclosing blocks first, then the variables that were set; null for any other. */
class Env implements Serializable {
    private static final long serialVersionUID = 1L
    private final Map<String, String> values = [:]
    private final List<Map<String, String>> bindings = []

    @Override
    Object getProperty(String name) {
        Map<String, String> inner = bindings.reverse().find { it.containsKey(name) }
        return inner == null ? values[name] : inner[name]
    }

    @Override
    void setProperty(String name, Object value) {
        values[name] = value.toString()
    }

    void fill(Map<String, String> more) {
        values.putAll(more)
    }

    Map<String, String> all() {
        return values
    }

    boolean bound() {
        return !bindings.isEmpty()
    }

    void bind(Map<String, String> secrets) {
        bindings.add(secrets)
    }

    void unbind() {
        bindings.remove(bindings.size() - 1)
    }
}
