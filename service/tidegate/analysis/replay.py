"""Repeats the analysis of stored measurements, optionally with other settings. Pure."""

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
    share = _share(value)
    if not 0.0001 <= share <= 0.2:
        raise ValueError("a share from 0.01% to 20%")
    return share


#: Settings of a check: `margin` applies to all checks, `errors.margin` to one.
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
#: Settings that only checks of these kinds have. All checks have the others.
KINDS_OF_SETTING: Mapping[str, tuple[CheckKind, ...]] = {
    "min_requests": (CheckKind.ERRORS, CheckKind.LATENCY),
    "min_samples": (CheckKind.QUERY,),
}
#: Settings of the whole analysis.
POLICY_SETTINGS: Mapping[str, tuple[str, Parser]] = {
    "warmup": ("warmup_seconds", parse_duration),
    "false_abort": ("false_abort", _probability),
}


def replay(rollout: Rollout, measurements: Sequence[Measurement]) -> list[Verdict]:
    """The verdict after each measurement. With the rollout's own settings they equal the recorded ones."""
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

    Raises `InvalidSpec` with all problems.
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
    names = [known.name for known in rollout.checks]
    kinds = KINDS_OF_SETTING.get(key, tuple(CheckKind))
    if key not in CHECK_SETTINGS:
        allowed = ", ".join([*CHECK_SETTINGS, *POLICY_SETTINGS])
        problems.append(Problem(name, f"unknown setting; allowed: {allowed}, or CHECK.NAME for one check"))
    elif check and check not in names:
        problems.append(Problem(name, f"unknown check {check}; this rollout has: {', '.join(names)}"))
    elif check and any(known.name == check and known.kind not in kinds for known in rollout.checks):
        problems.append(Problem(name, f"{check} has no {key}; only checks of kind {' or '.join(kinds)} have it"))
    else:
        target, read = CHECK_SETTINGS[key]
        value = _parse(name, read, text, problems)
        if value is not None:
            checks = (
                replace(known, **{target: value}) if check in ("", known.name) and known.kind in kinds else known
                for known in rollout.checks
            )
            return replace(rollout, checks=tuple(checks))
    return rollout


def _parse(name: str, read: Parser, text: str, problems: list[Problem]) -> Any:
    try:
        return read(text)
    except ValueError as error:
        problems.append(Problem(name, f"found {format_value(text)}; allowed: {error}"))
        return None
