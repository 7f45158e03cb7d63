"""How many requests of a target are in flight at once: so many in all, and one of each tenant whatever the others have.

A tenant whose requests get no answer keeps all that it has in flight for a timeout; the others do not wait for that.
Owns who is next. What a request is, and how many a tenant has ready, does not belong here.
"""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager


class Slots:
    """Places for requests, given in the order in which they are asked for."""

    def __init__(self, most: int) -> None:
        """Have so many, and where all are taken one for each tenant that has none."""
        self._most = most
        self._taken_by: Counter[str] = Counter()
        self._taken = 0
        self._waiting: dict[asyncio.Future[None], str] = {}
        """The first one first; a tenant that waits has something in flight."""

    @asynccontextmanager
    async def one(self, tenant: str) -> AsyncIterator[None]:
        """Have a place for a request of a tenant until the block ends."""
        if not self._is_free(tenant):
            await self._wait(tenant)
        else:
            self._take(tenant)
        try:
            yield
        finally:
            self._give_back(tenant)

    def _is_free(self, tenant: str) -> bool:
        return self._taken < self._most or not self._taken_by[tenant]

    def _take(self, tenant: str) -> None:
        self._taken += 1
        self._taken_by[tenant] += 1

    async def _wait(self, tenant: str) -> None:
        turn = asyncio.get_running_loop().create_future()
        self._waiting[turn] = tenant
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():
                self._give_back(tenant)
            raise
        finally:
            self._waiting.pop(turn, None)

    def _give_back(self, tenant: str) -> None:
        self._taken -= 1
        self._taken_by[tenant] -= 1
        if not self._taken_by[tenant]:
            del self._taken_by[tenant]
        # Where more than all are taken only the tenant itself can be next.
        for turn, waiting in self._waiting.items():
            if not turn.done() and self._is_free(waiting):
                self._take(waiting)
                turn.set_result(None)
                return
