package io.tidegate

import com.cloudbees.groovy.cps.NonCPS
import org.jenkinsci.plugins.workflow.steps.FlowInterruptedException

/**
 * HTTP client for the Tidegate API. It uses the `httpRequest` step, which needs no node. A request that a restart of Jenkins
 * or of the service interrupts is safe to repeat: a GET by nature, a POST by its Idempotency-Key.
 *
 * The plugin itself adds the token from the credential. The pipeline never holds it, and needs no `withCredentials`, which
 * hangs or fails when the controller is killed inside.
 */
class Client implements Serializable {
    private static final long serialVersionUID = 1L
    private static final int REQUEST_SECONDS = 30
    private static final int FIRST_HOLD_SECONDS = 55 // shorter than the usual timeout of proxies
    private static final int MAX_HOLD_SECONDS = 300 // each request is a step that Jenkins keeps: 12 of them in an hour
    private static final int MIN_HOLD_SECONDS = 10
    private static final int MAX_PAUSE_SECONDS = 15
    private static final int MAX_RESTARTS = 20 // of Jenkins, during one request

    final script
    final String server
    final String credentials
    final int patience
    int hold = FIRST_HOLD_SECONDS // how long the service holds a poll that has nothing to report
    int maxHold = MAX_HOLD_SECONDS
    int cuts = 0 // polls that a proxy has ended

    Client(script, Map options) {
        this.script = script
        this.server = options.server.replaceAll('/+$', '')
        this.credentials = options.credentials
        this.patience = options.patience
    }

    Map rollout(String id) {
        return requireBody(request('GET', '/v1/rollouts/' + id, null, ''))
    }

    List events(String id, int after) {
        return requireBody(request('GET', '/v1/rollouts/' + id + '/events?after=' + after, null, '')).events
    }

    /**
     * Waits for `events` after a number, for `seconds` at most; `reached`: the rollout has come as far as `until`. The longer
     * nothing happens, the longer a poll lasts, as far as the proxies on the way allow.
     */
    Map poll(String id, int after, String until, int seconds = MAX_HOLD_SECONDS) {
        int wait = Math.max(1, Math.min(seconds, Math.min(hold, maxHold)))
        String path = '/v1/rollouts/' + id + '/events?after=' + after + '&wait=' + wait + '&until=' + until
        Map page = requireBody(request('GET', path, null, '', wait))
        if (!page.events.isEmpty()) {
            hold = FIRST_HOLD_SECONDS
        } else if (!page.cut) {
            hold = MAX_HOLD_SECONDS
            maxHold = cuts < 2 ? MAX_HOLD_SECONDS : maxHold // the first cut may have been a restart of the service
        }
        return page
    }

    /** The rollout's report; empty when it is unavailable, because a missing report must not fail the build. */
    Map report(String id) {
        Map response = request('GET', '/v1/rollouts/' + id + '/report', null, '')
        return response.status == 200 ? response.body : [:]
    }

    /** The other rollouts of its group. */
    List peers(Map rollout) {
        List running = requireBody(get('/v1/rollouts?phase=running&limit=200')).rollouts
        return Rollouts.sameGroup(rollout, running)
    }

    /** The response, whatever its status: `status`, `body` as a map, and `text`. */
    Map get(String path) {
        return request('GET', path, null, '')
    }

    Map post(String path, Map body, String key) {
        return request('POST', path, body, key)
    }

    Map delete(String path) {
        return request('DELETE', path, null, '')
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
    private Map request(String method, String path, Map body, String key, int wait = 0) {
        int spent = 0
        int pause = 1
        int restarts = 0
        boolean reported = false
        while (true) {
            long start = new Date().getTime()
            Map response = attempt(method, path, body, key, wait)
            if (response.restarted) {
                restarts++
                if (restarts > MAX_RESTARTS) {
                    script.error("Jenkins restarted ${restarts} times during one request to Tidegate. Run the stage again.")
                }
                script.echo(Restart.MESSAGE)
                continue
            }
            if (!isUnavailable(method, response)) {
                if (reported) {
                    script.echo('Tidegate responds again.')
                }
                return response
            }
            if (wait > MIN_HOLD_SECONDS && isCut(response)) {
                cuts++
                maxHold = wait > FIRST_HOLD_SECONDS ? FIRST_HOLD_SECONDS : Math.max(MIN_HOLD_SECONDS, wait.intdiv(2))
                return [status: 200, body: [events: [], reached: false, cut: true]]
            }
            spent += secondsSince(start, wait)
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

    private Map attempt(String method, String path, Map body, String key, int wait) {
        try {
            def response = script.httpRequest(
                url: server + path,
                httpMode: method,
                contentType: 'APPLICATION_JSON',
                requestBody: body == null ? '' : Json.write(body),
                authentication: credentials,
                customHeaders: key.isEmpty() ? [] : [[name: 'Idempotency-Key', value: key]],
                validResponseCodes: '100:599',
                timeout: REQUEST_SECONDS + wait,
                quiet: true)
            return [status: response.status, body: Json.read(response.content), text: response.content]
        } catch (FlowInterruptedException interruption) {
            throw interruption
        } catch (Exception failure) {
            if (isWithoutCredential(failure)) {
                script.error(Messages.noCredential(credentials))
            }
            return [status: 0, body: [:], text: failure.toString(), restarted: Restart.caused(failure)]
        }
    }

    /** How the plugin reports a credential that does not exist for this job, or is of another kind. */
    @NonCPS
    private static boolean isWithoutCredential(Exception failure) {
        String message = failure.getMessage()
        return message != null && message.startsWith('Authentication \'') && message.contains('doesn\'t exist')
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

    /** Whether a proxy has ended a poll because it took too long, or has dropped its connection silently. */
    @NonCPS
    private static boolean isCut(Map response) {
        boolean timedOut = response.status == 408 && response.text != null && response.text.contains('SocketTimeout')
        return response.status == 504 || timedOut
    }

    /** Capped at the timeout of one request, because Jenkins itself may have been down in between. */
    @NonCPS
    private static int secondsSince(long start, int wait) {
        long seconds = Math.round((double) (new Date().getTime() - start) / 1000.0d)
        return (int) Math.min(seconds, (long) (REQUEST_SECONDS + wait))
    }
}
