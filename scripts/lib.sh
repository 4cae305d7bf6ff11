# What the commands share: say what is missing, install it, start what is needed, stop what was started.
# Sourced by the other scripts; they run with `set -euo pipefail`.

ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
VENV=$ROOT/.venv
STARTED_DOCKERD=
RUN= # the folder of this run, once it has begun
unset PYTHONDONTWRITEBYTECODE # which some images set: the hundreds of processes of a run would each compile the code again

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
    mkdir -p "$ROOT/.cache"
    (flock 9 && install_packages "${lacking[@]}") 9>"$ROOT/.cache/apt.lock" # one at a time
}

# install_packages PACKAGE ...
install_packages() {
    local lacking=("$@")
    say "missing Debian packages: ${lacking[*]}"
    [ "$(id -u)" -eq 0 ] || die "run this as root, or install them yourself: apt-get install ${lacking[*]}"
    command -v apt-get >/dev/null || die "this is not Debian; install the equivalents of: ${lacking[*]}"
    say "installing them with apt-get"
    local policy=/usr/sbin/policy-rc.d made=
    if [ ! -e $policy ]; then
        # Their services would take ports and run on afterwards; we start what we need ourselves.
        printf '#!/bin/sh\nexit 101\n' >$policy && chmod +x $policy && made=1
    fi
    local failed= log
    log=$(mktemp)
    { apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${lacking[@]}"; } \
        >"$log" 2>&1 || failed=1
    [ -n "$made" ] && rm -f $policy
    [ -z "$failed" ] || { tail -20 "$log" >&2; rm -f "$log"; die "apt-get failed"; }
    rm -f "$log"
}

# installed_stamp run|dev: the file that says that .venv has these packages, as they are locked now.
installed_stamp() {
    printf '%s/.installed-%s-%s' "$VENV" "$(cat "$ROOT/requirements/$1.txt" "$ROOT/pyproject.toml" | sha256sum | cut -c1-16)" "$1"
}

# need_venv run|dev: the virtual environment with the locked packages, made again only when the lock changed.
# One that was made for `dev` has all of `run`.
need_venv() {
    local python=${PYTHON:-python3}
    if [ -e "$(installed_stamp "$1")" ] || [ -e "$(installed_stamp dev)" ]; then
        return
    fi
    "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || {
        need_packages /usr/bin/python3.11=python3
        python=/usr/bin/python3.11
    }
    "$python" -c 'import ensurepip' 2>/dev/null || need_packages tidegate-ensurepip=python3-venv
    say "installing Python packages into .venv ($1)"
    [ -x "$VENV/bin/python" ] || "$python" -m venv "$VENV"
    "$VENV/bin/pip" install -q --disable-pip-version-check --require-hashes -r "$ROOT/requirements/$1.txt" 2> >(grep -v -E 'WARNING|DEPRECATION' >&2)
    "$VENV/bin/pip" install -q --disable-pip-version-check --no-deps -e "$ROOT" 2> >(grep -v -E 'WARNING|DEPRECATION' >&2)
    rm -f "$VENV"/.installed-*
    touch "$(installed_stamp "$1")"
}

# need_release_tools: the virtual environment $TOOLS with what requirements/release.txt locks, made again when that changes.
TOOLS=$ROOT/.cache/release-tools
need_release_tools() {
    local stamp
    stamp=$TOOLS/.installed-$(sha256sum <"$ROOT/requirements/release.txt" | cut -c1-16)
    [ ! -e "$stamp" ] || return 0
    say "installing the tools of requirements/release.txt into ${TOOLS#"$ROOT"/}"
    rm -rf "$TOOLS"
    "$VENV/bin/python" -m venv "$TOOLS"
    "$TOOLS/bin/pip" install -q --disable-pip-version-check --require-hashes -r "$ROOT/requirements/release.txt"
    touch "$stamp"
}

# begin_run NAME: remove what killed runs have left, and begin a run with a folder of its own, which is also TMPDIR, for whoever
# writes there.
# All that it starts can be found by that folder and by TIDEGATE_RUN: see scripts/leftovers.py. `end_run` is its end.
begin_run() {
    "$VENV/bin/python" "$ROOT/scripts/leftovers.py" sweep || true
    local id=
    until [ -n "$id" ] && mkdir -m 1777 "/tmp/tg-$id" 2>/dev/null; do
        id=$(od -An -N3 -tx1 /dev/urandom | tr -d ' \n' | cut -c1-5)
    done
    RUN=/tmp/tg-$id
    printf '%s %s %s\n' "$$" "$(sed 's/.*) //' /proc/$$/stat | cut -d' ' -f20)" "$1" >"$RUN/owner"
    export TIDEGATE_RUN=$id TMPDIR=$RUN
    trap 'status=$?; end_run; exit $status' EXIT
    trap 'exit 130' INT
    trap 'exit 143' TERM
}

# end_run: stop what the run has started, say what is left of it besides, and remove that, too.
end_run() {
    if [ -e "$RUN/kept" ]; then
        return
    fi
    stop_engine
    TMPDIR=/tmp "$VENV/bin/python" "$ROOT/scripts/leftovers.py" end "$TIDEGATE_RUN" || true
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
    setsid dockerd --data-root "$RUN/docker" --exec-root "$RUN/docker-exec" --pidfile "$RUN/dockerd.pid" >"$RUN/dockerd.log" 2>&1 &
    STARTED_DOCKERD=$!
    local _
    for _ in $(seq 400); do
        engine_answers && return
        kill -0 $STARTED_DOCKERD 2>/dev/null || { tail -5 "$RUN/dockerd.log" >&2; die "dockerd did not start"; }
        sleep 0.3
    done
    tail -5 "$RUN/dockerd.log" >&2
    die "dockerd did not answer within 120 s"
}

# stop_engine: the dockerd that need_engine started, and no other.
stop_engine() {
    [ -n "$STARTED_DOCKERD" ] || return 0
    say "stopping dockerd"
    kill "$STARTED_DOCKERD" 2>/dev/null || true
    wait "$STARTED_DOCKERD" 2>/dev/null || true
    umount --lazy "$RUN/docker-exec/netns/default" 2>/dev/null || true # dockerd leaves this one when it ends
    STARTED_DOCKERD=
}
