"""The part of a store's exam that an engine depends on: claims, leases, fences, saves and signals."""

from __future__ import annotations

from dataclasses import replace

import pytest

from support.store_fixtures import (
    ManualClock,
    a_key,
    a_release,
    a_service,
    a_verdict,
    an_event,
    begin,
    claim_due,
    finish,
    run_concurrently,
)
from tidegate.analysis.verdict import Outcome
from tidegate.core.container import Container, InstanceHealth, PullPolicy
from tidegate.core.model import Signal, SignalKind
from tidegate.core.phases import Phase
from tidegate.core.records import AuditEntry, Claim
from tidegate.core.rollback_cause import RollbackCause
from tidegate.core.routing import Preview
from tidegate.errors import (
    IllegalMove,
    KeyReused,
    LeaseLost,
    ListenTaken,
    NotQuarantined,
    UnknownRollout,
    UnknownService,
    VersionConflict,
)
from tidegate.store_port import Store

SHOP = a_service()
CART = a_service("cart")


class ClaimContract:
    """Who drives what."""

    def test_nothing_is_due_in_an_empty_store(self, store: Store) -> None:
        assert store.claim("anna", 10) is None

    def test_a_new_rollout_is_due_at_once(self, store: Store, clock: ManualClock) -> None:
        rollout = begin(store, SHOP)
        assert store.claim("anna", 10) == Claim(rollout.id, 1, clock.now, "anna")

    def test_nobody_else_gets_it_while_the_lease_lasts(self, store: Store, clock: ManualClock) -> None:
        begin(store, SHOP)
        claim_due(store, "anna", 10)
        clock.forward(9.9)
        assert store.claim("bert", 10) is None
        assert store.claim("anna", 10) is None

    def test_the_one_due_longest_comes_first(self, store: Store, clock: ManualClock) -> None:
        begin(store, SHOP)
        clock.forward(1)
        begin(store, CART)
        first, second = claim_due(store), claim_due(store)
        assert [first.rollout, second.rollout] == ["shop-1", "cart-1"]
        store.release(second, clock.now + 1)
        store.release(first, clock.now + 2)
        clock.forward(2)
        assert [claim_due(store).rollout, claim_due(store).rollout] == ["cart-1", "shop-1"]

    def test_it_comes_back_when_it_is_due(self, store: Store, clock: ManualClock) -> None:
        begin(store, SHOP)
        store.release(claim_due(store), clock.now + 5)
        clock.forward(4.9)
        assert store.claim("anna", 10) is None
        clock.forward(0.1)
        assert claim_due(store).fence == 2

    def test_since_is_kept_by_the_same_owner_and_new_for_another(self, store: Store, clock: ManualClock) -> None:
        begin(store, SHOP)
        first = claim_due(store, "anna")
        store.release(first, clock.forward(1))
        again = claim_due(store, "anna")
        assert again.since == first.since
        store.release(again, clock.forward(1))
        other = claim_due(store, "bert")
        assert other.since == clock.now
        store.release(other, clock.forward(1))
        back = claim_due(store, "anna")
        assert back.since == clock.now
        assert [first.fence, again.fence, other.fence, back.fence] == [1, 2, 3, 4]

    def test_a_vanished_owner_counts_as_a_resume_and_a_release_does_not(self, store: Store, clock: ManualClock) -> None:
        rollout = begin(store, SHOP)
        store.release(claim_due(store, "anna"), clock.now)
        claim_due(store, "anna", 10)
        assert store.load(rollout.id)[0].takeovers == 0
        clock.forward(10)
        assert claim_due(store, "bert", 10).since == clock.now
        assert store.load(rollout.id)[0].takeovers == 1

    def test_renewing_holds_it_longer(self, store: Store, clock: ManualClock) -> None:
        begin(store, SHOP)
        claim = claim_due(store, "anna", 10)
        clock.forward(9)
        store.renew(claim, 10)
        clock.forward(9)
        assert store.claim("bert", 10) is None
        clock.forward(1)
        assert claim_due(store, "bert").rollout == claim.rollout

    def test_a_finished_rollout_is_never_due(self, store: Store, clock: ManualClock) -> None:
        finish(store, begin(store, SHOP), Phase.RUNNING, Phase.SUCCEEDED)
        clock.forward(1_000_000)
        assert store.claim("anna", 10) is None

    def test_a_live_rollout_given_back_without_a_time_is_not_forgotten(self, store: Store, clock: ManualClock) -> None:
        begin(store, SHOP)
        store.release(claim_due(store), None)
        assert claim_due(store).fence == 2

    def test_the_next_rollout_goes_on_with_higher_fences(self, store: Store, clock: ManualClock) -> None:
        """Otherwise a router that saw the last rollout's fence would refuse those of the next."""
        begin(store, SHOP)
        store.release(claim_due(store), clock.now)
        finish(store, store.load("shop-1")[0], Phase.RUNNING, Phase.SUCCEEDED)
        begin(store, SHOP, 2, a_release(SHOP, 1))
        assert claim_due(store).fence == 3

    def test_a_restored_store_goes_on_above_all_fences_that_proxies_saw(self, store: Store, clock: ManualClock) -> None:
        begin(store, SHOP)
        before = claim_due(store, "anna", 10)
        store.raise_fences()
        after = claim_due(store, "bert", 10)
        assert after.fence > before.fence + 100_000
        with pytest.raises(LeaseLost):
            store.renew(before, 10)
        store.raise_fences()
        assert claim_due(store, "carl", 10).fence > after.fence + 100_000

    def test_of_many_claiming_at_once_each_gets_another(self, store: Store) -> None:
        services = [a_service(f"s{number}") for number in range(4)]
        for service in services:
            begin(store, service)
        claims = run_concurrently(*(lambda owner=f"o{number}": store.claim(owner, 10) for number in range(8)))
        taken = [claim.rollout for claim in claims if isinstance(claim, Claim)]
        assert sorted(taken) == ["s0-1", "s1-1", "s2-1", "s3-1"]
        assert [claim for claim in claims if not isinstance(claim, Claim)] == [None] * 4


class FenceContract:
    """Writers that came too late."""

    def test_every_late_writer_is_refused_and_changes_nothing(self, store: Store, clock: ManualClock) -> None:
        rollout = begin(store, SHOP)
        late = claim_due(store, "anna", 10)
        clock.forward(10)
        claim_due(store, "bert", 10)
        before = (store.load(rollout.id), store.events(rollout.id), store.verdicts(rollout.id))
        with pytest.raises(LeaseLost, match=rollout.id):
            store.save(replace(rollout, phase=Phase.RUNNING), (an_event(),), late.fence, verdict=a_verdict(Outcome.PASS))
        with pytest.raises(LeaseLost):
            store.add_events(rollout.id, (an_event(),), late.fence)
        with pytest.raises(LeaseLost):
            store.set_digest(SHOP.key, rollout.new, "sha256:late", late.fence, rollout.id)
        with pytest.raises(LeaseLost):
            store.renew(late, 10)
        with pytest.raises(LeaseLost):
            store.release(late, clock.now)
        assert (store.load(rollout.id), store.events(rollout.id), store.verdicts(rollout.id)) == before
        assert store.get_release(SHOP.key, rollout.new).release.digest == ""
        assert store.claim("carl", 10) is None, "the late release took bert's lease away"

    def test_a_lease_that_ran_out_counts_until_somebody_takes_it(self, store: Store, clock: ManualClock) -> None:
        rollout = begin(store, SHOP)
        claim = claim_due(store, "anna", 10)
        clock.forward(11)
        store.add_events(rollout.id, (an_event(),), claim.fence)
        store.renew(claim, 10)
        assert store.claim("bert", 10) is None

    def test_what_was_given_back_is_not_written_any_more(self, store: Store, clock: ManualClock) -> None:
        rollout = begin(store, SHOP)
        claim = claim_due(store)
        store.release(claim, clock.now)
        with pytest.raises(LeaseLost):
            store.renew(claim, 10)
        with pytest.raises(LeaseLost):
            store.save(replace(rollout, phase=Phase.RUNNING), (), claim.fence)
        assert claim_due(store, "bert").fence == 2

    def test_of_two_that_drive_with_one_fence_stolen_only_the_newer_gets_through(
        self, store: Store, clock: ManualClock
    ) -> None:
        rollout = begin(store, SHOP)
        fences = []
        for turn in range(6):
            fences.append(claim_due(store, f"owner{turn}", 1).fence)
            clock.forward(1)
        moved = replace(rollout, phase=Phase.RUNNING)
        answers = run_concurrently(
            *(lambda fence=fence: store.save(moved, (an_event(fence=fence),), fence) for fence in fences)
        )
        assert [isinstance(answer, LeaseLost) for answer in answers] == [True] * 5 + [False]
        assert [event.data.get("fence") for event in store.events(rollout.id)] == [None, 6]


class SaveContract:
    """What a save writes."""

    def test_state_events_and_verdict_are_stored_together(self, store: Store) -> None:
        rollout = begin(store, SHOP, 1)
        claim, verdict = claim_due(store), a_verdict(Outcome.INCONCLUSIVE)
        changed = replace(
            rollout, phase=Phase.RUNNING, step_started_at=1.25, traffic_confirmed_at=2.5, step_ready_at=3.0,
            approval_since=4.0, unrouted_at={"i1": 5.0}, health={"i2": InstanceHealth(1, 6.0, 2)}, replaced=("i3",),
            extensions=2, reason="so", verdict=verdict,
        )  # fmt: skip
        saved = store.save(changed, (an_event("one"), an_event("two", n=1)), claim.fence, verdict=verdict)
        assert saved == replace(changed, version=rollout.version + 1)
        assert store.load(rollout.id) == (saved, ())
        events = [(event.number, event.kind) for event in store.events(rollout.id)]
        assert events == [(1, "created"), (2, "one"), (3, "two")]
        assert [(each.step, each.phase, each.verdict) for each in store.verdicts(rollout.id)] == [
            (0, Phase.RUNNING, verdict)
        ]

    def test_a_failing_save_leaves_nothing_behind(self, store: Store) -> None:
        rollout = begin(store, SHOP)
        claim = claim_due(store)
        with pytest.raises(Exception, match="stored"):
            store.save(replace(rollout, reason="half"), (an_event(), an_event(bad=object())), claim.fence)
        assert store.load(rollout.id)[0] == rollout
        assert len(store.events(rollout.id)) == 1

    def test_notes_are_numbered_on_and_leave_the_version(self, store: Store) -> None:
        rollout = begin(store, SHOP)
        claim = claim_due(store)
        store.add_events(rollout.id, [an_event("a"), an_event("b")], claim.fence)
        store.add_events(rollout.id, [], claim.fence)
        store.save(replace(rollout, phase=Phase.RUNNING), (an_event("c"),), claim.fence)
        assert [(event.number, event.kind) for event in store.events(rollout.id, after=1)] == [(2, "a"), (3, "b"), (4, "c")]
        assert [event.number for event in store.events(rollout.id, after=1, limit=2)] == [2, 3]
        assert store.events(rollout.id, after=4) == ()
        assert store.load(rollout.id)[0].version == rollout.version + 1

    def test_only_what_the_engine_owns_is_written(self, store: Store, clock: ManualClock) -> None:
        rollout = begin(store, SHOP)
        claim = claim_due(store)
        store.signal(rollout.id, Signal(SignalKind.PAUSE, clock.now, "eva"))
        saved = store.save(replace(rollout, phase=Phase.RUNNING, paused=False, takeovers=9, batch=7), (), claim.fence)
        stored = store.load(rollout.id)[0]
        assert (saved.paused, saved.takeovers) == (True, 0)
        assert (stored.paused, stored.takeovers, stored.batch) == (True, 0, rollout.batch)

    def test_a_pinned_digest_is_found_in_the_release(self, store: Store) -> None:
        rollout = begin(store, SHOP)
        claim = claim_due(store)
        store.set_digest(SHOP.key, rollout.new, "sha256:abc", claim.fence, rollout.id)
        assert store.get_release(SHOP.key, rollout.new).release == replace(a_release(SHOP, 1), digest="sha256:abc")
        with pytest.raises(UnknownService, match="v9-9"):
            store.set_digest(SHOP.key, "v9-9", "sha256:abc", claim.fence, rollout.id)

    def test_success_makes_the_release_good_and_live(self, store: Store, clock: ManualClock) -> None:
        finish(store, begin(store, SHOP), Phase.RUNNING, Phase.SUCCEEDED)
        row, found = store.get_release(SHOP.key, "v1-1"), store.get_service(SHOP.key)
        assert (row.good_at, row.quarantined_at) == (clock.now, None)
        assert (found.live, found.rollout) == ("v1-1", None)

    @pytest.mark.parametrize("cause", RollbackCause)
    def test_a_rollback_for_a_finding_quarantines_and_the_old_one_stays_live(
        self, store: Store, clock: ManualClock, cause: RollbackCause
    ) -> None:
        finish(store, begin(store, SHOP), Phase.RUNNING, Phase.SUCCEEDED)
        rollout = replace(begin(store, SHOP, 2, a_release(SHOP, 1)), rollback_cause=cause, reason="19 % errors")
        finish(store, rollout, Phase.RUNNING, Phase.ROLLING_BACK, Phase.ROLLED_BACK)
        row = store.get_release(SHOP.key, "v2-2")
        found = (clock.now, rollout.id, "19 % errors") if cause.is_finding else (None, "", "")
        assert (row.good_at, row.quarantined_at, row.quarantined_by, row.finding) == (None, *found)
        assert store.get_service(SHOP.key).live == "v1-1"
        assert store.load(rollout.id)[0].rollback_cause is cause

    def test_a_lifted_quarantine_is_over_for_the_image_with_its_configuration(
        self, store: Store, clock: ManualClock
    ) -> None:
        finish(store, begin(store, SHOP), Phase.RUNNING, Phase.SUCCEEDED)
        for number in (2, 3):
            rollout = begin(store, SHOP, number, a_release(SHOP, 1))
            claim = claim_due(store)
            store.set_digest(SHOP.key, rollout.new, "shop@sha256:ab", claim.fence, rollout.id)
            store.release(claim, clock.now)
            bad = replace(rollout, rollback_cause=RollbackCause.CHECKS, reason="19 % errors")
            finish(store, bad, Phase.RUNNING, Phase.ROLLING_BACK, Phase.ROLLED_BACK)
            clock.forward(1.0)
        assert [row.release.id for row in store.quarantined()] == ["v3-3"], "one for each image and configuration"
        assert store.quarantined(CART.key) == ()
        entry = AuditEntry(clock.now, "lift quarantine of v2-2", SHOP.key, "eva")
        assert store.lift_quarantine(SHOP.key, "v2-2", audit=entry).release.id == "v2-2"
        assert store.quarantined(SHOP.key) == ()
        assert store.find_quarantined(SHOP.key, "shop@sha256:ab", SHOP.container) is None
        assert [one.action for one in store.audit()] == ["lift quarantine of v2-2"]
        with pytest.raises(NotQuarantined, match="v3-3 is not in quarantine"):
            store.lift_quarantine(SHOP.key, "v3-3")
        with pytest.raises(UnknownService, match="v9-9"):
            store.lift_quarantine(SHOP.key, "v9-9")

    def test_quarantine_is_by_image_and_configuration(self, store: Store, clock: ManualClock) -> None:
        def roll_back(number: int, container: Container, cause: RollbackCause) -> None:
            service = replace(SHOP, container=container)
            rollout = begin(store, service, number, a_release(SHOP, 1))
            claim = claim_due(store)
            store.set_digest(SHOP.key, rollout.new, "shop@sha256:ab", claim.fence, rollout.id)
            store.release(claim, clock.now)
            finish(store, replace(rollout, rollback_cause=cause), Phase.RUNNING, Phase.ROLLING_BACK, Phase.ROLLED_BACK)

        def found(container: Container = SHOP.container, digest: str = "shop@sha256:ab") -> str:
            row = store.find_quarantined(SHOP.key, digest, container)
            return "" if row is None else row.release.id

        finish(store, begin(store, SHOP), Phase.RUNNING, Phase.SUCCEEDED)
        other = replace(SHOP.container, environment={"COLOUR": "red"})
        roll_back(2, other, RollbackCause.NEVER_SERVED)
        assert found(other) == "", "it never served"
        roll_back(3, other, RollbackCause.HEALTH)
        assert (found(other), found(), found(other, "shop@sha256:cd")) == ("v3-3", "", "")
        assert found(replace(other, pull_policy=PullPolicy.ALWAYS)) == "v3-3", "no part of the configuration"

    def test_a_refused_rollout_changes_nothing(self, store: Store) -> None:
        finish(store, begin(store, SHOP), Phase.RUNNING, Phase.SUCCEEDED)
        before = store.get_service(SHOP.key)
        finish(store, begin(store, replace(SHOP, image="shop:typo"), 2, a_release(SHOP, 1)), Phase.REFUSED)
        assert replace(store.get_service(SHOP.key), version=before.version) == before
        row = store.get_release(SHOP.key, "v2-2")
        assert (row.good_at, row.quarantined_at) == (None, None)
        rollout = begin(store, replace(SHOP, image="shop:typo"), 3, a_release(SHOP, 1))
        store.put_service(replace(SHOP, image="shop:later"))
        finish(store, rollout, Phase.REFUSED)
        assert store.get_service(SHOP.key).service.image == "shop:later", "stored since, so it is kept"

    def test_an_address_of_another_service_is_refused_and_its_owner_named(self, store: Store) -> None:
        taken = replace(CART, backend=replace(CART.backend, listen=f"127.0.0.1:{SHOP.backend.listen}"))
        text = f"{CART.key} cannot listen on 127.0.0.1:{SHOP.backend.listen}: {SHOP.key} listens on {SHOP.backend.listen}"
        store.put_service(SHOP)
        store.put_service(taken)  # it does not listen yet
        rollout = begin(store, SHOP)
        with pytest.raises(ListenTaken, match=text):
            begin(store, taken)
        finish(store, rollout, Phase.RUNNING, Phase.SUCCEEDED)
        with pytest.raises(ListenTaken, match=text):
            store.put_service(taken)
        with pytest.raises(ListenTaken, match=text):
            store.put_service(replace(CART, backend=replace(CART.backend, preview=Preview(taken.backend.listen))))
        store.put_service(replace(taken, environment="live"))
        begin(store, CART)

    def test_what_is_live_is_never_in_quarantine(self, store: Store, clock: ManualClock) -> None:
        """Deployed again, it may be rolled back: the live release has the same image and configuration all the same."""
        for number, phases in ((1, (Phase.SUCCEEDED,)), (2, (Phase.ROLLING_BACK, Phase.ROLLED_BACK))):
            rollout = begin(store, SHOP, number, None if number == 1 else a_release(SHOP, 1))
            claim = claim_due(store)
            store.set_digest(SHOP.key, rollout.new, "shop@sha256:ab", claim.fence, rollout.id)
            store.release(claim, clock.now)
            finish(store, replace(rollout, rollback_cause=RollbackCause.CHECKS), Phase.RUNNING, *phases)
            clock.forward(1.0)
        assert store.get_release(SHOP.key, "v2-2").quarantined_at is not None
        assert store.find_quarantined(SHOP.key, "shop@sha256:ab", SHOP.container) is None

    @pytest.mark.parametrize(
        ("phases", "quarantined"),
        [
            ((Phase.RUNNING, Phase.ROLLING_BACK, Phase.ROLLED_BACK), True),
            ((Phase.RUNNING, Phase.ROLLING_BACK, Phase.FAILED), True),
            ((Phase.RUNNING, Phase.FAILED), False),
            ((Phase.ROLLED_BACK,), False),  # called off before anything was touched: nothing was learnt of it
        ],
    )
    def test_a_first_deploy_that_fails_leaves_nothing_live(
        self, store: Store, phases: tuple[Phase, ...], quarantined: bool
    ) -> None:
        finish(store, replace(begin(store, SHOP), rollback_cause=RollbackCause.HEALTH), *phases)
        assert store.get_service(SHOP.key).live is None
        row = store.get_release(SHOP.key, "v1-1")
        assert row.good_at is None
        assert (row.quarantined_at is not None) is quarantined
        assert store.last_good(SHOP.key) is None

    def test_a_finished_rollout_does_not_change_any_more(self, store: Store) -> None:
        rollout = begin(store, SHOP)
        claim = claim_due(store)
        done = store.save(replace(rollout, phase=Phase.FAILED), (), claim.fence)
        with pytest.raises(IllegalMove, match="failed"):
            store.save(replace(done, phase=Phase.RUNNING), (), claim.fence)
        store.add_events(rollout.id, (an_event("reported"),), claim.fence)
        store.release(claim, None)
        assert store.load(rollout.id)[0] == done


class SignalContract:
    """What people wish, and when the engine hears of it."""

    def test_signals_are_read_in_their_order(self, store: Store, clock: ManualClock) -> None:
        rollout = begin(store, SHOP)
        signals = (
            Signal(SignalKind.PROMOTE, clock.now, "eva", "looks good", step=0),
            Signal(SignalKind.VERIFY, clock.now, "jenkins"),
            Signal(SignalKind.ROLLBACK, clock.now - 1, "fred", "errors"),
        )
        for wish in signals:
            store.signal(rollout.id, wish)
        assert store.load(rollout.id)[1] == signals

    def test_each_is_told_as_an_event_with_name_and_reason(self, store: Store, clock: ManualClock) -> None:
        rollout = begin(store, SHOP)
        for kind in SignalKind:
            store.signal(rollout.id, Signal(kind, clock.now, "eva", f"because of {kind}"))
        told = store.events(rollout.id, after=1)
        assert [each.kind for each in told] == [
            "promoted",
            "rollback_requested",
            "paused",
            "resumed",
            "verify_requested",
            "forced",
            "detached",
        ]
        assert [each.number for each in told] == [2, 3, 4, 5, 6, 7, 8]
        assert all("eva" in each.message and "because of" in each.message and each.at == clock.now for each in told)

    def test_pause_and_resume_set_the_flag_and_each_signal_the_version(self, store: Store, clock: ManualClock) -> None:
        rollout = begin(store, SHOP)
        paused = store.signal(rollout.id, Signal(SignalKind.PAUSE, clock.now, "eva"))
        assert paused == replace(rollout, paused=True, version=rollout.version + 1)
        assert store.signal(rollout.id, Signal(SignalKind.PROMOTE, clock.now, "eva")).paused
        resumed = store.signal(rollout.id, Signal(SignalKind.RESUME, clock.now, "eva"))
        assert resumed == store.load(rollout.id)[0] == replace(rollout, version=rollout.version + 3)

    def test_a_signal_with_a_key_is_recorded_once(self, store: Store, clock: ManualClock) -> None:
        rollout = begin(store, SHOP)
        wish, key = Signal(SignalKind.ROLLBACK, clock.now, "eva"), a_key("once")
        assert store.find_answer(key) is None
        first = store.signal(rollout.id, wish, key=key)
        assert store.signal(rollout.id, wish, version=rollout.version, key=key) == first
        assert store.load(rollout.id)[1] == (wish,)
        assert store.find_answer(key) == key
        with pytest.raises(KeyReused):
            store.signal(rollout.id, wish, key=a_key("once", digest="another body"))

    def test_a_signal_that_is_refused_leaves_its_key_free(self, store: Store, clock: ManualClock) -> None:
        rollout = begin(store, SHOP)
        with pytest.raises(VersionConflict):
            store.signal(rollout.id, Signal(SignalKind.PROMOTE, clock.now, "eva"), version=99, key=a_key("free"))
        assert store.find_answer(a_key("free")) is None

    def test_a_signal_makes_a_waiting_rollout_due(self, store: Store, clock: ManualClock) -> None:
        rollout = begin(store, SHOP)
        store.release(claim_due(store), clock.now + 3600)
        assert store.claim("anna", 10) is None
        store.signal(rollout.id, Signal(SignalKind.PROMOTE, clock.now, "eva"))
        assert claim_due(store).rollout == rollout.id

    def test_a_signal_during_a_claim_is_not_slept_through(self, store: Store, clock: ManualClock) -> None:
        rollout = begin(store, SHOP)
        claim = claim_due(store)
        loaded, _ = store.load(rollout.id)
        store.signal(rollout.id, Signal(SignalKind.ROLLBACK, clock.now, "eva"))
        store.save(replace(loaded, phase=Phase.RUNNING), (), claim.fence)  # decided without knowing of it
        store.release(claim, clock.now + 3600)
        again = claim_due(store)
        store.release(again, clock.now + 3600)  # heard now, and no longer due
        assert store.claim("anna", 10) is None

    def test_a_stale_or_late_signal_is_refused(self, store: Store, clock: ManualClock) -> None:
        rollout = begin(store, SHOP)
        wish = Signal(SignalKind.PAUSE, clock.now, "eva")
        with pytest.raises(VersionConflict, match="version"):
            store.signal(rollout.id, wish, version=rollout.version + 1)
        assert not store.load(rollout.id)[0].paused
        store.signal(rollout.id, wish, version=rollout.version)
        with pytest.raises(UnknownRollout, match="nothing-1"):
            store.signal("nothing-1", wish)
        finish(store, rollout, Phase.RUNNING, Phase.SUCCEEDED)
        with pytest.raises(IllegalMove, match="succeeded"):
            store.signal(rollout.id, wish)
        assert len(store.load(rollout.id)[1]) == 1

    def test_signals_and_saves_at_once_lose_nothing(self, store: Store, clock: ManualClock) -> None:
        rollout = begin(store, SHOP)
        claim = claim_due(store)
        running = replace(rollout, phase=Phase.RUNNING)
        works = [lambda: store.signal(rollout.id, Signal(SignalKind.VERIFY, clock.now, "eva"))] * 4
        works += [lambda: store.save(running, (an_event(), an_event()), claim.fence)] * 4
        assert not [answer for answer in run_concurrently(*works) if isinstance(answer, Exception)]
        loaded, signals = store.load(rollout.id)
        assert (len(signals), loaded.version - rollout.version) == (4, 8)
        assert [event.number for event in store.events(rollout.id)] == list(range(1, 14))
