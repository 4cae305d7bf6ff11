# What the commands share: say what is missing, install it, start what is needed, stop what was started.
# Sourced by the other scripts; they run with `set -euo pipefail`.

ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
VENV=$ROOT/.venv
STARTED_DOCKERD=
STATE=

say() { printf '==> %s\n' "$*" >&2; }
die() { printf 'error: %s\n' "$*" >&2; exit 1; }

# need_packages PROGRAM=PACKAGE ...: Debian packages for the programs that are missing, without starting their services.
need_packages() {
    local pair program lacking=()
    for pair in "$@"; do
        program=${pair%%=*}
        command -v "$program" >/dev/null 2>&1 || [ -e "$program" ] || lacking+=("${pair#*=}")
    done
    [ ${#lacking[@]} -eq 0 ] && return
    say "missing Debian packages: ${lacking[*]}"
    [ "$(id -u)" -eq 0 ] || die "run this as root, or install them yourself: apt-get install ${lacking[*]}"
    command -v apt-get >/dev/null || die "this is not Debian; install the equivalents of: ${lacking[*]}"
    say "installing them with apt-get"
    local policy=/usr/sbin/policy-rc.d made=
    if [ ! -e $policy ]; then
        # Their services would take ports and run on afterwards; we start what we need ourselves.
        printf '#!/bin/sh\nexit 101\n' >$policy && chmod +x $policy && made=1
    fi
    local failed=
    { apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${lacking[@]}"; } \
        >"${TMPDIR:-/tmp}/tidegate-apt.log" 2>&1 || failed=1
    [ -n "$made" ] && rm -f $policy
    [ -z "$failed" ] || { tail -20 "${TMPDIR:-/tmp}/tidegate-apt.log" >&2; die "apt-get failed"; }
}

# need_venv run|dev: the virtual environment with the locked packages, made anew only when the lock changed.
need_venv() {
    local lock=$ROOT/requirements/$1.txt stamp
    local python=${PYTHON:-python3}
    "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || {
        need_packages /usr/bin/python3.11=python3
        python=/usr/bin/python3.11
    }
    "$python" -c 'import ensurepip' 2>/dev/null || need_packages tidegate-ensurepip=python3-venv
    stamp=$VENV/.installed-$(cat "$lock" "$ROOT/pyproject.toml" | sha256sum | cut -c1-16)-$1
    [ -e "$stamp" ] && return
    say "installing Python packages into .venv ($1)"
    [ -x "$VENV/bin/python" ] || "$python" -m venv "$VENV"
    "$VENV/bin/pip" install -q --disable-pip-version-check --require-hashes -r "$lock" 2> >(grep -v -E 'WARNING|DEPRECATION' >&2)
    "$VENV/bin/pip" install -q --disable-pip-version-check --no-deps -e "$ROOT" 2> >(grep -v -E 'WARNING|DEPRECATION' >&2)
    rm -f "$VENV"/.installed-*
    touch "$stamp"
}

engine_answers() { "$VENV/bin/python" -c 'import docker; docker.from_env(timeout=10).ping()' >/dev/null 2>&1; }

# need_engine: a Docker engine; one that answers is used, otherwise dockerd is started and stopped again at the end.
need_engine() {
    engine_answers && return
    [ -z "${DOCKER_HOST:-}" ] || die "DOCKER_HOST is set to $DOCKER_HOST, and no engine answers there"
    need_packages dockerd=docker.io iptables=iptables
    engine_answers && return
    [ "$(id -u)" -eq 0 ] || die "no Docker engine answers (is your user in the group docker?), and only root can start one"
    say "no Docker engine answers: starting dockerd"
    setsid dockerd >"$STATE/dockerd.log" 2>&1 &
    STARTED_DOCKERD=$!
    local _
    for _ in $(seq 100); do
        engine_answers && return
        kill -0 $STARTED_DOCKERD 2>/dev/null || { tail -5 "$STATE/dockerd.log" >&2; die "dockerd did not start"; }
        sleep 0.3
    done
    tail -5 "$STATE/dockerd.log" >&2
    die "dockerd did not answer within 30 s"
}

# stop_engine: the dockerd that need_engine started, and no other.
stop_engine() {
    [ -n "$STARTED_DOCKERD" ] || return 0
    say "stopping dockerd"
    kill "$STARTED_DOCKERD" 2>/dev/null || true
    wait "$STARTED_DOCKERD" 2>/dev/null || true
    STARTED_DOCKERD=
}
