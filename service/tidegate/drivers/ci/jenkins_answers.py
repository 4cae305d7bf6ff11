"""What one exchange with Jenkins brought, and what it means when it went wrong."""

from __future__ import annotations

import base64
import html
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from urllib.parse import urljoin, urlsplit

import requests
from jenkins import JenkinsException, TimeoutException
from urllib3.exceptions import ReadTimeoutError

from tidegate.causes import cause, innermost
from tidegate.errors import CIError

SHOWN = 300  # characters of what Jenkins said
READ = 65_536  # bytes of an error page that are kept
BODY = 8_000  # characters of its body that are looked at
MARKUP = re.compile(r"<!--.*?-->|<(script|style)\b.*?</\1>|<[^>]*>", re.DOTALL | re.IGNORECASE)
BUSY = frozenset({408, 425, 429})  # and all of 5xx: later it may work


class Unreachable(CIError):
    """Jenkins cannot be reached."""


class Refusal(CIError):
    """Jenkins answered, and not with what was wanted."""

    def __init__(self, message: str, *, status: int, retryable: bool = True) -> None:
        super().__init__(message, retryable=retryable)
        #: The HTTP status.
        self.status = status


@dataclass
class Exchange:
    """The last answer, which the library mostly drops: kept by a response hook."""

    status: int = 0
    asked: str = ""  # the address
    text: str = ""  # of an error page, from its beginning
    headers: requests.structures.CaseInsensitiveDict[str] = field(default_factory=requests.structures.CaseInsensitiveDict)

    def keep(self, response: requests.Response, **_: object) -> None:
        """Called by requests for every response."""
        self.status, self.asked, self.headers = response.status_code, str(response.url), response.headers
        self.text = response.content[:READ].decode("utf-8", "replace") if response.status_code >= 400 else ""

    def forget(self) -> None:
        """Before the next request: what it brings must not be mixed with what was before."""
        self.status, self.asked, self.text, self.headers = 0, "", "", requests.structures.CaseInsensitiveDict()

    @property
    def elsewhere(self) -> str:
        """Where a redirect leads, unless up to the page of the same build, as Jenkins ends a POST; empty without one.

        Followed, one to another address would turn a POST into a GET, and one to a log-in page a failure into a success.
        """
        if not 300 <= self.status < 400:
            return ""
        target = urljoin(self.asked, self.headers.get("Location", ""))
        there, asked = urlsplit(target), urlsplit(self.asked)
        upwards = asked.path.startswith(there.path) and there.path != asked.path and "/job/" in there.path
        return "" if upwards and there.hostname == asked.hostname else target


@dataclass(frozen=True, repr=False)
class Speaker:
    """Who speaks to Jenkins where; all sentences about an exchange are made here, and none has the token."""

    url: str
    user: str
    token: str

    @contextmanager
    def explained(self, exchange: Exchange) -> Iterator[None]:
        """Turn every error of the library, of requests and of an odd body into a `CIError`."""
        exchange.forget()
        try:
            yield
        except TimeoutException:
            raise self._late() from None
        except (JenkinsException, requests.HTTPError):
            raise self.refused(exchange) from None
        except requests.exceptions.SSLError as error:
            raise CIError(
                self._clean(f"the certificate of {self.url} was not accepted: {cause(error)}; set ca_file")
            ) from None
        except requests.JSONDecodeError:
            raise self.not_jenkins(exchange) from None
        except requests.RequestException as error:
            if isinstance(
                innermost(error), ReadTimeoutError
            ):  # without retries urllib3 wraps it, and requests says so less
                raise self._late() from None
            raise Unreachable(self._clean(f"Jenkins at {self.url} cannot be reached: {cause(error)}")) from None
        except OSError as error:  # requests raises it bare when ca_file does not exist
            raise CIError(self._clean(f"Jenkins at {self.url} cannot be asked: {error}")) from None
        except (ValueError, KeyError, TypeError):  # a body that is no JSON, or other JSON
            raise self.not_jenkins(exchange) from None

    def refused(self, exchange: Exchange) -> Refusal:
        """A status other than 2xx."""
        status, said = exchange.status, self.said(exchange)
        if status in (401, 403, 407):
            return Refusal(self._clean(self._not_allowed(exchange)), status=status)
        if status == 404:
            page = exchange.asked.partition("?")[0]
            return Refusal(self._clean(f"Jenkins has no {page}, or {self.user} may not see it"), status=status)
        again = status in BUSY or status >= 500 or status == 0
        return Refusal(f"Jenkins at {self.url} answered {status}: {said}", status=status, retryable=again)

    def moved(self, exchange: Exchange) -> Refusal:
        """A redirect that is not Jenkins' own."""
        target = self._clean(exchange.elsewhere)
        return Refusal(f"{self.url} leads to {target} and not to Jenkins; check url", status=exchange.status)

    def not_jenkins(self, exchange: Exchange) -> CIError:
        """No JSON of Jenkins: a log-in page, say, or a proxy's page of a maintenance."""
        if exchange.elsewhere:
            return self.moved(exchange)
        kind = self._clean(exchange.headers.get("Content-Type", "no content type"))
        return CIError(f"{self.url} answered {exchange.status} with {kind} instead of Jenkins' JSON; check url")

    def said(self, exchange: Exchange) -> str:
        """What Jenkins gave as the reason, as plain text."""
        body = exchange.text[max(0, exchange.text.lower().find("<body")) :][:BODY]
        page = html.unescape(MARKUP.sub(" ", body))
        return self._clean(exchange.headers.get("X-Error") or page) or "no reason given"

    def _not_allowed(self, exchange: Exchange) -> str:
        """A person can mend it, so it is tried again."""
        lacking, who = exchange.headers.get("X-Required-Permission"), f"Jenkins at {self.url} refused {self.user}"
        if lacking:
            return (
                f"{who} with {exchange.status}: the permission {lacking} is missing; grant it, and it works at the next try"
            )
        return (
            f"{who} with {exchange.status}; check user, its permissions and the token (an API token, not a password);"
            " mended, it works at the next try"
        )

    def _late(self) -> CIError:
        return CIError(f"Jenkins at {self.url} did not answer in time")

    def _clean(self, text: str) -> str:
        """One bounded line of it, without the token, plain or as it was sent: a page may repeat the request."""
        sent = base64.b64encode(f"{self.user}:{self.token}".encode()).decode()
        for secret in (self.token, sent):
            text = text.replace(secret, "…")
        line = " ".join("".join(each if each.isprintable() else " " for each in text).split())
        return line if len(line) <= SHOWN else line[: SHOWN - 1] + "…"
