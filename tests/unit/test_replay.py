"""A replay gives the recorded verdicts, other settings give others, and all problems of settings are reported."""

from __future__ import annotations

import pytest

from support.measurements import ERRORS, NEW, OLD, ORIGIN, FakeMetricsSource, rollout_of, run_traffic, server_of
from tidegate.analysis.analysis import CanaryAnalysis
from tidegate.analysis.measurement import Measurement
from tidegate.analysis.replay import replay, with_settings
from tidegate.analysis.verdict import Outcome, Verdict
from tidegate.core.model import Rollout
from tidegate.errors import InvalidSpec
from tidegate.web.replay_record import decode, encode

SERVERS = [*(server_of(OLD, n) for n in range(4)), server_of(NEW)]


def bad_release() -> tuple[Rollout, list[Measurement], list[Verdict]]:
    """A twentieth of the new one's requests fail, a hundredth of the old one's."""
    rollout = rollout_of(ERRORS)
    analysis = CanaryAnalysis(rollout, ORIGIN)
    rates = lambda server, at: (50.0, 5.0 if server.startswith(NEW) else 0.5)  # noqa: E731
    measurements, verdicts = run_traffic(analysis, FakeMetricsSource(), SERVERS, rates, 120.0)
    return rollout, measurements, verdicts


def test_a_replay_gives_the_verdicts_of_then() -> None:
    rollout, measurements, verdicts = bad_release()
    assert verdicts[-1].outcome is Outcome.FAIL
    assert replay(rollout, measurements) == verdicts


def test_a_replay_from_a_file_gives_them_too() -> None:
    rollout, measurements, verdicts = bad_release()
    rollout_again, measurements_again, verdicts_again = decode(encode((rollout, tuple(measurements), tuple(verdicts))))
    assert (rollout_again, measurements_again, verdicts_again) == (rollout, tuple(measurements), tuple(verdicts))
    assert replay(rollout_again, measurements_again) == verdicts


def test_a_wider_margin_lets_it_pass() -> None:
    rollout, measurements, _ = bad_release()
    for settings in ({"margin": "20%"}, {"errors.margin": "0.2"}, {"errors.shadow": "true"}):
        assert all(
            verdict.outcome is not Outcome.FAIL for verdict in replay(with_settings(rollout, settings), measurements)
        ), settings


def test_a_longer_warmup_decides_later() -> None:
    rollout, measurements, verdicts = bad_release()
    later = replay(with_settings(rollout, {"warmup": "25s"}), measurements)
    assert verdicts[-1].outcome is Outcome.FAIL
    assert later[-1].outcome is not Outcome.FAIL


def test_a_replay_of_no_measurements() -> None:
    assert replay(rollout_of(ERRORS), []) == []


def test_all_problems_are_reported_at_once() -> None:
    settings = {"margin": "much", "latency.margin": "2%", "speed": "1", "errors.shadow": "maybe", "false_abort": "90%"}
    with pytest.raises(InvalidSpec) as refused:
        with_settings(rollout_of(ERRORS), settings)
    message = str(refused.value)
    for text in (
        "margin: found 'much'; allowed: a share",
        "unknown check latency; this rollout has: errors",
        "speed: unknown setting; allowed: margin",
        "errors.shadow: found 'maybe'; allowed: true or false",
        "allowed: a share from 0.01% to 20%",
    ):
        assert text in message, text


@pytest.mark.parametrize("data", [[], {"rollout": {}}, {"rollout": {"id": 1}, "measurements": [{}], "verdicts": []}])
def test_what_is_no_record_is_refused(data: object) -> None:
    with pytest.raises(InvalidSpec, match=r"record|\d\."):
        decode(data)
