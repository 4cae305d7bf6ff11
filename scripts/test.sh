#!/usr/bin/env bash
# make test: set up everything, run every level of tests against the real parts, print the slowest.
set -euo pipefail
. "$(dirname "$0")/lib.sh"

STATE=$(mktemp -d)
trap 'stop_engine; rm -rf "$STATE"' EXIT
need_packages gcc=gcc /usr/include/stdio.h=libc6-dev haproxy=haproxy nginx=nginx-light prometheus=prometheus mtail=mtail openssl=openssl ip=iproute2 nsenter=util-linux mkfs.ext4=e2fsprogs mount=mount groovy=groovy node=nodejs npm=npm /usr/lib/postgresql/15/bin/postgres=postgresql
need_venv dev
need_engine

cd "$ROOT"
say "style and types"
.venv/bin/ruff check service tests examples
.venv/bin/ruff format --check service tests examples
.venv/bin/mypy

if [ $# -gt 0 ]; then
    say "tests: $*"
    .venv/bin/python -m pytest --durations=15 --durations-min=1 "$@"
    exit
fi
# Most tests wait: for bakes, for traffic, for processes. So several files at a time, the people's stories first: they are the
# longest, and would be alone at the end. Only what judges response times stands beside tests that are light or wait, for
# beside three others it measures them.
FAULTS=tests/acceptance/test_faults.py
WAITING="tests/acceptance/test_killed_engine.py tests/acceptance/test_tending.py"
failed=
side_by_side() { .venv/bin/python -m pytest --dist loadfile --no-loadscope-reorder --durations=30 --durations-min=1 "$@" || failed=1; }
say "tests of verdicts, and those that are light or wait"
side_by_side -n 2 $FAULTS $WAITING tests/unit tests/property tests/docs
say "all other tests"
side_by_side -n 3 $(printf -- '--ignore=%s ' $FAULTS $WAITING) tests/acceptance tests/contract tests/integration
[ -z "$failed" ]
