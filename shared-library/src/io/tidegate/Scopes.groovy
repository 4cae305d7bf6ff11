package io.tidegate

import com.cloudbees.groovy.cps.NonCPS

/**
 * Fails a build before anything moves when its token lacks a scope that a later stage needs: otherwise it would be missed
 * when somebody has approved, or when an aborted build has to roll back.
 */
class Scopes implements Serializable {
    private static final long serialVersionUID = 1L

    final Session session

    Scopes(Session session) {
        this.session = session
    }

    /** What a deployment needs, and in `tidegatePipeline` all that follows. */
    void requireForDeploy() {
        Map options = session.options
        Map needed = [deploy: 'to deploy']
        if (options.onAbort == 'rollback') {
            needed.rollback = "to roll back if the build is aborted; without it, set onAbort: 'detach'"
        }
        if (options.onLive == 'supersede') {
            needed.rollback = "for onLive: 'supersede'"
        }
        if (options.force) {
            needed.force = 'for force: true'
        }
        if (!session.person().isEmpty()) {
            needed.vouch = 'for onBehalfOf'
        }
        if (session.step == 'tidegatePipeline') {
            needed.promote = 'to approve'
            needed += options.gate ? [vouch: 'to say who approved at the gate'] : [:]
        }
        require(options.service, needed)
    }

    /** What an answer at the gate needs, whatever it is. */
    void requireForGate(String service) {
        require(service, [
            promote : 'to approve',
            vouch   : 'to say who approved at the gate',
            rollback: 'to roll back when the gate is rejected',
        ])
    }

    /** Any other response is left to the request itself, which reports it. */
    private void require(String service, Map needed) {
        Map response = session.client.get('/v1/me?service=' + Keys.encoded(service))
        if (response.status == 200) {
            List missing = missing(needed, response.body.granted)
            if (!missing.isEmpty()) {
                session.script.error("Token ${response.body.name} lacks ${missing.join(', and ')}. ".toString() +
                    "It has, for ${service}: ${response.body.granted.join(', ') ?: 'nothing'} (403 not-allowed)")
            }
        }
    }

    @NonCPS
    private static List missing(Map needed, List granted) {
        List missing = []
        for (String scope in needed.keySet()) {
            if (!granted.contains(scope)) {
                missing.add('the scope ' + scope + ' ' + needed.get(scope))
            }
        }
        return missing
    }
}
