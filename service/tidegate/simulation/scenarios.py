"""The scenarios of a simulation: the size of a service, its noise, and the fault of the new release.

A grid is read from a TOML file (`simulation.grids`, docs/simulation.md). Each field has its type, its range, and the
description of the range for error messages. Units: seconds, shares from 0 to 1, and natural logs (`log(3)` = 1.0986 is
"three times as much"). Standard deviations are of logs, so 0.1 is "10 % more or less".
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Generic, TypeVar

from pydantic import ConfigDict, Field

Name = Annotated[str, Field(strict=True, min_length=1, description="a non-empty string")]
Flag = Annotated[bool, Field(strict=True, description="true or false")]
Log = Annotated[float, Field(strict=True, allow_inf_nan=False, description="a number")]
Amount = Annotated[float, Field(strict=True, ge=0, allow_inf_nan=False, description="a number of at least 0")]
Positive = Annotated[float, Field(strict=True, gt=0, allow_inf_nan=False, description="a number above 0")]
Share = Annotated[float, Field(strict=True, ge=0, le=1, description="a number from 0 to 1")]
Dispersion = Annotated[float, Field(strict=True, ge=1, allow_inf_nan=False, description="a number of at least 1")]
Scrape = Annotated[float, Field(strict=True, gt=0, le=60, description="a number above 0, at most 60")]
Several = Annotated[int, Field(strict=True, ge=2, description="a whole number of at least 2")]
Control = Annotated[int, Field(strict=True, ge=0, le=1, description="0 or 1")]
Count = Annotated[int, Field(strict=True, ge=0, description="a whole number of at least 0")]
Replicates = Annotated[int, Field(strict=True, ge=1, description="a whole number of at least 1")]

#: Of all dataclasses: unknown fields are an error.
STRICT = ConfigDict(extra="forbid")


@dataclass(frozen=True)
class ServiceSize:
    """The size of a service, and how it is monitored."""

    __pydantic_config__ = STRICT

    name: Name
    n: Several  # instances
    rps: Positive  # requests a second, of all instances together
    p0: Share  # failed share of requests of the old release
    scrape: Scrape  # seconds between two scrapes; the history has blocks of 60 s
    window: Positive  # seconds from one batch to the next; in a switch: seconds measured after it
    batches: Several = 5  # batches of a rolling update
    control: Control = 1  # old instances in the route until the end; with 0 the last batch has no concurrent baseline
    med: Positive = 0.05  # median latency, in seconds
    sig: Positive = 0.8  # standard deviation of the log latency


@dataclass(frozen=True)
class RolloutNoise:
    """The noise of a rolling update: everything that varies without a fault in the new release."""

    __pydantic_config__ = STRICT

    name: Name
    sd_e: Amount = 0.0  # lasting differences between instances: sd of the log error rate
    sd_u: Amount = 0.0  # and of the log latency
    ar_e: Amount = 0.0  # autocorrelated (AR(1)) within an instance: sd of the log error rate
    ar_u: Amount = 0.0  # and of the log latency
    ar_tc: Positive = 60.0  # time constant of the AR(1) process, in seconds
    phi: Dispersion = 1.0  # overdispersion of errors: variance over mean
    load_cv: Amount = 0.05  # the load balancer is uneven: sd of the log share of an instance
    drift: Log = 0.0  # over the whole rollout: log change of 0.6 of it in traffic, 1/2 in errors, 1/3 in latency
    warm_lat: Log = 0.0  # a new instance starts slow: log factor of the latency at age 0
    warm_err: Log = 0.0  # and of its error rate
    warm_tc: Positive = 20.0  # time constant with which both fade, in seconds
    shock_pp: Share = 0.0  # a shared dependency fails: error share added in all instances
    shock_lat: Log = 0.0  # and log factor of the latency
    shock_len: Positive = 120.0  # how long, in seconds; each lasts 0.5 to 1.5 times that
    shock_n: Count = 0  # how many of them in a rollout
    shock_sens: Amount = 0.25  # instances suffer unequally: sd of the log of their part
    bad_lat: Log = 0.0  # one instance, old or new, has a noisy neighbour: log factor of its latency
    bad_err: Log = 0.0  # and of its error rate
    reset_p: Share = 0.0  # chance of each instance of either release to restart once
    miss_p: Share = 0.002  # chance of a scrape to fail
    hist_quiet: Flag = False  # the history has none of sd_*, ar_* and phi: the worst case for methods that learn from it


@dataclass(frozen=True)
class Fault:
    """The fault of the new release. The fields can be combined."""

    __pydantic_config__ = STRICT

    name: Name
    err_mult: Amount = 1.0  # factor of the error share
    err_pp: Share = 0.0  # error share added
    lat_mult: Positive = 1.0  # factor of the latency
    tail_frac: Share = 0.0  # only this share of requests is slower
    tail_mult: Positive = 1.0  # by this factor
    one_of_k: Flag = False  # only one instance of the first batch has the fault
    onset: Amount = 0.0  # seconds from the start of the rollout, or from the switch, until it begins
    crash: Flag = False  # instances crash after 25 s, again and again, with a growing back-off
    leak: Amount = 0.0  # memory leaked per minute, as a share of the limit


@dataclass(frozen=True)
class SwitchNoise:
    """The noise of a blue-green switch: everything that varies without a fault in the new release."""

    __pydantic_config__ = STRICT

    name: Name
    sd_s: Amount = 0.10  # autocorrelated (AR(1)) for the whole service: sd of the log error rate
    sd_l: Amount = 0.02  # and of the log latency
    tc: Positive = 900.0  # time constant of the AR(1) process, in seconds
    phi: Dispersion = 2.0  # overdispersion of errors: variance over mean
    drift: Log = 0.2  # over two hours: log change of traffic, 1/2 of it in errors, 1/6 in latency
    warm_lat: Log = 0.6931471805599453  # log(2). The new release starts slow: log factor of the latency at age 0
    warm_err: Log = 0.4054651081081644  # log(1.5). ... and of its error rate
    warm_tc: Positive = 20.0  # time constant with which both fade, in seconds
    shock_pp: Share = 0.0  # a dependency fails after the switch: error share added
    shock_lat: Log = 0.0  # and log factor of the latency
    shock_len: Positive = 120.0  # how long, in seconds


NO_FAULT = Fault("none")

AnyNoise = TypeVar("AnyNoise", RolloutNoise, SwitchNoise)


@dataclass(frozen=True)
class ScenarioGrid(Generic[AnyNoise]):
    """The cells of a simulation: each size with each noise and no fault, and each size with `base` and each fault.

    `ScenarioGrid[RolloutNoise]` is for rolling updates, compared with the old release; `ScenarioGrid[SwitchNoise]` for
    blue-green switches, compared with the time before. `replicates`: rollouts of each cell without a fault.
    """

    sizes: tuple[ServiceSize, ...]
    noises: tuple[AnyNoise, ...]
    faults: tuple[Fault, ...]
    base: AnyNoise
    seed: int
    replicates: int = 400
