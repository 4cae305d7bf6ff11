# Each target does its own set-up: on a fresh Debian 12 machine as root nothing else is needed.
.PHONY: help demo demo-stop test properties faults kills attacks soak chaos writers outages api check queues bench bench-dataplane bench-analysis bench-load lock clean

help:
	@echo 'make demo             watch a good release go through and bad ones roll back (KEEP=1 leaves it running)'
	@echo 'make demo-stop        stop what KEEP=1 left running'
	@echo 'make check            style, types, docs, unit and property tests: no root, no Docker, no server; a minute or so'
	@echo 'make test             make check, and every test against real Docker, HAProxy, nginx, Envoy, Prometheus and PostgreSQL'
	@echo '                      (ARGS="tests/contract/test_haproxy.py -k drain": these only)'
	@echo
	@echo 'Longer than make test, which has a short form of each:'
	@echo 'make properties       20,000 random rollouts with crashes at every boundary: no root, no Docker'
	@echo 'make faults           ten faults that an application can have, each caught; good releases go through'
	@echo 'make kills            thirty kills of the engine at random moments, and one before every step of a change of a proxy'
	@echo 'make api              the API under thousands of requests that its specification allows and forbids'
	@echo 'make writers          a hundred rollouts of one instance that holds a lock in its volume'
	@echo 'make queues           fifty rollouts of the workers of a queue in PostgreSQL, under load'
	@echo 'make outages          every part goes away in the middle of every phase of a rollout'
	@echo 'make soak             half an hour in which instances hang, fail and are killed while releases are rolled out'
	@echo 'make attacks          what a narrow token, a malicious application, clients and servers try'
	@echo 'make chaos            a hundred rollouts while engines, proxy, database, Prometheus and Docker break'
	@echo
	@echo 'make bench            the benchmarks: each prints a table (ARGS="--rounds 5" for the rolling update)'
	@echo 'make bench-dataplane  what clients lose at 200 switches of each proxy, Swarm and others: an hour (ARGS="--only haproxy")'
	@echo 'make bench-analysis   the analysis and rules of other tools on simulated rollouts (ARGS="--grid validation --only-tidegate")'
	@echo 'make bench-load       up to 2,000 live rollouts at once, on both databases, and a day of them: 15 minutes (ARGS="--only sqlite")'
	@echo 'make lock             renew the hash-checked requirements'
	@echo 'make release          build and check a release in dist/ (VERSION=1.2.3; KEY=FILE signs it; TAG=1 tags it): RELEASING.md'
	@echo 'make audit            look up every locked package in the advisories of the package index (ADVISORIES=all.zip: in an export)'

demo:
	@KEEP="$(KEEP)" bash scripts/demo.sh

demo-stop:
	@bash scripts/demo.sh --stop

test:
	@bash scripts/test.sh $(ARGS)

properties:
	@bash -c '. scripts/lib.sh && need_venv dev && cd "$$ROOT" && EXAMPLES=20000 CRASH_STEPS=all .venv/bin/python -m pytest -n 2 tests/property/test_rollouts.py tests/unit/test_tick.py tests/unit/test_tick_hooks.py'

faults:
	@FAULTS=all bash scripts/test.sh -s tests/acceptance/test_faults.py

kills:
	@KILLS=30 CRASH_STEPS=all bash scripts/test.sh -s tests/acceptance/test_killed_engine.py tests/contract/test_*_crash.py

api:
	@API_EXAMPLES=20 API_STORIES=200 bash scripts/test.sh tests/integration/test_api_hostile.py

soak:
	@SOAK_SECONDS="$${SOAK_SECONDS:-1800}" SOAK_LATE_SICK_SECONDS=3 bash scripts/test.sh -s tests/acceptance/test_soak.py

chaos:
	@CHAOS_DOCKER=1 CHAOS_ROLLOUTS="$${CHAOS_ROLLOUTS:-100}" bash scripts/test.sh -s tests/acceptance/test_chaos.py

attacks:
	@bash scripts/test.sh tests/acceptance/test_attacks_*.py tests/property/test_signals.py tests/contract/test_slow_clients.py \
		tests/contract/test_response_limits.py tests/contract/test_haproxy_reloads.py tests/integration/test_api_approvals.py \
		tests/integration/test_api_slow_clients.py tests/integration/test_api_tokens.py tests/integration/test_api_errors.py \
		tests/integration/test_api.py tests/integration/test_api_hooks.py tests/integration/test_hostile_text.py \
		tests/integration/test_host_access.py tests/contract/test_prober.py tests/unit/test_compose_text.py \
		tests/unit/test_promql.py tests/unit/test_worker.py

writers:
	@LOCK_ROLLOUTS="$${LOCK_ROLLOUTS:-100}" bash scripts/test.sh -s tests/acceptance/test_one_writer.py

queues:
	@QUEUE_ROLLOUTS="$${QUEUE_ROLLOUTS:-50}" bash scripts/test.sh -s tests/acceptance/test_queue_workers.py

outages:
	@OUTAGES=all bash scripts/test.sh -s tests/acceptance/test_outages.py

check:
	@bash scripts/check.sh

bench:
	@bash scripts/bench.sh $(ARGS)

bench-dataplane:
	@bash scripts/bench.sh dataplane $(ARGS)

bench-analysis:
	@bash -c '. scripts/lib.sh && need_venv dev && cd "$$ROOT" && .venv/bin/python tests/bench/bench_analysis.py "$$@"' bench-analysis $(ARGS)

bench-load:
	@bash -c '. scripts/lib.sh && need_packages /usr/lib/postgresql/15/bin/postgres=postgresql && need_venv dev && cd "$$ROOT" && .venv/bin/python tests/bench/bench_load.py "$$@"' bench-load $(ARGS)

lock:
	@bash scripts/lock.sh

.PHONY: release audit
release:
	@VERSION="$(VERSION)" TAG="$(TAG)" KEY="$(KEY)" bash scripts/release.sh

audit:
	@ADVISORIES="$(ADVISORIES)" bash scripts/audit.sh

clean:
	rm -rf .venv .cache build dist
