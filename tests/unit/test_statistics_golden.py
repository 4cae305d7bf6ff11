"""The evidence of one count against the values that the design gives: one new instance and four old ones."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from tidegate.analysis.statistics.calibration import Calibration
from tidegate.analysis.statistics.effect_grid import errors_grid, latency_grid
from tidegate.analysis.statistics.eprocess import EProcess, MetricModel
from tidegate.analysis.statistics.metric_models import capped_margin
from tidegate.analysis.statistics.parameters import Parameters

HISTORY = 90_000.0
DT = 15.0
Row = Sequence[int]  # bad events of the new one, then of the four old ones, in an interval of 100 requests each

ERRORS = {"rate": 0.005, "dispersion": 1.2, "host_sd": 0.25, "freedom": 12.0, "margin": 2.3485}


def ln_e(rows: Sequence[Row], known: dict[str, float], *, rare: bool = True) -> list[float]:
    calibration = Calibration(
        *(np.array([known[name]]) for name in ("rate", "dispersion", "host_sd", "freedom")), np.array([HISTORY])
    )
    kind = MetricModel(
        errors_grid() if rare else latency_grid(known["rate"]),
        capped_margin(1.0),  # the golden margin is that of luck with hosts
        rare=rare,
        disturbed=1.5 if rare else 1.15,
    )
    per_second = np.array([400.0 / DT])
    process = EProcess(kind, calibration, per_second, dt=DT, batches=1, planned=0, parameters=Parameters())
    process.begin_batch()
    new = np.array([True, False, False, False, False])
    result = []
    for row in rows:
        process.advance(np.array([row], float), np.full((1, 5), 100.0), new, ~new)
        assert process.margin[0] == pytest.approx(known["margin"], abs=5e-5)
        result.append(float(np.log(process.evalue()[0])))
    return result


@pytest.mark.parametrize(
    ("rows", "changes", "wanted"),
    [
        ([(5, 0, 1, 0, 0)] * 8, {}, [1.7617, 3.9774, 6.3501, 8.7851, 11.2478, 13.7255, 16.2114, 18.7028]),
        ([(1, 0, 1, 0, 1)] * 8, {}, [-0.5743, -0.7963, -0.9512, -1.0735, -1.1759, -1.2647, -1.3436, -1.4149]),
        ([(20, 18, 22, 19, 21)] * 2 + [(0, 1, 0, 1, 0)] * 6, {}, [-1.1135] * 7 + [-1.8127]),
        (
            [(30, 0, 0, 0, 0)] + [(0, 0, 1, 0, 1)] * 7,
            {"dispersion": 2.0},
            [1.9295, 0.724, 0.1466, -0.2583, -0.5695, -0.8217, -1.0342, -1.2182],
        ),
    ],
    ids=["five times the errors", "the same errors", "a shared shock", "one burst"],
)
def test_errors(rows: Sequence[Row], changes: dict[str, float], wanted: Sequence[float]) -> None:
    assert ln_e(rows, {**ERRORS, **changes}) == pytest.approx(wanted, abs=2e-4)


def test_latency() -> None:
    known = {"rate": 0.1, "dispersion": 0.95, "host_sd": 0.09, "freedom": 14.0, "margin": 1.3492}
    wanted = [1.0953, 2.4434, 3.9061, 5.4336, 6.9993, 8.5894, 10.196, 11.8144]
    assert ln_e([(22, 10, 9, 11, 10)] * 8, known, rare=False) == pytest.approx(wanted, abs=2e-4)
