"""The Jenkins driver when a FAKE Jenkins is down, slow, misconfigured or not a Jenkins, and the errors it reports."""

from __future__ import annotations

import base64
import logging
import socket
from collections.abc import Sequence
from pathlib import Path

import pytest

from processes import free_port
from support.fake_jenkins import (
    ANN,
    BUILD,
    GATE,
    JOB,
    PROMOTED,
    ROLLOUT,
    WAITING,
    FakeBuild,
    FakeInput,
    FakeJenkins,
    Logs,
    at,
    failure,
    report_event,
    subject,
)
from support.wait import at_most
from tidegate.core.build import Build
from tidegate.core.event_kinds import EventKind
from tidegate.drivers.ci.jenkins.client import JenkinsClient
from tidegate.drivers.ci.jenkins.driver import JenkinsCI
from tidegate.drivers.ci.jenkins.options import JenkinsOptions
from tidegate.errors import CIError
from tidegate.ports import CheckStatus, Diagnosis

# -- a Jenkins that does not answer, or answers something else ---------------------------------------------------------


def test_a_jenkins_that_is_down_gets_the_report_when_it_is_back(ci: JenkinsCI, fake: FakeJenkins, build: FakeBuild) -> None:
    build.inputs = [FakeInput(GATE, ("reason",))]
    report_event(ci, WAITING, PROMOTED)
    fake.stop()
    for _ in range(2):
        error = failure(ci, at(2), EventKind.STEP_ADVANCED)
        assert error.retryable
        assert "Cannot reach Jenkins" in error.message
        assert "refused" in error.message
        assert "0x" not in error.message
    fake.start()
    report_event(ci, at(2), EventKind.STEP_ADVANCED, signals=[ANN])
    assert build.inputs[0].answers == [("proceed", {"reason": "Tidegate closed this input: approved by ann: all good"})]
    assert "v2-4 running" in str(build.description)


def test_a_slow_jenkins_is_a_retryable_error(fake: FakeJenkins, token: Path, build: FakeBuild) -> None:
    fake.answering.clear()
    with at_most(30, "giving up"):
        error = failure(subject(fake, token, timeout_seconds=0.3))
    assert error.retryable
    assert "did not answer in time" in error.message


def test_a_jenkins_that_accepts_connections_and_never_responds(fake: FakeJenkins, token: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        ci = subject(fake, token, url=f"http://127.0.0.1:{silent.getsockname()[1]}", timeout_seconds=0.3)
        assert "did not answer in time" in failure(ci).message


def test_a_get_is_retried_a_few_times_and_a_post_never(ci: JenkinsCI, fake: FakeJenkins, build: FakeBuild) -> None:
    fake.error_response, fake.error_count = (503, "text/html", "<p>Please wait while Jenkins is getting ready to work"), 2
    report_event(ci, ROLLOUT, EventKind.CREATED)
    assert build.description
    assert fake.methods() == ["GET", "GET", "GET", "POST"]

    def fail(path: str) -> None:
        fake.error_response = (503, "text/html", "no")

    fake.requests.clear()
    fake.before, build.description = fail, None
    assert failure(ci).retryable
    assert fake.methods() == ["GET", "POST"]
    fake.requests.clear()
    assert failure(ci).retryable
    assert [method for method, _, _ in fake.requests] == ["GET"] * 3


PAGE = """<!DOCTYPE html><html><head><title>Oops</title></head><body class="x"><script>var a = "<p>";</script>
<!-- <p>secret</p> --><h1>Oops!</h1><p>A problem occurred &amp; was logged.</p>{}</body></html>"""


@pytest.mark.parametrize(
    ("status", "retryable"),
    [(500, True), (502, True), (503, True), (504, True), (429, True), (401, True), (403, True), (400, False), (405, False)],
)
def test_every_error_page_becomes_one_short_message(ci: JenkinsCI, fake: FakeJenkins, status: int, retryable: bool) -> None:
    fake.error_response = (status, "text/html", PAGE.replace("{}", "more " * 50_000))
    error = failure(ci)
    assert error.retryable is retryable
    assert str(status) in error.message
    assert len(error.message) < 500
    assert "\n" not in error.message
    assert "<" not in error.message
    assert "secret" not in error.message
    assert ("Oops! A problem occurred & was logged. more" in error.message) == (status not in (401, 403))


@pytest.mark.parametrize(
    "answer",
    [
        (200, "text/html", "<html>log in</html>"),
        (200, "application/json", "[]"),
        (200, "application/json", "null"),
        (200, "application/json", '{"actions": ['),
        (204, "text/plain", ""),
    ],
)
def test_a_response_without_jenkins_json_is_a_retryable_error(
    ci: JenkinsCI, fake: FakeJenkins, answer: tuple[int, str, str]
) -> None:
    fake.error_response = answer
    error = failure(ci)
    assert error.retryable
    assert "instead of Jenkins' JSON" in error.message
    assert fake.posts() == []


@pytest.mark.parametrize("body", ['{"actions": 5, "description": 7}', '{"actions": [{"executions": [{}, 3]}, null]}', "{}"])
def test_json_of_another_shape_has_no_inputs(ci: JenkinsCI, fake: FakeJenkins, body: str) -> None:
    fake.error_response, fake.error_count = (200, "application/json", body), 1
    fake.build(JOB, 12, FakeInput(GATE))
    report_event(ci, at(2), EventKind.STEP_ADVANCED)
    assert all("/input/" not in path for path in fake.posts())


DETOURS = [
    "https://sso.example/login?to=x",
    "http://127.0.0.1:1{path}",
    "/login",
    "http://127.0.0.1:1/",
    "https://127.0.0.1{path}",
    "https://elsewhere.example/job/team/",
]


@pytest.mark.parametrize("where", DETOURS)
def test_a_redirect_is_never_followed(ci: JenkinsCI, fake: FakeJenkins, build: FakeBuild, where: str) -> None:
    """Neither to a log-in page nor to https, where a POST would arrive as a GET."""
    fake.detour = where
    error = failure(ci)
    assert error.retryable
    assert "Check url" in error.message
    assert where.partition("{")[0].partition("?")[0] in error.message
    assert len(fake.requests) == 1


@pytest.mark.parametrize("where", DETOURS)
def test_a_redirected_post_is_an_error(ci: JenkinsCI, fake: FakeJenkins, build: FakeBuild, where: str) -> None:
    fake.before = lambda path: setattr(fake, "detour", where)
    error = failure(ci)
    assert error.retryable
    assert "Check url" in error.message
    assert build.description is None


@pytest.mark.parametrize("where", [".", "./", "/job/team/job/repo/job/feature%252Ffoo/12/"])
def test_jenkins_own_redirect_after_a_post_is_success(
    ci: JenkinsCI, fake: FakeJenkins, build: FakeBuild, where: str
) -> None:
    fake.led = where
    report_event(ci, ROLLOUT, EventKind.CREATED)
    assert fake.methods() == ["GET", "POST"]


@pytest.mark.parametrize("job", ["../../x", "a/../b", "", "/x", "x/", ".", "a//b", "new\nline"])
def test_an_invalid_job_name_is_never_requested(ci: JenkinsCI, fake: FakeJenkins, job: str) -> None:
    error = failure(ci, build=Build(job, 1))
    assert not error.retryable
    assert fake.requests == []


def test_the_url_of_the_build_is_not_trusted(ci: JenkinsCI, fake: FakeJenkins, build: FakeBuild) -> None:
    with FakeJenkins().running() as other:
        report_event(ci, ROLLOUT, EventKind.CREATED, Build(JOB, 12, f"{other.url}/job/x/1/"))
    assert other.requests == []
    assert build.description


def test_a_jenkins_below_a_path(fake: FakeJenkins, token: Path) -> None:
    fake.build("shop", 1)
    error = None
    try:
        report_event(subject(fake, token, url=f"{fake.url}/ci/"), ROLLOUT, EventKind.CREATED, Build("shop", 1))
    except CIError as raised:
        error = raised
    assert error is not None  # nothing of Jenkins is there
    assert {path for _, path, _ in fake.requests} == {"/ci/job/shop/1/api/json", "/ci/me/api/json"}


# -- who we are --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("status", [401, 403])
def test_a_wrong_token_is_a_retryable_error_and_is_read_again(
    ci: JenkinsCI, fake: FakeJenkins, token: Path, build: FakeBuild, status: int
) -> None:
    fake.wrong_login = status
    token.write_text("of-yesterday")
    error = failure(ci)
    assert error.retryable
    assert str(status) in error.message
    assert "API token, not a password" in error.message
    token.write_text(fake.token)  # read at each use
    report_event(ci, ROLLOUT, EventKind.CREATED)
    assert build.description


def test_a_missing_permission_is_named(ci: JenkinsCI, fake: FakeJenkins, build: FakeBuild) -> None:
    fake.lacking = ("/submitDescription",)
    error = failure(ci)
    assert error.retryable
    assert "the permission hudson.model.Item.Cancel is missing" in error.message


def test_the_token_may_be_in_a_variable(fake: FakeJenkins, build: FakeBuild, monkeypatch: pytest.MonkeyPatch) -> None:
    given = {"url": fake.url, "user": fake.user, "token_env": "JENKINS_TOKEN_OF_TEST"}
    ci = JenkinsCI(JenkinsOptions.model_validate(given), "demo")
    assert "environment variable JENKINS_TOKEN_OF_TEST is not set" in failure(ci).message
    monkeypatch.setenv("JENKINS_TOKEN_OF_TEST", fake.token)
    report_event(ci, ROLLOUT, EventKind.CREATED)
    assert build.description


def test_the_token_is_in_no_error_no_log_and_no_representation(
    fake: FakeJenkins, tmp_path: Path, logs: Logs, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    secret = "11c0ffee11c0ffee11c0ffee"
    sent = base64.b64encode(f"tidegate:{secret}".encode()).decode()
    file = tmp_path / "other"
    file.write_text(secret)
    ci = subject(fake, file, stop_obsolete=True)
    errors = [failure(ci)]  # the fake's page repeats the header that was sent
    for status in (400, 401, 403, 404, 418, 500, 503):
        fake.error_response = (status, f"text/{secret}", f"<p>{secret} {sent}</p>")
        errors.append(failure(ci))
    fake.error_response = (200, f"text/{secret}", secret)
    errors.append(failure(ci))
    for value in (f"{secret}\nmore", f"{secret}\x00", ""):
        file.write_text(value)
        errors.append(failure(ci))
    misplaced = {"url": fake.url, "user": fake.user, "token_env": secret}
    errors.append(failure(JenkinsCI(JenkinsOptions.model_validate(misplaced), "demo")))
    fake.stop()
    file.write_text(secret)
    errors.append(failure(ci))
    client = JenkinsClient(ci._options)
    texts: Sequence[object] = [*errors, *ci.check(), ci, vars(ci), ci._options, client, vars(client), logs, caplog.text]
    for text in texts:
        assert secret not in repr(text)
        assert sent not in repr(text)


def test_the_environment_of_the_process_is_ignored(
    ci: JenkinsCI, fake: FakeJenkins, build: FakeBuild, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    monkeypatch.setenv("no_proxy", "")
    monkeypatch.setenv("JENKINS_API_EXTRA_HEADERS", "X-Extra: 1")
    report_event(ci, ROLLOUT, EventKind.CREATED)
    assert build.description
    assert len(fake.headers) == len(fake.requests) >= 2
    assert all("X-Extra" not in header for header in fake.headers)


def test_a_missing_certificate_file(fake: FakeJenkins, token: Path, tmp_path: Path) -> None:
    missing = tmp_path / "no-ca.pem"
    assert str(missing) in failure(subject(fake, token, url="https://127.0.0.1:1", ca_file=str(missing))).message


def test_a_jenkins_without_tls_behind_https(fake: FakeJenkins, token: Path) -> None:
    error = failure(subject(fake, token, url=fake.url.replace("http:", "https:")))
    assert error.retryable
    assert "certificate" in error.message


GIVEN = {"url": "http://jenkins:8080", "user": "tidegate", "token_file": "token"}


@pytest.mark.parametrize(
    "settings",
    [
        {"url": "jenkins:8080"},
        {"url": "http://user:secret@jenkins"},
        {"url": "http://jenkins/?x=1"},
        {"user": ""},
        {"user": "a:b"},
        {"token_env": "TOKEN"},
        {"token_file": None},
        {"token": "x"},
        {"timeout_seconds": 0},
        {"verify": False},
    ],
)
def test_invalid_settings_are_refused(settings: dict[str, object]) -> None:
    JenkinsOptions.model_validate(GIVEN)
    with pytest.raises(ValueError):
        JenkinsOptions.model_validate({**GIVEN, **settings})


# -- what `tidegate check` says ----------------------------------------------------------------------------------------


def test_check_reports_the_version_the_user_and_what_it_may(ci: JenkinsCI, fake: FakeJenkins, build: FakeBuild) -> None:
    build.inputs = [FakeInput(GATE, submitters=("alice", "tidegate")), FakeInput("Deploy-docs", submitters=("alice",))]
    fake.safe_html = True
    assert ci.check([BUILD]) == (
        Diagnosis("jenkins", CheckStatus.OK, f"Jenkins 2.528 at {fake.url}"),
        Diagnosis("jenkins user", CheckStatus.OK, "authenticated as tidegate"),
        Diagnosis("jenkins token", CheckStatus.OK, "an API token; descriptions are safe HTML"),
        Diagnosis("jenkins jobs", CheckStatus.OK, "tidegate sees 1 at the top level"),
        Diagnosis(
            "jenkins build 12 of team/repo/feature%2Ffoo",
            CheckStatus.OK,
            "tidegate sees it and may answer its inputs",
        ),
    )


def wrong_parts(ci: JenkinsCI, *builds: Build) -> dict[str, Diagnosis]:
    return {line.part.removeprefix("jenkins "): line for line in ci.check(builds) if line.status is not CheckStatus.OK}


def test_check_finds_a_password_in_place_of_an_api_token(ci: JenkinsCI, fake: FakeJenkins, token: Path) -> None:
    fake.build(JOB, 12)
    fake.password = "correct horse"
    token.write_text(fake.password)
    (line,) = wrong_parts(ci).values()
    assert (line.part, line.status) == ("jenkins token", CheckStatus.WRONG)
    assert "No valid crumb" in line.result
    assert "a password will not work" in line.fix
    assert fake.password not in f"{line}"


def test_check_finds_missing_permissions(ci: JenkinsCI, fake: FakeJenkins, build: FakeBuild) -> None:
    build.inputs = [FakeInput(GATE, submitters=("alice", "release-managers"))]
    (line,) = wrong_parts(ci, BUILD).values()
    assert "tidegate is not among the submitters" in line.result
    assert "alice,release-managers" in line.result
    fake.groups = ("authenticated", "release-managers")
    assert wrong_parts(ci, BUILD) == {}, "a group of the user counts"
    fake.hidden = {JOB}
    lines = wrong_parts(ci, BUILD)
    assert set(lines) == {"jobs", "build 12 of team/repo/feature%2Ffoo"}
    assert all("Job/Read" in line.fix for line in lines.values())


def test_check_says_how_to_fix_each_problem(ci: JenkinsCI, fake: FakeJenkins, token: Path) -> None:
    def bad(word: str, fix: str) -> None:
        (line,) = ci.check()
        assert line.status is CheckStatus.WRONG
        assert word in line.result
        assert fix in line.fix

    token.write_text("wrong")
    bad("403", "API token for tidegate")
    token.unlink()
    bad("Cannot read token_file", "API token for tidegate")
    token.write_text(fake.token)
    fake.error_response = (503, "text/html", "starting")
    bad("503", "start Jenkins, or set `url`")
    fake.error_response = (200, "text/html", "<html>a shop</html>")
    bad("instead of Jenkins' JSON", "set `url`")
    fake.stop()
    bad("refused", f"now {fake.url}")


def test_check_reports_another_user(ci: JenkinsCI, fake: FakeJenkins) -> None:
    fake.error_response = (200, "application/json", '{"id": "anonymous"}')
    there, user = ci.check()
    assert there.status is CheckStatus.OK
    assert "a Jenkins API" in there.result
    assert user.status is CheckStatus.WRONG
    assert "anonymous" in user.result


def test_check_without_a_jenkins(fake: FakeJenkins, token: Path) -> None:
    (line,) = subject(fake, token, url=f"http://127.0.0.1:{free_port()}").check()
    assert line.status is CheckStatus.WRONG
