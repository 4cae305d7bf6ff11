"""The alert rules, tried by Prometheus' own tool: each fires on what it is for, and on nothing else."""

from __future__ import annotations

import json
import re
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml
from prometheus_client import CollectorRegistry, generate_latest

from support.api import running
from support.prerequisites import program
from tidegate.analysis.queries import ENVIRONMENT_LABEL
from tidegate.engine.metrics import EngineMetrics
from tidegate.engine.request_logs import RequestLogs

ROOT = Path(__file__).parents[2]
RULES = ROOT / "examples" / "prometheus" / "tidegate.rules.yml"
ATTENTION = 'tidegate_rollout_attention_seconds{{environment="live",service="shop",rollout="r1",state="{}",reason="why"}}'
QUIET = {
    ATTENTION.format("approval"): "_x600",
    ATTENTION.format("failed"): "_x600",
    ATTENTION.format("rolled_back"): "_x600",
    'tidegate_instances_unhealthy{environment="live"}': "0x600",
    'tidegate_services_unavailable{environment="live"}': "0x600",
    "tidegate_engine_heartbeat_age_seconds": "2x600",
    "tidegate_rollouts_overdue_seconds": "0x600",
    'tidegate_claim_lateness_seconds_bucket{le="1.0"}': "0+9x600",
    'tidegate_claim_lateness_seconds_bucket{le="60.0"}': "0+9x600",
    'tidegate_claim_lateness_seconds_bucket{le="+Inf"}': "0+9x600",
    "tidegate_outbox_lag_seconds": "1x600",
    'tidegate_driver_errors_total{environment="live",part="router",retryable="true"}': "0x600",
    'tidegate_driver_errors_total{environment="",part="database",retryable="true"}': "0x600",
    'tidegate_request_log_up{tidegate_environment="live",outcomes="false",instance="a:7071"}': "1x600",
    'tidegate_request_log_up{tidegate_environment="live",outcomes="false",instance="b:7071"}': "0x600",
    'haproxy_process_dropped_logs_total{instance="a:8405"}': "0+1x600",
    'haproxy_process_requests_total{instance="a:8405"}': "0+6000x600",
    "tidegate_database_up": "1x600",
    "tidegate_database_free_bytes": "9e9x600",
    "tidegate_internal_errors_total": "0x600",
    "tidegate_failed_authentications_total": "0x600",
    'up{job="tidegate",instance="a:7070"}': "1x600",
}


@dataclass(frozen=True)
class AlertCase:
    """What happens to otherwise quiet series, one sample a minute, and what then fires at `minute`."""

    changed: dict[str, str]
    minute: int
    fires: str = ""


def series(start: str) -> str:
    (found,) = [each for each in QUIET if each.startswith(start)]
    return found


PROXY_ERRORS, DATABASE_ERRORS = (series(f'tidegate_driver_errors_total{{environment="{each}"') for each in ("live", ""))
TRIALS = {
    "all is well": AlertCase({}, 500),
    "an instance is unhealthy": AlertCase(
        {'tidegate_instances_unhealthy{environment="live"}': "0x9 1x600"}, 12, "TidegateInstanceUnhealthy"
    ),
    "no instance is ready": AlertCase(
        {'tidegate_services_unavailable{environment="live"}': "0x9 1x600"}, 12, "TidegateServiceUnavailable"
    ),
    "a rollout halts": AlertCase(
        {ATTENTION.format("failed"): "_x9 0+60x600"}, 12, "TidegateRolloutHalted"
    ),
    "another one followed it": AlertCase({ATTENTION.format("failed"): "_x9 0+60x20"}, 60),
    "one is rolled back": AlertCase(
        {ATTENTION.format("rolled_back"): "_x9 0+60x15"}, 12, "TidegateRolledBack"
    ),
    "an approval pending for four hours": AlertCase(
        {ATTENTION.format("approval"): "0+60x600"}, 250, "TidegateApprovalOverdue"
    ),
    "an approval pending for three hours": AlertCase({ATTENTION.format("approval"): "0+60x600"}, 180),
    "no engine": AlertCase({"tidegate_engine_heartbeat_age_seconds": " ".join(["Inf"] * 10)}, 3, "TidegateEngineDown"),
    "an engine ended": AlertCase({"tidegate_engine_heartbeat_age_seconds": "2x5 60+60x600"}, 9, "TidegateEngineDown"),
    "nobody claims due rollouts": AlertCase(
        {"tidegate_rollouts_overdue_seconds": "0x5 60+60x600"}, 9, "TidegateRolloutsOverdue"
    ),
    "late claims": AlertCase(
        {'tidegate_claim_lateness_seconds_bucket{le="1.0"}': "0+8x600"}, 30, "TidegateRolloutsOverdue"
    ),
    "Jenkins gets no events": AlertCase({"tidegate_outbox_lag_seconds": "1x5 0+60x600"}, 20, "TidegateOutboxLag"),
    "a proxy that fails": AlertCase({PROXY_ERRORS: "0+6x600"}, 20, "TidegateDriverErrors"),
    "one error": AlertCase({PROXY_ERRORS: "0x9 1x600"}, 12),
    "an engine that cannot read the log": AlertCase(
        {'tidegate_request_log_up{tidegate_environment="live",outcomes="false",instance="a:7071"}': "1x5 0x600"},
        12,
        "TidegateResponseTimesMissing",
    ),
    "a proxy that drops its log": AlertCase(
        {series("haproxy_process_dropped"): "0+100x600"}, 20, "TidegateResponseTimesMissing"
    ),
    "a database that fails": AlertCase({DATABASE_ERRORS: "0+6x600"}, 10, "TidegateDatabaseErrors"),
    "a database that is down": AlertCase({"tidegate_database_up": "1x5 0x600"}, 8, "TidegateDatabaseErrors"),
    "a full disk": AlertCase({"tidegate_database_free_bytes": "1e8x600"}, 8, "TidegateDiskFull"),
    "an internal error": AlertCase({"tidegate_internal_errors_total": "0x9 1x600"}, 12, "TidegateInternalError"),
    "no valid token": AlertCase({"tidegate_failed_authentications_total": "0+120x600"}, 30, "TidegateAuthFailures"),
    "a server that is down": AlertCase({series("up"): "1x5 0x600"}, 8, "TidegateDown"),
}  # fmt: skip


def rules() -> list[dict[str, Any]]:
    (group,) = yaml.safe_load(RULES.read_text())["groups"]
    found: list[dict[str, Any]] = group["rules"]
    return found


def asked(analysis: AlertCase) -> dict[str, Any]:
    """For the tool, which would compare the words of what fires, too; so it is asked for each alert whether it fires."""
    checks = [
        {
            "expr": f'count(ALERTS{{alertname="{rule["alert"]}",alertstate="firing"}}) or vector(0)',
            "eval_time": f"{analysis.minute}m",
            "exp_samples": [{"labels": "{}", "value": int(rule["alert"] == analysis.fires)}],
        }
        for rule in rules()
    ]
    values = [{"series": name, "values": each} for name, each in (QUIET | analysis.changed).items()]
    return {"interval": "1m", "input_series": values, "promql_expr_test": checks}


def test_each_fires_on_what_it_is_for_and_on_nothing_else(tmp_path: Path) -> None:
    tool, written = program("promtool"), tmp_path / "tests.yml"
    tests = [asked(analysis) for analysis in TRIALS.values()]
    written.write_text(json.dumps({"rule_files": [str(RULES)], "evaluation_interval": "1m", "tests": tests}))
    ended = subprocess.run([tool, "test", "rules", str(written)], capture_output=True, text=True, timeout=120, check=False)
    assert ended.returncode == 0, ended.stdout + ended.stderr


def test_every_rule_is_tried() -> None:
    assert {analysis.fires for analysis in TRIALS.values()} - {""} == {rule["alert"] for rule in rules()}


@pytest.mark.parametrize("rule", rules(), ids=lambda rule: rule["alert"])
def test_every_alert_says_what_is_wrong_and_what_to_do(rule: dict[str, Any]) -> None:
    assert set(rule["annotations"]) == {"summary", "action"}
    assert all(len(text) > 40 and text.endswith((".", "?")) for text in rule["annotations"].values())
    assert rule["labels"]["severity"] in ("page", "warning", "info")
    row = f"| `{rule['alert']}` |"
    (told,) = [line for line in (ROOT / "docs" / "monitoring.md").read_text().splitlines() if line.startswith(row)]
    assert told.endswith(f"| {rule['labels']['severity']} |")


def test_the_rules_and_the_page_ask_for_what_is_there(tmp_path: Path) -> None:
    with running(tmp_path) as api:
        answer = api.call("GET", "/metrics", token="").text
    text = answer + "".join(f"{family.name} " for family in EngineMetrics(["demo"]).registry.collect())
    logs = RequestLogs({}, (registry := CollectorRegistry()), time.time)
    registry.register(logs)
    text += generate_latest(registry).decode() + ENVIRONMENT_LABEL
    asked = set(re.findall(r"tidegate_[a-z_]+[a-z]", RULES.read_text().split("groups:")[1]))
    told = set(re.findall(r"`(tidegate_[a-z_]+[a-z])`", (ROOT / "docs" / "monitoring.md").read_text()))
    there = set(re.findall(r"tidegate_[a-z_]+[a-z]", text))
    assert asked - there == set()
    assert told - there == set()
