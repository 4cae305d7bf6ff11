#!/usr/bin/env bash
# make test: set up everything, run every level of tests against the real parts, print the slowest.
#
#   test.sh                  all of it
#   test.sh PYTEST-ARGUMENTS these tests only, with everything they need set up
set -euo pipefail
. "$(dirname "$0")/lib.sh"

need_packages gcc=gcc /usr/include/stdio.h=libc6-dev haproxy=haproxy nginx=nginx-light prometheus=prometheus \
    openssl=openssl ip=iproute2 nsenter=util-linux mkfs.ext4=e2fsprogs mount=mount groovy=groovy node=nodejs npm=npm \
    docker-registry=docker-registry \
    /usr/lib/postgresql/15/bin/postgres=postgresql
need_venv dev
begin_run test
need_engine
cd "$ROOT"

if [ $# -gt 0 ]; then
    say "tests: $*"
    .venv/bin/python -m pytest --durations=15 --durations-min=1 "$@"
    exit
fi

# Otherwise every test with containers would wait for its own bound, and none could say why.
reach_container() {
    .venv/bin/python scripts/reach.py && return
    [ ! -e "$RUN/dockerd.log" ] || tail -20 "$RUN/dockerd.log" >&2
    die "the Docker engine's containers cannot be reached: $1"
}

failed=
bash scripts/check.sh || failed=1
reach_container "before the first test that needs one"

# What judges response times has both processors for itself.
FAULTS=tests/acceptance/test_faults.py
say "verdicts on real traffic"
.venv/bin/python -m pytest "$FAULTS" || failed=1
reach_container "after the verdicts"

# Several files at a time. Those with whole rollouts (acceptance) keep the processors busy, most others wait: for bakes, for
# processes, for deadlines. So three of the others follow each of them; the longest come first, or they would be alone at the end.
STORIES=$(printf 'tests/acceptance/test_%s.py\n' outages chaos blue_green killed_proxy killed_engine drift_repair two_engines discovery)
mapfile -t stories < <({ echo "$STORIES"; find tests/acceptance -name 'test_*.py' | sort; } | awk -v faults=$FAULTS '$0 != faults && !seen[$0]++')
mapfile -t others < <(find tests/contract tests/integration -name 'test_*.py' | sort -t / -k 3; echo tests/property/test_rollouts.py)
files=()
for number in "${!stories[@]}"; do
    files+=("${stories[number]}" "${others[@]:number * 3:3}")
done
files+=("${others[@]:${#stories[@]} * 3}")
say "all other tests against the real parts"
EXAMPLES=800 .venv/bin/python -m pytest -n 6 --dist loadfile --no-loadscope-reorder --durations=40 --durations-min=1 \
    "${files[@]}" || failed=1
reach_container "after all tests"
[ -z "$failed" ] || die "some tests failed: see above"
