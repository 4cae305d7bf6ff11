package io.tidegate

/** Rolls back rollouts, or returns a service to its last good release. */
class Rollback implements Serializable {
    private static final long serialVersionUID = 1L

    final Session session

    Rollback(Session session) {
        this.session = session
    }

    Map run() {
        if (session.options.service != null) {
            return ofService(session.options.service)
        }
        if (session.options.rollout != null) {
            return ofRollout(session.options.rollout)
        }
        Map last = [rollout: null]
        List ids = session.owned()
        for (int index = 0; index < ids.size(); index++) {
            last = ofBuild(ids[index])
        }
        if (ids.isEmpty()) {
            session.script.echo('This build has no rollout to roll back.')
        }
        return last
    }

    /** A build that has failed for another reason, or is UNSTABLE, does not take back what has succeeded before. */
    private Map ofBuild(String id) {
        boolean successful = session.script.currentBuild.currentResult == 'SUCCESS'
        Map response = session.client.get('/v1/rollouts/' + id)
        if (response.status == 404 && !successful) { // of another stage with credentials of its own, which cleans up itself
            session.script.echo("Rollout ${id} is left alone: ${Messages.refusal(response, session.client.server)}")
            return [rollout: id]
        }
        Map rollout = session.client.requireBody(response)
        boolean succeeded = rollout.phase == 'succeeded'
        if (!Rollouts.finished(rollout) || (succeeded && successful)) {
            return ofRollout(id)
        }
        session.script.echo(succeeded
            ? "${rollout.service}: ${rollout.new} is live and stays. " +
                "To return to the previous release: tidegateRollback service: '${rollout.service}'"
            : "${rollout.service}: ${rollout.phase}: ${rollout.reason}")
        return Rollouts.summary(rollout, session.client.link(rollout))
    }

    private Map ofRollout(String id) {
        session.follower.service = session.client.rollout(id).service
        session.follower.skipPast(id)
        Map response = session.rollback(id, '/rollback/' + id, session.reason(), session.person())
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
        session.follower.service = service
        Map rollout = session.follower.follow(started.id, 'end')
        boolean requested = Rollouts.hasEvent(session.client.events(started.id, 0), 'rollback_requested')
        return session.outcome.reportRollback(rollout, requested)
    }
}
