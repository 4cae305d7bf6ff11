#!/usr/bin/env bash
# make check: style, types, docs, unit and property tests. Needs neither root nor Docker nor any server.
#
#   check.sh                 all of it
#   check.sh PART ...        these parts only: style, tests, properties, types
set -euo pipefail
. "$(dirname "$0")/lib.sh"

need_venv dev
cd "$ROOT"
failed=()
step() {
    say "$1"
    shift
    "$@" || failed+=("$*")
}
has() { [[ " $PARTS " == *" $1 "* ]]; }
PARTS="${*:-style tests properties types}"
OUT=$(mktemp)
trap 'rm -f "$OUT"' EXIT
TYPES=
if has types; then
    .venv/bin/mypy >"$OUT" 2>&1 & # uses one processor only, so beside the rest
    TYPES=$!
fi
if has style; then
    step style .venv/bin/ruff check service tests examples scripts
    step format .venv/bin/ruff format --check service tests examples scripts
fi
tests=()
has tests && tests+=(tests/docs tests/unit)
has properties && tests+=(tests/property)
if [ ${#tests[@]} -gt 0 ]; then
    step "${tests[*]}" .venv/bin/python -m pytest -q -n 2 --durations=10 --durations-min=1 "${tests[@]}"
fi
if [ -n "$TYPES" ]; then
    say types
    wait $TYPES || failed+=(mypy)
    cat "$OUT"
fi
if [ ${#failed[@]} -gt 0 ]; then
    die "failed: $(printf '%s; ' "${failed[@]}")"
fi
