package io.tidegate

/** Follows a rollout by its events and prints each event once. */
class Follower implements Serializable {
    private static final long serialVersionUID = 1L

    final script
    final Client client
    int printed = 0 // number of the last event in the log

    Follower(script, Client client) {
        this.script = script
        this.client = client
    }

    /** Marks the events so far as printed: an earlier stage of the build has printed them. */
    void skipPast(String id) {
        List events = client.events(id, printed, false)
        while (!events.isEmpty()) {
            printed = events[events.size() - 1].number
            events = client.events(id, printed, false)
        }
    }

    /**
     * Follows to the `verdict`, the `approval` or the `end` and returns the rollout. A rollout that rolls back is followed to
     * its end. The approval `given` by this build does not stop it.
     */
    Map follow(String id, String until, Map given) {
        Map rollout = client.rollout(id)
        while (!Rollouts.reached(rollout, until, given)) {
            printEvents(client.events(id, printed, true))
            rollout = client.rollout(id)
        }
        printEvents(client.events(id, printed, false)) // events since the last poll
        return rollout
    }

    /** Follows until the verdict is newer than that of `before`, until the end, or for `seconds`. */
    Map followToVerdict(String id, Map before, int seconds) {
        long end = new Date().getTime() + seconds * 1000L
        String old = before.verdict == null ? '' : before.verdict.at
        Map rollout = client.rollout(id)
        while (!Rollouts.reached(rollout, 'end', null) && new Date().getTime() < end) {
            if (rollout.verdict != null && rollout.verdict.at != old) {
                break
            }
            printEvents(client.events(id, printed, true))
            rollout = client.rollout(id)
        }
        printEvents(client.events(id, printed, false))
        return rollout
    }

    private void printEvents(List events) {
        for (int index = 0; index < events.size(); index++) {
            script.echo(Messages.event(events[index]))
            printed = events[index].number
        }
    }
}
