"""Whatever part fails, from whatever moment of a rollout on: it ends, or it says what it waits for and until when.

With the real engine and the real store; a part that fails does so for good.
"""

from __future__ import annotations

import os
import tempfile
from dataclasses import replace
from pathlib import Path

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from support.fake_drivers import LIMIT, a_service, constant, sqlite
from support.store_fixtures import ManualClock
from support.tick_harness import TickHarness
from tidegate.core.model import Approval, Expiry
from tidegate.core.waits import WaitKind
from tidegate.errors import DriverError, MetricsError, PlatformError, RouterError

EXAMPLES = max(20, int(os.environ.get("EXAMPLES", "400")) // 16)
PARTS: dict[str, type[DriverError]] = {
    "instances": PlatformError, "pin": PlatformError, "start": PlatformError, "stop": PlatformError,
    "read": RouterError, "write": RouterError, "fetch": MetricsError,
}  # fmt: skip
LONG_SECONDS = 400.0  # more than every time limit of the rollout together


@settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)
@given(
    part=st.sampled_from(list(PARTS)),
    retryable=st.booleans(),
    fails_at=st.integers(0, 60),
    sick=st.booleans(),
    on_expiry=st.sampled_from([Expiry.ROLLBACK, Expiry.WAIT]),
)
def test_a_rollout_ends_or_names_what_it_waits_for(
    part: str, retryable: bool, fails_at: int, sick: bool, on_expiry: Expiry
) -> None:
    clock = ManualClock()
    with tempfile.TemporaryDirectory() as folder, sqlite(Path(folder), clock) as store:
        stage = TickHarness(store, clock)
        stage.world.answer = constant(0.1)
        service = a_service(checks=(LIMIT,), bake_seconds=5.0)
        approval = Approval(after=(1,), expires_seconds=60.0, on_expiry=on_expiry)
        policy = replace(service.policy, approval=approval)
        stage.begin(replace(service, policy=policy))
        begun = clock()
        for tick in range(3_000):
            if tick == fails_at:
                stage.world.always[part] = PARTS[part](f"{part} does not respond", retryable=retryable)
                stage.world.sick |= {each.id for each in stage.world.present()} if sick else set()
            done = stage.tick()
            if done.finished or clock() - begun > LONG_SECONDS:
                break
            clock.now = max(clock.now, done.due or 0.0)
        rollout, _ = store.load(stage.rollout)
        if not rollout.phase.live:
            assert rollout.reason
            return
        waiting = rollout.waiting_for
        assert waiting is not None, f"{rollout.phase} for nothing"
        assert waiting.since < clock()
        assert waiting.until is None, f"{waiting} is past its limit"
        assert waiting.then
        if waiting.kind is WaitKind.PART:
            assert waiting.reason == f"{part} does not respond"
        else:
            assert waiting.kind in (WaitKind.APPROVAL, WaitKind.DECISION)
