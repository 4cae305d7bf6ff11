"""The contract of every `ports.Platform`: inherit `PlatformContract`, give the fixtures, and pytest runs it.

    class TestMine(PlatformContract):
        @pytest.fixture
        def platform(self): ...      # the subject, of the environment ENVIRONMENT
        @pytest.fixture
        def closable(self): ...      # a second one for the same instances, closed by the test
        @pytest.fixture
        def releases(self): ...      # a `Releases`: the releases to run
        @pytest.fixture
        def restartable(self): ...   # (a platform, a function that restarts its runtime and waits until it answers)
        @pytest.fixture
        def refused(self): ...       # a platform whose runtime refuses connections

Each test uses its own service names. The fixtures must close the platforms and remove all instances, also on failure.
"""

from __future__ import annotations

import os
import uuid
from collections.abc import Callable, Collection
from dataclasses import replace
from typing import Protocol

import pytest

from tidegate.core.hooks import Hook, Job, JobState
from tidegate.core.logs import LogLine
from tidegate.core.model import Instance, InstanceState, Release
from tidegate.errors import PlatformError
from tidegate.ports import CheckStatus, Platform
from tidegate.testing.wait import pause, wait_until

# Unique per run, so that parallel runs do not interfere; TIDEGATE_RUN identifies the run of leftovers.
ENVIRONMENT = f"exam{os.environ.get('TIDEGATE_RUN', '00000')}{uuid.uuid4().hex[:4]}"
Restart = Callable[[], None]


class Releases(Protocol):
    """The releases of the tests, of the service with this key, not pinned yet."""

    def good(self, service: str, release: str) -> Release:
        """Becomes ready soon."""

    def crashing(self, service: str) -> Release:
        """Ends with an error soon after each start, and writes a line to its log before."""

    def unready(self, service: str) -> Release:
        """Runs but never becomes ready."""

    def missing(self, service: str) -> Release:
        """Its image does not exist."""

    def without_health(self, service: str) -> Release:
        """Has no readiness check."""

    def hook(self, status: int, milliseconds: int) -> Hook:
        """For good releases: logs the variables TIDEGATE_HOOK and DB_URL, waits, and exits with the status."""


def wait_for_instances(
    platform: Platform, service: str, holds: Callable[[tuple[Instance, ...]], bool]
) -> tuple[Instance, ...]:
    """Wait until the condition is true for the instances of a service; return them."""
    observed: tuple[Instance, ...] = ()

    def true_now() -> bool:
        nonlocal observed
        observed = platform.instances(service)
        return holds(observed)

    wait_until(true_now, observed=lambda: observed)
    return observed


def all_ready(count: int) -> Callable[[tuple[Instance, ...]], bool]:
    """Whether there are so many, and all are ready."""
    return lambda seen: len(seen) == count and all(each.state is InstanceState.READY for each in seen)


def start_and_wait(platform: Platform, release: Release, ordinals: Collection[int]) -> tuple[Instance, ...]:
    """These, of a service that had none, once they are ready."""
    platform.start(release, ordinals)
    return wait_for_instances(platform, release.service, all_ready(len(ordinals)))


def pin_release(platform: Platform, release: Release) -> Release:
    """As the engine would start it."""
    return replace(release, digest=platform.pin(release).digest)


def a_job(release: Release, hook: Hook) -> Job:
    """A hook of a rollout of the release, each time of another: its name may be the platform's only one of the kind."""
    variables = {"TIDEGATE_HOOK": "pre_promote"}
    own = replace(hook, environment={**hook.environment, "DB_URL": "of the hook"})
    return Job(f"r{uuid.uuid4().hex[:8]}", release.service, "pre_promote", release, own, variables)


def run_to_end(platform: Platform, job: Job) -> JobState:
    """Begun, and looked at until it is over."""
    return wait_until(lambda: state if (state := platform.run_job(job)).status is not None else None)


class PlatformContract:
    """What something that runs instances has to do."""

    @pytest.fixture
    def service(self) -> str:
        """A service that no other test has."""
        return f"{ENVIRONMENT}/s{uuid.uuid4().hex[:8]}"

    @pytest.fixture
    def good(self, platform: Platform, releases: Releases, service: str) -> Release:
        """A pinned release of the service."""
        return pin_release(platform, releases.good(service, "v1-1"))

    # -- looking --------------------------------------------------------------------------------------------------------

    def test_a_service_without_instances_is_an_empty_answer(self, platform: Platform, service: str) -> None:
        assert platform.instances(service) == ()

    def test_started_instances_become_ready_under_their_ordinals(self, platform: Platform, good: Release) -> None:
        seen = start_and_wait(platform, good, [0, 2])
        assert [(each.release, each.ordinal, each.restarts) for each in seen] == [("v1-1", 0, 0), ("v1-1", 2, 0)]
        assert all(each.address.rpartition(":")[0] for each in seen)
        assert len({each.id for each in seen}) == len({each.address for each in seen}) == 2
        assert all(each.id.isalnum() and each.id == each.id.lower() for each in seen)

    def test_only_instances_of_this_service_are_seen(self, platform: Platform, releases: Releases, service: str) -> None:
        longer = f"{service}-2"
        mine = start_and_wait(platform, pin_release(platform, releases.good(service, "v1-1")), [0])
        others = start_and_wait(platform, pin_release(platform, releases.good(longer, "v1-1")), [0, 1])
        assert platform.instances(service) == mine
        assert {instance.id for instance in platform.instances(longer)} == {other.id for other in others}

    def test_one_that_is_never_ready_is_starting_and_says_why(
        self, platform: Platform, releases: Releases, service: str
    ) -> None:
        platform.start(pin_release(platform, releases.unready(service)), [0])
        seen = wait_for_instances(platform, service, lambda seen: bool(seen and seen[0].address and seen[0].detail))
        for _ in range(5):
            assert seen[0].state is InstanceState.STARTING
            seen = platform.instances(service)

    def test_a_crash_looping_one_shows_failed(self, platform: Platform, releases: Releases, service: str) -> None:
        platform.start(pin_release(platform, releases.crashing(service)), [0])
        seen = wait_for_instances(platform, service, lambda seen: bool(seen) and seen[0].state is InstanceState.FAILED)
        assert seen[0].detail
        assert platform.tail_logs(seen[0], 5).strip()
        for _ in range(5):
            assert platform.instances(service)[0].state is InstanceState.FAILED

    def test_logs_are_read_on_from_a_position(self, platform: Platform, releases: Releases, service: str) -> None:
        """Of an instance that ends again and again, and writes a line each time."""
        platform.start(pin_release(platform, releases.crashing(service)), [0])
        seen = wait_for_instances(platform, service, bool)
        lines, after = list[LogLine](), dict[str, int]()

        def read_on(wanted: int) -> bool:
            (log,) = platform.read_logs(seen, after, 100)
            assert not log.problem
            assert not log.skipped
            lines.extend(log.lines)
            if lines:
                after[seen[0].id] = lines[-1].at_ns
            return len(lines) >= wanted

        wait_until(lambda: read_on(1), observed=lambda: lines)
        before = len(lines)
        wait_until(lambda: read_on(before + 1), observed=lambda: lines)
        (whole,) = platform.read_logs(seen, {}, 100)
        assert list(whole.lines[: len(lines)]) == lines, "each line once, and none left out"
        (last,) = platform.read_logs(seen, {}, 1)
        assert len(last.lines) == 1
        (skipping,) = platform.read_logs(seen, {seen[0].id: lines[0].at_ns - 1_000_000}, 1)
        assert skipping.skipped
        (missing,) = platform.read_logs([replace(seen[0], id="0" * 12)], {}, 5)
        assert missing.problem

    # -- starting -------------------------------------------------------------------------------------------------------

    def test_start_comes_back_before_they_are_ready(self, platform: Platform, releases: Releases, service: str) -> None:
        platform.start(pin_release(platform, releases.unready(service)), [0])
        assert [instance.state for instance in platform.instances(service)] == [InstanceState.STARTING]

    def test_start_twice_is_once(self, platform: Platform, good: Release) -> None:
        before = start_and_wait(platform, good, [0, 1])
        platform.start(good, [0, 1])
        assert platform.instances(good.service) == before

    def test_start_adds_what_is_missing_and_leaves_the_rest_alone(self, platform: Platform, good: Release) -> None:
        before = start_and_wait(platform, good, [1])
        platform.start(good, [0, 1, 2])
        after = wait_for_instances(platform, good.service, all_ready(3))
        assert [each.ordinal for each in after] == [0, 1, 2]
        assert after[1].id == before[0].id

    def test_releases_have_ordinals_of_their_own(self, platform: Platform, releases: Releases, service: str) -> None:
        start_and_wait(platform, pin_release(platform, releases.good(service, "v1-1")), [0])
        platform.start(pin_release(platform, releases.good(service, "v2-2")), [0])
        seen = wait_for_instances(platform, service, all_ready(2))
        assert {(each.release, each.ordinal) for each in seen} == {("v1-1", 0), ("v2-2", 0)}

    # -- stopping -------------------------------------------------------------------------------------------------------

    def test_stop_takes_the_named_ones_and_no_others(self, platform: Platform, good: Release) -> None:
        before = start_and_wait(platform, good, [0, 1, 2])
        platform.stop([before[1]], 5.0)
        leaving = [instance for instance in platform.instances(good.service) if instance.id == before[1].id]
        assert all(each.state is InstanceState.STOPPING for each in leaving)
        after = wait_for_instances(platform, good.service, lambda seen: len(seen) == 2)
        assert {each.id for each in after} == {before[0].id, before[2].id}

    def test_stop_twice_and_of_unknown_ones_is_quiet(self, platform: Platform, good: Release) -> None:
        before = start_and_wait(platform, good, [0])
        unknown = replace(before[0], id="0123456789ab")
        platform.stop([unknown, *before], 5.0)
        platform.stop(before, 5.0)
        wait_for_instances(platform, good.service, lambda seen: seen == ())
        platform.stop([unknown, *before], 5.0)
        assert platform.instances(good.service) == ()

    def test_an_ordinal_that_is_stopping_can_be_started_again(self, platform: Platform, good: Release) -> None:
        before = start_and_wait(platform, good, [0, 1])
        platform.stop([before[0]], 5.0)
        platform.start(good, [0])
        after = wait_for_instances(platform, good.service, all_ready(2))
        assert [each.ordinal for each in after] == [0, 1]
        assert after[0].id != before[0].id
        assert after[1].id == before[1].id

    def test_nothing_is_stopped_that_is_another_one(self, platform: Platform, releases: Releases, service: str) -> None:
        """An id that came to belong to something else: what it names is not what runs there."""
        other = start_and_wait(platform, pin_release(platform, releases.good(f"{service}-2", "v2-2")), [1])
        platform.stop([replace(other[0], release="v1-1", ordinal=0)], 0.0)
        wait_for_instances(platform, f"{service}-2", all_ready(1))
        pause(0.5)
        assert platform.instances(f"{service}-2") == other

    def test_close_waits_for_what_is_being_stopped(self, platform: Platform, closable: Platform, good: Release) -> None:
        start_and_wait(platform, good, [0, 1])
        closable.stop(closable.instances(good.service), 5.0)
        closable.close()
        assert platform.instances(good.service) == ()

    # -- jobs -------------------------------------------------------------------------------------------------------------

    def test_a_job_runs_once_and_tells_how_it_ended(self, platform: Platform, releases: Releases, good: Release) -> None:
        job = a_job(good, releases.hook(3, 300))
        ended = run_to_end(platform, job)
        assert ended.status == 3
        assert "TIDEGATE_HOOK=pre_promote" in ended.log
        assert "DB_URL=of the hook" in ended.log
        assert run_to_end(platform, job) == ended, "the same job is not run again"
        platform.remove_jobs(good.service, job.rollout)

    def test_a_job_is_no_instance(self, platform: Platform, releases: Releases, good: Release) -> None:
        job = a_job(good, releases.hook(0, 500))
        platform.run_job(job)
        assert platform.instances(good.service) == ()
        assert len(start_and_wait(platform, good, [0])) == 1
        platform.remove_jobs(good.service, job.rollout)
        assert len(platform.instances(good.service)) == 1

    def test_a_job_is_ended_before_its_time(self, platform: Platform, releases: Releases, good: Release) -> None:
        job = a_job(good, releases.hook(0, 60_000))
        assert platform.run_job(job).status is None
        assert platform.run_job(job).status is None
        platform.stop_job(job)
        assert run_to_end(platform, job).status != 0
        platform.remove_jobs(good.service, job.rollout)

    def test_jobs_are_cleared_with_their_rollout_alone(self, platform: Platform, releases: Releases, good: Release) -> None:
        mine, other = a_job(good, releases.hook(0, 0)), a_job(good, releases.hook(0, 0))
        for job in (mine, other):
            run_to_end(platform, job)
        platform.remove_jobs(good.service, mine.rollout)
        platform.remove_jobs(good.service, mine.rollout)
        assert run_to_end(platform, other).status == 0
        platform.remove_jobs(good.service, other.rollout)

    def test_a_job_that_cannot_be_started_has_ended_and_says_why(
        self, platform: Platform, releases: Releases, good: Release
    ) -> None:
        job = a_job(good, replace(releases.hook(0, 0), entrypoint=("/no/such/program",)))
        stands = platform.run_job(job)
        assert stands.status
        assert stands.detail
        platform.remove_jobs(good.service, job.rollout)

    # -- images ---------------------------------------------------------------------------------------------------------

    def test_pin_gives_the_same_immutable_name_each_time(
        self, platform: Platform, releases: Releases, service: str
    ) -> None:
        release = releases.good(service, "v1-1")
        pinned = platform.pin(release)
        assert pinned.digest != release.image
        assert platform.pin(release) == pinned == platform.pin(replace(release, digest=pinned.digest))

    def test_find_digest_says_what_pin_will_say(self, platform: Platform, releases: Releases, service: str) -> None:
        release = releases.good(service, "v1-1")
        pinned = platform.pin(release)
        assert platform.find_digest(release) == pinned.digest
        assert platform.find_digest(replace(release, image="elsewhere:v9", digest=pinned.digest)) == pinned.digest

    def test_pin_refuses_a_missing_image_by_name(self, platform: Platform, releases: Releases, service: str) -> None:
        release = releases.missing(service)
        with pytest.raises(PlatformError) as caught:
            platform.pin(release)
        assert release.image in caught.value.message
        assert not caught.value.retryable

    def test_pin_refuses_what_could_never_be_known_to_be_ready(
        self, platform: Platform, releases: Releases, service: str
    ) -> None:
        with pytest.raises(PlatformError, match="health") as caught:
            platform.pin(releases.without_health(service))
        assert not caught.value.retryable

    # -- engines ----------------------------------------------------------------------------------------------------------

    def test_instances_survive_a_restart_of_the_engine(
        self, restartable: tuple[Platform, Restart], releases: Releases, service: str
    ) -> None:
        platform, restart = restartable
        before = start_and_wait(platform, pin_release(platform, releases.good(service, "v1-1")), [0, 1])
        restart()
        after = wait_for_instances(platform, service, all_ready(2))
        assert [(each.id, each.release, each.ordinal) for each in after] == [
            (each.id, each.release, each.ordinal) for each in before
        ]

    def test_a_refused_engine_is_an_error_and_never_an_empty_answer(
        self, refused: Platform, platform: Platform, releases: Releases, good: Release
    ) -> None:
        instance = start_and_wait(platform, good, [0])[0]
        asked: list[Callable[[], object]] = [
            lambda: refused.instances(good.service),
            lambda: refused.start(good, [0]),
            lambda: refused.pin(releases.good(good.service, "v1-1")),
            lambda: refused.tail_logs(instance, 1),
        ]
        for ask in asked:
            with pytest.raises(PlatformError) as caught:
                ask()
            assert caught.value.message

    def test_check_says_what_works_and_how_to_mend_what_does_not(self, platform: Platform, refused: Platform) -> None:
        found = platform.check()
        assert found
        assert all(each.result for each in found)
        assert all(each.status is CheckStatus.OK for each in found), found
        diagnoses = refused.check()
        assert not all(diagnosis.status is CheckStatus.OK for diagnosis in diagnoses)
        assert all(diagnosis.fix for diagnosis in diagnoses if diagnosis.status is CheckStatus.WRONG)
