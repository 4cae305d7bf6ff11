#!/usr/bin/env bash
# make test: set up everything, run every level of tests against the real parts, print the slowest.
set -euo pipefail
. "$(dirname "$0")/lib.sh"

STATE=$(mktemp -d)
trap 'kill $(jobs -p) 2>/dev/null || true; stop_engine; rm -rf "$STATE"' EXIT
need_packages gcc=gcc /usr/include/stdio.h=libc6-dev haproxy=haproxy prometheus=prometheus mtail=mtail openssl=openssl ip=iproute2 groovy=groovy node=nodejs npm=npm
need_venv dev
need_engine

cd "$ROOT"
say "style and types"
.venv/bin/ruff check service tests examples
.venv/bin/ruff format --check service tests examples
.venv/bin/mypy

# The people's stories mostly wait, for bakes and for traffic; the other tests mostly compute: so they run side by side.
lane() {  # lane NAME PATH...: one pytest of its own, told in a file
    local name=$1
    shift
    .venv/bin/python -m pytest --durations=15 --durations-min=1 -o "cache_dir=.cache/pytest-$name" "$@" >"$STATE/$name.log" 2>&1
}

if [ $# -gt 0 ]; then
    say "tests: $*"
    .venv/bin/python -m pytest --durations=15 --durations-min=1 "$@"
    exit
fi
say "tests: the stories in tests/acceptance, and beside them all others"
lane stories tests/acceptance &
STORIES=$!
lane others tests --ignore=tests/acceptance &
OTHERS=$!
tail --pid="$OTHERS" -n +1 -F "$STATE/others.log" 2>/dev/null || true
FAILED=0
wait "$OTHERS" || FAILED=$?
say "the stories"
tail --pid="$STORIES" -n +1 -F "$STATE/stories.log" 2>/dev/null || true
wait "$STORIES" || FAILED=$?
exit "$FAILED"
