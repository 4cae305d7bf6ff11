"""Reading the services of a Compose file that run to completion before another one starts: its jobs. Pure."""

from __future__ import annotations

from collections.abc import Iterator

from tidegate.compose.container_keys import read_container
from tidegate.compose.depends_on import Dependencies, read_depends_on
from tidegate.compose.document import ServiceDocument, extract_service
from tidegate.compose.files import ComposeFiles
from tidegate.compose.interpolation import Variables
from tidegate.compose.reader import Findings, Reader, image
from tidegate.compose.unsupported import reject_unsupported
from tidegate.core.compose import ComposeDependency
from tidegate.core.container import Health
from tidegate.core.hooks import Hook, job_name

JOB_SECONDS = 3600.0  # a job that takes longer has failed


class JobReader:
    """Reads the jobs of one service. `jobs` are in the order in which they must run; `others` is what `docker compose` must
    run for them."""

    def __init__(
        self, raw: object, root: Reader, document: ServiceDocument, variables: Variables, files: ComposeFiles
    ) -> None:
        self._raw, self._variables, self._files = raw, variables, files
        self._findings, self._location = root.findings, document.location
        self._service, self._build, self._image = document.service, root.values.get("build"), root.values.get("image")
        self.jobs: dict[str, Hook] = {}
        self.others: list[ComposeDependency] = []
        self.names: set[str] = set()

    def read(self, wanted: Dependencies) -> None:
        """Read the jobs in these dependencies, each after those that it depends on itself."""
        self.others += wanted.others
        for name in wanted.jobs:
            if name not in self.names:  # a cycle is reported where the dependencies are read
                self.names.add(name)
                job = self._read_job(name)
                self.jobs[job_name(name)] = job

    def _read_job(self, name: str) -> Hook:
        document = extract_service(self._raw, name, self._variables, self._findings, self._location)
        root = Reader(document.body, f"services.{name}", self._findings, extensible=True)
        deploy = root.inner("deploy")
        dependencies = read_depends_on(root, document)
        for service in dependencies.ours:
            root.complain("depends_on", f"{service} has x-tidegate, and a job runs before what Tidegate deploys")
        self.read(dependencies)
        container = read_container(root, deploy, Health(run_seconds=0.0), 0, document, self._variables, self._files)
        own_image = self._read_image(root)
        job = Hook(command=(), image=own_image, container=container, timeout_seconds=JOB_SECONDS)
        root.tolerate("build", "ports", "expose", "scale", "healthcheck", "restart")
        deploy.tolerate("replicas", "update_config", "restart_policy")
        reject_unsupported(root, deploy)
        Reader.finish_all(deploy, root)
        return job

    def _read_image(self, root: Reader) -> str:
        """The job's image; empty for that of the release, which it runs if it has the image or the build of the service."""
        written = root.take("image", image, "")
        if "image" in root:
            if "build" in root:
                root.note("build", "ignored: the image is used")
            return "" if root.values["image"] == self._image else written
        if "build" not in root or root.values["build"] != self._build:
            root.complain("image", "is required, unless the job has the same `build` as the service")
        else:
            root.note("build", f"the image of {self._service} is used, which has the same build")
        return ""

    def documents(self) -> Iterator[dict[str, object]]:
        """A Compose document for each job, for the check against Compose's schema."""
        for name in sorted(self.names):
            yield extract_service(self._raw, name, self._variables, Findings(), self._location).as_document
