"""The listening socket: which connection goes which way, and the end of all of them.

Every connection starts in a `Lane` and goes over to aiohttp when it sends anything but plain pushes.
"""

import asyncio
import socket

from aiohttp import web

from bridge.web.lane import Lane
from bridge.web.server import Site

_HEADER_LIMIT_BYTES = 1 << 20
"""Go's default: grouping labels travel in the request line, and some are long."""


class Listener:
    """Serves a site on one socket."""

    def __init__(self, site: Site) -> None:
        """Serve `site`; needs a running loop."""
        self._site = site
        self._general = web.Server(
            site.handle,
            auto_decompress=False,
            access_log=None,
            max_line_size=_HEADER_LIMIT_BYTES,
            max_field_size=_HEADER_LIMIT_BYTES,
        )
        self._lanes: set[Lane] = set()

    async def start(self, listening: socket.socket) -> None:
        """Accept connections on a bound socket."""
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(self._lane, sock=listening, backlog=1024)

    async def stop(self, timeout_s: float) -> None:
        """Accept no more, let the pushes in hand be answered, close every connection."""
        self._server.close()
        self._site.receipts.stop_waiting()
        self._general.pre_shutdown()
        stopping = [asyncio.create_task(lane.stop()) for lane in self._lanes]
        await asyncio.wait([*stopping, asyncio.create_task(self._general.shutdown(timeout_s))], timeout=timeout_s)

    def _lane(self) -> Lane:
        return Lane(self._site.plain_push, self._general, self._lanes)
