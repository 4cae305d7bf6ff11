package io.tidegate

/** Turns a rollout back; of a service with none under way, returns to its last good release. */
class Rollback implements Serializable {
    private static final long serialVersionUID = 1L

    final Session session

    Rollback(Session session) {
        this.session = session
    }

    Map run() {
        return session.client.within {
            session.options.service == null ? ofRollout(session.options.rollout) : ofService(session.options.service)
        }
    }

    private Map ofRollout(String id) {
        session.follower.skip(id)
        Map answer = session.rollback(id, '/rollback', session.reason(), session.person())
        // it may be back already, or this stage has asked for it before, for another reason: neither keeps it from going back
        if (!['illegal-move', 'key-reused'].contains(answer.body.code)) {
            session.client.wanted(answer)
        }
        Map rollout = session.follower.follow(id, 'end', null)
        if (rollout.phase == 'succeeded') {
            session.script.error(Texts.refusal(answer, session.client.server) +
                "\n    To return to the release before: tidegateRollback service: '${rollout.service}'")
        }
        return session.outcome.returned(rollout, true) // also when it had turned back before, as after a FAIL
    }

    private Map ofService(String service) {
        Map body = session.wish(session.reason(), session.person())
        Map answer = session.client.post(Keys.servicePath(service) + '/rollback', body, session.key('/rollback'))
        Map begun = session.client.wanted(answer)
        Map rollout = session.follower.follow(begun.id, 'end', null)
        boolean turned = Rollouts.told(session.client.events(begun.id, 0, false), 'rollback_requested')
        return session.outcome.returned(rollout, turned)
    }
}
