package io.tidegate

import org.jenkinsci.plugins.workflow.steps.FlowInterruptedException

/**
 * Leads a rollout through its holds: with a gate each opens an input, without one the plan's approvals are given by the
 * build itself. What the service says has the last word, since it may have been settled there meanwhile.
 */
class Promote implements Serializable {
    private static final long serialVersionUID = 1L
    private static final int MOST_REFUSALS = 5 // of people who may not approve; then it is no mistake of theirs

    final Session session
    Map place = null // the approval that is being passed
    long opened = 0 // when it was first shown
    boolean given = false // the build's own approval of it
    int refused = 0
    FlowInterruptedException interruption = null // somebody said no

    Promote(Session session) {
        this.session = session
    }

    Map run() {
        String id = session.options.rollout
        Map rollout = session.client.within {
            session.follower.skip(id)
            session.guarded(id) { session.follower.follow(id, 'approval', null) }
        }
        return passed(rollout)
    }

    /** Through this hold, or through all that follow. */
    Map passed(Map begun) {
        Map rollout = begun
        Map first = rollout.approval
        while (!Rollouts.finished(rollout)) {
            if (session.options.until == 'approval' && !Rollouts.samePlace(first, rollout.approval)) {
                break
            }
            arrive(rollout.approval)
            rollout = session.options.gate ? asked(rollout) : ungated(rollout)
        }
        Map last = rollout
        return session.client.within {
            interruption == null ? session.outcome.concluded(last) : session.outcome.aborted(last, interruption)
        }
    }

    private void arrive(Map approval) {
        if (!Rollouts.samePlace(place, approval)) {
            opened = new Date().getTime()
            given = false
            refused = 0
        }
        place = approval
    }

    // -- without a gate -----------------------------------------------------------------------------------------------

    /** A decision is a person's: what the checks could not clear, the build does not clear either. */
    private Map ungated(Map rollout) {
        boolean mine = rollout.approval.kind == 'approval' && !given
        given = given || mine
        return session.client.within {
            if (mine) {
                Map said = promoted(rollout.approval.binding, rollout, session.person(), session.reason())
                if (!settledElsewhere(said)) {
                    session.client.wanted(said)
                }
            } else {
                session.script.echo("Waiting for a person's ${rollout.approval.kind}: ${session.client.link(rollout)}")
            }
            session.guarded(rollout.id) { session.follower.follow(rollout.id, 'approval', rollout.approval) }
        }
    }

    // -- with a gate --------------------------------------------------------------------------------------------------

    /** One input, and what came of it. */
    private Map asked(Map rollout) {
        Map report = session.client.within {
            session.guarded(rollout.id) { session.client.report(rollout.id) }
        }
        Map answer = null
        FlowInterruptedException thrown = null
        try {
            Gate gate = new Gate(session.script, session.options.gate)
            answer = gate.ask(rollout, report, session.client.link(rollout), left())
        } catch (FlowInterruptedException interrupted) {
            thrown = interrupted // what it means depends on how the rollout stands now
        }
        return session.client.within {
            session.guarded(rollout.id) { thrown == null ? answered(rollout, answer) : unanswered(rollout, thrown) }
        }
    }

    private Map answered(Map shown, Map answer) {
        Map now = session.client.rollout(shown.id)
        if (!Rollouts.samePlace(shown.approval, now.approval)) {
            session.script.echo(Rollouts.waiting(now) ? 'It stands otherwise by now' : 'It was settled elsewhere')
            return session.follower.follow(now.id, 'approval', null)
        }
        session.script.echo("Approved by ${answer.approver}${answer.reason ? ': ' + answer.reason : ''}")
        Map said = promoted(shown.approval.binding, now, answer.approver, answer.reason ?: session.reason())
        if (said.status < 300) {
            return session.follower.follow(now.id, 'approval', now.approval)
        }
        refused++
        if (!settledElsewhere(said) && (said.body.code != 'may-not-approve' || refused >= MOST_REFUSALS)) {
            session.client.wanted(said)
        }
        // another person may be the right one, and what has changed is shown anew
        session.script.echo(Texts.refusal(said, session.client.server))
        return session.follower.follow(now.id, 'approval', null)
    }

    /** Nobody approved in time, somebody said no, or the service closed the input since it turned back. */
    private Map unanswered(Map shown, FlowInterruptedException thrown) {
        Map now = session.client.rollout(shown.id)
        Map gate = session.options.gate
        boolean expired = gate.timeout > 0 && left() <= 1
        boolean waits = Rollouts.waiting(now) && now.approval.step == shown.approval.step
        if (Rollouts.turned(now) || (expired && !waits)) {
            session.script.echo('It was settled elsewhere')
            return session.follower.follow(now.id, 'approval', null)
        }
        if (!waits || (!expired && session.options.onAbort == 'detach')) {
            throw thrown // the build was aborted, though the gate was open by then
        }
        String why = expired ? 'nobody approved within ' + Texts.duration(gate.timeout) : 'turned down in Jenkins'
        if (expired && gate.onTimeout == 'detach') {
            session.script.error("${now.new}: ${why}; it still waits: ${session.client.link(now)}")
        }
        interruption = expired ? null : thrown
        return turnedDown(now, why)
    }

    private Map turnedDown(Map rollout, String why) {
        String reason = 'Jenkins: ' + session.script.env.JOB_NAME + ' #' + session.script.env.BUILD_NUMBER + ': ' + why
        Map said = session.rollback(rollout.id, '/gate', reason, '')
        if (!settledElsewhere(said)) {
            session.client.wanted(said)
        }
        session.script.echo(why)
        return session.follower.follow(rollout.id, 'end', null)
    }

    // -- both ---------------------------------------------------------------------------------------------------------

    /** Bound to what was shown: nothing else is approved. Each approval of a hold has a key of its own. */
    private Map promoted(String binding, Map rollout, String person, String reason) {
        Map approval = rollout.approval
        String key = session.key('/promote-' + approval.step + '-' + approval.kind + '-' + approval.given.size())
        Map body = session.wish(reason, person) + [binding: binding]
        return session.client.post('/v1/rollouts/' + rollout.id + '/promote', body, key)
    }

    private boolean settledElsewhere(Map said) {
        return said.status == 412 || said.body.code == 'illegal-move'
    }

    /** Seconds until the gate's time is over; 0 when it has none. */
    private int left() {
        int whole = session.options.gate.timeout
        if (whole == 0) {
            return 0
        }
        long gone = Math.round((double) (new Date().getTime() - opened) / 1000.0d)
        return (int) Math.max(1L, whole - gone)
    }
}
