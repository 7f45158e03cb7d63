"""A bell for many waiters: each waits for whatever happens next and looks for itself. Nothing else lives here."""

import asyncio


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
