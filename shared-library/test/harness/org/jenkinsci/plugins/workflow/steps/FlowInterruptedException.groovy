package org.jenkinsci.plugins.workflow.steps

/** Replaces the exception of Jenkins: an abort, a timeout, or a rejected input. */
class FlowInterruptedException extends Exception {
    private static final long serialVersionUID = 1L

    FlowInterruptedException(String message) {
        super(message)
    }

    List getCauses() {
        throw new UnsupportedOperationException('getCauses() is not allowed in the sandbox')
    }
}
