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

from tidegate.drivers.error_translation import describe_cause, root_cause
from tidegate.errors import CIError

MAX_MESSAGE_CHARS = 300  # characters of what Jenkins said
MAX_READ_BYTES = 65_536  # bytes of an error page that are kept
MAX_BODY_CHARS = 8_000  # characters of its body that are looked at
MARKUP = re.compile(r"<!--.*?-->|<(script|style)\b.*?</\1>|<[^>]*>", re.DOTALL | re.IGNORECASE)
BUSY_STATUSES = frozenset({408, 425, 429})  # and all of 5xx: later it may work


class JenkinsUnreachable(CIError):
    """Jenkins cannot be reached."""


class JenkinsRefusal(CIError):
    """Jenkins answered, and not with what was wanted."""

    def __init__(self, message: str, *, status: int, retryable: bool = True) -> None:
        super().__init__(message, retryable=retryable)
        #: The HTTP status.
        self.status = status


@dataclass
class JenkinsExchange:
    """The last answer, which the library mostly drops: kept by a response hook."""

    status: int = 0
    url_requested: str = ""  # the address
    text: str = ""  # of an error page, from its beginning
    headers: requests.structures.CaseInsensitiveDict[str] = field(default_factory=requests.structures.CaseInsensitiveDict)

    def keep(self, response: requests.Response, **_: object) -> None:
        """Called by requests for every response."""
        self.status, self.url_requested, self.headers = response.status_code, str(response.url), response.headers
        self.text = response.content[:MAX_READ_BYTES].decode("utf-8", "replace") if response.status_code >= 400 else ""

    def forget(self) -> None:
        """Before the next request: what it brings must not be mixed with what was before."""
        self.status, self.url_requested, self.text, self.headers = 0, "", "", requests.structures.CaseInsensitiveDict()

    @property
    def redirect(self) -> str:
        """Where a redirect leads, unless up to the page of the same build, as Jenkins ends a POST; empty without one.

        Followed, one to another address would turn a POST into a GET, and one to a log-in page a failure into a success.
        """
        if not 300 <= self.status < 400:
            return ""
        target = urljoin(self.url_requested, self.headers.get("Location", ""))
        target_url, requested = urlsplit(target), urlsplit(self.url_requested)
        upwards = (
            requested.path.startswith(target_url.path) and target_url.path != requested.path and "/job/" in target_url.path
        )
        return "" if upwards and target_url.hostname == requested.hostname else target


@dataclass(frozen=True, repr=False)
class JenkinsErrors:
    """Who speaks to Jenkins where; all sentences about an exchange are made here, and none has the token."""

    url: str
    user: str
    token: str

    @contextmanager
    def translate_errors(self, exchange: JenkinsExchange) -> Iterator[None]:
        """Turn every error of the library, of requests and of an odd body into a `CIError`."""
        exchange.forget()
        try:
            yield
        except TimeoutException:
            raise self._timeout_error() from None
        except (JenkinsException, requests.HTTPError):
            raise self.refusal_error(exchange) from None
        except requests.exceptions.SSLError as error:
            raise CIError(
                self._strip_secrets(f"the certificate of {self.url} was not accepted: {describe_cause(error)}; set ca_file")
            ) from None
        except requests.JSONDecodeError:
            raise self.not_jenkins_error(exchange) from None
        except requests.RequestException as error:
            if isinstance(
                root_cause(error), ReadTimeoutError
            ):  # without retries urllib3 wraps it, and requests says so less
                raise self._timeout_error() from None
            raise JenkinsUnreachable(
                self._strip_secrets(f"Jenkins at {self.url} cannot be reached: {describe_cause(error)}")
            ) from None
        except OSError as error:  # requests raises it bare when ca_file does not exist
            raise CIError(self._strip_secrets(f"Jenkins at {self.url} cannot be asked: {error}")) from None
        except (ValueError, KeyError, TypeError):  # a body that is no JSON, or other JSON
            raise self.not_jenkins_error(exchange) from None

    def refusal_error(self, exchange: JenkinsExchange) -> JenkinsRefusal:
        """A status other than 2xx."""
        status, reason = exchange.status, self.response_text(exchange)
        if status in (401, 403, 407):
            return JenkinsRefusal(self._strip_secrets(self._permission_error(exchange)), status=status)
        if status == 404:
            page = exchange.url_requested.partition("?")[0]
            return JenkinsRefusal(
                self._strip_secrets(f"Jenkins has no {page}, or {self.user} may not see it"), status=status
            )
        again = status in BUSY_STATUSES or status >= 500 or status == 0
        return JenkinsRefusal(f"Jenkins at {self.url} answered {status}: {reason}", status=status, retryable=again)

    def redirect_error(self, exchange: JenkinsExchange) -> JenkinsRefusal:
        """A redirect that is not Jenkins' own."""
        target = self._strip_secrets(exchange.redirect)
        return JenkinsRefusal(f"{self.url} leads to {target} and not to Jenkins; check url", status=exchange.status)

    def not_jenkins_error(self, exchange: JenkinsExchange) -> CIError:
        """No JSON of Jenkins: a log-in page, say, or a proxy's page of a maintenance."""
        if exchange.redirect:
            return self.redirect_error(exchange)
        kind = self._strip_secrets(exchange.headers.get("Content-Type", "no content type"))
        return CIError(f"{self.url} answered {exchange.status} with {kind} instead of Jenkins' JSON; check url")

    def response_text(self, exchange: JenkinsExchange) -> str:
        """What Jenkins gave as the reason, as plain text."""
        body = exchange.text[max(0, exchange.text.lower().find("<body")) :][:MAX_BODY_CHARS]
        page = html.unescape(MARKUP.sub(" ", body))
        return self._strip_secrets(exchange.headers.get("X-Error") or page) or "no reason given"

    def _permission_error(self, exchange: JenkinsExchange) -> str:
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

    def _timeout_error(self) -> CIError:
        return CIError(f"Jenkins at {self.url} did not answer in time")

    def _strip_secrets(self, text: str) -> str:
        """One bounded line of it, without the token, plain or as it was sent: a page may repeat the request."""
        sent = base64.b64encode(f"{self.user}:{self.token}".encode()).decode()
        for secret in (self.token, sent):
            text = text.replace(secret, "…")
        line = " ".join("".join(character if character.isprintable() else " " for character in text).split())
        return line if len(line) <= MAX_MESSAGE_CHARS else line[: MAX_MESSAGE_CHARS - 1] + "…"
