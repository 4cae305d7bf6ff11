package jenkins

/** In place of hudson.AbortException, which `error` throws. */
class AbortException extends IOException {
    private static final long serialVersionUID = 1L

    AbortException(String message) {
        super(message)
    }
}
