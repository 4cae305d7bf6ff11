#!/usr/bin/env bash
# make bench: the benchmarks; each prints a table. Nothing here is a test.
set -euo pipefail
. "$(dirname "$0")/lib.sh"

STATE=$(mktemp -d)
trap 'stop_engine; rm -rf "$STATE"' EXIT
need_packages gcc=gcc /usr/include/stdio.h=libc6-dev haproxy=haproxy prometheus=prometheus mtail=mtail docker=docker.io
need_venv dev
need_engine

cd "$ROOT"
.venv/bin/python tests/bench/bench_rolling.py "$@"
