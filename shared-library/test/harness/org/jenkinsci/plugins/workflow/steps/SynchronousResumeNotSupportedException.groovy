package org.jenkinsci.plugins.workflow.steps

/** Replaces the exception of Jenkins for a step that a restart of the controller has interrupted. */
class SynchronousResumeNotSupportedException extends Exception {
    private static final long serialVersionUID = 1L

    SynchronousResumeNotSupportedException(String step) {
        super("Step `${step}` is a non-blocking synchronous step; it doesn't support resume after a restart.")
    }
}
