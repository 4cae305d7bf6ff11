"""The settings of an HAProxy, owned and adopted."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Literal

from pydantic import Field, ValidationInfo, field_validator, model_validator

from tidegate.drivers.routers.options import LimitedRouterOptions, require_socket_path

MAX_SOCKET_PATH_BYTES = 97  # of 107 HAProxy keeps 10 for the temporary name of a socket that it is about to replace
CHECKED_SOCKET = "master.sock"  # the longest name of its sockets
NO_LOG = "off"
OWNED_ONLY = frozenset({"hard_stop_after_seconds", "max_connections"})
LOG_ADDRESS = re.compile(r"/[^\s\"'#]{1,96}|[A-Za-z0-9.:\[\]-]+:\d{1,5}")


class HAProxyOptions(LimitedRouterOptions):
    """`owned`: Tidegate writes `directory`/haproxy.cfg and runs HAProxy. `adopted`: Tidegate uses a running HAProxy."""

    mode: Literal["owned", "adopted"] = "owned"
    directory: Path = Path("/var/lib/tidegate/haproxy")  # adopted: holds Tidegate's state file only
    exporter: str = "127.0.0.1:8405"
    log: str = ""  # "off": no response times; adopted: where to receive the log, the path of a Unix socket or host:port
    hard_stop_after_seconds: int = Field(default=86_400, ge=1, le=30 * 86_400)  # owned: of a process after a reload
    binary: str = "haproxy"
    socket: Path | None = None
    config: Path | None = None
    master: Path | None = None

    @field_validator("directory")
    @classmethod
    def _has_room_for_sockets(cls, directory: Path, info: ValidationInfo) -> Path:
        if info.data.get("mode") == "owned":
            require_socket_path(directory, CHECKED_SOCKET, MAX_SOCKET_PATH_BYTES, "HAProxy")
        return directory

    @model_validator(mode="after")
    def _check_mode(self) -> HAProxyOptions:
        if self.mode == "adopted" and (self.socket is None or self.config is None):
            raise ValueError("mode adopted requires socket (a stats socket with level admin) and config (HAProxy's file)")
        if self.mode == "owned" and self.log not in ("", NO_LOG):
            raise ValueError(f"log must be {NO_LOG!r} or left out in mode owned, which logs to a pipe in directory")
        if self.log not in ("", NO_LOG) and not LOG_ADDRESS.fullmatch(self.log):
            raise ValueError(
                f"log must be the absolute path of a Unix socket (at most 97 characters), host:port, or {NO_LOG!r}"
            )
        own = sorted({*self.client_options(), *(OWNED_ONLY & self.model_fields_set)})
        if self.mode == "adopted" and own:
            raise ValueError(f"{', '.join(own)} require mode owned; in mode adopted your own file decides that")
        if self.mode == "owned" and (self.socket or self.config or self.master):
            raise ValueError("socket, config and master require mode adopted; mode owned creates its own in directory")
        return self
