package played

import groovy.json.JsonOutput
import groovy.json.JsonSlurper
import org.jenkinsci.plugins.workflow.steps.FlowInterruptedException

/** How an input of the scenario ends: approved by somebody, aborted, or its time runs out. */
class Answer {
    static Object of(Map answer, Map options, Env env, double left) {
        (answer.meanwhile ?: []).each { meanwhile(it, env) }
        Thread.sleep((long) ((answer.after ?: 0) * 1000))
        if (answer.file) {
            return of(fromOutside(new File(answer.file)), options, env, left)
        }
        if (answer.abort) {
            throw new FlowInterruptedException('rejected')
        }
        if (answer.expire) {
            Thread.sleep((long) (left * 1000)) // really: the library looks at the clock
            throw new FlowInterruptedException('timeout')
        }
        boolean form = options.parameters && answer.form != false // `proceedEmpty` gives the submitter only
        return form ? [approver: answer.approver, reason: answer.reason ?: ''] : answer.approver
    }

    /** The answer that somebody else writes into a file, which is waited for. */
    private static Map fromOutside(File file) {
        while (!file.exists()) {
            Thread.sleep(20)
        }
        return new JsonSlurper().parse(file, 'UTF-8')
    }

    /** A request that somebody else makes while the input is open. */
    private static void meanwhile(Map request, Env env) {
        String path = request.path.replace('{rollout}', env.TIDEGATE_ROLLOUT ?: '')
        HttpURLConnection connection = (HttpURLConnection) new URL(env.TIDEGATE_URL + path).openConnection()
        connection.requestMethod = request.method ?: 'POST'
        connection.setRequestProperty('Content-Type', 'application/json')
        connection.setRequestProperty('Authorization', 'Bearer ' + request.token)
        (request.headers ?: [:]).each { name, value -> connection.setRequestProperty(name, value) }
        connection.doOutput = true
        connection.outputStream.withStream { it.write(JsonOutput.toJson(request.body ?: [:]).bytes) }
        if (connection.responseCode >= 300) {
            throw new IllegalStateException("meanwhile: ${request.path}: ${connection.responseCode}")
        }
    }
}
