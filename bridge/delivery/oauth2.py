"""Tokens by OAuth 2.0's client credentials grant (RFC 6749 section 4.4), kept until shortly before they expire.

Owns asking for a token, when a new one is due, and the words when there is none. What a token is put on is the
session's business.
"""

import asyncio
import base64
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol
from urllib.parse import quote_plus

import aiohttp

from bridge.config.http_client import OAuth2, split_user
from bridge.config.units import shown_url
from bridge.delivery.auth import Outgoing, checked
from bridge.delivery.secret_file import SignInError, source

_MARGIN_S = 30.0
_SHARE = 0.1
"""A token is replaced this long before it expires, or a tenth of its life if that is shorter."""
_AGAIN_S = 5.0
"""A token endpoint that fails while the old token is still good is asked again after this."""
_MAX_ANSWER_BYTES = 1 << 20
_WORDS = 200
_OK = 200
_TYPES = {"bearer": "Bearer", "mac": "MAC", "basic": "Basic"}


class Ways(Protocol):
    """TLS and proxy (`bridge.delivery.session`)."""

    def options(self, url: str) -> Any:
        """Return what aiohttp needs to know to reach `url`. Raises SignInError."""
        ...


@dataclass(frozen=True, slots=True)
class _Token:
    header: str
    renew_s: float
    """When to ask for the next one."""
    expires_s: float


class ClientCredentials:
    """One client at one token endpoint."""

    def __init__(
        self,
        settings: OAuth2,
        session: aiohttp.ClientSession,
        ways: Ways,
        *,
        clock_s: Callable[[], float],
        timeout_s: float,
    ) -> None:
        """`clock_s` is monotonic; `timeout_s` bounds one request for a token."""
        self._settings = settings
        self._url, _ = split_user(settings.token_url)
        self._shown = shown_url(settings.token_url)
        self._secret = source(settings.client_secret, settings.client_secret_file, "oauth2.client_secret")
        self._session = session
        self._ways = ways
        self._clock_s = clock_s
        self._timeout = aiohttp.ClientTimeout(total=timeout_s)
        self._token: _Token | None = None
        self._in_body = False
        # Requests that find the token old together ask for one new one.
        self._asking = asyncio.Lock()

    async def headers(self, request: Outgoing) -> Mapping[str, str]:  # noqa: ARG002 - the interface's
        """Return the header with a token that has not expired."""
        async with self._asking:
            now_s = self._clock_s()
            if self._token is None or now_s >= self._token.renew_s:
                try:
                    self._token = await self._ask()
                except SignInError:
                    if self._token is None or now_s >= self._token.expires_s:
                        raise
                    self._token = _Token(self._token.header, now_s + _AGAIN_S, self._token.expires_s)
            return {"Authorization": self._token.header}

    def refused(self, headers: Mapping[str, str]) -> bool:
        """Forget the token that was refused: it has expired or was taken back."""
        if self._token is not None and self._token.header == headers.get("Authorization"):
            self._token = None
        return True

    async def _ask(self) -> _Token:
        status, answer = await self._post(in_body=self._in_body)
        if status in range(400, 500) and not self._in_body:
            # Endpoints disagree on where the secret belongs; the one place that worked is remembered.
            second = await self._post(in_body=True)
            if second[0] == _OK:
                self._in_body = True
                status, answer = second
        token = answer.get("access_token")
        if status != _OK or not isinstance(token, str) or not token:
            raise SignInError(f"oauth2: no token from {self._shown}: status {status}{self._words(answer)}")
        kind = str(answer.get("token_type") or "Bearer")
        header = checked(f"{_TYPES.get(kind.lower(), kind)} {token}", "oauth2: the token")
        now_s = self._clock_s()
        try:
            life_s = float(answer.get("expires_in") or "inf")
        except (TypeError, ValueError):
            life_s = float("inf")
        return _Token(header, now_s + life_s - min(_MARGIN_S, life_s * _SHARE), now_s + life_s)

    async def _post(self, *, in_body: bool) -> tuple[int, dict[str, Any]]:
        secret, settings = self._secret(), self._settings
        form: dict[str, str] = {"grant_type": settings.grant_type}
        if settings.scopes:
            form["scope"] = " ".join(settings.scopes)
        form |= {name: value.get_secret_value() for name, value in settings.endpoint_params.items()}
        headers = {"Accept": "application/json"}
        if in_body:
            form |= {"client_id": settings.client_id, "client_secret": secret}
        else:
            pair = f"{quote_plus(settings.client_id)}:{quote_plus(secret)}"
            headers["Authorization"] = f"Basic {base64.b64encode(pair.encode()).decode()}"
        try:
            async with self._session.post(
                self._url,
                data=form,
                headers=headers,
                allow_redirects=False,
                timeout=self._timeout,
                **self._ways.options(self._url),
            ) as response:
                body = await response.content.read(_MAX_ANSWER_BYTES)
                return response.status, _json_object(body)
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise SignInError(
                f"oauth2: no token from {self._shown}: {type(error).__name__}; nothing was sent"
            ) from None

    def _words(self, answer: Mapping[str, Any]) -> str:
        """What RFC 6749 section 5.2 has endpoints say; one that repeats the secret is not believed."""
        said = ": ".join(str(answer[key]) for key in ("error", "error_description") if key in answer)[:_WORDS]
        secret = self._secret()
        return f": {said.replace(secret, '...') if secret else said}" if said else ""


def _json_object(body: bytes) -> dict[str, Any]:
    try:
        found = json.loads(body)
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}
