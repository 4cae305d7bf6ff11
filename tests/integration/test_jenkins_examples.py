"""Every Jenkinsfile of the project, as it stands, against a live service; the job definitions that go with them."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from support.api import compose
from support.fake_drivers import constant
from support.library import CHECKED, LIBRARY, Build, Jenkins, approves, java, rejects
from support.prerequisites import program
from tidegate.compose.loader import load_service
from tidegate.core.model import CheckKind

ROOT = LIBRARY.parent
EXAMPLES = ROOT / "examples" / "jenkins"
JENKINSFILES = sorted(EXAMPLES.glob("Jenkinsfile.*"))
GATED = "approval: {after: [1]}, drain_timeout: 1s, healthy_deadline: 20s"


def readme() -> str:
    """The Jenkinsfile in README.md."""
    found = re.search(r"```groovy\n(@Library.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    assert found is not None
    return found[1]


def renamed(jenkinsfile: str, url: str) -> str:
    """With the address, the environment and the service that the test has."""
    return re.sub(r"\b(production|staging)/\w+", "demo/shop", jenkinsfile).replace("https://tidegate.example.com", url)


def run(jenkins: Jenkins, jenkinsfile: str, *gates: dict[str, object], **more: object) -> Build:
    """A build of `main` with this Jenkinsfile; its repository has the Compose file wherever it is looked for."""
    token = jenkins.api.token_for("deploy", "promote", "rollback", "vouch")
    jenkins.api.world.answer = constant(0.1)
    names = ("compose.yaml", "shop/compose.yaml", "search/compose.yaml")
    options = f"{GATED}, {CHECKED}" if "tidegateVerify" in jenkinsfile else GATED  # each bake takes a second
    repository = {name: compose(options).replace("replicas: 3", "replicas: 2") for name in names} | {"shop/web.env": "A=1"}
    environment = {"TIDEGATE_URL": jenkins.api.url, "JOB_NAME": jenkins.job, "BUILD_NUMBER": str(jenkins.number)}
    return jenkins.build(
        jenkinsfile=renamed(jenkinsfile, jenkins.api.url),
        files=None,
        repository=repository,
        env=environment | {"BUILD_URL": f"http://ci/{jenkins.number}/", "BRANCH_NAME": "main"},
        credentials=dict.fromkeys(("tidegate-token", "tidegate-staging", "tidegate-production"), token),
        causes=[{"userId": "bob"}],
        script=list(gates),
        **more,
    )


def test_the_jenkinsfile_of_the_readme_runs_as_it_stands(jenkins: Jenkins) -> None:
    """The service does not know it before. Its steps are those on a fresh Jenkins: no agent, no plugin beyond the list."""
    build = run(jenkins, readme(), approves())
    text = jenkins.expect("README: the Jenkinsfile", build, "SUCCESS")
    assert "demo/shop: 7-2 is live" in text
    assert build["inputs"][0]["submitter"] == "alice,release-managers,tidegate"
    assert jenkins.latest()["phase"] == "succeeded"


@pytest.mark.parametrize("file", JENKINSFILES, ids=lambda file: file.suffix[1:])
def test_an_example_runs_as_it_stands(jenkins: Jenkins, file: Path) -> None:
    """Those that deploy twice deploy the same service twice here."""
    text = file.read_text()
    build = run(jenkins, separated(text), *[approves()] * 9)
    jenkins.expect(f"example: {file.name}", build, "SUCCESS")
    assert jenkins.latest()["phase"] == "succeeded"
    assert all("tidegate" in str(gate["submitter"]).split(",") for gate in build["inputs"]), "the user of the CI driver"
    assert build["inputs"], "each example has a gate"


def separated(jenkinsfile: str) -> str:
    """With another variable for each deployment, since one service stands for all of them here."""
    count = 0

    def number(match: re.Match[str]) -> str:
        nonlocal count
        count += 1
        return f"[VERSION: 'r{count}']" if count > 1 else match[0]

    return re.sub(r"\[VERSION: (env\.BUILD_NUMBER|version)\]", number, jenkinsfile)


@pytest.mark.parametrize("kind", ["multibranch", "scripted"])  # the others end as the README's does
def test_an_example_leaves_no_rollout_behind(jenkins: Jenkins, kind: str) -> None:
    file = EXAMPLES / f"Jenkinsfile.{kind}"
    abort = {"abort": {"step": "httpRequest", "match": "GET .*/report"}}
    build = run(jenkins, file.read_text(), abort)
    assert build["result"] in ("ABORTED", "FAILURE"), build["echo"]
    jenkins.api.until(jenkins.latest()["id"], "rolled_back", "succeeded")


def test_a_step_that_fails_between_the_stages_rolls_back(jenkins: Jenkins) -> None:
    """Without `post` the rollout would wait for an approval that no build asks for any more."""
    text = readme().replace("steps { tidegateVerify() }", "steps { sh 'run the integration tests' }")
    build = run(jenkins, text, sh={"integration tests": 1})
    jenkins.expect("README: a step fails between the stages", build, "FAILURE")
    assert jenkins.latest()["phase"] == "rolled_back"
    without = re.sub(r"(?m)^ *post .*$", "", text)
    jenkins.number = 8
    run(jenkins, without.replace("env.BUILD_NUMBER", "'w'"), sh={"integration tests": 1})
    assert jenkins.waiting()["phase"] == "running", "the test of this test"


@pytest.mark.parametrize("file", [*JENKINSFILES, ROOT / "Jenkinsfile", ROOT / "README.md"], ids=lambda file: file.name)
def test_every_jenkinsfile_rolls_back_what_it_leaves(file: Path) -> None:
    text = file.read_text()
    assert re.search(r"unsuccessful \{ tidegateRollback|catch \(problem\) \{(?s:.*)tidegateRollback", text)
    for submitter in re.findall(r"submitter: '([^']*)'", text):
        assert "tidegate" in submitter.split(","), "the CI driver's user may end the gate"


def test_the_compose_file_of_the_readme_can_be_judged_as_the_quickstart_sets_it_up() -> None:
    """Its checks need what the proxy itself counts, and no series of the application."""
    text = (ROOT / "README.md").read_text()
    found = re.search(r"```yaml\n(services:.*?)```", text, re.DOTALL)
    assert found is not None
    service = load_service(found[1], "shop", "production", {"VERSION": "v2"})
    assert [check.kind for check in service.checks] == [CheckKind.ERRORS]
    quickstart = (ROOT / "docs" / "quickstart.md").read_text()
    assert re.search(r'exporter = "(.*?)"', quickstart)[1] in re.findall(r'targets: \["(.*?)"\]', quickstart)  # type: ignore[index]


# -- without the library -------------------------------------------------------------------------------------------------


def cli_pipeline() -> str:
    """The pipeline in docs/jenkins.md that uses the command line."""
    text = (ROOT / "docs" / "jenkins.md").read_text().partition("## Without the library")[2]
    found = re.search(r"```groovy\n(pipeline.*?)```", text, re.DOTALL)
    assert found is not None
    return found[1]


def run_cli(jenkins: Jenkins, pipeline: str, *gates: dict[str, object]) -> Build:
    """A build whose `sh` steps run the real command line."""
    (jenkins.folder / "compose.yaml").write_text(compose(GATED))
    token = jenkins.api.token_for("deploy", "promote", "rollback", "vouch")
    job = {"JOB_NAME": jenkins.job, "BUILD_NUMBER": str(jenkins.number), "BUILD_TAG": f"jenkins-shop-{jenkins.number}"}
    return jenkins.build(
        jenkinsfile=renamed(pipeline, jenkins.api.url),
        env=job | {"BUILD_URL": "http://ci/7/", "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"},
        credentials={"tidegate-cli": token},
        shell=str(jenkins.folder),
        script=list(gates),
    )


@pytest.fixture
def jq() -> None:
    program("jq")


@pytest.mark.usefixtures("jq")
def test_the_pipeline_without_the_library_runs_as_it_stands(jenkins: Jenkins) -> None:
    build = run_cli(jenkins, cli_pipeline(), approves("alice"))
    jenkins.expect("without the library: approved", build, "SUCCESS")
    assert jenkins.latest()["phase"] == "succeeded"
    assert jenkins.latest()["build"]["job"] == jenkins.job
    assert [entry["by"] for entry in jenkins.audit("promote")] == ["alice"]
    assert jenkins.count() == 2, "the second `tidegate deploy` follows the rollout of the first"


@pytest.mark.usefixtures("jq")
def test_the_pipeline_without_the_library_rolls_back_when_it_is_rejected(jenkins: Jenkins) -> None:
    build = run_cli(jenkins, cli_pipeline(), rejects())
    jenkins.expect("without the library: rejected", build, "ABORTED")
    assert jenkins.latest()["phase"] == "rolled_back"


# -- job definitions -----------------------------------------------------------------------------------------------------


def test_the_configuration_as_code_has_the_credential_that_the_steps_use() -> None:
    document = yaml.safe_load((EXAMPLES / "casc.yaml").read_text())
    (domain,) = document["credentials"]["system"]["domainCredentials"]
    (credential,) = domain["credentials"]
    assert credential["usernamePassword"]["id"] == "tidegate-token"
    assert credential["usernamePassword"]["password"].startswith("${"), "no secret in the file"
    (library,) = document["unclassified"]["globalLibraries"]["libraries"]
    assert library["name"] == "tidegate"
    assert (ROOT / library["retriever"]["modernSCM"]["libraryPath"] / "vars").is_dir()
    (jobs,) = document["jobs"]
    assert (EXAMPLES / Path(jobs["file"]).name).exists()


def test_the_job_dsl_creates_a_folder_and_a_multibranch_job() -> None:
    """Run with a stand-in for the plugin that prints each name, with its text."""
    stand_in = f"""
        class Printer {{
            Object invokeMethod(String name, Object arguments) {{
                List given = arguments as List
                println name + ' ' + given.findAll {{ !(it instanceof Closure) }}.join(' ')
                given.findAll {{ it instanceof Closure }}.each {{
                    it.delegate = this
                    it.resolveStrategy = Closure.DELEGATE_ONLY
                    it.call()
                }}
            }}
        }}
        def body = new GroovyShell().evaluate('return {{ -> ' + new File('{EXAMPLES}/jobs.groovy').text + ' }}')
        body.delegate = new Printer()
        body.resolveStrategy = Closure.DELEGATE_ONLY
        body.call()
    """
    words = [program("groovy"), "-e", stand_in]
    done = subprocess.run(words, env=java(), capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    for line in ("folder shop", "multibranchPipelineJob shop/deploy", "name tidegate", "libraryPath shared-library/"):
        assert line in lines
