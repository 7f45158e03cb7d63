"""Notice changes in directories at once, by what the kernel tells.

Owns the use of watchfiles, which is not imported before a directory needs it. It is a help only: what it misses
(network file systems, targets of links, too many watches) the regular look finds.
"""

import asyncio
from collections.abc import Callable, Sequence
from pathlib import Path

import structlog

from bridge.textfile.scan import takes

_log = structlog.get_logger(__name__)
_DEBOUNCE_MS = 200
_STEP_MS = 50
_STOP_S = 2.0


async def watch(directories: Sequence[Path], tell: Callable[[], None], stop: asyncio.Event) -> None:
    """Call `tell` after each change of a file that is ours, until `stop`; ends by itself when it cannot watch."""
    from watchfiles import awatch  # noqa: PLC0415 - only for those who have directories

    own = {str(directory) for directory in directories}

    def concerns(_: object, path: str) -> bool:
        name = path.rpartition("/")[2]
        # Kubernetes swaps all files of a volume by renaming `..data`.
        return takes(name) or name == "..data" or path in own

    try:
        changes = awatch(
            *directories,
            watch_filter=concerns,
            debounce=_DEBOUNCE_MS,
            step=_STEP_MS,
            stop_event=stop,
            recursive=False,
            ignore_permission_denied=True,
        )
        async for _ in changes:
            tell()
    except (OSError, RuntimeError) as error:
        _log.warning("textfile_watch_failed", error=str(error), instead="the directories are looked at regularly")


class Watcher:
    """Watches the directories that are there, and begins anew when one comes, goes or is replaced."""

    def __init__(self, tell: Callable[[], None]) -> None:
        """Call `tell` after changes."""
        self._tell = tell
        self._seen: dict[Path, tuple[int, int]] = {}
        self._stopping = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    async def follow(self, seen: dict[Path, tuple[int, int]]) -> None:
        """Watch these, given with what tells each from another that may take its place."""
        if seen != self._seen:
            await self.stop()
            self._seen = seen
            if seen:
                self._stopping = asyncio.Event()
                self._task = asyncio.create_task(watch(list(seen), self._tell, self._stopping))
                # What changed before the watch began was not told.
                self._tell()

    async def stop(self) -> None:
        """Watch no more."""
        self._stopping.set()
        if self._task is not None:
            # Not by cancelling alone: a cancellation that meets a change is lost in the library's own.
            await asyncio.wait([self._task], timeout=_STOP_S)
            self._task.cancel()
            self._task = None
