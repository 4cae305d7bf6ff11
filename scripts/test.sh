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
# Most tests wait: for bakes, for traffic, for processes. So several files at a time, the longest first, which would be alone
# at the end. What judges response times in ten services at once stands beside tests that wait the most, and is over when
# they are: all others keep every core busy. By their names, those that wait and those that compute are well mixed.
FAULTS=tests/acceptance/test_faults.py
WAITING=$(printf 'tests/acceptance/test_%s.py ' outages killed_engine discovery two_engines tending)
MIXED=$(find tests/contract tests/integration -name 'test_*.py' | sort -t / -k 3)
failed=
side_by_side() { .venv/bin/python -m pytest --dist loadfile --no-loadscope-reorder --durations=30 --durations-min=1 "$@" || failed=1; }
say "tests of verdicts, and those that wait"
side_by_side -n 3 $FAULTS $WAITING
say "all other tests"
side_by_side -n 4 $(printf -- '--ignore=%s ' $FAULTS $WAITING) tests/acceptance $MIXED tests/property tests/unit tests/docs
[ -z "$failed" ]
