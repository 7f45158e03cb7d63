"""Answers of the HTTP side: the one place that turns an error into a status.

Texts follow Go's http.Error: plain text, no sniffing, a newline at the end (protocol.md section 5.3).
"""

import json
from dataclasses import dataclass
from http import HTTPStatus

from aiohttp import web

from bridge.errors import (
    BadPushError,
    JournalFullError,
    JournalUnavailableError,
    KeyReusedError,
    PushRefusedError,
    TooLargeError,
    UnsupportedEncodingError,
)

_STATUS: dict[type[PushRefusedError], int] = {
    BadPushError: 400,
    TooLargeError: 413,
    UnsupportedEncodingError: 415,
    KeyReusedError: 409,
    JournalFullError: 503,
    JournalUnavailableError: 503,
}
_RETRY_AFTER_S = "10"
_TEXT_HEADERS = {"Content-Type": "text/plain; charset=utf-8", "X-Content-Type-Options": "nosniff"}
_API_HEADERS = {
    "Access-Control-Allow-Headers": "Accept, Authorization, Content-Type, Origin",
    "Access-Control-Allow-Methods": "GET, POST, DELETE, OPTIONS",
    "Access-Control-Allow-Origin": "*",
    "Access-Control-Expose-Headers": "Date",
    "Cache-Control": "no-cache, no-store, must-revalidate",
}


def text(status: int, words: str, headers: dict[str, str] | None = None) -> web.Response:
    """Answer with plain text."""
    return web.Response(
        status=status,
        text=f"{words}\n",
        headers={**_TEXT_HEADERS, **(headers or {})},
    )


@dataclass(frozen=True, slots=True)
class Answer:
    """What a push is answered, on either way through HTTP."""

    status: int
    body: bytes = b""
    headers: tuple[tuple[str, str], ...] = ()

    def response(self) -> web.Response:
        """The answer as aiohttp sends it."""
        return web.Response(status=self.status, body=self.body, headers=dict(self.headers))


ACCEPTED = Answer(200)
ENDED = Answer(202)
ABORTED = Answer(400, b"the body ended before its end\n")


def refusal(error: PushRefusedError) -> Answer:
    """Answer a push that was refused; a full or broken disk asks the sender to come back."""
    status = _STATUS[type(error)]
    again = (("Retry-After", _RETRY_AFTER_S),) if status == HTTPStatus.SERVICE_UNAVAILABLE else ()
    return Answer(status, f"{error}\n".encode(), (*_TEXT_HEADERS.items(), *again))


def api(data: object) -> web.Response:
    """Answer in the JSON shape of Pushgateway's API (protocol.md section 5.7)."""
    body = json.dumps({"status": "success", "data": data}, ensure_ascii=False)
    return web.Response(text=body, headers={**_API_HEADERS, "Content-Type": "application/json"})


def api_error(status: int, kind: str, words: str, headers: dict[str, str] | None = None) -> web.Response:
    """Answer an error in the JSON shape of Prometheus' API; `kind` is one of its error types."""
    body = json.dumps({"status": "error", "errorType": kind, "error": words}, ensure_ascii=False)
    return web.Response(
        status=status, text=body, headers={**_API_HEADERS, "Content-Type": "application/json", **(headers or {})}
    )


def api_refusal(error: PushRefusedError) -> web.Response:
    """Answer a request under /api/v1/ that was refused, as `refusal` answers a push."""
    answer = refusal(error)
    kind = "unavailable" if answer.status == HTTPStatus.SERVICE_UNAVAILABLE else "bad_data"
    again = {name: value for name, value in answer.headers if name == "Retry-After"}
    return api_error(answer.status, kind, str(error), again)


def api_options() -> web.Response:
    """Answer a CORS preflight."""
    return web.Response(headers=_API_HEADERS)
