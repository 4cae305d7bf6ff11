"""Which images of a service may be removed from the hosts by its `keep_images`. Pure."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from tidegate.core.model import Release


def removable_images(releases: Sequence[Release], newest: int, needed: Collection[str]) -> tuple[Release, ...]:
    """Of these releases, the newest first, those whose image is that of none of the first `newest` ones and of none that
    is `needed` (IDs); one release for each image. Those without a digest never had an image on a host."""
    kept = {release.digest for number, release in enumerate(releases) if number < newest or release.id in needed}
    removable = {release.digest: release for release in releases if release.digest and release.digest not in kept}
    return tuple(removable.values())
