"""The settings that all routers of Tidegate have in common."""

from __future__ import annotations

from ipaddress import IPv4Network, IPv6Network

from pydantic import BaseModel, ConfigDict, Field

MIN_HEADER_BYTES = 8 * 1024
MAX_HEADER_BYTES = 1024 * 1024

Network = IPv4Network | IPv6Network


class RouterOptions(BaseModel):
    """What an owned proxy accepts from clients.

    `trusted_proxies`: networks of load balancers and CDNs in front of it, whose `X-Forwarded-*` headers are passed on;
    those of all other clients are replaced. `accept_proxy_protocol`: each connection begins with a header of the PROXY
    protocol (v1 or v2) that names the client; others are refused. `max_header_bytes`: of all headers of one request.
    """

    model_config = ConfigDict(extra="forbid")
    trusted_proxies: tuple[Network, ...] = ()
    accept_proxy_protocol: bool = False
    max_header_bytes: int = Field(default=16 * 1024, ge=MIN_HEADER_BYTES, le=MAX_HEADER_BYTES)

    def client_options(self) -> list[str]:
        """Those of these settings that are set: an adopted proxy cannot have them, because its owner writes its file."""
        return sorted(self.model_fields_set & set(RouterOptions.model_fields))
