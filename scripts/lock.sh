#!/usr/bin/env bash
# make lock: the exact packages with their hashes, without the addresses they came from.
set -euo pipefail
. "$(dirname "$0")/lib.sh"

cd "$ROOT"
need_venv dev
STATE=$(mktemp -d)
trap 'rm -rf "$STATE"' EXIT
python3 -m venv "$STATE/venv" && "$STATE/venv/bin/pip" install -q pip-tools
compile() {
    "$STATE/venv/bin/pip-compile" -q --generate-hashes --allow-unsafe --strip-extras --no-header --no-emit-index-url \
        --no-emit-find-links --no-emit-options --no-emit-trusted-host "$@"
}
compile -o requirements/run.txt pyproject.toml
compile --extra dev -o requirements/dev.txt pyproject.toml
for extra in envoy postgres testing; do
    compile --extra "$extra" --constraint requirements/dev.txt -o "requirements/$extra.txt" pyproject.toml
done
compile -o requirements/release.txt requirements/release.in
