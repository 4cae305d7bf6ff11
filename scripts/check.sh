#!/usr/bin/env bash
# make check: style, types, docs, unit and property tests. Needs neither root nor Docker nor any server.
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
OUT=$(mktemp)
trap 'rm -f "$OUT"' EXIT
.venv/bin/mypy >"$OUT" 2>&1 & # uses one processor only, so beside the rest
TYPES=$!
step style .venv/bin/ruff check service tests examples scripts
step format .venv/bin/ruff format --check service tests examples scripts
step "docs, unit and property tests" .venv/bin/python -m pytest -q -n 2 --durations=10 --durations-min=1 tests/docs tests/unit tests/property
say types
wait $TYPES || failed+=(mypy)
cat "$OUT"
if [ ${#failed[@]} -gt 0 ]; then
    die "failed: $(printf '%s; ' "${failed[@]}")"
fi
