"""The watch between rollouts: what it finds, when it asks for a repair, when it gives up. With the real store."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from queue import SimpleQueue

import pytest
from structlog.testing import capture_logs

from support.fake_drivers import a_release, a_service, claimed, request_rollout, settle_old, sqlite
from support.store_fixtures import ManualClock
from support.tick_harness import TickHarness
from support.wait import eventually
from tidegate.core import drift as core_drift
from tidegate.core.event_kinds import EventKind
from tidegate.core.model import Instance, InstanceState, RepairPolicy, RolloutKind, Service
from tidegate.core.phases import Phase
from tidegate.core.records import Drift, DriftState
from tidegate.core.rollout_state import member_of
from tidegate.core.routing import Backend, Preview
from tidegate.engine.drift_watcher import INTERVAL_SECONDS, NO_KEY, DriftWatcher
from tidegate.engine.metrics import EngineMetrics
from tidegate.engine.readiness_watcher import ReadinessWatcher, ServiceReadiness
from tidegate.engine.tick import RolloutCache
from tidegate.errors import PlatformError, RouterError


class Tended(TickHarness):
    """A service that serves release 1, an engine that is driven by hand, and the watch."""

    service: Service
    woken: int = 0

    def settle(self, **changes: object) -> None:
        self.service = a_service(**changes)
        settle_old(self.store, self.world, self.service, self.clock)
        self.watch = DriftWatcher(self.store, {"demo": self.world.parts()}, self.clock, self.wake)

    def wake(self) -> None:
        self.woken += 1

    def look(self, times: int = 1) -> Drift | None:
        """So many looks, each when it is due."""
        for _ in range(times):
            self.clock.forward(INTERVAL_SECONDS)
            assert self.watch.check_next("demo")
        return self.store.get_service(self.service.key).drift

    @property
    def live(self) -> str | None:
        return self.store.get_service(self.service.key).rollout

    def drive(self) -> Phase:
        """The live rollout to its end."""
        assert self.live is not None, "nothing was asked for"
        self.rollout, self.cache, self.claim = self.live, RolloutCache(), claimed(self.store)
        self.run()
        self.store.release(self.claim, None)
        return self.phase

    def remove(self, ordinal: int = 0) -> None:
        """As `docker rm -f` does."""
        with self.world.lock:
            del self.world.started[next(each.id for each in self.world.present() if each.ordinal == ordinal)]

    def whole(self) -> bool:
        """Whether all is as release 1 wants, and nothing else is there."""
        present = self.world.present()
        routed = {each.instance for each in self.world.routed["shop"]}
        return [each.release for each in present] == ["v1-1"] * 2 and routed == {each.id for each in present}


@pytest.fixture
def tended(tmp_path: Path) -> Iterator[Tended]:
    clock = ManualClock()
    with sqlite(tmp_path, clock) as store:
        made = Tended(store, clock)
        made.settle()
        yield made


def test_nothing_is_done_where_nothing_differs(tended: Tended) -> None:
    assert tended.look(3) is None
    assert tended.live is None
    assert {*tended.world.calls} == {"instances", "read"}


def test_a_vanished_instance_comes_back_when_it_was_missed_twice(tended: Tended) -> None:
    tended.remove()
    drift = tended.look()
    assert drift is not None
    assert (drift.state, tended.live) == (DriftState.SEEN, None)
    since = drift.since
    again = tended.look()
    assert again is not None
    assert (again.state, again.since) == (DriftState.REPAIRING, since)
    assert tended.woken == 1
    assert tended.drive() is Phase.SUCCEEDED
    rollout, _ = tended.store.load(tended.rollout)
    assert (rollout.kind, rollout.requested_by, rollout.old) == (RolloutKind.REPAIR, "tidegate", "v1-1")
    assert "1 of v1-1 missing" in tended.messages(EventKind.CREATED)[0]
    assert tended.whole()
    assert tended.look() is None


def test_an_instance_killed_for_memory_is_an_event_of_the_last_rollout(tended: Tended) -> None:
    """Recorded once for each kill, also when another engine checks the service next."""
    assert tended.look() is None
    first = tended.world.present()[0]
    with tended.world.lock:
        _, since = tended.world.started[first.id]
        tended.world.started[first.id] = (replace(first, restarts=1, out_of_memory=True), since)
    another = DriftWatcher(tended.store, {"demo": tended.world.parts()}, tended.clock, tended.wake)
    with capture_logs() as lines:
        tended.look(2)
    another.check_next("demo")
    last = tended.store.rollouts(tended.service.key)[0]
    (event,) = [each for each in tended.store.events(last.id) if each.kind == EventKind.OUT_OF_MEMORY]
    assert event.message == f"v1-1/{first.ordinal} was killed for running out of memory and restarted; restart 1."
    assert [line["log_level"] for line in lines if line.get("kind") == "out_of_memory"] == ["warning"]
    assert tended.look() is None, "it is no drift"


def test_what_mends_itself_is_let_alone(tended: Tended) -> None:
    gone = tended.world.started.popitem()
    assert tended.look() is not None
    tended.world.started[gone[0]] = gone[1]
    assert tended.look() is None
    assert tended.store.rollouts(tended.service.key)[0].kind is RolloutKind.RELEASE


def test_another_difference_is_looked_at_twice_again(tended: Tended) -> None:
    gone = tended.world.started.popitem()
    tended.look()
    tended.world.started[gone[0]] = gone[1]
    stranger = replace(gone[1][0], id="i9999", ordinal=7, address="10.0.0.99:80")
    tended.world.started["i9999"] = (stranger, gone[1][1])
    drift = tended.look()
    assert drift is not None
    assert (drift.state, drift.confirmations) == (DriftState.SEEN, 1)
    assert "v1-1/7 beyond the 2 of v1-1" in drift.message
    tended.look()
    assert tended.drive() is Phase.SUCCEEDED
    assert tended.whole()


def test_a_forgetful_proxy_is_told_at_the_first_look(tended: Tended) -> None:
    tended.world.routed.clear()
    tended.world.fences.clear()
    drift = tended.look()
    assert drift is not None
    assert drift.message == "v1-1/0, v1-1/1 not in the proxy"
    assert tended.drive() is Phase.SUCCEEDED
    assert tended.whole()
    assert "start" not in tended.world.calls


def test_another_address_another_weight_and_strangers_in_the_proxy_are_found(tended: Tended) -> None:
    one, two = (member_of(each) for each in tended.world.present())
    for members, said in (
        ((replace(one, address="10.9.9.9:80"), two), "v1-1/0 in the proxy at another address"),
        ((replace(one, weight=7), two), "the proxy has other weights"),
        ((one, two, replace(two, instance="i777")), "1 in the proxy that no longer runs"),
    ):
        tended.world.routed["shop"] = members
        drift = tended.look()
        assert drift is not None
        assert drift.message == said
        assert tended.drive() is Phase.SUCCEEDED
        assert tended.whole()


def test_a_preview_that_still_leads_somewhere_is_ended(tmp_path: Path) -> None:
    clock = ManualClock()
    with sqlite(tmp_path, clock) as store:
        tended = Tended(store, clock)
        tended.settle(backend=replace(a_service().backend, preview=Preview("8002")))
        tended.world.routed["shop_preview"] = (member_of(tended.world.present()[0]),)
        drift = tended.look()
        assert drift is not None
        assert drift.message == "the preview leads to instances"
        assert tended.drive() is Phase.SUCCEEDED
        assert tended.world.routed["shop_preview"] == ()


def test_by_policy_it_is_only_shown(tmp_path: Path) -> None:
    clock = ManualClock()
    with sqlite(tmp_path, clock) as store:
        tended = Tended(store, clock)
        tended.settle(repair=RepairPolicy.SHOW)
        tended.remove()
        drift = tended.look(5)
        assert drift is not None
        assert (drift.state, tended.live) == (DriftState.SHOWN, None)
        assert drift.since == 1_000_000.0 + INTERVAL_SECONDS


@pytest.mark.parametrize(("verb", "error"), [("instances", PlatformError("no daemon")), ("read", RouterError("no proxy"))])
def test_while_blind_nothing_is_touched_and_it_is_told_once(tended: Tended, verb: str, error: Exception) -> None:
    tended.remove()
    tended.world.always[verb] = error
    with capture_logs() as logs:
        assert tended.look(4) is None
    assert [each["event"] for each in logs] == ["cannot observe service; leaving it untouched"]
    assert tended.live is None
    del tended.world.always[verb]
    tended.look(2)
    assert tended.drive() is Phase.SUCCEEDED


def test_a_proxy_that_had_ended_is_in_the_log(tended: Tended) -> None:
    tended.world.proxy_ended = True
    with capture_logs() as logs:
        assert tended.look(2) is None
    assert [each["event"] for each in logs] == ["the proxy was down and has been restarted"]


def test_a_clock_that_went_back_puts_no_repair_off_until_it_was_caught_up(tended: Tended) -> None:
    tended.world.crashing.add("v1-1")
    tended.look(2)
    assert tended.drive() is Phase.FAILED
    tended.clock.now -= 3600.0
    tended.store.shift_clock(-3600.0, 15.0)
    tended.look(2)
    assert tended.live is not None


def test_a_crash_loop_is_given_up_after_three_repairs(tended: Tended) -> None:
    tended.world.crashing.add("v1-1")
    tended.look(2)
    begun = []
    with capture_logs() as logs:
        for _ in range(3):
            assert tended.drive() is Phase.FAILED
            begun.append(tended.clock.now)
            for _ in range(40):
                if tended.live is None:
                    drift = tended.look()
    assert drift is not None
    assert drift.state is DriftState.UNHEALTHY
    assert "3 repairs in a row failed" in drift.reason
    assert "exited with 1" in drift.reason
    assert [each["log_level"] for each in logs if each["event"] == "service is unhealthy"] == ["warning"]
    gaps = [later - earlier for earlier, later in pairwise(begun)]
    assert gaps[0] >= core_drift.INITIAL_BACKOFF_SECONDS
    assert gaps[1] >= 2 * core_drift.INITIAL_BACKOFF_SECONDS
    assert tended.world.serving() == ["v1-1", "v1-1"], "what was in the proxy stays there"
    starts = tended.world.calls.count("start")
    tended.look(200)
    assert (tended.live, tended.world.calls.count("start")) == (None, starts)


def given_up(tended: Tended) -> None:
    """Three repairs have failed."""
    tended.world.crashing.add("v1-1")
    for _ in range(100):
        tended.drive() if tended.live else tended.look()
    tended.world.crashing.clear()
    tended.remove()


def test_a_person_who_acts_begins_anew(tended: Tended) -> None:
    given_up(tended)
    drift = tended.look(3)
    assert drift is not None
    assert (drift.state, tended.live) == (DriftState.UNHEALTHY, None)
    asked = core_drift.make_repair(tended.service, a_release(tended.service, 1), "asked", tended.clock(), "ada")
    tended.store.create(asked, tended.service, None, NO_KEY, core_drift.created_event(asked, "asked by ada"))
    assert tended.drive() is Phase.SUCCEEDED
    assert tended.look() is None
    tended.remove(1)
    tended.look(2)
    assert tended.drive() is Phase.SUCCEEDED, "and after it, by itself again"


def test_repairs_that_do_not_last_end_too(tended: Tended) -> None:
    """Each one succeeds, and soon after an instance is gone again."""
    for _ in range(core_drift.MAX_QUICK_REPAIRS):
        tended.remove(min(each.ordinal for each in tended.world.present()))
        tended.look(2)
        assert tended.drive() is Phase.SUCCEEDED
        tended.look()
    tended.remove(min(each.ordinal for each in tended.world.present()))
    tended.clock.forward(10 * core_drift.STABLE_SECONDS)
    drift = tended.look(5)
    assert drift is not None
    assert (drift.state, tended.live) == (DriftState.UNHEALTHY, None)
    assert "10 repairs in quick succession" in drift.reason


def test_what_is_only_stored_is_not_in_force(tended: Tended) -> None:
    elsewhere = Backend("elsewhere", "8009", preview=Preview("8010"))
    tended.store.put_service(replace(tended.service, backend=elsewhere, replicas=9))
    assert tended.look(2) is None
    tended.world.always["pin"] = PlatformError("no such image", retryable=False)
    version = tended.store.get_service(tended.service.key).version
    request_rollout(tended.store, replace(tended.service, backend=replace(elsewhere, name="other")), 2, tended.clock, 1)
    assert tended.drive() is Phase.REFUSED
    stored = tended.store.get_service(tended.service.key)
    assert (stored.service.backend, stored.version) == (elsewhere, version + 2), "a refused one leaves the definition"
    del tended.world.always["pin"]
    assert tended.look(2) is None
    tended.remove()
    tended.look(2)
    assert tended.drive() is Phase.SUCCEEDED
    assert tended.whole()
    assert "elsewhere" not in tended.world.routed


def test_what_a_halted_rollout_left_is_for_a_person(tended: Tended) -> None:
    rollout = request_rollout(tended.store, tended.service, 2, tended.clock, 1)
    claim = claimed(tended.store)
    loaded, _ = tended.store.load(rollout)
    loaded = tended.store.save(replace(loaded, phase=Phase.RUNNING, digest="sha256:b"), (), claim.fence)
    tended.store.save(replace(loaded, phase=Phase.FAILED, finished=tended.clock()), (), claim.fence)
    tended.store.release(claim, None)
    tended.remove()
    drift = tended.look(5)
    assert drift is not None
    assert (drift.state, tended.live) == (DriftState.HALTED, None)


def test_a_service_that_is_driven_is_not_looked_at(tended: Tended) -> None:
    tended.clock.forward(INTERVAL_SECONDS)
    request_rollout(tended.store, tended.service, 2, tended.clock, 1)
    assert not tended.watch.check_next("demo")
    assert tended.world.calls == []


def test_a_deploy_takes_over_what_a_repair_began(tended: Tended) -> None:
    tended.remove()
    tended.look(2)
    repair = tended.live
    assert repair is not None
    stale = Tended(tended.store, tended.clock)
    stale.world, stale.claim = tended.world, claimed(tended.store)
    for _ in range(8):
        stale.tick()
    request_rollout(tended.store, tended.service, 2, tended.clock, 1)
    assert tended.live == "shop-2"
    assert stale.tick().finished, "its engine finds it ended"
    assert tended.drive() is Phase.SUCCEEDED
    assert tended.world.serving() == ["v2-2", "v2-2"]
    assert {each.release for each in tended.world.present()} == {"v2-2"}


# -- readiness ------------------------------------------------------------------------------------------------------------


def make_sick(tended: Tended, count: int = 1) -> None:
    tended.world.sick |= {each.id for each in tended.world.present()[:count]}


def drive_for(tended: Tended, seconds: float) -> None:
    """The live rollout, for so long."""
    assert tended.live is not None
    if tended.rollout != tended.live:
        tended.rollout, tended.cache, tended.claim = tended.live, RolloutCache(), claimed(tended.store)
    tended.run_until(tended.clock() + seconds)


def test_an_unready_instance_leaves_the_route_at_the_first_look_and_returns_when_it_is_ready(tended: Tended) -> None:
    assert tended.look() is None
    make_sick(tended)
    drift = tended.look()
    assert drift is not None
    assert (drift.state, drift.message) == (DriftState.REPAIRING, "v1-1/0 not ready")
    drive_for(tended, 5.0)
    assert tended.world.serving() == ["v1-1"]
    row = tended.store.get_service(tended.service.key)
    assert row.waiting_for is not None
    assert (row.unhealthy, row.waiting_for.reason) == (1, "Waiting for v1-1/0 to become ready again")
    assert tended.messages(EventKind.INSTANCE_UNHEALTHY) == ["v1-1/0 is not ready: GET /health answered 503"]
    tended.world.sick.clear()
    tended.run()
    assert tended.phase is Phase.SUCCEEDED
    assert tended.whole()
    assert "stop" not in tended.world.calls
    assert EventKind.INSTANCE_RECOVERED in tended.kinds()


def test_one_that_stays_unready_is_replaced(tended: Tended) -> None:
    make_sick(tended)
    tended.look()
    drive_for(tended, 19.0)
    assert "start" not in tended.world.calls
    tended.run()
    assert tended.phase is Phase.SUCCEEDED
    assert tended.whole()
    assert not tended.world.sick & {each.id for each in tended.world.present()}
    assert tended.messages(EventKind.INSTANCE_REPLACED) == ["Replacing v1-1/0: GET /health answered 503, for 20 s"]


def test_when_all_are_unready_traffic_stays_until_others_are_ready(tended: Tended) -> None:
    make_sick(tended, 2)
    tended.look()
    drive_for(tended, 19.0)
    assert tended.world.serving() == ["v1-1", "v1-1"]
    assert tended.world.calls.count("write") == 1, "the route as it is, before the repair begins"
    tended.run()
    assert tended.phase is Phase.SUCCEEDED
    assert tended.whole()


def test_flapping_is_followed_without_restarts_and_without_end(tended: Tended) -> None:
    for _ in range(core_drift.MAX_QUICK_REPAIRS + 2):
        make_sick(tended)
        tended.look()
        drive_for(tended, 5.0)
        assert tended.world.serving() == ["v1-1"]
        tended.world.sick.clear()
        tended.run()
        tended.store.release(tended.claim, None)
    assert tended.look() is None
    assert not {"start", "stop"} & set(tended.world.calls)


def test_replacements_that_become_unready_are_given_up(tended: Tended) -> None:
    """An application that is ready at first and never stays so is not started again for ever."""
    for _ in range(core_drift.MAX_QUICK_REPAIRS + 2):
        make_sick(tended)
        if tended.look() is None or tended.live is None:
            break
        assert tended.drive() is Phase.SUCCEEDED
    drift = tended.look()
    assert drift is not None
    assert drift.state is DriftState.UNHEALTHY
    assert tended.world.calls.count("start") == core_drift.MAX_QUICK_REPAIRS


def test_a_change_of_readiness_makes_the_service_due() -> None:
    readiness = ServiceReadiness()
    one, two = (Instance(name, "v1-1", 0, "10.0.0.1:80", InstanceState.READY) for name in ("i1", "i2"))
    starting, stopping = (replace(two, state=state) for state in (InstanceState.STARTING, InstanceState.STOPPING))
    for instances, changed, unhealthy, has_ready in (
        ([one, starting], False, 0, True),
        ([one, two], False, 0, True),
        ([one, starting], True, 1, True),
        ([replace(one, state=InstanceState.STARTING), starting], True, 2, False),
        ([one, starting], True, 1, True),
        ([one, stopping], False, 0, True),
        ([one], False, 0, True),
        ([], False, 0, True),
    ):
        assert readiness.update(instances) is changed
        assert (readiness.unhealthy_count, readiness.has_ready) == (unhealthy, has_ready)


def test_the_watch_of_readiness_wakes_the_engine(tended: Tended) -> None:
    assert tended.look() is None
    woken: SimpleQueue[str] = SimpleQueue()
    meter = EngineMetrics(["demo"])
    with ReadinessWatcher(tended.store, {"demo": tended.world.parts()}, meter, woken.put):
        eventually("it has observed the service", lambda: tended.world.calls.count("instances") > 2)
        make_sick(tended)
        assert woken.get(timeout=30.0) == "demo"
        unhealthy = "tidegate_instances_unhealthy"
        eventually("it is counted", lambda: meter.registry.get_sample_value(unhealthy, {"environment": "demo"}) == 1.0)
    assert tended.watch.check_next("demo"), "its check is due"
    assert tended.live is not None
