#!/usr/bin/env bash
# make bench: the benchmarks that need containers; each prints a table. Nothing here is a test.
#
#   bench.sh [--rounds 5 …]            how long a rolling update takes, and a short run of the next one
#   bench.sh dataplane [--only …]      what clients lose at 200 switches of each proxy and of other ways: about an hour
set -euo pipefail
. "$(dirname "$0")/lib.sh"

need_packages gcc=gcc /usr/include/stdio.h=libc6-dev haproxy=haproxy nginx=nginx-light prometheus=prometheus docker=docker.io
need_venv dev
begin_run bench
need_engine

cd "$ROOT"
if [ "${1:-}" = dataplane ]; then
    shift
    .venv/bin/python tests/bench/bench_dataplane.py "$@"
else
    .venv/bin/python tests/bench/bench_rolling.py "$@"
    .venv/bin/python tests/bench/bench_dataplane.py --switches 10 --requests 10000 --kills 50
fi
