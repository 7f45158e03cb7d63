"""Bells: one for everybody who waits for whatever happens next, one for those who wait for a number of their own.

Nothing else lives here.
"""

import asyncio
from collections import defaultdict


class News:
    """Rings for everybody who waits at that moment; what happened before is for the waiter to look at first."""

    def __init__(self) -> None:
        """Begin with nobody waiting."""
        self._next = asyncio.Event()

    def tell(self) -> None:
        """Wake everybody who waits."""
        self._next.set()
        self._next = asyncio.Event()

    async def wait(self) -> None:
        """Return at the next `tell`."""
        await self._next.wait()


class Milestones:
    """Rings for those whose number is reached and wakes nobody else: many may wait long for a target that is down.

    The numbers of a name only grow; whether one is reached already is for the waiter to look at first.
    """

    def __init__(self) -> None:
        """Begin with nobody waiting."""
        self._waiting: defaultdict[str, dict[asyncio.Future[None], int]] = defaultdict(dict)

    def advance(self, name: str, number: int) -> None:
        """Wake those who wait for this number of a name or for a lower one."""
        for future, awaited in self._waiting[name].items():
            if awaited <= number and not future.done():
                future.set_result(None)

    async def reach(self, name: str, number: int) -> None:
        """Return once `name` advances to `number`."""
        future = asyncio.get_running_loop().create_future()
        waiting = self._waiting[name]
        waiting[future] = number
        try:
            await future
        finally:
            del waiting[future]
