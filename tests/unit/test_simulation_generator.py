"""Generated rollouts: shapes, what each noise and fault does, and numbers that stay the same for a seed."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from tidegate.simulation.blue_green import GeneratedSwitch, generate_switch
from tidegate.simulation.generator import BUCKET_BOUNDS, GeneratedRollout, generate_rollout
from tidegate.simulation.scenarios import NO_FAULT, Fault, RolloutNoise, ServiceSize, SwitchNoise

SIZE = ServiceSize("S", 5, 20, 0.005, 15, 300)
CALM = RolloutNoise("calm", load_cv=0, miss_p=0)
EVERYTHING = RolloutNoise(
    "everything",
    sd_e=0.15,
    sd_u=0.03,
    ar_e=0.1,
    ar_u=0.02,
    phi=2,
    drift=0.4,
    warm_lat=1.1,
    warm_err=0.7,
    shock_pp=0.05,
    shock_lat=0.5,
    shock_n=2,
    bad_lat=0.2,
    bad_err=0.4,
    reset_p=0.3,
)
COMBINED = Fault("combined", err_mult=2, err_pp=0.01, lat_mult=1.5, tail_frac=0.05, tail_mult=10, onset=60, leak=0.03)


def made(
    noise: RolloutNoise = CALM, fault: Fault = NO_FAULT, size: ServiceSize = SIZE, replicates: int = 20
) -> GeneratedRollout:
    return generate_rollout(size, noise, fault, replicates, np.random.default_rng(7))


def switched(noise: SwitchNoise, fault: Fault = NO_FAULT) -> GeneratedSwitch:
    size = replace(SIZE, window=600)
    return generate_switch(size, noise, fault, 20, np.random.default_rng(7))


def test_shapes() -> None:
    result = made(replicates=3)
    rollout, history = (3, 100, 6), (3, 30, 5)  # five batches of 20 intervals, and a control; 30 blocks of a minute
    assert {each.shape for each in (result.N, result.X, result.miss, result.mem)} == {rollout}
    assert {each.shape for each in (result.Hn, result.He, result.Hm, result.Hmn)} == {history}
    assert (result.S.shape, result.Hs.shape) == ((*rollout, len(BUCKET_BOUNDS)), (*history, len(BUCKET_BOUNDS)))
    assert (result.age.shape, result.t.shape) == ((100, 6), (100,))
    assert (result.dt, result.window, result.n, result.batches, result.analyzed_batches) == (15, 300, 5, 5, 5)
    assert result.batch.tolist() == [0, 1, 2, 3, 5, 4], "the control is old to the end"


def test_the_control_is_the_baseline_of_the_last_batch() -> None:
    result = made()
    assert (result.age[:, 4] < 0).all()
    assert (result.N[:, -1] > 0).all(), "five new instances and the control take traffic"
    assert np.isnan(result.age[:80, 5]).all()
    assert not result.N[:, :80, 5].any(), "the last instance takes none before its batch"
    without = made(size=replace(SIZE, control=0))
    assert (without.batches, without.analyzed_batches, without.N.shape) == (5, 4, (20, 100, 5))
    assert (without.age[80:] >= 0).all()


def test_batches_of_several_and_an_odd_rest() -> None:
    result = made(size=replace(SIZE, n=7, batches=3), replicates=1)
    assert (result.batch.tolist(), result.analyzed_batches) == ([0, 0, 0, 1, 1, 1, 3, 2], 3)
    assert (result.age[0] >= 0).tolist() == [True] * 3 + [False] * 5


def test_counts_are_possible() -> None:
    result = made(EVERYTHING, COMBINED)
    assert (result.X <= result.N).all()
    assert (result.S[..., 0] <= result.N).all()
    assert (np.diff(result.S) <= 0).all()
    assert not result.N[result.miss == 1].any()


@pytest.mark.parametrize(
    ("noise", "fault", "sums"),
    [
        (CALM, NO_FAULT, (603350, 2963, 307335, 1600)),
        (EVERYTHING, COMBINED, (674315, 15421, 471607, 1643)),
        (EVERYTHING, Fault("crash", crash=True, one_of_k=True), (674278, 15365, 403453, 3336)),
        (replace(EVERYTHING, hist_quiet=True), NO_FAULT, (676053, 9353, 404493, 1660)),
    ],
)
def test_a_seed_gives_the_same_numbers_for_good(noise: RolloutNoise, fault: Fault, sums: tuple[int, ...]) -> None:
    result = made(noise, fault)
    assert (result.N.sum(), result.X.sum(), result.S[..., 1].sum(), result.miss.sum()) == sums


@pytest.mark.parametrize(
    ("noise", "fault", "sums"),
    [
        (SwitchNoise("mod"), NO_FAULT, (2858128, 13617, 1437033)),
        (SwitchNoise("shocked", phi=1, shock_pp=0.05, shock_lat=0.5), COMBINED, (2858140, 19142, 1489267)),
    ],
)
def test_a_seed_gives_the_same_switches_for_good(noise: SwitchNoise, fault: Fault, sums: tuple[int, ...]) -> None:
    result = switched(noise, fault)
    assert (result.N.shape, result.S.shape, result.switch) == ((20, 520), (20, 520, len(BUCKET_BOUNDS)), 480)
    assert (result.N.sum(), result.X.sum(), result.S[..., 1].sum()) == sums


def test_a_fault_harms_the_new_release_only_and_from_its_onset_on() -> None:
    result = made(fault=Fault("f", err_pp=0.3, onset=150))
    share = result.X.sum(0) / np.maximum(result.N.sum(0), 1)
    harmed = (result.age >= 0) & (result.t >= 150)[:, None]
    assert share[harmed].mean() == pytest.approx(0.305, abs=0.01)
    assert share[~harmed & ~np.isnan(result.age)].mean() == pytest.approx(0.005, abs=0.001)


def test_one_of_several() -> None:
    result = made(fault=Fault("f", err_pp=0.5, one_of_k=True), size=replace(SIZE, n=10))
    bad = (result.X.sum(1) / result.N.sum(1)) > 0.2
    assert bad.sum(1).tolist() == [1] * 20
    assert not bad[:, 2:].any()
    assert bad[:, :2].any(0).all()


def test_latency_and_its_tail() -> None:
    faults = (NO_FAULT, Fault("slow", lat_mult=3), Fault("tail", tail_frac=0.05, tail_mult=10))
    all_made = [made(fault=fault) for fault in faults]
    new = all_made[0].age >= 0
    usual, slow, tail = (each.S[:, new].sum((0, 1)) / each.N[:, new].sum() for each in all_made)
    median, half_a_second = 1, 4
    assert usual[median] == pytest.approx(0.5, abs=0.02)
    assert slow[median] > 0.9
    assert tail[median] == pytest.approx(usual[median], abs=0.04)
    assert tail[half_a_second] - usual[half_a_second] > 0.015


def test_a_shared_shock_hits_both_releases() -> None:
    result = made(replace(CALM, shock_pp=0.3, shock_n=1, shock_sens=0))
    during = result.X.sum(2) / result.N.sum(2) > 0.1
    assert 4 <= during.sum(1).mean() <= 12  # 60 to 180 s
    new = result.age >= 0
    for side in (new, ~new):
        share = np.where(side, result.X, 0).sum(2)[during].sum() / np.where(side, result.N, 0).sum(2)[during].sum()
        assert share == pytest.approx(0.3, abs=0.03)


def test_a_crash_loop_moves_the_traffic_to_the_others() -> None:
    result = made(fault=Fault("f", crash=True))
    first = result.N[:, :20].sum((0, 1)) / result.N[:, :20].sum()
    assert first[0] < 0.1
    assert first[1:5].min() > 0.2
    assert result.miss[:, :, 0].mean() > 0.5
    assert not result.miss[:, :, 4].any()


def test_a_leak_grows() -> None:
    leaking, usual = made(fault=Fault("f", leak=0.03)), made()
    assert leaking.mem[:, -1, 0].mean() - usual.mem[:, -1, 0].mean() == pytest.approx(0.75, abs=0.02)
    assert leaking.mem[:, -1, 4].mean() == pytest.approx(usual.mem[:, -1, 4].mean(), abs=0.001)


def test_a_quiet_history_shows_nothing_of_the_noise() -> None:
    loud, quiet = (made(replace(EVERYTHING, phi=6, hist_quiet=each), replicates=200) for each in (False, True))
    assert loud.He.var() / loud.He.mean() > 3
    assert quiet.He.var() / quiet.He.mean() == pytest.approx(1, abs=0.1)


def test_a_switch_changes_all_traffic() -> None:
    calm = SwitchNoise("calm", sd_s=0, sd_l=0, phi=1, drift=0, warm_lat=0, warm_err=0)
    result = switched(calm, Fault("f", err_pp=0.2, onset=120))
    share = result.X.sum(0) / result.N.sum(0)
    assert share[: result.switch + 8].mean() == pytest.approx(0.005, abs=0.001)
    assert share[result.switch + 8 :].mean() == pytest.approx(0.205, abs=0.01)
