package io.tidegate

import com.cloudbees.groovy.cps.NonCPS
import org.jenkinsci.plugins.workflow.steps.FlowInterruptedException

/**
 * HTTP client for the Tidegate API. It uses the `httpRequest` step, which needs no node. Requests are short, and each is
 * safe to repeat: a GET by nature, a POST by its Idempotency-Key. A restart of Jenkins or of the service causes a delay only.
 */
class Client implements Serializable {
    private static final long serialVersionUID = 1L
    private static final int REQUEST_SECONDS = 30
    private static final int WAIT_SECONDS = 20 // how long the service holds a poll for events; shorter than proxy timeouts
    private static final int MAX_PAUSE_SECONDS = 15

    final script
    final String server
    final String credentials
    final int patience

    Client(script, Map options) {
        this.script = script
        this.server = options.server.replaceAll('/+$', '')
        this.credentials = options.credentials
        this.patience = options.patience
    }

    /** Runs `work` with the token bound. The token is not bound during an input, and in no field that Jenkins saves. */
    def withToken(Closure work) {
        return script.withCredentials([script.string(credentialsId: credentials, variable: 'TIDEGATE_TOKEN')]) {
            work()
        }
    }

    Map rollout(String id) {
        return requireBody(request('GET', '/v1/rollouts/' + id, null, ''))
    }

    List events(String id, int after) {
        return requireBody(request('GET', '/v1/rollouts/' + id + '/events?after=' + after, null, '')).events
    }

    /** Waits for `events` after a number; `reached`: the rollout has come as far as the `verdict`, `approval` or `end`. */
    Map poll(String id, int after, String until) {
        String query = '/events?after=' + after + '&wait=' + WAIT_SECONDS + '&until=' + until
        return requireBody(request('GET', '/v1/rollouts/' + id + query, null, ''))
    }

    /** The rollout's report; empty when it is unavailable, because a missing report must not fail the build. */
    Map report(String id) {
        Map response = request('GET', '/v1/rollouts/' + id + '/report', null, '')
        return response.status == 200 ? response.body : [:]
    }

    /** The response, whatever its status: `status`, `body` as a map, and `text`. */
    Map get(String path) {
        return request('GET', path, null, '')
    }

    Map post(String path, Map body, String key) {
        return request('POST', path, body, key)
    }

    /** The body of a successful response. Any other response fails the build. */
    Map requireBody(Map response) {
        if (response.status >= 300) {
            script.error(Messages.refusal(response, server))
        }
        return response.body
    }

    /** The URL of a rollout, for people. */
    @NonCPS
    String link(Map rollout) {
        Map links = rollout.links ?: [:]
        return server + (links.page ?: links.self ?: '/v1/rollouts/' + rollout.id)
    }

    /** Repeats a request with growing pauses until the service responds, for at most `patience` seconds. */
    private Map request(String method, String path, Map body, String key) {
        int spent = 0
        int pause = 1
        boolean reported = false
        while (true) {
            long start = new Date().getTime()
            Map response = attempt(method, path, body, key)
            if (!isUnavailable(method, response)) {
                if (reported) {
                    script.echo('Tidegate responds again.')
                }
                return response
            }
            spent += secondsSince(start)
            if (spent + pause > patience) {
                script.error(Messages.unavailable(server, response, patience))
            }
            if (!reported) {
                String cause = Messages.describe(response)
                script.echo("No response from Tidegate at ${server} (${cause}). Retrying for up to ${patience} s.")
                reported = true
            }
            script.sleep(time: pause, unit: 'SECONDS')
            spent += pause
            pause = Math.min(pause * 2, MAX_PAUSE_SECONDS)
        }
    }

    private Map attempt(String method, String path, Map body, String key) {
        try {
            def response = script.httpRequest(
                url: server + path,
                httpMode: method,
                contentType: 'APPLICATION_JSON',
                requestBody: body == null ? '' : Json.write(body),
                customHeaders: headers(script.env.TIDEGATE_TOKEN, key),
                validResponseCodes: '100:599',
                timeout: REQUEST_SECONDS,
                quiet: true)
            return [status: response.status, body: Json.read(response.content), text: response.content]
        } catch (FlowInterruptedException interruption) {
            throw interruption
        } catch (Exception failure) {
            return [status: 0, body: [:], text: failure.toString()] // for example a request in flight when Jenkins restarted
        }
    }

    /** Concatenated, not interpolated: Jenkins warns about secrets in interpolated strings. */
    @NonCPS
    private static List headers(String token, String key) {
        List headers = [[name: 'Authorization', value: 'Bearer ' + token, maskValue: true]]
        if (!key.isEmpty()) {
            headers.add([name: 'Idempotency-Key', value: key])
        }
        return headers
    }

    /**
     * Whether the service did not respond, or asked to retry later. The plugin reports a refused connection as status 408,
     * and an unknown host as status 404 with a text of its own.
     */
    @NonCPS
    private static boolean isUnavailable(String method, Map response) {
        if ([0, 408, 429, 502, 503, 504].contains(response.status)) {
            return true
        }
        if (response.status == 404) {
            return response.body.isEmpty() && response.text != null && response.text.contains('UnknownHostException')
        }
        return method == 'GET' && response.status == 500
    }

    /** Capped at the timeout of one request, because Jenkins itself may have been down in between. */
    @NonCPS
    private static int secondsSince(long start) {
        long seconds = Math.round((double) (new Date().getTime() - start) / 1000.0d)
        return (int) Math.min(seconds, (long) REQUEST_SECONDS)
    }
}
