"""One POST to one receiver: bytes out, an outcome back.

Owns headers, the timeout and the translation of aiohttp's errors. The version of remote_write is `negotiation`'s;
repeating, waiting and logging are the sender's; the session (connections, TLS, sign-in) is given in and closed
by its owner.
"""

import io
from collections.abc import Callable, Mapping

import aiohttp

from bridge import __version__
from bridge.delivery.negotiation import V1, V2, Negotiation
from bridge.delivery.outcome import MAX_WORDS_BYTES, Outcome, Rejected, RetryLater, classify
from bridge.delivery.redirects import RedirectError
from bridge.delivery.secret_file import SignInError
from bridge.delivery.session import SignedSession

DEFAULT_TIMEOUT_S = 30.0
DEFAULT_TENANT_HEADER = "X-Scope-OrgID"

_HEADERS = {
    "Content-Encoding": "snappy",
    "User-Agent": f"pushbridge/{__version__}",
    # Error texts are short, and a compressed one could unpack to any size.
    "Accept-Encoding": "identity",
}
_SUCCESS = range(200, 300)


class RemoteWriteClient:
    """Sends requests to one URL; safe to use from several tasks."""

    def __init__(
        self,
        session: aiohttp.ClientSession | SignedSession,
        url: str,
        *,
        now_s: Callable[[], float],
        timeout_s: float = DEFAULT_TIMEOUT_S,
        headers: Mapping[str, str] | None = None,
        tenant_header: str = DEFAULT_TENANT_HEADER,
        negotiation: Negotiation | None = None,
        sent: Callable[[int], None] = lambda _: None,
    ) -> None:
        """Use `session` for every request.

        `now_s` is seconds since the epoch, `timeout_s` bounds one POST in all. `headers` are the user's
        own, which the protocol's stand over; a tenant's `tenant_header` stands over the user's of that name.
        `negotiation` chooses the version, 1.0 by default; `sent` is told the bytes of each body that went out.
        """
        self._session = session
        self._url = url
        self._now_s = now_s
        self._headers = {**(headers or {}), **_HEADERS}
        self._tenant_header = tenant_header
        self._negotiation = negotiation or Negotiation()
        self._sent = sent
        self._timeout = aiohttp.ClientTimeout(total=timeout_s)

    async def send(self, block: bytes, attempt: int, tenant: str = "") -> Outcome:
        """POST a snappy block that holds a WriteRequest, for a tenant if there is one; `attempt` is 0 at first.

        Where 2.0 is spoken the block goes out as its message of 2.0, and as it is at once when that is not understood.

        Never raises for what the network or the receiver does: no connection, a timeout and a malformed
        answer are `RetryLater`. Cancellation passes through.
        """
        headers = dict(self._headers)
        if tenant:
            mine = self._tenant_header.lower()
            headers = {name: value for name, value in headers.items() if name.lower() != mine}
            headers[self._tenant_header] = tenant
        if attempt > 0:
            headers["Retry-Attempt"] = str(attempt)
        try:
            outcome = await self._say(block, headers)
        except RedirectError as error:
            return Rejected(error.status, str(error))
        except SignInError as error:
            # Not the data's fault: the samples wait until a request can be made.
            return RetryLater(None, None, str(error))
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            return RetryLater(None, None, _words(error)[:MAX_WORDS_BYTES])
        if not isinstance(outcome, RetryLater):
            self._negotiation.settled(block)
        return outcome

    async def _say(self, block: bytes, headers: dict[str, str]) -> Outcome:
        negotiation = self._negotiation
        if negotiation.version is V2 and (body := await negotiation.body(block)) is not None:
            outcome, answer = await self._post(body, {**headers, **V2.headers})
            if outcome.status is None or negotiation.accepts(outcome.status, answer):
                return outcome
        refused = negotiation.cannot_say(block)
        if refused is not None:
            return refused
        outcome, _ = await self._post(block, {**headers, **V1.headers})
        return outcome

    async def _post(self, block: bytes, headers: dict[str, str]) -> tuple[Outcome, Mapping[str, str]]:
        # A file object goes out in pieces; aiohttp writes bytes of this size in one go and warns about it.
        request = self._session.post(
            self._url,
            data=io.BytesIO(block),
            headers=headers,
            allow_redirects=False,
            timeout=self._timeout,
        )
        self._sent(len(block))
        async with request as response:
            # The spec has senders ignore the body of a success.
            body = b"" if response.status in _SUCCESS else await _start_of_body(response)
            outcome = classify(response.status, body, response.headers.get("Retry-After"), self._now_s())
            return outcome, response.headers


def _words(error: Exception) -> str:
    """Tell what happened on the way; never a URL, which may have a password in it."""
    if isinstance(error, aiohttp.ClientResponseError):
        return f"{type(error).__name__}: {error.status} {error.message}"
    return type(error).__name__ if isinstance(error, aiohttp.InvalidURL) else f"{type(error).__name__}: {error}"


async def _start_of_body(response: aiohttp.ClientResponse) -> bytes:
    """Read at most `MAX_WORDS_BYTES`; a body that breaks off is cut there, for the status says enough."""
    body = bytearray()
    try:
        while len(body) < MAX_WORDS_BYTES:
            piece = await response.content.read(MAX_WORDS_BYTES - len(body))
            if not piece:
                break
            body += piece
    except (aiohttp.ClientError, TimeoutError, OSError):
        return bytes(body)
    return bytes(body)
