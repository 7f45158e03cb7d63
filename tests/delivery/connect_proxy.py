"""A forward proxy that tunnels (CONNECT) for who knows the password, as far as the tests need one."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field

_CREDENTIALS = b"proxy-authorization: basic bWU6bWFya2Vy\r\n"
"""me:marker."""


@dataclass
class ConnectProxy:
    """Connects everybody to one port, whatever host they ask for."""

    port: int
    heads: list[bytes] = field(default_factory=list)
    _tunnels: set[asyncio.Task[None]] = field(default_factory=set)

    async def handle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serve one connection."""
        head = await reader.readuntil(b"\r\n\r\n")
        self.heads.append(head)
        if _CREDENTIALS.lower() not in head.lower():
            writer.write(b"HTTP/1.1 407 Who are you\r\nContent-Length: 0\r\n\r\n")
            writer.close()
            await writer.wait_closed()
            return
        there, away = await asyncio.open_connection("127.0.0.1", self.port)
        writer.write(b"HTTP/1.1 200 Connected\r\n\r\n")
        self._tunnels |= {asyncio.create_task(_copy(*ends)) for ends in ((reader, away), (there, writer))}

    @asynccontextmanager
    async def serving(self) -> AsyncIterator[int]:
        """Serve until the block ends; give the port."""
        server = await asyncio.start_server(self.handle, "127.0.0.1", 0)
        try:
            yield server.sockets[0].getsockname()[1]
        finally:
            server.close()
            for task in self._tunnels:
                task.cancel()
            await asyncio.gather(*self._tunnels, return_exceptions=True)


async def _copy(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
    try:
        with suppress(ConnectionError):
            while piece := await source.read(1 << 16):
                sink.write(piece)
                await sink.drain()
    finally:
        sink.transport.abort()
