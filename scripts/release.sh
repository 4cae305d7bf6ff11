#!/usr/bin/env bash
# make release VERSION=x.y.z: build and check a release in dist/, and print its changelog section.
#
#   VERSION=1.2.3            the version to build
#   TAG=1                    also commit the new version and changelog, and tag the commit v1.2.3
#
# Without TAG=1 it is a rehearsal: dist/ is kept, and the two files that it edited are restored. Nothing is uploaded.
set -euo pipefail
. "$(dirname "$0")/lib.sh"

EDITED=(CHANGELOG.md service/tidegate/__init__.py)
TOOLS=$ROOT/.cache/release-tools
STATE=$(mktemp -d)
RESTORE=
trap '[ -z "$RESTORE" ] || git checkout -q -- "${EDITED[@]}"; rm -rf "$STATE"' EXIT
cd "$ROOT"

# check_request: refuse a release that cannot be made, before anything is changed.
check_request() {
    [[ ${VERSION:-} =~ ^(0|[1-9][0-9]*)\.(0|[1-9][0-9]*)\.(0|[1-9][0-9]*)$ ]] ||
        die "set VERSION to three numbers, for example: make release VERSION=1.2.3"
    [[ ${TAG:-} =~ ^(|0|1)$ ]] || die "TAG is 1 to commit and tag, or empty; found: $TAG"
    [ -z "$(git status --porcelain)" ] || die "the working tree has uncommitted changes; commit or stash them: git status"
    ! git rev-parse -q --verify "refs/tags/v$VERSION" >/dev/null || die "the tag v$VERSION exists; choose the next version"
    local last
    last=$(git tag --merged HEAD --list 'v[0-9]*' | sed 's/^v//' | sort -V | tail -1)
    [ -z "$last" ] || [ "$(printf '%s\n' "$last" "$VERSION" | sort -V | tail -1)" = "$VERSION" ] ||
        die "VERSION is $VERSION, and this branch already has $last; choose a higher one"
}

# need_tools: the virtual environment with the build tools of requirements/release.txt, created again when the file changes.
need_tools() {
    local stamp
    stamp=$TOOLS/.installed-$(sha256sum <requirements/release.txt | cut -c1-16)
    [ ! -e "$stamp" ] || return 0
    say "installing the build tools into ${TOOLS#"$ROOT"/}"
    rm -rf "$TOOLS"
    "$VENV/bin/python" -m venv "$TOOLS"
    "$TOOLS/bin/pip" install -q --disable-pip-version-check --require-hashes -r requirements/release.txt
    touch "$stamp"
}

# build: the sdist, and the wheel from the sdist, so that a file missing in the sdist is noticed.
build() {
    say "building tidegate $VERSION"
    rm -rf dist
    "$TOOLS/bin/python" -m build --no-isolation --outdir dist . >"$STATE/build.log" 2>&1 || {
        tail -20 "$STATE/build.log" >&2
        die "the build failed"
    }
    "$TOOLS/bin/twine" check --strict dist/*
    "$VENV/bin/python" scripts/release.py check-wheel "dist/tidegate-$VERSION-py3-none-any.whl"
}

# try_wheel: install it into a fresh virtual environment with the locked packages, and run it.
try_wheel() {
    say "installing the wheel into a fresh virtual environment"
    "$VENV/bin/python" -m venv "$STATE/venv"
    local pip=("$STATE/venv/bin/pip" --disable-pip-version-check) answer
    "${pip[@]}" install -q --require-hashes -r requirements/run.txt
    "${pip[@]}" install -q --no-deps "dist/tidegate-$VERSION-py3-none-any.whl"
    "${pip[@]}" check
    answer=$(cd "$STATE" && venv/bin/tidegate --version)
    [ "$answer" = "tidegate $VERSION" ] || die "tidegate --version prints \"$answer\"; expected \"tidegate $VERSION\""
    printf '%s\n' "$answer"
}

commit_and_tag() {
    git commit -q -m "Release $VERSION" -- "${EDITED[@]}"
    RESTORE=
    { printf 'Tidegate %s\n\n' "$VERSION" && cat "$STATE/notes"; } >"$STATE/message"
    git tag -a --cleanup=whitespace -F "$STATE/message" "v$VERSION"
    say "committed and tagged v$VERSION. Publish it:"
    printf '    git push origin HEAD v%s\n    %s upload dist/*\n' "$VERSION" "${TOOLS#"$ROOT"/}/bin/twine" >&2
}

check_request
make check
need_tools
RESTORE=1
"$VENV/bin/python" scripts/release.py prepare "$VERSION" "$(date -u +%F)"
build
try_wheel
"$VENV/bin/python" scripts/release.py notes "$VERSION" >"$STATE/notes"
say "changelog of $VERSION"
cat "$STATE/notes"
say "files"
(cd dist && sha256sum ./*)
if [ "${TAG:-}" = 1 ]; then
    commit_and_tag
else
    say "rehearsal: nothing was committed; dist/ has the files. To release: make release VERSION=$VERSION TAG=1"
fi
