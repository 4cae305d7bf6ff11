package io.tidegate

/** Has the present step judged now. */
class Verify implements Serializable {
    private static final long serialVersionUID = 1L

    final Session session

    Verify(Session session) {
        this.session = session
    }

    Map run() {
        return session.client.within {
            session.follower.skip(session.options.rollout)
            Map found = judged(session.options.rollout)
            Rollouts.finished(found.rollout)
                ? session.outcome.concluded(found.rollout)
                : session.outcome.judged(found.rollout, found.doubt)
        }
    }

    /** The `rollout` with a new verdict, or as it ended; and the `doubt`, empty when there is a verdict. */
    Map judged(String id) {
        Map before = session.client.rollout(id)
        if (Rollouts.finished(before)) {
            return [rollout: before, doubt: '']
        }
        Map answer = session.client.post('/v1/rollouts/' + id + '/verify', session.wish(session.reason(), ''), '')
        if (answer.body.code == 'illegal-move') {
            return [rollout: session.client.rollout(id), doubt: answer.body.detail]
        }
        session.client.wanted(answer)
        Map rollout = session.guarded(id) { awaited(id, before) }
        boolean fresh = rollout.verdict != null && (before.verdict == null || rollout.verdict.at != before.verdict.at)
        return [rollout: rollout, doubt: fresh ? '' : 'no verdict within ' + Texts.duration(session.options.wait)]
    }

    /** A FAIL turns the rollout back, or waits for a person, in the engine's next moment. */
    private Map awaited(String id, Map before) {
        Map rollout = session.follower.followToVerdict(id, before, session.options.wait)
        boolean failed = rollout.verdict != null && rollout.verdict.outcome == 'FAIL'
        return failed ? session.follower.follow(id, 'approval', null) : rollout
    }
}
