"""The API of a new release against that of the old one, asked from an instance of each before traffic moves."""

from __future__ import annotations

from tidegate.core.contract.comparing import compare
from tidegate.core.contract.values import Comparison, Contract, Outcome, concluded
from tidegate.errors import DocumentError
from tidegate.ports import Documents

TIMEOUT_SECONDS = 10.0  # for each document


def compared(old_address: str, new_address: str, wanted: Contract, documents: Documents) -> Comparison:
    """What the new release's document breaks of the old one's. Never raises: a document that could not be had makes the
    outcome `UNKNOWN`, which `Comparison.stops` takes for a breaking change where such a one fails."""
    try:
        old = documents.fetch(old_address, wanted.path, TIMEOUT_SECONDS)
        new = documents.fetch(new_address, wanted.path, TIMEOUT_SECONDS)
    except DocumentError as error:
        return Comparison(Outcome.UNKNOWN, f"the APIs are not compared: {error.message}")
    if old is None and new is None:
        return Comparison(Outcome.SKIPPED, f"neither release serves {wanted.path}: there is nothing to compare")
    if old is None or new is None:
        what = "the old release does not serve" if old is None else "the new release does not serve"
        return Comparison(Outcome.UNKNOWN, f"the APIs are not compared: {what} {wanted.path}")
    return concluded(compare(old, new), wanted.on_breaking)
