"""What lies below the errors of requests and urllib3, for the drivers that speak HTTP."""

from __future__ import annotations


def innermost(error: BaseException) -> BaseException:
    """The first reason of all, below what urllib3 and requests wrap around it."""
    following: object = getattr(error, "reason", None)
    if not isinstance(following, BaseException):
        following = next((each for each in error.args if isinstance(each, BaseException)), None)
    return innermost(following) if isinstance(following, BaseException) else error


def cause(error: BaseException) -> str:
    """The innermost reason, without the objects' addresses that urllib3 prints."""
    text = str(innermost(error))
    return text.rpartition(">: ")[2] or text
