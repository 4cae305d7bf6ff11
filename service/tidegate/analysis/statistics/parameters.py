"""The numbers that the evidence is computed with. All were chosen by simulation; docs/judge.md says what each is for."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Parameters:
    """Budget, margins and guards. Ratios in [0, 1] or above 0, times in seconds, evidence in nats."""

    budget: float = 0.01  # chance that a good release is turned back, over the whole rollout
    fixed_test_share: float = 0.5  # of the budget, for the fixed look at each batch's end
    fixed_test_events: float = 25.0  # effective events below which a fixed look does not decide

    warmup_seconds: float = 60.0  # an instance younger than this is not yet compared (but for the warm-up check)
    errors_relative: float = 0.25  # margin: the error rate may be higher by this share of itself,
    errors_absolute: float = 0.0002  # or by this much, whichever is more
    latency_relative: float = 0.10  # margin: response times may be longer by this share
    instance_errors_relative: float = 2.0  # the margins of a single instance are wider
    instance_errors_absolute: float = 0.01
    instance_latency_relative: float = 0.5
    host_chance: float = 0.005  # chance left to differences between hosts beyond the widened margin

    errors_host_sd: float = 0.25  # prior: standard deviation between instances of the log error rate,
    latency_host_sd: float = 0.05  # of the log response time,
    readiness_host_sd: float = 0.5  # and of the log rate of failed probes
    host_weight: float = 10.0  # degrees of freedom that these priors are worth
    dispersion: float = 1.5  # prior: variance over mean of counts
    dispersion_weight: float = 20.0  # events that it is worth

    rate_halflife_seconds: float = 300.0  # of the baseline's current rate
    shock_chance: float = 0.05  # prior chance, per interval, that something shared is disturbed
    events_free: float = 4.0  # an interval's events count in full up to this many
    events_expected: float = 2.0  # and this many times what was expected
    interval_nats: float = 2.5  # the most that one interval adds
    first_weight: float = 0.5  # of the process that began with the first batch
    max_leave_one_out: int = 6  # leave-one-out while at most this many instances are new
    leave_out_factor: float = 30.0  # the evidence may be this much stronger than without any one of them
    instance_block_seconds: float = 30.0  # single instances are looked at in blocks of this length

    disturbed_errors: float = 1.5  # held while the baseline has this many times the errors it should have,
    disturbed_latency: float = 1.15  # or is slower by this factor
    disturbed_halflife_seconds: float = 30.0
    disturbed_cool_seconds: float = 30.0  # held for so long after
    disturbed_learning: float = 0.25  # how fast the rate is learned while held, as a share

    @property
    def threshold(self) -> float:
        """The evidence that ends a rollout: 1 / (what the fixed looks leave of the budget), by Ville's inequality."""
        return 1.0 / (self.budget * (1.0 - self.fixed_test_share))


#: How much of the budget each ready-made check has. They are scaled to those that a rollout has.
WEIGHTS = {"errors": 0.35, "latency": 0.30, "live": 0.15, "warmup": 0.10, "memory": 0.10}
