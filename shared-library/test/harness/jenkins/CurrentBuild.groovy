package jenkins

/** `currentBuild`. Its result can only get worse. */
class CurrentBuild implements Serializable {
    private static final long serialVersionUID = 1L
    private static final List<String> ORDER = ['SUCCESS', 'UNSTABLE', 'FAILURE', 'NOT_BUILT', 'ABORTED', 'VANISHED']
    List causes = []
    private String current = 'SUCCESS'

    String getResult() {
        return current
    }

    void setResult(String result) {
        current = ORDER.indexOf(result) > ORDER.indexOf(current) ? result : current
    }

    String getCurrentResult() {
        return current
    }

    List getBuildCauses(String kind) {
        return causes
    }
}
