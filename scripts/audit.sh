#!/usr/bin/env bash
# make audit: look up every locked package in the advisories of the package index. A package that cannot be looked up fails.
#
#   ADVISORIES=all.zip   use this export of the OSV database for PyPI instead, where the index is out of reach
set -euo pipefail
. "$(dirname "$0")/lib.sh"

cd "$ROOT"
need_venv run
need_release_tools
if [ -n "${ADVISORIES:-}" ]; then
    say "looking up the locked packages in $ADVISORIES"
    exec "$TOOLS/bin/python" scripts/audit.py "$ADVISORIES" requirements/*.txt
fi
files=()
for file in requirements/*.txt; do
    files+=(--requirement "$file")
done
say "looking up the locked packages in the advisories of the package index"
"$TOOLS/bin/pip-audit" --strict --disable-pip --require-hashes --progress-spinner off --desc off "${files[@]}" ||
    die "see above. Where the index has no advisories, use an export of the OSV database: make audit ADVISORIES=all.zip (RELEASING.md)"
