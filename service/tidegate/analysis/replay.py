"""The same looks judged again, perhaps with other settings. Pure."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from tidegate.analysis.analysis import CanaryAnalysis
from tidegate.analysis.measurement import Measurement
from tidegate.analysis.verdict import Verdict
from tidegate.compose.reader import format_value, integer, one_of
from tidegate.compose.units import parse_duration, parse_share
from tidegate.core.model import CheckKind, Direction, Rollout
from tidegate.errors import InvalidSpec, Problem

Parser = Callable[[object], Any]


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
    return integer(1)(int(text) if (text := str(value)).isdecimal() else value)


def _share(value: object) -> float:
    try:
        return parse_share(float(str(value)))
    except ValueError:
        return parse_share(value)


def _probability(value: object) -> float:
    result = _share(value)
    if not 0.0001 <= result <= 0.2:
        raise ValueError("a share from 0.01% to 20%")
    return result


#: Of a check: `margin` (all checks) or `errors.margin` (one).
CHECK_SETTINGS: Mapping[str, tuple[str, Parser]] = {
    "margin": ("margin", _share),
    "min_requests": ("min_samples", _count),
    "min_samples": ("min_samples", _count),
    "max": ("maximum", _number),
    "min": ("minimum", _number),
    "direction": ("direction", one_of(Direction, Direction)),
    "weight": ("weight", _number),
    "critical": ("critical", _flag),
    "shadow": ("shadow", _flag),
}
#: Settings that checks of these kinds only have; all checks have the others.
KINDS_OF_SETTING: Mapping[str, tuple[CheckKind, ...]] = {
    "min_requests": (CheckKind.ERRORS, CheckKind.LATENCY),
    "min_samples": (CheckKind.QUERY,),
}
#: Of the whole judge.
POLICY_SETTINGS: Mapping[str, tuple[str, Parser]] = {
    "warmup": ("warmup_seconds", parse_duration),
    "false_abort": ("false_abort", _probability),
}


def replay(rollout: Rollout, measurements: Sequence[Measurement]) -> list[Verdict]:
    """The verdict at each look. With the rollout's own settings they are those that were given then."""
    analyses: dict[bool, CanaryAnalysis] = {}
    verdicts = []
    for measurement in measurements:
        if measurement.is_preview not in analyses:
            analyses[measurement.is_preview] = CanaryAnalysis(
                rollout, measurement.traffic_shifted_at, is_preview=measurement.is_preview
            )
        verdicts.append(analyses[measurement.is_preview].add(measurement))
    return verdicts


def with_settings(rollout: Rollout, settings: Mapping[str, str]) -> Rollout:
    """The rollout with other settings, such as {"margin": "2%", "latency.shadow": "true", "warmup": "30s"}.

    Raises `InvalidSpec` with every mistake.
    """
    problems: list[Problem] = []
    for name, text in settings.items():
        check, _, key = name.rpartition(".")
        if not check and key in POLICY_SETTINGS:
            target, read = POLICY_SETTINGS[key]
            value = _parse(name, read, text, problems)
            rollout = replace(rollout, policy=replace(rollout.policy, **{target: value})) if value is not None else rollout
            continue
        rollout = _with_check_setting(rollout, name, check, key, text, problems)
    if problems:
        raise InvalidSpec(problems)
    return rollout


def _with_check_setting(rollout: Rollout, name: str, check: str, key: str, text: str, problems: list[Problem]) -> Rollout:
    known = [check.name for check in rollout.checks]
    kinds = KINDS_OF_SETTING.get(key, tuple(CheckKind))
    if key not in CHECK_SETTINGS:
        allowed = ", ".join([*CHECK_SETTINGS, *POLICY_SETTINGS])
        problems.append(Problem(name, f"unknown setting; allowed: {allowed}, or CHECK.NAME for one check"))
    elif check and check not in known:
        problems.append(Problem(name, f"there is no check {check}; there are: {', '.join(known)}"))
    elif check and any(each.name == check and each.kind not in kinds for each in rollout.checks):
        problems.append(Problem(name, f"{check} has no {key}: only checks of the kind {' or '.join(kinds)} have it"))
    else:
        target, read = CHECK_SETTINGS[key]
        value = _parse(name, read, text, problems)
        if value is not None:
            checks = (
                replace(each, **{target: value}) if check in ("", each.name) and each.kind in kinds else each
                for each in rollout.checks
            )
            return replace(rollout, checks=tuple(checks))
    return rollout


def _parse(name: str, read: Parser, text: str, problems: list[Problem]) -> Any:
    try:
        return read(text)
    except ValueError as error:
        problems.append(Problem(name, f"found {format_value(text)}; allowed: {error}"))
        return None
