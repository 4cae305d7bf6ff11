package io.tidegate

import com.cloudbees.groovy.cps.NonCPS

/** Questions about a rollout as the API shows it. */
class Rollouts implements Serializable {
    private static final long serialVersionUID = 1L

    @NonCPS
    static boolean finished(Map rollout) {
        return ['succeeded', 'rolled_back', 'refused', 'failed'].contains(rollout.phase)
    }

    /** Whether it rolls back, has rolled back, was refused, or was halted. */
    @NonCPS
    static boolean unsuccessful(Map rollout) {
        return ['rolling_back', 'rolled_back', 'refused', 'failed'].contains(rollout.phase)
    }

    @NonCPS
    static boolean waiting(Map rollout) {
        return rollout.approval != null
    }

    /** Whether it is still the same approval for the same reasons, and nobody has approved since. */
    @NonCPS
    static boolean unchanged(Map before, Map now) {
        return sameApproval(before, now) && before.given.size() == now.given.size()
    }

    /** Whether it is asked for at the same step, perhaps for another reason: a verdict may have come meanwhile. */
    @NonCPS
    static boolean sameStep(Map before, Map now) {
        return before != null && now != null && before.step == now.step
    }

    @NonCPS
    static boolean sameApproval(Map before, Map now) {
        return before != null && now != null && before.binding == now.binding
    }

    /** Whether this build requested the rollout. */
    @NonCPS
    static boolean ownedBy(Map rollout, String job, int number) {
        return rollout.build != null && rollout.build.job == job && rollout.build.number == number
    }

    @NonCPS
    static List sameGroup(Map rollout, List others) {
        List peers = []
        for (Map other in others) {
            if (other.group == rollout.group && other.id != rollout.id) {
                peers.add(other)
            }
        }
        return peers
    }

    @NonCPS
    static boolean hasEvent(List events, String kind) {
        for (Map event in events) {
            if (event.kind == kind) {
                return true
            }
        }
        return false
    }

    /** What every step returns. */
    @NonCPS
    static Map summary(Map rollout, String link) {
        Map verdict = rollout.verdict ?: [:]
        return [
            rollout: rollout.id,
            service: rollout.service,
            release: rollout.new,
            image  : rollout.image,
            digest : rollout.digest,
            phase  : rollout.phase,
            reason : rollout.reason,
            waiting: rollout.approval == null ? null : rollout.approval.kind,
            verdict: verdict.outcome,
            message: verdict.message,
            link   : link,
        ]
    }
}
