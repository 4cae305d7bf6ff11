"""A plan: a list of desired states. Frozen, without side effects."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

Fleet = Mapping[str, int]  # instances by release ID; no zero counts, never modified


@dataclass(frozen=True, slots=True)
class Gate:
    """What must be true to leave a step.

    `surplus_gone`: no surplus instance may exist, not even a stopping one. Set for the last step, and where there is no
    room for a surge. `keeps_old`: the bake only keeps the old release running; an approval may end it, and only a FAIL has
    consequences. `tasks_before` run before everything else of the step, `tasks` when it is ready. `group_point`: the point,
    from 1, at which the rollouts of a group wait for each other; 0: none.
    """

    bake_seconds: float = 0.0
    analyzed: bool = False
    approval: str = ""  # name of the required approval; empty: none
    surplus_gone: bool = False
    keeps_old: bool = False
    tasks_before: tuple[str, ...] = ()
    tasks: tuple[str, ...] = ()
    group_point: int = 0


@dataclass(frozen=True, slots=True)
class Step:
    """One desired state: which instances exist, which take traffic, and what must be true before the next step.

    `route` None: the service has no proxy, so every instance works as soon as it runs. `preview`: the instances behind the
    preview. `share`: share of new requests for the new release, in (0, 1); None: every instance gets the same share.
    """

    fleet: Fleet
    route: Fleet | None
    gate: Gate = Gate()
    preview: Fleet = field(default_factory=dict)
    share: float | None = None

    @property
    def serving(self) -> Fleet:
        """The instances that do the work of the service: those of the route, or all where there is none."""
        return self.fleet if self.route is None else self.route


Plan = tuple[Step, ...]
