package played

/** Stands for hudson.AbortException: what `error` throws. */
class Failed extends IOException {
    private static final long serialVersionUID = 1L

    Failed(String message) {
        super(message)
    }
}
