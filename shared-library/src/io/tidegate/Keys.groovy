package io.tidegate

import com.cloudbees.groovy.cps.NonCPS

/** Idempotency keys and URL paths. */
class Keys implements Serializable {
    private static final long serialVersionUID = 1L

    /** `job#number/stage`: the same build and stage give the same key, so a repeated request never acts twice. */
    @NonCPS
    static String of(String job, String number, String stage) {
        return encoded(job) + '#' + number + '/' + encoded(stage)
    }

    /** Percent-encoded, for a URL's path or a key. */
    @NonCPS
    static String encoded(String text) {
        return URLEncoder.encode(text, 'UTF-8')
    }

    /** The API's path of an environment/name. */
    @NonCPS
    static String servicePath(String service) {
        int slash = service.indexOf('/')
        return '/v1/services/' + encoded(service.substring(0, slash)) + '/' + encoded(service.substring(slash + 1))
    }

    /** The name of an environment/name. */
    @NonCPS
    static String serviceName(String service) {
        return service.substring(service.indexOf('/') + 1)
    }

    /** The words of a text, separated by spaces; none for null. */
    @NonCPS
    static List words(String text) {
        List words = []
        for (String word in (text ?: '').split(' ')) {
            if (!word.isEmpty()) {
                words.add(word)
            }
        }
        return words
    }

    @NonCPS
    static List without(List words, String word) {
        List rest = []
        for (String other in words) {
            if (other != word) {
                rest.add(other)
            }
        }
        return rest
    }

    /** The folder of a file's path, with its slash; empty when the path has none. */
    @NonCPS
    static String folder(String path) {
        return path == null ? '' : path.replaceAll('[^/]*$', '')
    }
}
