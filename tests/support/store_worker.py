"""A process that drives rollouts in a store without a world: claim, save a step, give back, until killed or told to end.

    store_worker.py URL OWNER SEED LOG

Every save moves the cursor on by one and says so in an event, with the fence and the owner. Sometimes the process
oversleeps its lease on purpose and saves all the same. `LOG` gets one line for each attempt: rollout, step, fence, and
`saved` or `lost`. The file `LOG.stop` ends it.
"""

from __future__ import annotations

import random
import sys
import time
from contextlib import closing
from dataclasses import replace
from pathlib import Path

from support.wait import eventually, pause
from tidegate.core.model import Event, Rollout
from tidegate.core.phases import Phase
from tidegate.core.records import Claim
from tidegate.errors import LeaseLost
from tidegate.store.store import SqlStore

LEASE_SECONDS = 0.5


def stepped(rollout: Rollout) -> Rollout:
    """One step further."""
    if rollout.phase is Phase.PENDING:
        return replace(rollout, phase=Phase.RUNNING, step_started_at=1.0)
    if rollout.cursor + 1 < len(rollout.plan):
        return replace(rollout, cursor=rollout.cursor + 1)
    return replace(rollout, phase=Phase.SUCCEEDED, finished=2.0)


def drive(store: SqlStore, claim: Claim, chance: random.Random) -> str:
    """Some steps of one rollout; what came of the last, for the log."""
    for _ in range(chance.randint(1, 3)):
        rollout, _signals = store.load(claim.rollout)
        following = stepped(rollout)
        pause(chance.uniform(0, 0.02), "a step takes its time")
        if chance.random() < 0.05:
            pause(LEASE_SECONDS * 3, "the lease runs out, and another worker may take it")
        data = {"from": f"{rollout.phase} {rollout.cursor}", "fence": claim.fence, "owner": claim.owner}
        event = Event("step_advanced", f"step {following.cursor}", time.time(), data=data)
        store.save(following, [event], claim.fence)
        if not following.phase.live:
            break
    store.release(claim, time.time())
    return "saved"


def main(url: str, owner: str, seed: str, log: str) -> None:
    """Work until the stop file is there."""
    chance, stop = random.Random(seed), Path(log + ".stop")
    with closing(SqlStore(url)) as store, Path(log).open("a", buffering=1) as lines:
        lines.write("ready\n")

        def work() -> Claim | bool | None:
            return stop.exists() or store.claim(owner, LEASE_SECONDS)

        while isinstance(claim := eventually("there is work, or the end", work, poll_seconds=0.005), Claim):
            try:
                outcome = drive(store, claim, chance)
            except LeaseLost:
                outcome = "lost"
            lines.write(f"{claim.rollout} {claim.fence} {outcome}\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
