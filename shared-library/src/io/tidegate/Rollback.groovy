package io.tidegate

/** Rolls back a rollout, or returns a service to its last good release. */
class Rollback implements Serializable {
    private static final long serialVersionUID = 1L

    final Session session

    Rollback(Session session) {
        this.session = session
    }

    Map run() {
        return session.client.withToken {
            session.options.service == null ? ofRollout(session.options.rollout) : ofService(session.options.service)
        }
    }

    private Map ofRollout(String id) {
        session.follower.skipPast(id)
        Map response = session.rollback(id, '/rollback', session.reason(), session.person())
        // the rollout may have rolled back already, or this stage has requested it before with another reason
        if (!['illegal-move', 'key-reused'].contains(response.body.code)) {
            session.client.requireBody(response)
        }
        Map rollout = session.follower.follow(id, 'end')
        if (rollout.phase == 'succeeded') {
            session.script.error(Messages.refusal(response, session.client.server) +
                "\n    To return to the previous release: tidegateRollback service: '${rollout.service}'")
        }
        return session.outcome.reportRollback(rollout, true) // also when it had rolled back before, for example after a FAIL
    }

    private Map ofService(String service) {
        Map body = session.signalBody(session.reason(), session.person())
        Map response = session.client.post(Keys.servicePath(service) + '/rollback', body, session.key('/rollback'))
        if (response.body.code == 'already-rolled-back') { // by a FAIL or a person: no stage means to go further back
            session.script.echo(response.body.detail)
            return session.outcome.reportRollback(session.follower.follow(response.body.rollout, 'end'), true)
        }
        Map started = session.client.requireBody(response)
        Map rollout = session.follower.follow(started.id, 'end')
        boolean requested = Rollouts.hasEvent(session.client.events(started.id, 0), 'rollback_requested')
        return session.outcome.reportRollback(rollout, requested)
    }
}
