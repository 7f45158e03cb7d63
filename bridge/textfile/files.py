"""All textfile directories of the agent: which there are, and when they are looked at.

Spool directories are looked at first, and once before anybody may push by HTTP: what waits there is older.
"""

import asyncio
import os
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from itertools import chain
from pathlib import Path
from time import monotonic

import structlog

from bridge.config.faults import Fault
from bridge.config.file import Check, Config
from bridge.errors import PushRefusedError
from bridge.heartbeat import Fact
from bridge.journal.rows import NEVER_MS
from bridge.rules import Rules
from bridge.textfile.collect import Collect, Ended, end_strangers
from bridge.textfile.dropped import Defaults
from bridge.textfile.intake import Intake
from bridge.textfile.scan import identity
from bridge.textfile.spool import Spool
from bridge.textfile.watch import Watcher

_log = structlog.get_logger(__name__)
RESCAN_S = 30.0
"""Changes that nobody tells, on network file systems, are noticed after this time at the latest."""
_SOON_S = 1.0
_RETRY_S = 5.0
_LEAST_PAUSE_S, _MOST_PAUSE_S = 0.05, 1.0
_SHARE = 4
"""So much longer than a look is the pause after it, however often files change."""
_SPOOL_MODE = 0o1777


class Files:
    """Looks at every directory, again and again."""

    def __init__(self, config: Config, host: str, intake: Intake, rules: Rules) -> None:
        """Begin with what the groups tell of files; make the agent's own spool directory."""
        self.looked = asyncio.Event()
        """Set when every directory was looked at once."""
        self._committer = intake.committer
        self._changed = asyncio.Event()
        self._failed = False
        # A file is there until it is removed; what a push says ends by itself.
        ttl_ms = lambda grouping: rules.ttl_ms(grouping, NEVER_MS)  # noqa: E731
        endless = replace(intake, options=lambda: replace(intake.options(), ttl_ms=ttl_ms))
        ended = Ended()
        defaults = {"job": "textfile", "instance": host}
        self._collect: list[Collect] = []
        self._spool: list[Spool] = []
        for entry in config.textfile:
            own, path = Defaults(entry.labels or defaults, bool(entry.labels)), absolute(entry.directory)
            if entry.mode == "collect":
                self._collect.append(Collect(path, own, endless, ended))
            else:
                self._spool.append(Spool(path, own, intake))
        spool = absolute(config.storage.spool)
        if _make_spool(spool) and all(other.path.resolve() != spool.resolve() for other in self._spool):
            own = Defaults(defaults, given=False)
            self._spool.append(Spool(spool, own, intake))

    def facts(self) -> Iterator[Fact]:
        """What is to be said of directories and files."""
        return chain(
            chain.from_iterable(collect.facts() for collect in self._collect),
            chain.from_iterable(spool.facts() for spool in self._spool),
        )

    async def take_spooled(self) -> None:
        """Take what waits in the spool directories; what the journal does not take stays."""
        with suppress(PushRefusedError):
            for spool in self._spool:
                await spool.look()

    async def run(self) -> None:
        """Go on until cancelled; a journal that takes no writes only makes things late."""
        watcher = Watcher(self._changed.set)
        try:
            while True:
                started_s = monotonic()
                self._changed.clear()
                pause_s = await self._look()
                self.looked.set()
                directories = [*(collect.path for collect in self._collect), *(spool.path for spool in self._spool)]
                seen = await asyncio.to_thread(lambda: {path: identity(path) for path in directories})  # noqa: B023
                await watcher.follow({path: found for path, found in seen.items() if found is not None})
                await asyncio.sleep(min(max(_LEAST_PAUSE_S, _SHARE * (monotonic() - started_s)), _MOST_PAUSE_S))
                # Not `wait_for`: before Python 3.12 it loses a cancellation that meets the event.
                with suppress(TimeoutError):
                    async with asyncio.timeout(pause_s):
                        await self._changed.wait()
        finally:
            await watcher.stop()

    async def _look(self) -> float:
        """Look at everything once; gives when to look again, in seconds."""
        try:
            await end_strangers(self._committer, frozenset(str(directory.path) for directory in self._collect))
            for spool in self._spool:
                await spool.look()
            changed = [await collect.look() for collect in self._collect]
            if any(changed) and any(collect.waits for collect in self._collect):
                # What one file gave up another one may have been waiting for.
                for collect in self._collect:
                    await collect.look()
        except PushRefusedError as error:
            if not self._failed:
                _log.error("textfile_waits", error=str(error))
            self._failed = True
            return _RETRY_S
        self._failed = False
        return _SOON_S if any(spool.soon for spool in self._spool) else RESCAN_S


def _missing_directories(config: Config) -> Iterator[Fault]:
    for at, entry in enumerate(config.textfile):
        if not entry.directory.is_dir() and entry.directory.resolve() != config.storage.spool.resolve():
            yield ("textfile", at, "directory"), f"want a directory, got {entry.directory}"


DIRECTORIES_ARE_THERE: Check = "storage", _missing_directories
"""Whoever starts an agent asks for it too; the agent makes no directory but its own."""


def absolute(path: Path) -> Path:
    """The path that groups are known by: links in it may lead elsewhere tomorrow."""
    return Path(os.path.abspath(path))  # noqa: PTH100 - pathlib has nothing that leaves links alone


def _make_spool(path: Path) -> bool:
    """Make the directory that anybody may drop files into; without it the agent works as well."""
    try:
        if not path.is_dir():
            path.mkdir()
            # The umask does not apply to this.
            path.chmod(_SPOOL_MODE)
    except OSError as error:
        _log.error("spool_not_made", directory=str(path), error=error.strerror)
        return False
    return True
