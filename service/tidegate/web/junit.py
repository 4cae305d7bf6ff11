"""The report of a rollout as JUnit XML, which CI servers display and compare between builds.

There is one test case per check and step, and one for the rollout itself, so that the file is never empty. FAIL is a
failure. INCONCLUSIVE is skipped, because it is not a pass. A result that does not decide anything is skipped too: that of a
shadow check, and a PASS before the end of the bake.
"""

from __future__ import annotations

import io
import re
from collections.abc import Iterable

from junitparser import Failure, JUnitXml, Skipped, TestCase, TestSuite

from tidegate.analysis.verdict import Finding, Outcome, Verdict
from tidegate.core.phases import Phase
from tidegate.core.report.build import Report, StepVerdict
from tidegate.web.views.timestamps import timestamp

MEDIA_TYPE = "application/xml; charset=utf-8"
NOT_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")  # characters that XML 1.0 cannot represent


def junit(report: Report) -> str:
    """The document. Non-ASCII characters are written as references, so that no client can misread the encoding."""
    suite = TestSuite(_clean(f"{report.service} {report.new}"))
    suite.timestamp = timestamp(report.created)
    suite.add_testcases(
        [
            _rollout_case(report),
            *(
                _check_case(report, step, finding)
                for step in _last_of_each_step(report.verdicts)
                for finding in step.verdict.findings
            ),
        ]
    )
    suite.time = round(report.seconds or 0.0, 3)  # the cases overlap, so their sum is too long
    document, file = JUnitXml("tidegate"), io.BytesIO()
    document.add_testsuite(suite)
    document.write(file)
    return file.getvalue().decode().encode("ascii", "xmlcharrefreplace").decode() + "\n"


def _last_of_each_step(verdicts: Iterable[StepVerdict]) -> list[StepVerdict]:
    """The last verdict of each step, without those of a rollback."""
    last = {verdict.step: verdict for verdict in verdicts if verdict.phase is Phase.RUNNING}
    return [last[step] for step in sorted(last)]


def _rollout_case(report: Report) -> TestCase:
    case = _case(report, "rollout", report.seconds)
    if report.phase in (Phase.ROLLED_BACK, Phase.REFUSED, Phase.FAILED, Phase.ROLLING_BACK):
        _fail(case, report.reason, report.summary, report.phase.value)
    elif report.phase is not Phase.SUCCEEDED:
        case.result = Skipped(_clean(report.summary))
    else:
        case.system_out = _clean(report.summary)
    return case


def _check_case(report: Report, step: StepVerdict, finding: Finding) -> TestCase:
    case = _case(report, f"step {step.step + 1}: {finding.check}", step.verdict.window.seconds)
    reason = _skip_reason(step.verdict, finding)
    if reason:
        case.result = Skipped(_clean(f"{reason}: {finding.message}"))
    elif finding.outcome is Outcome.FAIL:
        _fail(case, finding.message, step.verdict.message, finding.reason.value)
    else:
        case.system_out = _clean(finding.message)
    return case


def _skip_reason(verdict: Verdict, finding: Finding) -> str:
    """Why the result is neither a pass nor a failure; empty if it is one."""
    if finding.shadow:
        return f"shadow check, does not affect the verdict, {finding.outcome.value}"
    if finding.outcome is Outcome.INCONCLUSIVE:
        return finding.reason.value
    early = not verdict.final and finding.outcome is Outcome.PASS
    return "before the end of the bake" if early else ""


def _case(report: Report, name: str, seconds: float | None) -> TestCase:
    """A test case whose name does not contain the release, so that builds can be compared."""
    return TestCase(_clean(name), _clean(report.service.replace("/", ".")), round(seconds or 0.0, 3))


def _fail(case: TestCase, message: str, text: str, kind: str) -> None:
    failure = Failure(_clean(message), kind)
    failure.text = _clean(text)
    case.result = failure


def _clean(text: str) -> str:
    return NOT_XML.sub("\ufffd", text)
