package played

/** `currentBuild`: a result only ever gets worse. */
class CurrentBuild implements Serializable {
    private static final long serialVersionUID = 1L
    private static final List<String> WORSE = ['SUCCESS', 'UNSTABLE', 'FAILURE', 'NOT_BUILT', 'ABORTED']
    String description
    List causes = []
    private String now = 'SUCCESS'

    String getResult() {
        return now
    }

    void setResult(String wanted) {
        now = WORSE.indexOf(wanted) > WORSE.indexOf(now) ? wanted : now
    }

    List getBuildCauses(String kind) {
        return causes
    }
}
