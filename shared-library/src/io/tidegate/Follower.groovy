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
        List events = client.events(id, printed)
        while (!events.isEmpty()) {
            printed = events[events.size() - 1].number
            events = client.events(id, printed)
        }
    }

    /** Follows until the service reports that the `verdict`, the `approval` or the `end` is reached; returns the rollout. */
    Map follow(String id, String until) {
        boolean reached = false
        while (!reached) {
            Map page = client.poll(id, printed, until)
            printEvents(page.events)
            reached = page.reached
        }
        return client.rollout(id)
    }

    /** Follows until somebody decides on this approval, then to the next approval or the end. */
    Map followPast(String id, Map approval) {
        while (Rollouts.unchanged(approval, client.rollout(id).approval)) {
            printEvents(client.poll(id, printed, 'end').events)
        }
        return follow(id, 'approval')
    }

    /** Follows until the verdict is newer than that of `before`, until the end, or for `seconds`. */
    Map followToVerdict(String id, Map before, int seconds) {
        long end = new Date().getTime() + seconds * 1000L
        String old = before.verdict == null ? '' : before.verdict.at
        Map rollout = client.rollout(id)
        while (!Rollouts.finished(rollout) && new Date().getTime() < end) {
            if (rollout.verdict != null && rollout.verdict.at != old) {
                break
            }
            printEvents(client.poll(id, printed, 'end').events)
            rollout = client.rollout(id)
        }
        printEvents(client.events(id, printed))
        return rollout
    }

    private void printEvents(List events) {
        for (int index = 0; index < events.size(); index++) {
            script.echo(Messages.event(events[index]))
            printed = events[index].number
        }
    }
}
