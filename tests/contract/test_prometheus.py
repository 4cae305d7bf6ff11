"""The Prometheus driver against a real Prometheus; a fake one only for what a real one cannot be made to say."""

from __future__ import annotations

import json
import re
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from processes import free_port
from support.measurements import ERRORS, LATENCY, rollout_of
from support.prometheus import SCRAPE_SECONDS, CannedPrometheus, Exporter, running_prometheus
from support.wait import at_most, eventually
from tidegate.analysis.analysis import CanaryAnalysis
from tidegate.analysis.queries import HISTORY_SECONDS, LOOKBACK_SECONDS, QueryPurpose
from tidegate.analysis.verdict import Reason
from tidegate.clock import Window
from tidegate.drivers.metrics.prometheus.driver import PrometheusMetrics, PrometheusOptions
from tidegate.errors import MetricsError
from tidegate.testing.metrics_contract import MetricsContract

JSON = "application/json"
NOW = Window(1_700_000_000.0, 1_700_000_060.0)


@pytest.fixture(scope="module")
def exporter() -> Iterator[Exporter]:
    served = Exporter()
    yield served
    served.close()


@pytest.fixture(scope="module")
def url(exporter: Exporter, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with running_prometheus(tmp_path_factory.mktemp("prometheus"), {"haproxy": exporter.address}) as address:
        yield address


def subject(url: str, **settings: object) -> PrometheusMetrics:
    return PrometheusMetrics(PrometheusOptions.model_validate({"url": url, "timeout_seconds": 60.0, **settings}), "demo")


def failure(url: str, query: str = "up", **settings: object) -> MetricsError:
    with pytest.raises(MetricsError) as caught:
        subject(url, **settings).fetch(query, NOW)
    return caught.value


def success(result: object, kind: str = "vector", **more: object) -> tuple[int, str, str]:
    return 200, JSON, json.dumps({"status": "success", "data": {"resultType": kind, "result": result}, **more})


def refusal(status: int, kind: str, said: str) -> tuple[int, str, str]:
    return status, JSON, json.dumps({"status": "error", "errorType": kind, "error": said})


class TestPrometheus(MetricsContract):
    @pytest.fixture
    def metrics(self, url: str) -> PrometheusMetrics:
        return subject(url)

    @pytest.fixture
    def publish(self, exporter: Exporter, url: str) -> Callable[[str], None]:
        return lambda text: exporter.publish(text, url)


# -- a source that does not answer, or answers something else ----------------------------------------------------------


def test_refused_connection_is_source_down() -> None:
    error = failure(f"http://127.0.0.1:{free_port()}")
    assert error.reason == Reason.SOURCE_DOWN
    assert error.retryable
    assert "Cannot reach Prometheus" in error.message
    assert "refused" in error.message
    assert "0x" not in error.message


def test_unknown_host_is_source_down() -> None:
    assert failure("http://no-such-host.invalid:9090").reason == Reason.SOURCE_DOWN


def test_a_source_that_accepts_and_never_answers_is_a_timeout() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent, at_most(30, "giving up"):
        error = failure(f"http://127.0.0.1:{silent.getsockname()[1]}", timeout_seconds=0.4)
    assert error.reason == Reason.TIMEOUT
    assert error.retryable


def test_a_source_that_stops_half_way_is_a_timeout() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        done = threading.Event()

        def half() -> None:
            connection, _ = server.accept()
            with connection:
                connection.recv(65536)
                connection.sendall(b'HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 99\r\n\r\n{"sta')
                done.wait(300)

        thread = threading.Thread(target=half)
        thread.start()
        try:
            assert failure(f"http://127.0.0.1:{server.getsockname()[1]}", timeout_seconds=0.4).reason == Reason.TIMEOUT
        finally:
            done.set()
            thread.join()


def test_html_with_200_is_source_down_for_good() -> None:
    with CannedPrometheus((200, "text/html", "<html>log in</html>")) as fake:
        error = failure(fake.url)
    assert (error.reason, error.retryable) == (Reason.SOURCE_DOWN, False)
    assert "text/html" in error.message
    assert len(fake.requests) == 1


@pytest.mark.parametrize("body", ["[]", "null", '"x"', "{}", '{"data": {}}', '{"data": {"result": 5}}', '{"data": null}'])
def test_json_that_is_not_prometheus_is_never_an_empty_answer(body: str) -> None:
    with CannedPrometheus((200, JSON, body)) as fake:
        assert failure(fake.url).reason == Reason.SOURCE_DOWN


def test_503_is_asked_again_and_then_source_down_with_what_was_said() -> None:
    with CannedPrometheus(refusal(503, "unavailable", "compacting")) as fake:
        error = failure(fake.url)
    assert error.reason == Reason.SOURCE_DOWN
    assert "compacting" in error.message
    assert len(fake.requests) == 3


def test_one_503_is_survived() -> None:
    with CannedPrometheus((503, "text/plain", "busy"), success([])) as fake:
        assert subject(fake.url).fetch("up", NOW) == ()
    assert len(fake.requests) == 2


@pytest.mark.parametrize(
    ("answer", "reason", "retryable"),
    [
        (refusal(503, "timeout", "query timed out"), Reason.TIMEOUT, True),
        (refusal(504, "", ""), Reason.TIMEOUT, True),
        (refusal(400, "bad_data", "parse error"), Reason.BAD_QUERY, False),
        (refusal(422, "execution", "many-to-many"), Reason.BAD_QUERY, False),
        ((401, "text/plain", "no"), Reason.SOURCE_DOWN, False),
        ((404, "text/html", "no"), Reason.SOURCE_DOWN, False),
        (refusal(200, "internal", "storage"), Reason.SOURCE_DOWN, True),
        (success([], warnings=["one store did not answer"]), Reason.PARTIAL, True),
        (success([1.5, "text"], "string"), Reason.BAD_QUERY, False),
        (success([{"metric": {}, "histogram": [1, {}]}]), Reason.BAD_QUERY, False),
        (success([{"metric": {}, "value": [1, "x"]}]), Reason.SOURCE_DOWN, False),
    ],
)
def test_every_other_answer_has_its_reason(answer: tuple[int, str, str], reason: Reason, retryable: bool) -> None:
    with CannedPrometheus(answer) as fake:
        error = failure(fake.url)
    assert (error.reason, error.retryable) == (reason, retryable)
    assert error.message


def test_warnings_are_told_and_infos_do_no_harm() -> None:
    with CannedPrometheus(success([], warnings=["store 2 is missing"])) as fake:
        assert "store 2 is missing" in failure(fake.url).message
    with CannedPrometheus(success([], infos=["metric might not be a counter"])) as fake:
        assert subject(fake.url).fetch("up", NOW) == ()


def test_a_query_that_cannot_be_executed_is_a_bad_query(url: str, exporter: Exporter) -> None:
    exporter.publish('many{x="1"} 1\nmany{x="2"} 1\n', url)
    now = time.time()
    with pytest.raises(MetricsError) as caught:
        subject(url).fetch("many * on(job) many", Window(now - 5, now))
    assert caught.value.reason == Reason.BAD_QUERY


@pytest.mark.parametrize("seconds", [0.7, 2.5, 3])
def test_the_time_for_an_answer_need_not_be_whole_seconds(url: str, seconds: float) -> None:
    def answered() -> object:
        try:
            return subject(url, timeout_seconds=seconds).fetch("scalar(vector(1))", NOW)
        except MetricsError as error:
            if error.reason != Reason.TIMEOUT:
                raise
            return None

    assert eventually("Prometheus answers in that time", answered)


def test_a_real_prometheus_behind_a_certificate_that_is_not_trusted(tmp_path: Path) -> None:
    missing = tmp_path / "no-ca.pem"
    error = failure("https://127.0.0.1:1", ca_file=str(missing))
    assert (error.reason, error.retryable) == (Reason.SOURCE_DOWN, False)
    assert str(missing) in error.message


# -- secrets and settings ----------------------------------------------------------------------------------------------


def test_each_call_logs_in_once_with_what_the_file_holds_now(tmp_path: Path) -> None:
    token = tmp_path / "token"
    token.write_text("first\n")
    with CannedPrometheus(success([])) as fake:
        metrics = subject(fake.url, bearer_token_file=str(token))
        metrics.fetch("up", NOW)
        token.write_text("second\n")
        metrics.fetch("up", NOW)
    assert [headers["Authorization"] for _, headers in fake.requests] == [["Bearer first"], ["Bearer second"]]


def test_a_secret_is_in_no_error(tmp_path: Path) -> None:
    secret = tmp_path / "password"
    secret.write_text("hunter2")
    settings = {"username": "judge", "password_file": str(secret)}
    with CannedPrometheus((401, "text/plain", "no"), (200, "text/html", "x"), (500, "text/plain", "x")) as fake:
        said = [failure(fake.url, **settings) for _ in range(3)]
    said.append(failure(f"http://127.0.0.1:{free_port()}", **settings))
    for error in said:
        assert "hunter2" not in repr(error)
        assert error.__cause__ is None
    secret.write_text("hunter2\nmore\x00")
    assert "hunter2" not in failure(fake.url, **settings).message


def test_the_processes_own_environment_does_not_apply(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    monkeypatch.setenv("no_proxy", "")
    with CannedPrometheus(success([])) as fake:
        assert subject(fake.url).fetch("up", NOW) == ()


@pytest.mark.parametrize(
    "settings",
    [
        {"url": "localhost:9090"},
        {"url": "http://user:secret@host:9090"},
        {"url": "http://host:9090", "username": "a"},
        {"url": "http://host:9090", "username": "a", "password_file": "p", "bearer_token_file": "t"},
        {"url": "http://host:9090", "timeout_seconds": 0},
        {"url": "http://host:9090", "tiemout_seconds": 3},
    ],
)
def test_settings_that_cannot_be_meant_are_refused(settings: dict[str, object]) -> None:
    with pytest.raises(ValueError):
        PrometheusOptions.model_validate(settings)


# -- what `tidegate check` says ----------------------------------------------------------------------------------------

SERVER = 'haproxy_server_http_responses_total{{proxy="other",server="v1-1.0.aaaaaaaaaaaa",code="{code}"}} {value}\n'


def test_check_finds_the_exporter_the_clock_and_the_interval(url: str, exporter: Exporter) -> None:
    exporter.publish(SERVER.format(code="2xx", value=5), url, times=3)
    found = {each.part: each for each in subject(url).check()}
    assert all(each.status == "ok" for each in found.values()), found
    assert "Prometheus 2." in found["prometheus"].result
    assert set(found) == {"prometheus", "prometheus clock", "prometheus exporter", "prometheus scrapes"}
    (seconds,) = re.findall(r"every ([\d.]+) s", found["prometheus scrapes"].result)
    assert SCRAPE_SECONDS / 2 < float(seconds) < SCRAPE_SECONDS * 5, "a busy machine scrapes late"


def test_check_finds_counters_made_of_a_log(url: str, exporter: Exporter) -> None:
    exporter.publish('tidegate_responses_total{proxy="other",server="v1-1.0.a",code="2xx"} 5\n', url, times=3)
    found = {each.part: each for each in subject(url).check()}
    assert found["prometheus exporter"].status == "ok"


def test_check_says_how_to_mend_a_missing_exporter_and_a_missing_prometheus(url: str, exporter: Exporter) -> None:
    exporter.publish("other 1\n", url)
    bad = [each for each in subject(url).check() if each.status == "wrong"]
    assert [each.part for each in bad] == ["prometheus exporter"]
    assert "scrape_configs" in bad[0].fix
    (down,) = subject(f"http://127.0.0.1:{free_port()}").check()
    assert down.status == "wrong"
    assert "refused" in down.result
    assert down.fix


def test_check_sees_a_clock_that_is_off() -> None:
    def scalar(at: float) -> tuple[int, str, str]:
        return success([at, str(at)], "scalar")

    with CannedPrometheus(scalar(time.time() - 30), success({})) as fake:
        clock = next(each for each in subject(fake.url).check() if each.part == "prometheus clock")
    assert clock.status == "wrong"
    assert "behind" in clock.result


# -- the questions of the judge, asked for real ------------------------------------------------------------------------

ASKED = {"v1-1.0.0123456789ab", "v2-4.0.abcdefabcdef", "v2-4.1.abcdefabcdee"}
LIKE_THEM = {"v2-40.0.abcdefabcdef", "v2-4.x.abcdefabcdef", "xv2-4.0.abcdefabcdef", "v2-4.0.abcdefabcdef.1", "v2-4"}


def test_the_questions_of_the_ready_made_checks_find_their_servers(url: str, exporter: Exporter) -> None:
    def lines(server: str, proxy: str) -> str:
        labels = f'proxy="{proxy}",server="{server}"'
        errors = [f"{name}_errors_total{{{labels}}}" for name in ("connection", "response")]
        codes = [f'http_responses_total{{{labels},code="{code}"}}' for code in ("2xx", "5xx")]
        names = [f"haproxy_server_{name}" for name in (*errors, *codes, f"current_sessions{{{labels}}}")]
        buckets = [f'bucket{{{labels},le="{bound}"}}' for bound in ("0.1", "+Inf")]
        names += [f"tidegate_response_seconds_{name}" for name in (*buckets, f"count{{{labels}}}")]
        return "".join(f"{name} 7\n" for name in names)

    origin = time.time()
    text = "".join(lines(server, "shop") for server in ASKED | LIKE_THEM) + lines("v2-4.0.abcdefabcdef", "shop2")
    exporter.publish(text, url)
    asked = CanaryAnalysis(rollout_of(ERRORS, LATENCY), origin).queries(time.time())
    assert [(each.check, each.purpose) for each in asked] == [
        ("errors", QueryPurpose.HISTORY),
        ("errors", QueryPurpose.SAMPLES),
        ("latency", QueryPurpose.HISTORY),
        ("latency", QueryPurpose.SAMPLES),
    ]
    assert {each.window.start for each in asked} == {origin - HISTORY_SECONDS, origin - LOOKBACK_SECONDS}
    found = {(each.check, each.purpose): subject(url).fetch(each.query, each.window, each.step_seconds) for each in asked}
    for check, number in (("errors", 4), ("latency", 2)):
        there = found[check, QueryPurpose.SAMPLES]
        assert {each.labels["server"] for each in there} == ASKED
        assert {each.labels["proxy"] for each in there} == {"shop"}
        assert len(there) == len(ASKED) * number
        assert all(origin <= at <= time.time() for each in there for at, _ in each.samples)
