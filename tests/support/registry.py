"""A registry of the test's own, that can only be pulled from: what an image is known by there is its manifest's digest."""

from __future__ import annotations

import gzip
import hashlib
import http.server
import io
import json
import tarfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import docker

MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"


def _digest(content: bytes) -> str:
    return f"sha256:{hashlib.sha256(content).hexdigest()}"


class Registry:
    """Serves what was put into it, by digest, and manifests also by tag."""

    def __init__(self) -> None:
        self._content: dict[str, bytes] = {}
        self._tags: dict[str, str] = {}
        registry = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                name = self.path.rpartition("/")[2]
                content = registry._content.get(registry._tags.get(name, name))
                if self.path == "/v2/":
                    content = b"{}"
                self.send_response(404 if content is None else 200)
                if content is None:
                    content = b'{"errors": [{"code": "MANIFEST_UNKNOWN", "message": "manifest unknown"}]}'
                    self.send_header("Content-Type", "application/json")
                elif "/manifests/" in self.path:
                    self.send_header("Content-Type", MANIFEST)
                    self.send_header("Docker-Content-Digest", _digest(content))
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                if self.command == "GET":
                    self.wfile.write(content)

            do_HEAD = do_GET  # noqa: N815 - the standard library's name

            def log_message(self, *_: object) -> None:
                """Quiet."""

        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,))

    @property
    def address(self) -> str:
        """What stands before an image's name."""
        return f"127.0.0.1:{self._server.server_address[1]}"

    def put(self, client: docker.DockerClient, image: str, tag: str) -> str:
        """Take an image over from an engine; its digest."""
        saved = io.BytesIO(b"".join(client.api.get_image(image)))
        with tarfile.open(fileobj=saved) as archive:

            def content(name: str) -> bytes:
                found = archive.extractfile(name)
                assert found is not None
                return found.read()

            parts = json.loads(content("manifest.json"))[0]
            config = content(parts["Config"])
            layers = [gzip.compress(content(layer), mtime=0) for layer in parts["Layers"]]
        manifest = {
            "schemaVersion": 2,
            "mediaType": MANIFEST,
            "config": self._entry("application/vnd.docker.container.image.v1+json", config),
            "layers": [self._entry("application/vnd.docker.image.rootfs.diff.tar.gzip", layer) for layer in layers],
        }
        packed = json.dumps(manifest).encode()
        self._content[_digest(packed)] = packed
        self._tags[tag] = _digest(packed)
        return _digest(packed)

    def _entry(self, kind: str, content: bytes) -> dict[str, object]:
        self._content[_digest(content)] = content
        return {"mediaType": kind, "size": len(content), "digest": _digest(content)}

    @contextmanager
    def serving(self) -> Iterator[Registry]:
        """Until the block is left."""
        self._thread.start()
        try:
            yield self
        finally:
            self._server.shutdown()
            self._server.server_close()
            self._thread.join()
