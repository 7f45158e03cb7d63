"""A target's settings made into a client: the one place that knows which setting becomes which part.

Nothing is sent here, and no file is read: what cannot be read is told by the first request.
"""

import os
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager

import aiohttp

from bridge.config.http_client import BasicAuth, split_user
from bridge.config.remote_write import RemoteWrite
from bridge.delivery.auth import Basic, OwnHeaders, SignIn, Together, Token
from bridge.delivery.aws import Aws
from bridge.delivery.client import RemoteWriteClient
from bridge.delivery.negotiation import Negotiation
from bridge.delivery.oauth2 import ClientCredentials
from bridge.delivery.session import Route, SignedSession, open_session


@asynccontextmanager
async def connect(
    target: RemoteWrite,
    *,
    now_s: Callable[[], float],
    environ: Mapping[str, str] = os.environ,
    negotiation: Negotiation | None = None,
    sent: Callable[[int], None] = lambda _: None,
) -> AsyncIterator[RemoteWriteClient]:
    """Hand over a client for a target; its connections are closed when the block ends.

    `negotiation` chooses the version of remote_write, `sent` is told the bytes of each body.
    """
    url, user = split_user(target.url)
    async with open_session() as session:
        ways = list(_ways(target, user, session, now_s, environ))
        signed = SignedSession(
            session,
            Route(target, environ),
            Together(ways) if ways else None,
            follow_redirects=target.follow_redirects,
            private=bool(target.headers),
        )
        yield RemoteWriteClient(
            signed,
            url,
            now_s=now_s,
            timeout_s=target.remote_timeout,
            headers={name: value.get_secret_value() for name, value in target.headers.items()},
            tenant_header=target.tenant_header,
            negotiation=negotiation,
            sent=sent,
        )


def _ways(
    target: RemoteWrite,
    user: BasicAuth | None,
    session: aiohttp.ClientSession,
    now_s: Callable[[], float],
    environ: Mapping[str, str],
) -> list[SignIn]:
    """Return what signs in, the user's header files among it; of the URL's user only where nothing else does."""
    ways: list[SignIn] = []
    if target.http_headers:
        ways.append(OwnHeaders(target.http_headers))
    if target.basic_auth is not None:
        ways.append(Basic(target.basic_auth))
    elif target.token is not None:
        ways.append(Token(target.token))
    elif target.oauth2 is not None:
        route = Route(target.oauth2, environ)
        ways.append(
            ClientCredentials(target.oauth2, session, route, clock_s=time.monotonic, timeout_s=target.remote_timeout)
        )
    elif target.sigv4 is not None:
        ways.append(Aws(target.sigv4, environ, now_s))
    elif user is not None:
        ways.append(Basic(user))
    return ways
