"""The targets that are delivered to: a sender each, started, stopped and replaced while the agent runs.

How a sender is put together is given in. Owns their tasks and connections; which targets there are, and their
cursors, are decided elsewhere.
"""

import asyncio
from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from dataclasses import dataclass

from bridge.config.remote_write import RemoteWrite
from bridge.delivery.sender import Sender

Open = Callable[[RemoteWrite], AbstractAsyncContextManager[Sender]]


@dataclass(frozen=True, slots=True, eq=False)
class _Running:
    settings: RemoteWrite
    sender: Sender
    task: "asyncio.Task[None]"
    connections: AsyncExitStack


class Targets:
    """The running senders, by the names of their targets."""

    def __init__(self, open_: Open, stop_s: float) -> None:
        """`open_` gives a target's sender; one that is stopped may take so many seconds. Needs a running loop."""
        self._open = open_
        self._stop_s = stop_s
        self._running: dict[str, _Running] = {}
        self.broken: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        """Done with the fault of the first sender that ends by itself."""

    def __len__(self) -> int:
        """Count the senders."""
        return len(self._running)

    async def apply(self, wanted: Sequence[RemoteWrite], *, again: bool = False) -> None:
        """Have a sender for each of these, and no other; start also those again that are as before if `again`."""
        by_name = {target.target: target for target in wanted}
        await self._stop(
            [name for name, running in self._running.items() if again or by_name.get(name) != running.settings]
        )
        for name, target in by_name.items():
            if name not in self._running:
                self._running[name] = await self._start(target)

    async def stop(self) -> None:
        """End all of them; what they had in flight is confirmed if that does not take too long."""
        await self._stop(list(self._running))

    async def _start(self, target: RemoteWrite) -> _Running:
        connections = AsyncExitStack()
        sender = await connections.enter_async_context(self._open(target))
        task = asyncio.create_task(sender.run())
        task.add_done_callback(self._ended)
        return _Running(target, sender, task, connections)

    def _ended(self, task: "asyncio.Task[None]") -> None:
        fault = None if task.cancelled() else task.exception()
        if fault is not None and not self.broken.done():
            self.broken.set_exception(fault)

    async def _stop(self, names: Sequence[str]) -> None:
        stopping = [self._running.pop(name) for name in names]
        for running in stopping:
            running.sender.stop()
        if stopping:
            await asyncio.wait([running.task for running in stopping], timeout=self._stop_s)
        for running in stopping:
            running.task.cancel()
            # A fault is told by `broken`.
            await asyncio.gather(running.task, return_exceptions=True)
            await running.connections.aclose()
