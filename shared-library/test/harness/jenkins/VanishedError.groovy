package jenkins

/** The build is gone: its controller was killed and lost it, or somebody deleted it. No code of the pipeline runs any more. */
class VanishedError extends Error {
    private static final long serialVersionUID = 1L
}
