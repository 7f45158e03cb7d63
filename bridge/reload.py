"""A changed configuration put in force while the agent runs: on SIGHUP and POST /-/reload.

Owns the order: what can fail comes first and changes nothing, and no row is without the cursor of a target that is to
get it. What a reload cannot change is `bridge.settings`' business.
"""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial

import structlog

from bridge import log
from bridge.config.file import Config
from bridge.errors import ConfigError, PushRefusedError
from bridge.journal.committer import Committer
from bridge.journal.ledger import pending
from bridge.journal.staging import Staging
from bridge.journal.store import Journal
from bridge.restore import RESCUE, new_cursor
from bridge.settings import Settings
from bridge.targets import Targets
from bridge.telemetry import Telemetry

_log = structlog.get_logger(__name__)


@dataclass(slots=True, eq=False)
class Reloader:
    """Reads the configuration again; one reload at a time."""

    read: Callable[[], Config]
    """Raises ConfigError."""
    settings: Settings
    committer: Committer
    journal: Journal
    targets: Targets
    telemetry: Telemetry
    now_ms: Callable[[], int]
    since_ms: Callable[[], int | None]
    """From which arrival on new targets get the journal, None for now."""
    _turn: asyncio.Lock = field(default_factory=asyncio.Lock)

    async def reload(self) -> str:
        """Put the configuration in force; gives why it was not, and then nothing has changed."""
        async with self._turn:
            try:
                config = self.read()
                await self._add_cursors([target.target for target in config.remote_write])
            except (ConfigError, PushRefusedError) as error:
                for fault in str(error).splitlines():
                    _log.error("reload_failed", error=fault, result="the configuration in force stays")
                self.telemetry.reloaded(ok=False, at_ms=self.now_ms())
                return str(error)
            await self._apply(config)
            self.telemetry.reloaded(ok=True, at_ms=self.now_ms())
            return ""

    async def _apply(self, config: Config) -> None:
        before = self.settings.config
        waiting = self.settings.apply(config)
        now = self.settings.config
        log.set_up(now.log)
        self.committer.when_full = now.storage.when_full
        self.journal.most_letters = now.storage.max_dead_letters
        # Both are built into how a target's samples are written.
        again = before.rules != now.rules or before.push.enable_utf8_names != now.push.enable_utf8_names
        await self.targets.apply(now.remote_write, again=again)
        await self._forget_cursors({target.target for target in now.remote_write})
        self.settings.tell_doubts()
        if waiting:
            _log.warning("restart_needed", keys=",".join(waiting), why="a reload does not change them")
        _log.info("reloaded", targets=len(self.targets))

    async def _add_cursors(self, names: list[str]) -> None:
        new = [name for name in names if name not in self.committer.ledger.cursors]
        if new:
            since_ms = self.since_ms()
            await self.committer.submit(
                lambda staging: staging.cursors.update({name: new_cursor(self.journal, name, since_ms) for name in new})
            )

    def _forget(self, name: str, _: Staging) -> None:
        self.journal.delete_cursor(name)

    async def _forget_cursors(self, names: set[str]) -> None:
        ledger = self.committer.ledger
        for name in ledger.cursors.keys() - names:
            unsent = max(0, pending(ledger.cursors[name], self.journal.accepted_total))
            try:
                await self.committer.submit(partial(self._forget, name))
            except PushRefusedError as error:
                _log.error("target_not_forgotten", target=name, error=str(error), result="the next start forgets it")
            ledger.forget(name)
            self.telemetry.forget_target(name)
            _log.warning(
                "target_forgotten",
                target=name,
                unsent_samples=unsent,
                why="it is not configured any more",
                rescue=RESCUE,
            )
