"""Attacks at the edges, as whole stories on real parts: clients of one service who want to hold up all others."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from datetime import datetime
from typing import Any

from parts import DemoStack
from processes import free_port
from support.wait import at_most
from tidegate.core.routing import split_listen
from tidegate.testing.websocket import WebSocket

SERVICE = """\
  {name}:
    image: tidegate-edges:${{VERSION}}
    expose: ["8080"]
    environment: {{SERVICE_MS: "1", ON_SIGTERM: exit}}
    stop_grace_period: 1s
    x-tidegate: {{listen: "{listen}", health: {{path: /health}}, drain_timeout: {drain}}}
"""
IMAGES = {f"tidegate-edges:{version}": {"VERSION": version} for version in ("v1", "v2")}
HALF_A_REQUEST = b"GET / HTTP/1.1\r\nHost: x\r\nX-Slow: "
A_BODY_WITHOUT_END = b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\nx"


@contextmanager
def holders(listen: str) -> Iterator[WebSocket]:
    """A WebSocket, half a request, and a body without end, all as long as they are let."""
    with ExitStack() as stack:
        for sent in (HALF_A_REQUEST, A_BODY_WITHOUT_END):
            client = stack.enter_context(socket.create_connection(("127.0.0.1", split_listen(listen)[1])))
            client.sendall(sent)
        spoken = stack.enter_context(WebSocket(listen, "/ws"))
        assert spoken.echo(b"open") == b"open"
        yield spoken


DRAIN_SECONDS = 2.0  # of the service that is attacked; any other would wait for ten minutes


def test_clients_who_stay_hold_up_no_rollout(stage: DemoStack) -> None:
    """Those of another service are not waited for, through reloads and at the last step; those of its own have its drain
    time. (Of HAProxy with reloads: contract/test_haproxy_reloads.py.)"""
    stage.start(IMAGES, router="nginx")
    other = f"127.0.0.1:{free_port()}"
    services = (("shop", stage.listen, "10m"), ("other", other, f"{DRAIN_SECONDS:g}s"))
    file = stage.home / "compose.yaml"
    text = (SERVICE.format(name=name, listen=listen, drain=drain) for name, listen, drain in services)
    file.write_text("services:\n" + "".join(text))

    def deploy(service: str, version: str) -> list[dict[str, Any]]:
        """The events of a rollout that succeeds."""
        name = f"{stage.environment}/{service}"
        stage.tidegate("deploy", name, "-f", str(file), "--set", f"VERSION={version}")
        rollout = stage.api(f"/v1/rollouts?service={name}&limit=1")["rollouts"][0]
        assert rollout["phase"] == "succeeded"
        events: list[dict[str, Any]] = stage.api(f"/v1/rollouts/{rollout['id']}/events")["events"]
        return events

    deploy("other", "v1")
    with holders(other) as held:
        with at_most(300, "two rollouts of a service whose clients are not waited for"):
            for version in ("v1", "v2"):  # nginx is reloaded for each
                deploy("shop", version)
        assert held.echo(b"still") == b"still"
        at = {event["kind"]: datetime.fromisoformat(event["at"]) for event in deploy("other", "v2")}
        assert (at["stopped"] - at["traffic_shifted"]).total_seconds() > DRAIN_SECONDS
