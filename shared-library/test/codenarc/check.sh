#!/usr/bin/env bash
# CodeNarc's Jenkins CPS rules over the library. Needs npm, Java and groovy 2.4; JAVA_HOME and JAVA_OPTS as for groovy.
set -euo pipefail
HERE=$(cd "$(dirname "$0")" && pwd)
LIBRARY=$(cd "$HERE/../.." && pwd)
CACHE=${CODENARC_CACHE:-$LIBRARY/../.cache/codenarc}
OUT=$(mktemp -d)
trap 'rm -rf "$OUT"' EXIT

mkdir -p "$CACHE"
if ! cmp -s "$HERE/package-lock.json" "$CACHE/installed.json"; then
    cp "$HERE/package.json" "$HERE/package-lock.json" "$HERE/.npmrc" "$CACHE"
    (cd "$CACHE" && npm ci --ignore-scripts --no-audit --no-fund --loglevel=error >&2)
    cp "$HERE/package-lock.json" "$CACHE/installed.json" # last, so that an interrupted installation is repeated
fi
JARS=$CACHE/node_modules/npm-groovy-lint/lib/java

# the rules need types: without the compiled classes CodeNarc skips a source
mkdir "$OUT/classes"
mapfile -t SOURCES < <(find "$LIBRARY/src" "$LIBRARY/test/harness/com" "$LIBRARY/test/harness/org" -name '*.groovy')
groovyc -d "$OUT/classes" "${SOURCES[@]}"

narc() {  # narc PATTERN REPORT
    # shellcheck disable=SC2086 # several options
    java ${JAVA_OPTS:-} -cp "$JARS/*:$JARS/groovy/lib/*:$OUT/classes" org.codenarc.CodeNarc -basedir="$LIBRARY" -includes="$1" \
        -rulesetfiles="file:$HERE/rules.groovy" -report=console -failOnError=true >"$2" 2>&1
    if grep -q 'Compilation failed' "$2"; then
        grep 'Compilation failed' "$2"
        echo 'CodeNarc skipped a file that it cannot compile'
        exit 1
    fi
}

narc 'test/codenarc/sample/*.groovy' "$OUT/sample"
while read -r rule; do
    grep -q "Rule=$rule " "$OUT/sample" || { echo "The rule $rule does not find its mistake in the sample"; exit 1; }
done < <(sed -n 's/^    \([A-Z][A-Za-z]*\)(.*/\1/p' "$HERE/rules.groovy")

narc 'vars/*.groovy,src/**/*.groovy' "$OUT/library"
EXPECTED=$(find "$LIBRARY/vars" "$LIBRARY/src" -name '*.groovy' | wc -l)
grep -q "TotalFiles=$EXPECTED FilesWithViolations=0 " "$OUT/library" || { grep -E 'File:|Violation:|Summary:' "$OUT/library"; exit 1; }
echo "CodeNarc: no violation in $EXPECTED files"
