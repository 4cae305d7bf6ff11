#!/usr/bin/env bash
# make test: set up everything, run every level of tests against the real parts, print the slowest.
#
#   test.sh                  all of it
#   test.sh PYTEST-ARGUMENTS these tests only, with everything they need set up
set -euo pipefail
. "$(dirname "$0")/lib.sh"

# Debian's packages come while Python's are installed, and while `make check` runs, which needs none of them.
need_packages gcc=gcc /usr/include/stdio.h=libc6-dev haproxy=haproxy nginx=nginx-light prometheus=prometheus \
    openssl=openssl ip=iproute2 nsenter=util-linux chrt=util-linux ps=procps mkfs.ext4=e2fsprogs mount=mount \
    groovy=groovy jq=jq node=nodejs npm=npm docker-registry=docker-registry \
    /usr/lib/postgresql/15/bin/postgres=postgresql &
PACKAGES=$!
need_venv dev
begin_run test
cd "$ROOT"

if [ $# -gt 0 ]; then
    wait $PACKAGES || exit 1
    need_engine
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
bash scripts/check.sh style tests || failed=1
wait $PACKAGES || exit 1
need_engine
reach_container "before the first test that needs one"

# What judges response times has both processors for itself: what computes meanwhile does so only while one is idle, and has no
# bounds in time, as on a busy machine it would hardly run before the verdicts are over.
FAULTS=tests/acceptance/test_faults.py
say "verdicts on real traffic"
setsid chrt --idle 0 bash scripts/check.sh properties types >"$RUN/check.log" 2>&1 &
CHECK=$!
.venv/bin/python -m pytest "$FAULTS" || failed=1
reach_container "after the verdicts"
for pid in $(ps -o pid= -s $CHECK); do # what is not over yet gets its share from here on
    chrt --other --all-tasks --pid 0 "$pid" 2>/dev/null || true
done

# Several files at a time. Those with whole rollouts (acceptance) keep the processors busy, most others wait: for bakes, for
# processes, for deadlines. So three of the others follow each of them. Of both, the longest come first, or they would be alone
# at the end; the lists are in the order of measured times, and files that they do not name are short.
STORIES=(outages drift_repair killed_proxy demo killed_engine two_engines chaos blue_green import health commands soak
    refused queue_workers zero_downtime discovery one_writer)
OTHERS=(contract/test_haproxy_crash integration/test_secrets_stay contract/test_malformed_responses
    integration/test_engine_process integration/test_api_hostile integration/test_cli integration/test_api_server
    integration/test_store_processes integration/test_jenkins_codenarc contract/test_envoy_crash contract/test_docker
    contract/test_migrations integration/test_two_engines contract/test_analysis_prometheus contract/test_postgres_failures
    integration/test_jenkins_scenarios integration/test_jenkins_examples integration/test_repeats integration/test_plans
    integration/test_cli_ci integration/test_pruning contract/test_nginx_crash contract/test_haproxy_reloads
    contract/test_latency contract/test_alert_rules contract/test_docker_hosts)
first() { awk '!seen[$0]++'; } # the first of equal lines
mapfile -t stories < <({ printf 'tests/acceptance/test_%s.py\n' "${STORIES[@]}"; find tests/acceptance -name 'test_*.py' | sort; } | grep -vx "$FAULTS" | first)
mapfile -t others < <({ printf 'tests/%s.py\n' "${OTHERS[@]}"; find tests/contract tests/integration -name 'test_*.py' | sort -t / -k 3; } | first)
files=()
for number in "${!stories[@]}"; do
    files+=("${stories[number]}" "${others[@]:number * 3:3}")
done
files+=("${others[@]:${#stories[@]} * 3}")
say "all other tests against the real parts"
.venv/bin/python -m pytest -n 6 --dist loadfile --no-loadscope-reorder --durations=40 --durations-min=1 \
    "${files[@]}" || failed=1
reach_container "after all tests"
wait $CHECK || failed=1
cat "$RUN/check.log"
[ -z "$failed" ] || die "some tests failed: see above"
