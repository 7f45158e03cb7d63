"""One request to an agent or a Pushgateway, as the commands send it.

Owns what is the same for all of them: basic auth from the URL, which no message ever shows, no redirects, and one
error for every way in which a server can be away. What is asked, and what an answer means, does not belong here.
"""

import base64
import http.client
import urllib.error
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass
from http import HTTPStatus
from urllib.parse import unquote_to_bytes, urlsplit, urlunsplit

_TIMEOUT_S = 30
_REDIRECTS = range(300, 400)


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """A redirected POST would be repeated as a GET, whose 200 means nothing."""

    def redirect_request(self, *_: object) -> None:
        """Leave the redirect to be reported."""


_DIRECT = urllib.request.build_opener(_NoRedirect)


class AwayError(Exception):
    """There was no answer; the text says why, without the URL."""


@dataclass(frozen=True, slots=True)
class PeerAnswer:
    """What a server said."""

    status: int
    body: bytes
    retry_after: str | None = None

    @property
    def is_success(self) -> bool:
        """Whether the status is a 2xx."""
        return HTTPStatus.OK <= self.status < HTTPStatus.MULTIPLE_CHOICES

    @property
    def words(self) -> str:
        """The body as a message."""
        return self.body.decode(errors="replace").strip()


class Peer:
    """A server under its URL."""

    def __init__(self, url: str) -> None:
        """Take user and password out of `url`; ValueError when it cannot be read, with a text that shows neither."""
        self.shown = url.rpartition("@")[2].rstrip("/")
        self._headers: dict[str, str] = {}
        try:
            parts = urlsplit(url)
        except ValueError as error:
            raise ValueError(f"cannot read the URL ...{self.shown}: {error}") from error
        user, at, host = parts.netloc.rpartition("@")
        if "@" in url and not at:
            raise ValueError(
                f"cannot read the URL ...@{self.shown}: want user:password@ before the host, with / ? # as %2F %3F %23"
            )
        if at:
            self._headers["Authorization"] = f"Basic {base64.b64encode(unquote_to_bytes(user)).decode()}"
        self._url = self.shown = urlunsplit(parts._replace(netloc=host)).rstrip("/")

    def ask(
        self,
        method: str,
        path: str,
        body: bytes | None = None,
        headers: Mapping[str, str] | None = None,
        timeout_s: float = _TIMEOUT_S,
    ) -> PeerAnswer:
        """Send one request and wait for the whole answer; AwayError when there is none.

        `timeout_s` bounds each wait for the network, not their sum, and no name look-up.
        """
        try:
            request = urllib.request.Request(  # noqa: S310 - the user names the server
                f"{self._url}{path}", data=body, method=method, headers={**self._headers, **(headers or {})}
            )
            return _exchange(request, timeout_s)
        except (OSError, ValueError, http.client.HTTPException) as error:
            raise AwayError(str(getattr(error, "reason", error)) or type(error).__name__) from error


def _exchange(request: urllib.request.Request, timeout_s: float) -> PeerAnswer:
    try:
        with _DIRECT.open(request, timeout=timeout_s) as answer:
            return PeerAnswer(answer.status, answer.read())
    except urllib.error.HTTPError as error:
        with error:
            location = error.headers.get("Location") if error.code in _REDIRECTS else None
            words = f"redirects to {location}".encode() if location else error.read()
            return PeerAnswer(error.code, words, error.headers.get("Retry-After"))
