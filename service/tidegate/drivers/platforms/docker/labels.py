"""The labels by which Tidegate knows its containers."""

from __future__ import annotations

PREFIX = "tidegate."
ENVIRONMENT, SERVICE, RELEASE, ORDINAL, IMAGE = (
    PREFIX + word for word in ("environment", "service", "release", "ordinal", "image")
)
PORT, PROBE = PREFIX + "port", PREFIX + "probe"  # what takes traffic; how readiness is asked: "seconds port path"
WANTS = PREFIX + "wants"  # what is put in between creating and starting it: "files", "networks", or both
