package io.tidegate

import org.jenkinsci.plugins.workflow.steps.FlowInterruptedException

/**
 * Leads a rollout through its approvals. With a gate each approval opens an input; without one the build gives the plan's
 * approvals itself. The service has the final say, because it may have been decided there meanwhile.
 */
class Promote implements Serializable {
    private static final long serialVersionUID = 1L
    private static final int MAX_REFUSALS = 5 // of approvers who are not permitted to approve; then the build fails

    final Session session
    Map current = null // the approval that the rollout waits for
    long openedAt = 0 // when the build first reached it, in milliseconds
    boolean given = false // whether the build has approved it itself
    int refusals = 0
    boolean checked = false // whether the token may do what an answer at the gate asks for
    Gate gate = null // of this approval
    FlowInterruptedException interruption = null // the gate was rejected

    Promote(Session session) {
        this.session = session
    }

    Map run() {
        String id = session.options.rollout
        session.follower.service = session.client.rollout(id).service
        session.follower.skipPast(id)
        Map rollout = session.handlingAbort(id) { session.follower.follow(id, 'approval') }
        return promoteAll(rollout)
    }

    /** Passes this approval, or with `until: 'end'` all approvals. */
    Map promoteAll(Map start) {
        Map rollout = start
        Map first = rollout.approval
        while (!Rollouts.finished(rollout)) {
            if (session.options.until == 'approval' && !Rollouts.sameStep(first, rollout.approval)) {
                break
            }
            arriveAt(rollout.approval)
            rollout = session.options.gate ? passGate(rollout) : passWithoutGate(rollout)
        }
        return interruption == null ? session.outcome.conclude(rollout) : session.outcome.abort(rollout, interruption)
    }

    private void arriveAt(Map approval) {
        if (!Rollouts.sameStep(current, approval)) {
            openedAt = new Date().getTime()
            given = false
            refusals = 0
            gate = session.options.gate ? new Gate(session.script, session.options.gate) : null
        }
        current = approval
    }

    // -- without a gate -----------------------------------------------------------------------------------------------

    /** The build approves what the plan asks for. A decision about a verdict that is not PASS is left to a person. */
    private Map passWithoutGate(Map rollout) {
        boolean approves = rollout.approval.kind == 'approval' && !given
        given = given || approves
        if (!approves) {
            session.script.echo("Waiting for the ${rollout.approval.kind} of a person outside Jenkins: " +
                session.client.link(rollout))
            return session.handlingAbort(rollout.id) { session.follower.followPast(rollout.id, rollout.approval) }
        }
        Map response = promote(rollout.approval.binding, rollout, session.person(), session.reason())
        if (!decidedElsewhere(response)) {
            session.client.requireBody(response)
        }
        return session.handlingAbort(rollout.id) { session.follower.follow(rollout.id, 'approval') }
    }

    // -- with a gate --------------------------------------------------------------------------------------------------

    /** Opens one input and returns the rollout after it. */
    private Map passGate(Map rollout) {
        if (!checked) {
            new Scopes(session).requireForGate(rollout.service)
            checked = true
        }
        Map report = session.handlingAbort(rollout.id) { evidence(rollout) }
        Map answer = null
        FlowInterruptedException thrown = null
        try {
            answer = gate.open(rollout, report, session.client.link(rollout), secondsLeft())
        } catch (FlowInterruptedException interrupted) {
            thrown = interrupted // its meaning depends on the rollout's state now
        }
        return session.handlingAbort(rollout.id) { thrown == null ? approve(rollout, answer) : reject(rollout, thrown) }
    }

    /** The rollout's report, with the `peers` that an approval is also for. */
    private Map evidence(Map rollout) {
        return session.client.report(rollout.id) + [peers: rollout.group ? session.client.peers(rollout) : []]
    }

    private Map approve(Map shown, Map answer) {
        if (answer.reason.startsWith(Gate.CLOSED)) {
            session.script.echo(answer.reason)
            return session.follower.follow(shown.id, 'approval')
        }
        Map now = session.client.rollout(shown.id)
        if (!Rollouts.sameApproval(shown.approval, now.approval)) {
            session.script.echo(Rollouts.waiting(now)
                ? "The rollout changed while the gate was open, so the approval of ${answer.approver} does not count: " +
                    Messages.brief(answer.reason ?: 'no reason given')
                : 'The approval was decided outside Jenkins')
            return session.follower.follow(now.id, 'approval')
        }
        gate.leave()
        session.script.echo("Approved by ${answer.approver}${answer.reason ? ': ' + Messages.brief(answer.reason) : ''}")
        Map response = promote(shown.approval.binding, now, answer.approver, answer.reason ?: session.reason())
        if (response.status < 300) {
            return session.follower.follow(now.id, 'approval')
        }
        refusals++
        if (!decidedElsewhere(response) && (response.body.code != 'may-not-approve' || refusals >= MAX_REFUSALS)) {
            session.client.requireBody(response)
        }
        // the gate opens again: for another person, or with what has changed
        session.script.echo(Messages.refusal(response, session.client.server))
        return session.follower.follow(now.id, 'approval')
    }

    /** The input ended without an approval: it timed out, was rejected, or the service closed it. */
    private Map reject(Map shown, FlowInterruptedException thrown) {
        Map now = session.client.rollout(shown.id)
        Map options = session.options.gate
        boolean timedOut = options.timeout > 0 && secondsLeft() <= 1
        boolean waits = Rollouts.waiting(now) && now.approval.step == shown.approval.step
        if (Rollouts.unsuccessful(now) || (timedOut && !waits)) {
            session.script.echo('The approval was decided outside Jenkins')
            return session.follower.follow(now.id, 'approval')
        }
        if (!waits || (!timedOut && session.options.onAbort == 'detach')) {
            throw thrown // the build was aborted while the gate was open
        }
        String reason = timedOut ? 'no approval within ' + Messages.duration(options.timeout) : 'rejected in Jenkins'
        if (timedOut && options.onTimeout == 'detach') {
            session.disown(now.id)
            session.script.error("${now.new}: ${reason}. The rollout still waits: ${session.client.link(now)}")
        }
        interruption = timedOut ? null : thrown
        return rollBack(now, reason)
    }

    private Map rollBack(Map rollout, String cause) {
        String reason = 'Jenkins: ' + session.script.env.JOB_NAME + ' #' + session.script.env.BUILD_NUMBER + ': ' + cause
        Map response = session.rollback(rollout.id, '/gate', reason, '')
        if (!decidedElsewhere(response)) {
            session.client.requireBody(response)
        }
        session.script.echo("Rolling back ${rollout.new}: ${cause}")
        return session.follower.follow(rollout.id, 'end')
    }

    // -- both ---------------------------------------------------------------------------------------------------------

    /** Approves what was shown and nothing else: `binding` says what. Each approval has a key of its own. */
    private Map promote(String binding, Map rollout, String person, String reason) {
        String key = session.key('/promote-' + binding + '-' + rollout.approval.given.size())
        Map body = session.signalBody(reason, person) + [binding: binding]
        return session.client.post('/v1/rollouts/' + rollout.id + '/promote', body, key)
    }

    private boolean decidedElsewhere(Map response) {
        return response.status == 412 || response.body.code == 'illegal-move'
    }

    /** Seconds until the gate times out, at least 1; 0: it never does. */
    private int secondsLeft() {
        int timeout = session.options.gate.timeout
        if (timeout == 0) {
            return 0
        }
        long elapsed = Math.round((double) (new Date().getTime() - openedAt) / 1000.0d)
        return (int) Math.max(1L, timeout - elapsed)
    }
}
