package io.tidegate

import com.cloudbees.groovy.cps.NonCPS
import groovy.json.JsonOutput
import groovy.json.JsonSlurper

/**
 * JSON as plain lists and maps, which Jenkins can save across a restart. The sandbox allows `JsonSlurper` only, and its
 * results cannot be saved, so they are copied.
 */
class Json implements Serializable {
    private static final long serialVersionUID = 1L

    /** The JSON object in `text`; an empty map for anything else, such as the error page of a proxy. */
    @NonCPS
    static Map read(String text) {
        if (text == null || text.trim().isEmpty()) {
            return [:]
        }
        try {
            Object value = plain(new JsonSlurper().parseText(text))
            return value instanceof Map ? value : [:]
        } catch (Exception ignored) {
            return [:]
        }
    }

    @NonCPS
    private static Object plain(Object value) {
        if (value instanceof Map) {
            Map copy = [:]
            for (Object name in value.keySet()) {
                copy.put(name.toString(), plain(value.get(name)))
            }
            return copy
        }
        if (value instanceof List) {
            List copy = []
            for (Object item in value) {
                copy.add(plain(item))
            }
            return copy
        }
        return value
    }

    @NonCPS
    static String write(Map value) {
        return JsonOutput.toJson(value)
    }

    @NonCPS
    static String pretty(Map value) {
        return JsonOutput.prettyPrint(JsonOutput.toJson(value))
    }
}
