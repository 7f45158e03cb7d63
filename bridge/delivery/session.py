"""The connections to one server: TLS, proxy, sign-in and redirects around aiohttp's session.

Owns what has to happen around a request so that it arrives where it should and says who sends it. What the answer
means for the samples is `client`'s and `outcome`'s.
"""

import io
import ssl
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Literal, TypedDict

import aiohttp
from yarl import URL

from bridge.config.http_client import Way
from bridge.config.units import http_url
from bridge.delivery.auth import Outgoing, SignIn
from bridge.delivery.proxies import proxy_for, proxy_from_environment
from bridge.delivery.redirects import MAX_REDIRECTS, REDIRECTS, RedirectError, next_url
from bridge.delivery.secret_file import SignInError
from bridge.delivery.tls import TlsContext

_UNAUTHORIZED = 401


class Options(TypedDict, total=False):
    """What aiohttp is told about one request's way."""

    ssl: ssl.SSLContext
    server_hostname: str
    proxy: str
    proxy_headers: dict[str, str]


class Route:
    """TLS and proxy as the settings want them."""

    def __init__(self, settings: Way, environ: Mapping[str, str]) -> None:
        self._settings = settings
        self._environ = environ
        self._tls = TlsContext(settings.tls_config)

    def options(self, url: str) -> Options:
        """Return how to reach `url` now. Raises SignInError when a certificate cannot be read."""
        options = Options()
        proxy = self._proxy(url)
        if proxy:
            options["proxy"] = proxy
            headers = self._settings.proxy_connect_header.items()
            options["proxy_headers"] = {
                name: ", ".join(value.get_secret_value() for value in values) for name, values in headers
            }
        if url.startswith("https:") or proxy.startswith("https:"):
            # A part of the key of aiohttp's pool: connections with an older one are not used again.
            options["ssl"] = self._tls.current()
            if self._settings.tls_config.server_name:
                options["server_hostname"] = self._settings.tls_config.server_name
        return options

    def _proxy(self, url: str) -> str:
        settings = self._settings
        if not settings.proxy_from_environment:
            return proxy_for(url, settings.proxy_url, settings.no_proxy)
        proxy = proxy_from_environment(url, self._environ)
        if proxy:
            try:
                http_url(proxy)
            except ValueError as error:
                raise SignInError(f"proxy_from_environment: {error}; nothing was sent") from None
        return proxy


def open_session() -> aiohttp.ClientSession:
    """Open a session of its own for one target; as many connections as there are requests, and no cookies."""
    # The resolver's addresses are taken in turn, connection by connection (round_robin_dns).
    return aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0), cookie_jar=aiohttp.DummyCookieJar())


class SignedSession:
    """Posts to one server; safe to use from several tasks. Does not own the session it is given."""

    def __init__(
        self,
        session: aiohttp.ClientSession,
        route: Route,
        sign_in: SignIn | None,
        *,
        follow_redirects: bool,
        private: bool,
    ) -> None:
        """`private` says that there are headers that no other server may see, even without a sign-in."""
        self._session = session
        self._route = route
        self._sign_in = sign_in
        self._follow_redirects = follow_redirects
        self._private = private or sign_in is not None

    @asynccontextmanager
    async def post(
        self,
        url: str,
        *,
        data: io.BytesIO,
        headers: Mapping[str, str],
        timeout: aiohttp.ClientTimeout,  # noqa: ASYNC109 - aiohttp's own, for each request
        allow_redirects: Literal[False],  # noqa: ARG002 - aiohttp would turn some into a GET
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        """POST, sign in again once after a 401 if that may help, follow redirects that repeat the request.

        Raises SignInError when the request could not be made ready, RedirectError for a redirect that is not
        followed, and what aiohttp raises.
        """
        body, at = data.getvalue(), str(URL(url))
        may_renew = True
        for _ in range(MAX_REDIRECTS + 2):
            async with AsyncExitStack() as stack:
                signature = await self._signature(at, headers, body)
                response = await stack.enter_async_context(
                    self._session.post(
                        URL(at, encoded=True),
                        # A file object goes out in pieces; aiohttp writes bytes of this size in one go and warns.
                        data=io.BytesIO(body),
                        headers=_joined(headers, signature),
                        allow_redirects=False,
                        timeout=timeout,
                        **self._route.options(at),
                    )
                )
                if response.status in REDIRECTS:
                    at = self._next(response, at)
                elif response.status == _UNAUTHORIZED and may_renew and self._renewed(signature):
                    may_renew = False
                else:
                    yield response
                    return
        raise RedirectError(response.status, at, f"which is more than {MAX_REDIRECTS} redirects")

    async def _signature(self, url: str, headers: Mapping[str, str], body: bytes) -> Mapping[str, str]:
        return {} if self._sign_in is None else await self._sign_in.headers(Outgoing("POST", url, headers, body))

    def _renewed(self, signature: Mapping[str, str]) -> bool:
        return self._sign_in is not None and self._sign_in.refused(signature)

    def _next(self, response: aiohttp.ClientResponse, url: str) -> str:
        location = response.headers.get("Location", "")
        if not self._follow_redirects:
            raise RedirectError(response.status, location, "not followed, for follow_redirects is false")
        return str(URL(next_url(response.status, location, url, private=self._private)))


def _joined(headers: Mapping[str, str], signature: Mapping[str, str]) -> Mapping[str, str]:
    """Put both together; what the request says stands, for a tenant of its own takes the place of the user's header."""
    said = {name.lower() for name in headers}
    return {**{name: value for name, value in signature.items() if name.lower() not in said}, **headers}
