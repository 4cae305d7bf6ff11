package jenkins

/** `env`: the variables that were set; null for any other. */
class Env implements Serializable {
    private static final long serialVersionUID = 1L
    private final Map<String, String> values = [:]

    @Override
    Object getProperty(String name) {
        return values[name]
    }

    @Override
    void setProperty(String name, Object value) {
        values[name] = value.toString()
    }

    void fill(Map<String, String> more) {
        values.putAll(more)
    }

    void remove(String name) {
        values.remove(name)
    }

    Map<String, String> all() {
        return values
    }
}
