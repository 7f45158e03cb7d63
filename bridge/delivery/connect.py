"""A target's settings made into a client: the one place that knows which setting becomes which part.

Nothing is sent here.
"""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import aiohttp

from bridge.config.remote_write import RemoteWrite
from bridge.delivery.client import RemoteWriteClient


@asynccontextmanager
async def connect(target: RemoteWrite, *, now_s: Callable[[], float]) -> AsyncIterator[RemoteWriteClient]:
    """Hand over a client for a target; its connections are closed when the block ends."""
    async with aiohttp.ClientSession() as session:
        yield RemoteWriteClient(
            session,
            target.url,
            now_s=now_s,
            timeout_s=target.remote_timeout,
            headers=target.headers,
            tenant_header=target.tenant_header,
        )
