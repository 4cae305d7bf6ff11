#!/usr/bin/env bash
# make demo: set up everything, then watch a good release go through and bad ones turn back.
set -euo pipefail
. "$(dirname "$0")/lib.sh"

STATE=$(mktemp -d)
trap 'stop_engine; rm -rf "$STATE"' EXIT
need_packages gcc=gcc /usr/include/stdio.h=libc6-dev haproxy=haproxy prometheus=prometheus mtail=mtail
need_venv run
need_engine
[ -z "${KEEP:-}" ] || STARTED_DOCKERD= # what keeps running needs its engine

cd "$ROOT"
.venv/bin/python examples/demo/demo.py ${KEEP:+--keep} "$@"
