"""The parameters of the evidence. All were chosen by simulation; docs/analysis.md explains them."""

from __future__ import annotations

from dataclasses import dataclass

MIN_INTERVALS = 4  # compared intervals that a PASS needs: an interval adds at most `interval_nats`, and a FAIL needs more


@dataclass(frozen=True, slots=True)
class Parameters:
    """Budget, margins and safeguards. Shares in [0, 1], times in seconds, evidence in nats (natural log)."""

    budget: float = 0.01  # chance that a good release is rolled back, over the whole rollout
    fixed_test_share: float = 0.5  # of the budget, for the fixed test at the end of each batch
    fixed_test_events: float = 25.0  # effective events that the fixed test needs

    warmup_seconds: float = 60.0  # a younger instance is only compared by the warm-up check
    errors_relative: float = 0.25  # margin: tolerated increase of the error rate, relative to it,
    errors_absolute: float = 0.0002  # or absolute, whichever is larger
    latency_relative: float = 0.10  # margin: tolerated relative increase of response times
    instance_errors_relative: float = 2.0  # the wider margins of a single instance
    instance_errors_absolute: float = 0.01
    instance_latency_relative: float = 0.5
    host_chance: float = 0.005  # chance that differences between hosts exceed the widened margin
    usual_host_chance: float = 0.05  # the same for a PASS, which must not lie wholly above the margin widened by this

    errors_host_sd: float = 0.25  # prior: standard deviation between instances of the log error rate,
    latency_host_sd: float = 0.05  # of the log response time,
    readiness_host_sd: float = 0.5  # and of the log rate of failed probes
    host_weight: float = 10.0  # degrees of freedom of these priors
    dispersion: float = 1.5  # prior: variance over mean of counts
    dispersion_weight: float = 20.0  # weight of this prior in events

    rate_halflife_seconds: float = 300.0  # of the filter for the current rate of the baseline
    shock_chance: float = 0.05  # prior chance of a shared disturbance, per interval
    events_free: float = 4.0  # events of an interval count in full up to this number
    events_expected: float = 2.0  # plus this factor times the expected number
    interval_nats: float = 2.5  # the most that one interval adds to the log evidence
    first_weight: float = 0.5  # weight of the process that began with the first batch
    max_leave_one_out: int = 6  # up to this many new instances, each is left out in turn
    leave_out_factor: float = 30.0  # the evidence is at most this factor above that without any one of them
    instance_block_seconds: float = 30.0  # single instances are compared in blocks of this length

    disturbed_errors: float = 1.5  # the baseline is disturbed at this factor of its expected errors,
    disturbed_latency: float = 1.15  # or if it is slower by this factor
    disturbed_halflife_seconds: float = 30.0
    disturbed_cool_seconds: float = 30.0  # a disturbance lasts this much longer
    disturbed_learning: float = 0.25  # weight of an interval for the current rate during a disturbance

    @property
    def threshold(self) -> float:
        """The e-value that fails a rollout: 1 / (budget without the share of the fixed tests), by Ville's inequality."""
        return 1.0 / (self.budget * (1.0 - self.fixed_test_share))


#: The weights of the built-in metrics in the evidence, scaled to those of a rollout.
WEIGHTS = {"errors": 0.35, "latency": 0.30, "live": 0.15, "warmup": 0.10, "memory": 0.10}
