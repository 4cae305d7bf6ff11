"""The checks of a rollout as JUnit's XML, which CI servers show and compare between builds.

A case for each check and each step that it judged, and one for the rollout itself, so that a file is never without any.
FAIL is a failure. INCONCLUSIVE is skipped, for it is no pass; so is what decides nothing: a shadow check, or a look before
the end of the bake.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from xml.etree import ElementTree as Xml

from tidegate.analysis.verdict import Finding, Outcome, Verdict
from tidegate.core.phases import Phase
from tidegate.core.report.build import Report, StepVerdict
from tidegate.web.views.timestamps import timestamp

MEDIA_TYPE = "application/xml; charset=utf-8"
NOT_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")  # what XML 1.0 has no way to write


def junit(report: Report) -> str:
    """The document, in ASCII."""
    suites = Xml.Element("testsuites", name="tidegate")
    suite = Xml.SubElement(
        suites, "testsuite", name=_plain(f"{report.service} {report.new}"), timestamp=timestamp(report.created)
    )
    _rollout(suite, report)
    for judged in _last_of_each_step(report.verdicts):
        for finding in judged.verdict.findings:
            _check(suite, report, judged, finding)
    _count(suite)
    Xml.indent(suites)
    text: bytes = Xml.tostring(suites, encoding="us-ascii", xml_declaration=True)
    return text.decode() + "\n"


def _last_of_each_step(verdicts: Iterable[StepVerdict]) -> list[StepVerdict]:
    """On the way forward; what a step was left with is its last verdict."""
    last = {verdict.step: verdict for verdict in verdicts if verdict.phase is Phase.RUNNING}
    return [last[step] for step in sorted(last)]


def _rollout(suite: Xml.Element, report: Report) -> None:
    case = _case(suite, report, "rollout", report.seconds)
    if report.phase in (Phase.ROLLED_BACK, Phase.FAILED, Phase.ROLLING_BACK):
        _add(case, "failure", report.reason, report.summary, type=report.phase.value)
    elif report.phase is not Phase.SUCCEEDED:
        _add(case, "skipped", report.summary)
    else:
        _add(case, "system-out", text=report.summary)


def _check(suite: Xml.Element, report: Report, judged: StepVerdict, finding: Finding) -> None:
    verdict = judged.verdict
    case = _case(suite, report, f"step {judged.step + 1}: {finding.check}", verdict.window.seconds)
    undecided = _undecided(verdict, finding)
    if undecided:
        _add(case, "skipped", f"{undecided}: {finding.message}")
    elif finding.outcome is Outcome.FAIL:
        _add(case, "failure", finding.message, verdict.message, type=finding.reason.value)
    else:
        _add(case, "system-out", text=finding.message)


def _undecided(verdict: Verdict, finding: Finding) -> str:
    """Why its answer is neither a pass nor a failure; empty when it is one."""
    if finding.shadow:
        return f"a shadow check decides nothing, {finding.outcome.value}"
    if finding.outcome is Outcome.INCONCLUSIVE:
        return finding.reason.value
    early = not verdict.final and finding.outcome is Outcome.PASS
    return "the bake was not over" if early else ""


def _case(suite: Xml.Element, report: Report, name: str, seconds: float | None) -> Xml.Element:
    """Named without the release, so that builds can be compared."""
    place = report.service.replace("/", ".")
    return Xml.SubElement(suite, "testcase", classname=_plain(place), name=_plain(name), time=f"{seconds or 0.0:.3f}")


def _add(case: Xml.Element, tag: str, message: str = "", text: str = "", **more: str) -> None:
    attributes = {"message": _plain(message), **more} if message else more
    Xml.SubElement(case, tag, attributes).text = _plain(text)


def _count(suite: Xml.Element) -> None:
    cases = suite.findall("testcase")
    counted = {tag: sum(case.find(tag) is not None for case in cases) for tag in ("failure", "skipped")}
    seconds = sum(float(case.get("time", "0")) for case in cases if case.get("name") != "rollout")
    suite.attrib |= {
        "tests": str(len(cases)),
        "failures": str(counted["failure"]),
        "errors": "0",
        "skipped": str(counted["skipped"]),
        "time": f"{seconds:.3f}",
    }


def _plain(text: str) -> str:
    return NOT_XML.sub("\ufffd", text)
