"""The same looks judged again, perhaps with other settings. Pure."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from tidegate.core.judge.look import Look
from tidegate.core.judge.trial import Trial
from tidegate.core.judge.verdict import Verdict
from tidegate.core.model import Check, Direction, Rollout
from tidegate.core.reading import one_of, shown, whole
from tidegate.core.units import seconds, share
from tidegate.errors import InvalidSpec, Problem

Read = Callable[[object], Any]


def _number(value: object) -> float:
    try:
        return float(str(value))
    except ValueError:
        raise ValueError("a number") from None


def _flag(value: object) -> bool:
    if value in ("true", "false"):
        return value == "true"
    raise ValueError("true or false")


def _count(value: object) -> int:
    return whole(1)(int(text) if (text := str(value)).isdecimal() else value)


def _share(value: object) -> float:
    try:
        return share(float(str(value)))
    except ValueError:
        return share(value)


def _chance(value: object) -> float:
    found = _share(value)
    if not 0.0001 <= found <= 0.2:
        raise ValueError("a share from 0.01% to 20%")
    return found


#: Of a check: `margin` (all checks) or `errors.margin` (one).
OF_A_CHECK: Mapping[str, tuple[str, Read]] = {
    "margin": ("margin", _share),
    "least": ("least", _count),
    "max": ("maximum", _number),
    "min": ("minimum", _number),
    "direction": ("direction", one_of(Direction, Direction)),
    "weight": ("weight", _number),
    "critical": ("critical", _flag),
    "shadow": ("shadow", _flag),
}
#: Of the whole judge.
OF_THE_POLICY: Mapping[str, tuple[str, Read]] = {
    "warmup": ("warmup_seconds", seconds),
    "false_abort": ("false_abort", _chance),
}


def replayed(rollout: Rollout, looks: Sequence[Look]) -> list[Verdict]:
    """The verdict at each look. With the rollout's own settings they are those that were given then."""
    trials: dict[bool, Trial] = {}
    verdicts = []
    for look in looks:
        if look.unseen not in trials:
            trials[look.unseen] = Trial(rollout, look.shifted, unseen=look.unseen)
        verdicts.append(trials[look.unseen].take(look))
    return verdicts


def changed(rollout: Rollout, settings: Mapping[str, str]) -> Rollout:
    """The rollout with other settings, such as {"margin": "2%", "latency.shadow": "true", "warmup": "30s"}.

    Raises `InvalidSpec` with every mistake.
    """
    problems: list[Problem] = []
    for name, text in settings.items():
        check, _, key = name.rpartition(".")
        if not check and key in OF_THE_POLICY:
            target, read = OF_THE_POLICY[key]
            value = _read(name, read, text, problems)
            rollout = replace(rollout, policy=replace(rollout.policy, **{target: value})) if value is not None else rollout
            continue
        rollout = _with_check(rollout, name, check, key, text, problems)
    if problems:
        raise InvalidSpec(problems)
    return rollout


def _with_check(rollout: Rollout, name: str, check: str, key: str, text: str, problems: list[Problem]) -> Rollout:
    known = [each.name for each in rollout.checks]
    if key not in OF_A_CHECK:
        allowed = ", ".join([*OF_A_CHECK, *OF_THE_POLICY])
        problems.append(Problem(name, f"unknown setting; allowed: {allowed}, or CHECK.NAME for one check"))
    elif check and check not in known:
        problems.append(Problem(name, f"there is no check {check}; there are: {', '.join(known)}"))
    else:
        target, read = OF_A_CHECK[key]
        value = _read(name, read, text, problems)
        if value is not None:
            return replace(rollout, checks=tuple(_set(each, check, target, value) for each in rollout.checks))
    return rollout


def _set(check: Check, named: str, target: str, value: Any) -> Check:
    return replace(check, **{target: value}) if named in ("", check.name) else check


def _read(name: str, read: Read, text: str, problems: list[Problem]) -> Any:
    try:
        return read(text)
    except ValueError as error:
        problems.append(Problem(name, f"found {shown(text)}; allowed: {error}"))
        return None
