#!/usr/bin/env bash
# make demo: set up everything, then watch a good release go through and bad ones roll back.
set -euo pipefail
. "$(dirname "$0")/lib.sh"

need_packages gcc=gcc /usr/include/stdio.h=libc6-dev haproxy=haproxy prometheus=prometheus ip=iproute2
need_venv run
case "${1:-}" in
    --stop) exec "$VENV/bin/python" "$ROOT/scripts/leftovers.py" sweep --kept ;;
esac
"$VENV/bin/python" "$ROOT/scripts/leftovers.py" sweep --kept || true
begin_run demo
need_engine

cd "$ROOT"
.venv/bin/python examples/demo/demo.py ${KEEP:+--keep} "$@"
[ -z "${KEEP:-}" ] || touch "$RUN/kept"
