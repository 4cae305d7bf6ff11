package org.jenkinsci.plugins.workflow.steps

/** Replaces the exception of Jenkins for a step that a restart of the controller has interrupted. */
class SynchronousResumeNotSupportedException extends Exception {
    private static final long serialVersionUID = 1L

    SynchronousResumeNotSupportedException(String step) {
        super("The Pipeline step `${step}` cannot be resumed after a controller restart. In Scripted syntax, you may wrap its " +
            'containing `node` block within `retry(conditions: [nonresumable()], count: 2) {...}`')
    }
}
