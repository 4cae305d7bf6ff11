#!/usr/bin/env bash
# make release VERSION=x.y.z: build and check a release in dist/, and print its changelog section.
#
#   VERSION=1.2.3            the version to build
#   KEY=FILE                 sign the checksums and the tag with this SSH key
#   TAG=1                    also commit the new version and changelog, and tag the commit v1.2.3; needs KEY
#
# Without TAG=1 it is a rehearsal: dist/ is kept, and the two files that it edited are restored. Nothing is uploaded.
set -euo pipefail
. "$(dirname "$0")/lib.sh"

EDITED=(CHANGELOG.md service/tidegate/__init__.py)
STATE=$(mktemp -d)
RESTORE=
trap '[ -z "$RESTORE" ] || git checkout -q -- "${EDITED[@]}"; rm -rf "$STATE"' EXIT
cd "$ROOT"

# check_request: refuse a release that cannot be made, before anything is changed.
check_request() {
    [[ ${VERSION:-} =~ ^(0|[1-9][0-9]*)\.(0|[1-9][0-9]*)\.(0|[1-9][0-9]*)$ ]] ||
        die "set VERSION to three numbers, for example: make release VERSION=1.2.3"
    [[ ${TAG:-} =~ ^(|0|1)$ ]] || die "TAG is 1 to commit and tag, or empty; found: $TAG"
    [ -z "${KEY:-}" ] || [ -r "$KEY" ] || die "KEY is the file of an SSH key that can be read; found: $KEY"
    [ -z "${TAG:-}" ] || [ -n "${KEY:-}" ] || die "a release is signed: set KEY to the file of an SSH key"
    [ -z "$(git status --porcelain)" ] || die "the working tree has uncommitted changes; commit or stash them: git status"
    ! git rev-parse -q --verify "refs/tags/v$VERSION" >/dev/null || die "the tag v$VERSION exists; choose the next version"
    local last
    last=$(git tag --merged HEAD --list 'v[0-9]*' | sed 's/^v//' | sort -V | tail -1)
    [ -z "$last" ] || [ "$(printf '%s\n' "$last" "$VERSION" | sort -V | tail -1)" = "$VERSION" ] ||
        die "VERSION is $VERSION, and this branch already has $last; choose a higher one"
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

# list_and_sign: the packages that the wheel was tried with, and the checksum of each file; with KEY their signature.
list_and_sign() {
    say "writing the bill of materials and the checksums"
    sed "s/^dynamic = .*/version = \"$VERSION\"/" pyproject.toml >"$STATE/pyproject.toml"
    "$STATE/venv/bin/pip" uninstall -q -y setuptools pip
    SOURCE_DATE_EPOCH=$(git log -1 --format=%ct) "$TOOLS/bin/cyclonedx-py" environment --pyproject "$STATE/pyproject.toml" \
        --mc-type application --output-reproducible --output-file "dist/tidegate-$VERSION.cdx.json" "$STATE/venv/bin/python"
    (cd dist && sha256sum -- * >"$STATE/SHA256SUMS" && mv "$STATE/SHA256SUMS" .)
    if [ -z "${KEY:-}" ]; then
        say "not signed: set KEY to the file of an SSH key"
        return
    fi
    ssh-keygen -q -Y sign -f "$KEY" -n tidegate-release dist/SHA256SUMS
    say "signed by $(ssh-keygen -l -f "$KEY")"
}

commit_and_tag() {
    git commit -q -m "Release $VERSION" -- "${EDITED[@]}"
    RESTORE=
    { printf 'Tidegate %s\n\n' "$VERSION" && cat "$STATE/notes"; } >"$STATE/message"
    git -c gpg.format=ssh -c user.signingKey="$KEY" tag -s --cleanup=whitespace -F "$STATE/message" "v$VERSION"
    say "committed and tagged v$VERSION. Publish it:"
    printf '    git push origin HEAD v%s\n    %s upload dist/*.whl dist/*.tar.gz\n' "$VERSION" "${TOOLS#"$ROOT"/}/bin/twine" >&2
}

check_request
make check
need_release_tools
RESTORE=1
"$VENV/bin/python" scripts/release.py prepare "$VERSION" "$(date -u +%F)"
build
try_wheel
"$VENV/bin/python" scripts/release.py notes "$VERSION" >"$STATE/notes"
say "changelog of $VERSION"
cat "$STATE/notes"
list_and_sign
say "files"
cat dist/SHA256SUMS
if [ "${TAG:-}" = 1 ]; then
    commit_and_tag
else
    say "rehearsal: nothing was committed; dist/ has the files. To release: make release VERSION=$VERSION TAG=1"
fi
