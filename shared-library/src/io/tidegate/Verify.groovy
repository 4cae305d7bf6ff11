package io.tidegate

/** Runs the checks of the current step now. */
class Verify implements Serializable {
    private static final long serialVersionUID = 1L

    final Session session

    Verify(Session session) {
        this.session = session
    }

    Map run() {
        session.follower.skipPast(session.options.rollout)
        Map result = verify(session.options.rollout)
        return Rollouts.finished(result.rollout)
            ? session.outcome.conclude(result.rollout)
            : session.outcome.reportVerdict(result.rollout, result.problem)
    }

    /** Returns the `rollout` with a new verdict or at its end; `problem` says why there is no verdict, else it is empty. */
    Map verify(String id) {
        Map before = session.client.rollout(id)
        session.follower.service = before.service
        if (Rollouts.finished(before)) {
            return [rollout: before, problem: '']
        }
        Map body = session.signalBody(session.reason(), '')
        Map response = session.client.post('/v1/rollouts/' + id + '/verify', body, '')
        if (response.body.code == 'illegal-move') {
            return [rollout: session.client.rollout(id), problem: response.body.detail]
        }
        session.client.requireBody(response)
        Map rollout = session.handlingAbort(id) { awaitVerdict(id, before) }
        boolean isNew = rollout.verdict != null && (before.verdict == null || rollout.verdict.at != before.verdict.at)
        return [rollout: rollout, problem: isNew ? '' : 'no verdict within ' + Messages.duration(session.options.wait)]
    }

    /** After a FAIL the engine rolls back or waits for a person a moment later, so it is followed until then. */
    private Map awaitVerdict(String id, Map before) {
        Map rollout = session.follower.followToVerdict(id, before, session.options.wait)
        boolean failed = rollout.verdict != null && rollout.verdict.outcome == 'FAIL'
        return failed ? session.follower.follow(id, 'approval') : rollout
    }
}
