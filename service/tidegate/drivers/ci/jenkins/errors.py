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

from tidegate.drivers.error_translation import describe_cause, root_cause
from tidegate.drivers.http_client import ResponseTooLarge
from tidegate.errors import CIError
from tidegate.text import single_line

MAX_MESSAGE_CHARS = 300  # of Jenkins' own message
MAX_READ_BYTES = 65_536  # of an error page
MAX_BODY_CHARS = 8_000  # of an error page's body in which the message is searched
MARKUP = re.compile(r"<!--.*?-->|<(script|style)\b.*?</\1>|<[^>]*>", re.DOTALL | re.IGNORECASE)
BUSY_STATUSES = frozenset({408, 425, 429})  # retryable, as are all 5xx


class JenkinsUnreachable(CIError):
    """Jenkins cannot be reached."""


class JenkinsRefusal(CIError):
    """Jenkins answered with an unexpected status."""

    def __init__(self, message: str, *, status: int, retryable: bool = True) -> None:
        super().__init__(message, retryable=retryable)
        #: The HTTP status.
        self.status = status


@dataclass
class JenkinsExchange:
    """The parts of the last response that the library drops, recorded by a response hook."""

    status: int = 0
    url_requested: str = ""
    text: str = ""  # the beginning of an error page
    headers: requests.structures.CaseInsensitiveDict[str] = field(default_factory=requests.structures.CaseInsensitiveDict)

    def record(self, response: requests.Response, **_: object) -> None:
        """The response hook, called for every response."""
        self.status, self.url_requested, self.headers = response.status_code, str(response.url), response.headers
        self.text = response.content[:MAX_READ_BYTES].decode("utf-8", "replace") if response.status_code >= 400 else ""

    def forget(self) -> None:
        """Clear the record before the next request."""
        self.status, self.url_requested, self.text, self.headers = 0, "", "", requests.structures.CaseInsensitiveDict()

    @property
    def redirect(self) -> str:
        """The target of a redirect; empty without one, and for Jenkins' own redirect to the build's page after a POST.

        Redirects are not followed: a POST would become a GET, and a redirect to a log-in page would look like a success.
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
    """Makes the error messages about exchanges with one Jenkins. No message contains the token."""

    url: str
    user: str
    token: str

    @contextmanager
    def translate_errors(self, exchange: JenkinsExchange) -> Iterator[None]:
        """Turn every error of the library, of requests and of an unexpected body into a `CIError`."""
        exchange.forget()
        try:
            yield
        except TimeoutException:
            raise self._timeout_error() from None
        except (JenkinsException, requests.HTTPError):
            raise self.refusal_error(exchange) from None
        except ResponseTooLarge as error:
            raise CIError(f"Jenkins at {self.url}: {error}") from None
        except requests.exceptions.SSLError as error:
            raise CIError(
                self._strip_secrets(f"Cannot verify the certificate of {self.url}: {describe_cause(error)}. Set ca_file.")
            ) from None
        except requests.JSONDecodeError:
            raise self.not_jenkins_error(exchange) from None
        except requests.RequestException as error:
            if isinstance(root_cause(error), TimeoutError):  # without retries urllib3 wraps it in a connection error
                raise self._timeout_error() from None
            raise JenkinsUnreachable(
                self._strip_secrets(f"Cannot reach Jenkins at {self.url}: {describe_cause(error)}")
            ) from None
        except OSError as error:  # requests raises it bare when ca_file does not exist
            raise CIError(self._strip_secrets(f"Cannot query Jenkins at {self.url}: {error}")) from None
        except (ValueError, KeyError, TypeError):  # a body that is no JSON, or other JSON
            raise self.not_jenkins_error(exchange) from None

    def refusal_error(self, exchange: JenkinsExchange) -> JenkinsRefusal:
        """The error of a status other than 2xx."""
        status, reason = exchange.status, self.response_text(exchange)
        if status in (401, 403, 407):
            return JenkinsRefusal(self._strip_secrets(self._permission_error(exchange)), status=status)
        if status == 404:
            page = exchange.url_requested.partition("?")[0]
            return JenkinsRefusal(
                self._strip_secrets(f"{page} not found: it does not exist, or {self.user} may not see it"), status=status
            )
        again = status in BUSY_STATUSES or status >= 500 or status == 0
        return JenkinsRefusal(f"Jenkins at {self.url} answered {status}: {reason}", status=status, retryable=again)

    def redirect_error(self, exchange: JenkinsExchange) -> JenkinsRefusal:
        """The error of a redirect that is not Jenkins' own."""
        target = self._strip_secrets(exchange.redirect)
        return JenkinsRefusal(
            f"{self.url} redirects to {target}, not to Jenkins. Check url: it must be Jenkins' root.",
            status=exchange.status,
        )

    def not_jenkins_error(self, exchange: JenkinsExchange) -> CIError:
        """The error of a body that is not Jenkins' JSON, such as a log-in or maintenance page."""
        if exchange.redirect:
            return self.redirect_error(exchange)
        kind = self._strip_secrets(exchange.headers.get("Content-Type", "no content type"))
        return CIError(f"{self.url} answered {exchange.status} with {kind} instead of Jenkins' JSON. Check url.")

    def response_text(self, exchange: JenkinsExchange) -> str:
        """Jenkins' own message, as plain text without secrets."""
        body = exchange.text[max(0, exchange.text.lower().find("<body")) :][:MAX_BODY_CHARS]
        page = html.unescape(MARKUP.sub(" ", body))
        return self._strip_secrets(exchange.headers.get("X-Error") or page) or "no reason given"

    def _permission_error(self, exchange: JenkinsExchange) -> str:
        """The message of a missing permission. Retryable: the request works as soon as somebody grants it."""
        missing = exchange.headers.get("X-Required-Permission")
        who = f"Jenkins at {self.url} refused {self.user} with {exchange.status}"
        if missing:
            return f"{who}: the permission {missing} is missing. Grant it; Tidegate retries."
        return f"{who}. Check user, its permissions and the token (an API token, not a password); Tidegate retries."

    def _timeout_error(self) -> CIError:
        return CIError(f"Jenkins at {self.url} did not answer in time")

    def _strip_secrets(self, text: str) -> str:
        """One bounded line without the token, plain or encoded: an error page may repeat the request."""
        sent = base64.b64encode(f"{self.user}:{self.token}".encode()).decode()
        for secret in (self.token, sent):
            text = text.replace(secret, "…")
        return single_line(text, MAX_MESSAGE_CHARS)
