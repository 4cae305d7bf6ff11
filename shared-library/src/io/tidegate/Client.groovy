package io.tidegate

import com.cloudbees.groovy.cps.NonCPS
import org.jenkinsci.plugins.workflow.steps.FlowInterruptedException

/**
 * The service's HTTP API by the `httpRequest` step, which needs no node. Requests are short, and each may be repeated:
 * a GET by nature, a POST because it carries an Idempotency-Key. So a restart of Jenkins or of the service costs a pause.
 */
class Client implements Serializable {
    private static final long serialVersionUID = 1L
    private static final int REQUEST_SECONDS = 30
    private static final int WAIT_SECONDS = 20 // how long the service may think about news; below any proxy's patience
    private static final int LONGEST_PAUSE = 15

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

    /** With the token at hand. It is not bound while a person is waited for, and kept in no field that Jenkins saves. */
    def within(Closure work) {
        return script.withCredentials([script.string(credentialsId: credentials, variable: 'TIDEGATE_TOKEN')]) {
            work()
        }
    }

    Map rollout(String id) {
        return wanted(ask('GET', '/v1/rollouts/' + id, null, ''))
    }

    List events(String id, int after, boolean wait) {
        String path = '/v1/rollouts/' + id + '/events?after=' + after + (wait ? '&wait=' + WAIT_SECONDS : '')
        return wanted(ask('GET', path, null, '')).events
    }

    /** What happened and why; empty when there is none, since it shall never stand in the way of what it explains. */
    Map report(String id) {
        Map answer = ask('GET', '/v1/rollouts/' + id + '/report', null, '')
        return answer.status == 200 ? answer.body : [:]
    }

    /** The answer as it is: `status`, `body` as a map, and `text`. */
    Map get(String path) {
        return ask('GET', path, null, '')
    }

    Map post(String path, Map body, String key) {
        return ask('POST', path, body, key)
    }

    /** The body of an answer that must be a good one. */
    Map wanted(Map answer) {
        if (answer.status >= 300) {
            script.error(Texts.refusal(answer, server))
        }
        return answer.body
    }

    /** Where people look at it. */
    @NonCPS
    String link(Map rollout) {
        Map links = rollout.links ?: [:]
        return server + (links.page ?: links.self ?: '/v1/rollouts/' + rollout.id)
    }

    /** Ask until there is an answer, with growing pauses, as long as the patience lasts. */
    private Map ask(String mode, String path, Map body, String key) {
        int spent = 0
        int pause = 1
        boolean quiet = true
        while (true) {
            long begun = new Date().getTime()
            Map answer = attempt(mode, path, body, key)
            if (!silent(mode, answer)) {
                if (!quiet) {
                    script.echo('Tidegate answers again')
                }
                return answer
            }
            spent += spentSince(begun)
            if (spent + pause > patience) {
                script.error(Texts.silence(server, answer, patience))
            }
            if (quiet) {
                script.echo("No answer from Tidegate at ${server} (${Texts.told(answer)}); asked again for ${patience} s at most")
                quiet = false
            }
            script.sleep(time: pause, unit: 'SECONDS')
            spent += pause
            pause = Math.min(pause * 2, LONGEST_PAUSE)
        }
    }

    private Map attempt(String mode, String path, Map body, String key) {
        try {
            def response = script.httpRequest(
                url: server + path,
                httpMode: mode,
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
            return [status: 0, body: [:], text: failure.toString()] // in flight while Jenkins restarted, for one
        }
    }

    /** Concatenated, not interpolated: Jenkins warns of secrets in interpolated strings. */
    @NonCPS
    private static List headers(String token, String key) {
        List found = [[name: 'Authorization', value: 'Bearer ' + token, maskValue: true]]
        if (!key.isEmpty()) {
            found.add([name: 'Idempotency-Key', value: key])
        }
        return found
    }

    /**
     * Whether there was no answer of the service at all, or one that asks for patience. The plugin tells a refused
     * connection as 408, and an unknown host as 404 with its own text.
     */
    @NonCPS
    private static boolean silent(String mode, Map answer) {
        if ([0, 408, 429, 502, 503, 504].contains(answer.status)) {
            return true
        }
        if (answer.status == 404) {
            return answer.body.isEmpty() && answer.text != null && answer.text.contains('UnknownHostException')
        }
        return mode == 'GET' && answer.status == 500
    }

    /** Seconds; never more than one request may take, since Jenkins itself may have been away meanwhile. */
    @NonCPS
    private static int spentSince(long begun) {
        long seconds = Math.round((double) (new Date().getTime() - begun) / 1000.0d)
        return (int) Math.min(seconds, (long) REQUEST_SECONDS)
    }
}
