package io.tidegate

import com.cloudbees.groovy.cps.NonCPS
import groovy.json.JsonOutput
import groovy.json.JsonSlurper

/**
 * JSON as plain lists and maps, which a build can keep across a restart. `JsonSlurper` is the parser that the sandbox
 * allows; what it returns cannot be kept, so it is copied before it leaves here.
 */
class Json implements Serializable {
    private static final long serialVersionUID = 1L

    /** The object in the text; an empty map when it is anything else, such as the error page of a proxy. */
    @NonCPS
    static Map read(String text) {
        if (text == null || text.trim().isEmpty()) {
            return [:]
        }
        try {
            Object found = plain(new JsonSlurper().parseText(text))
            return found instanceof Map ? found : [:]
        } catch (Exception ignored) {
            return [:]
        }
    }

    @NonCPS
    private static Object plain(Object found) {
        if (found instanceof Map) {
            Map copy = [:]
            for (Object name in found.keySet()) {
                copy.put(name.toString(), plain(found.get(name)))
            }
            return copy
        }
        if (found instanceof List) {
            List copy = []
            for (Object each in found) {
                copy.add(plain(each))
            }
            return copy
        }
        return found
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
