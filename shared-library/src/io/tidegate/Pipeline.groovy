package io.tidegate

/** Deploys, verifies and promotes in one step. */
class Pipeline implements Serializable {
    private static final long serialVersionUID = 1L

    final Session session

    Pipeline(Session session) {
        this.session = session
    }

    Map run() {
        Map deployed = new Deploy(session).follow('approval')
        return new Promote(session).promoteAll(Rollouts.waiting(deployed) ? verify(deployed.id) : deployed)
    }

    /** Runs the checks again, so that the person decides on a current verdict. The log has the verdict. */
    private Map verify(String id) {
        new Verify(session).verify(id)
        return session.handlingAbort(id) {
            session.follower.follow(id, 'approval')
        }
    }
}
