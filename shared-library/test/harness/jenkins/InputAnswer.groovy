package jenkins

import groovy.json.JsonOutput
import groovy.json.JsonSlurper
import org.jenkinsci.plugins.workflow.steps.FlowInterruptedException

/** Ends an input as the scenario says: approved by a person, aborted, or timed out. */
class InputAnswer {
    private static final long MAX_WAIT_MILLIS = 150_000

    static Object of(Map answer, Map options, Env env, double left) {
        (answer.meanwhile ?: []).each { request(it, env) }
        Thread.sleep((long) ((answer.after ?: 0) * 1000))
        if (answer.file) {
            return of(awaitFile(new File(answer.file)), options, env, left)
        }
        if (answer.abort) {
            throw new FlowInterruptedException('rejected')
        }
        if (answer.expire) {
            Thread.sleep((long) (left * 1000)) // in real time, because the library reads the clock
            throw new FlowInterruptedException('timeout')
        }
        boolean form = options.parameters && answer.form != false // `proceedEmpty` returns the submitter only
        return form ? [approver: answer.approver, reason: answer.reason ?: ''] : answer.approver
    }

    /** Waits for the answer that a test writes into a file. */
    private static Map awaitFile(File file) {
        long end = System.currentTimeMillis() + MAX_WAIT_MILLIS
        while (!file.exists()) {
            if (System.currentTimeMillis() > end) {
                throw new IllegalStateException("nobody has answered the input: ${file} does not exist")
            }
            Thread.sleep(20)
        }
        return new JsonSlurper().parse(file, 'UTF-8')
    }

    /** Another client's request while the input is open. */
    private static void request(Map request, Env env) {
        String path = request.path.replace('{rollout}', env.TIDEGATE_ROLLOUT ?: '')
        HttpURLConnection connection = (HttpURLConnection) new URL(env.TIDEGATE_URL + path).openConnection()
        connection.requestMethod = request.method ?: 'POST'
        connection.setRequestProperty('Content-Type', 'application/json')
        connection.setRequestProperty('Authorization', 'Bearer ' + request.token)
        (request.headers ?: [:]).each { name, value -> connection.setRequestProperty(name, value) }
        connection.doOutput = true
        connection.outputStream.withStream { it.write(JsonOutput.toJson(request.body ?: [:]).bytes) }
        if (connection.responseCode >= 300) {
            throw new IllegalStateException("request while the input was open: ${request.path}: status ${connection.responseCode}")
        }
    }
}
