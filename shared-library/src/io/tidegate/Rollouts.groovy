package io.tidegate

import com.cloudbees.groovy.cps.NonCPS

/** Questions to a rollout as the service tells it. */
class Rollouts implements Serializable {
    private static final long serialVersionUID = 1L

    @NonCPS
    static boolean finished(Map rollout) {
        return ['succeeded', 'rolled_back', 'failed'].contains(rollout.phase)
    }

    /** Whether it goes back, has gone back, or was halted. */
    @NonCPS
    static boolean turned(Map rollout) {
        return ['rolling_back', 'rolled_back', 'failed'].contains(rollout.phase)
    }

    @NonCPS
    static boolean waiting(Map rollout) {
        return rollout.approval != null
    }

    /** Whether following may stop: at the `verdict`, the `approval`, or the `end`. A hold that is `passing` is passed over. */
    @NonCPS
    static boolean reached(Map rollout, String until, Map passing) {
        if (finished(rollout)) {
            return true
        }
        if (rollout.phase == 'rolling_back' || until == 'end') {
            return false // the stage has failed, and how that ends matters whatever was asked
        }
        if (waiting(rollout)) {
            return !unchanged(passing, rollout.approval)
        }
        Map verdict = rollout.verdict
        boolean counts = verdict != null && (verdict.final || verdict.outcome == 'FAIL')
        return until == 'verdict' && (rollout.cursor > 0 || counts)
    }

    /** Whether a hold is the one that was shown, and nobody has approved it since. */
    @NonCPS
    static boolean unchanged(Map shown, Map now) {
        return samePlace(shown, now) && shown.given.size() == now.given.size()
    }

    @NonCPS
    static boolean samePlace(Map shown, Map now) {
        return shown != null && now != null && shown.step == now.step && shown.kind == now.kind
    }

    /** Whether a rollout was asked for by this very build. */
    @NonCPS
    static boolean ownedBy(Map rollout, String job, int number) {
        return rollout.build != null && rollout.build.job == job && rollout.build.number == number
    }

    @NonCPS
    static boolean told(List events, String kind) {
        for (Map event in events) {
            if (event.kind == kind) {
                return true
            }
        }
        return false
    }

    /** What a step returns: small, plain, and the same for all of them. */
    @NonCPS
    static Map summary(Map rollout, String link) {
        Map verdict = rollout.verdict ?: [:]
        return [
            rollout : rollout.id,
            service : rollout.service,
            release : rollout.new,
            image   : rollout.image,
            digest  : rollout.digest,
            phase   : rollout.phase,
            reason  : rollout.reason,
            waiting : rollout.approval == null ? null : rollout.approval.kind,
            verdict : verdict.outcome,
            message: verdict.message,
            link    : link,
        ]
    }
}
