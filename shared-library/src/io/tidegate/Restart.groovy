package io.tidegate

import com.cloudbees.groovy.cps.NonCPS
import org.jenkinsci.plugins.workflow.steps.SynchronousResumeNotSupportedException

/** A step that runs in the background, such as `readFile`, fails when the controller restarts meanwhile. It can be repeated. */
class Restart implements Serializable {
    private static final long serialVersionUID = 1L
    private static final int MAX_ATTEMPTS = 20

    /** The line in the log. */
    static final String MESSAGE = 'Jenkins restarted during this step. Repeating it.'

    /** Runs `work`, and again when a restart has interrupted it. */
    static Object repeating(script, Closure work) {
        for (int attempt = 1; attempt < MAX_ATTEMPTS; attempt++) {
            try {
                return work()
            } catch (Exception failure) {
                if (!caused(failure)) {
                    throw failure
                }
                script.echo(MESSAGE)
            }
        }
        return work()
    }

    /** Whether a restart has interrupted the step. Known by its class: the text of the exception differs between versions. */
    @NonCPS
    static boolean caused(Exception failure) {
        return failure instanceof SynchronousResumeNotSupportedException
    }
}
