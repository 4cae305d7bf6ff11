"""From a share of the requests to the weights of a proxy. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from fractions import Fraction

from tidegate.core.model import Fleet

MOST = 256  # what HAProxy allows; the others allow more


def weights(route: Fleet, new: str, share: float | None) -> Mapping[str, int]:
    """The weight of each instance by release, 1 to 256, so that the instances of `new` together have this share.

    Without a share, or with one release alone, all weigh the same. With n new and m old instances the new ones weigh
    share/n : (1 - share)/m; the nearest such ratio of whole numbers up to 256 is taken.
    """
    equal = dict.fromkeys(route, 1)
    others = sum(count for release, count in route.items() if release != new)
    if share is None or not others or new not in route:
        return equal
    ratio = Fraction(share) / route[new] * others / (1 - Fraction(share))
    small = max(min(ratio, 1 / ratio).limit_denominator(MOST), Fraction(1, MOST))
    one, other = (small.numerator, small.denominator)[:: 1 if ratio <= 1 else -1]
    return {release: one if release == new else other for release in route}
