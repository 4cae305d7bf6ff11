"""The labels of Tidegate's containers."""

from __future__ import annotations

PREFIX = "tidegate."
ENVIRONMENT, SERVICE, RELEASE, ORDINAL, IMAGE = (
    PREFIX + word for word in ("environment", "service", "release", "ordinal", "image")
)
COMPOSE = "com.docker.compose."  # Docker Compose's own labels
COMPOSE_PROJECT, COMPOSE_SERVICE, COMPOSE_ONEOFF = (COMPOSE + word for word in ("project", "service", "oneoff"))
COMPOSE_NUMBER, COMPOSE_HASH = COMPOSE + "container-number", COMPOSE + "config-hash"
COMPOSE_VOLUME, COMPOSE_NETWORK = COMPOSE + "volume", COMPOSE + "network"
PORT, PROBE = PREFIX + "port", PREFIX + "probe"  # the port for traffic; how readiness is checked, as JSON
HEADERS_VARIABLE = "TIDEGATE_HEALTH_HEADERS"  # as JSON; a variable, since programs export labels and values may be secrets
WANTS = PREFIX + "wants"  # added between creation and start: "files", "networks", or both
