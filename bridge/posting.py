"""One push to an agent over HTTP, for the commands that stand beside the jobs (`push`, `exec`).

Synchronous and small, because cron jobs pay for it. A redirect is an answer like any other. When to try
again, and what to do with a push that nobody takes, is the callers' affair.
"""

import http.client
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from bridge.ingress.path import write_grouping_path
from bridge.model import Labels

TEXT_FORMAT: Final = "text/plain; version=0.0.4; charset=utf-8"
_LONGEST_TEXT_BYTES: Final = 4096


@dataclass(frozen=True, slots=True)
class Answer:
    """What the other side said."""

    status: int
    text: str
    """Its words, empty for a 2xx."""
    retry_after: str | None


class NoAnswerError(Exception):
    """Nobody there, no HTTP spoken, or too late; the text says which."""


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """A redirected POST would be repeated as a GET, whose 200 means nothing."""

    def redirect_request(self, *_: object) -> None:
        """Leave the redirect to be reported."""


_DIRECT = urllib.request.build_opener(_NoRedirect)


def grouping_labels(job: str, texts: Sequence[str]) -> Labels:
    """Labels of the group that `--job` and `--label NAME=VALUE` name, `job` first; ValueError for other texts."""
    pairs = [("job", job)]
    for text in texts:
        name, equals, value = text.partition("=")
        if not equals:
            raise ValueError(f"got {text!r}, want NAME=VALUE")
        pairs.append((name, value))
    return tuple(pairs)


def send(
    url: str,
    labels: Labels,
    body: bytes,
    timeout_s: float,
    *,
    headers: Mapping[str, str] | None = None,
    method: str = "POST",
) -> Answer:
    """Push a text body to the group `labels` of the agent at `url`; raises NoAnswerError.

    `timeout_s` bounds each wait for the network, not their sum, and no name look-up.
    """
    try:
        request = urllib.request.Request(  # noqa: S310 - the user names the agent
            f"{url.rstrip('/')}/metrics/{write_grouping_path(labels)}",
            data=body,
            method=method,
            headers={"Content-Type": TEXT_FORMAT, **(headers or {})},
        )
        return _exchange(request, timeout_s)
    except (OSError, ValueError, http.client.HTTPException) as error:
        raise NoAnswerError(str(getattr(error, "reason", error)) or type(error).__name__) from error


def _exchange(request: urllib.request.Request, timeout_s: float) -> Answer:
    try:
        with _DIRECT.open(request, timeout=timeout_s) as response:
            return Answer(response.status, "", None)
    except urllib.error.HTTPError as error:
        with error:
            text = error.read(_LONGEST_TEXT_BYTES).decode(errors="replace").strip()
            return Answer(error.code, text, error.headers.get("Retry-After"))
