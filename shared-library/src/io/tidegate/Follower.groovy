package io.tidegate

/** Follows a rollout by its events and prints a line for each, once. */
class Follower implements Serializable {
    private static final long serialVersionUID = 1L

    final script
    final Client client
    int printed = 0 // the number of the last event in the log

    Follower(script, Client client) {
        this.script = script
        this.client = client
    }

    /** A later stage does not tell the story of the earlier ones again. */
    void skip(String id) {
        List events = client.events(id, printed, false)
        while (!events.isEmpty()) {
            printed = events[events.size() - 1].number
            events = client.events(id, printed, false)
        }
    }

    /** Until the `verdict`, the `approval` or the `end`; one that turns back is followed to its end. As it then stands. */
    Map follow(String id, String until, Map passing) {
        Map rollout = client.rollout(id)
        while (!Rollouts.reached(rollout, until, passing)) {
            tell(client.events(id, printed, true))
            rollout = client.rollout(id)
        }
        tell(client.events(id, printed, false)) // what came between the last look and now
        return rollout
    }

    /** Until there is a newer verdict than the one of `before`, or the end, or `seconds` are over. */
    Map followToVerdict(String id, Map before, int seconds) {
        long end = new Date().getTime() + seconds * 1000L
        String old = before.verdict == null ? '' : before.verdict.at
        Map rollout = client.rollout(id)
        while (!Rollouts.reached(rollout, 'end', null) && new Date().getTime() < end) {
            if (rollout.verdict != null && rollout.verdict.at != old) {
                break
            }
            tell(client.events(id, printed, true))
            rollout = client.rollout(id)
        }
        tell(client.events(id, printed, false))
        return rollout
    }

    private void tell(List events) {
        for (int each = 0; each < events.size(); each++) {
            script.echo(Texts.event(events[each]))
            printed = events[each].number
        }
    }
}
