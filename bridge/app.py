"""Puts the agent together and takes it down in order: the only place that names the concrete parts.

Order of the end: stop accepting, finish what is in hand, let the senders finish their batch, write
what is left, close (design.md section 9; issue 2, "Commands").
"""

import asyncio
import signal
import socket
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import structlog

from bridge.collectors import AccountCollector, FileCollector, OverdueCollector
from bridge.config.file import Config
from bridge.config.units import split_address
from bridge.errors import ConfigError, JournalFullError, JournalUnavailableError, PushRefusedError
from bridge.heartbeat import Heartbeat
from bridge.hold import HoldTimes
from bridge.journal.committer import Committer
from bridge.journal.history import History
from bridge.journal.reader import JournalReader
from bridge.journal.store import Journal
from bridge.outlet import Outlets
from bridge.reload import Reloader
from bridge.restore import load_groups, load_ledger, load_schedule
from bridge.settings import Settings
from bridge.targets import Targets
from bridge.telemetry import Telemetry
from bridge.textfile.files import Files
from bridge.textfile.intake import Intake
from bridge.timekeeper import Timekeeper
from bridge.web.dead_letters import DeadLetters
from bridge.web.listener import Listener
from bridge.web.receipts import Receipts
from bridge.web.runs import RunList
from bridge.web.server import Site

_log = structlog.get_logger(__name__)
_TRIM_INTERVAL_S = 10.0
_PROBE_INTERVAL_S = 1.0
_FIRST_LOOK_S = 10.0
_STOP_HTTP_S = 4.0
_STOP_SENDERS_S = 3.0


def wall_ms() -> int:
    """Milliseconds since the epoch: the clock that is given to everything below."""
    return time.time_ns() // 1_000_000


class Agent:
    """The running agent: built from a config, run once."""

    def __init__(
        self,
        config: Config,
        *,
        now_ms: Callable[[], int] = wall_ms,
        new_targets_since_ms: Callable[[], int | None] = lambda: None,
        read: Callable[[], Config] | None = None,
    ) -> None:
        """Open the journal and the listening socket; raises ConfigError before anything is started.

        `new_targets_since_ms` gives where they begin, None for now; `read` gives the configuration for a reload.
        """
        self._settings, self._now_ms = Settings(config), now_ms
        self._read, self._since_ms = read, new_targets_since_ms
        self.telemetry = Telemetry()
        external = config.global_.external_labels
        self._socket = listen(config.web.listen_address)
        try:
            self._journal = Journal.open(config.storage.path, max_bytes=config.storage.max_bytes, now_ms=now_ms())
        except BaseException:
            self._socket.close()
            raise
        self._journal.most_letters = config.storage.max_dead_letters
        self._tell_recovery()
        try:
            groups, replayed = load_groups(self._journal, external)
            schedule = load_schedule(self._journal, self._settings.rules, external)
            targets = [target.target for target in config.remote_write]
            ledger = load_ledger(self._journal, targets, new_targets_since_ms())
        except (JournalFullError, JournalUnavailableError) as error:
            self._journal.rollback()
            self._journal.close()
            self._socket.close()
            raise ConfigError(f"storage.path: {error}") from error
        self.committer = Committer(
            self._journal,
            groups,
            ledger,
            replayed=replayed,
            schedule=schedule,
            now_ms=now_ms,
            when_full=config.storage.when_full,
            observer=self.telemetry,
        )
        self._readers, self._history = [JournalReader(self._journal.path)], History(self._journal.path)
        times = HoldTimes(int(config.push.hold_interval * 1000), int(config.push.forget_after * 1000))
        self._timekeeper = Timekeeper(self.committer, times, now_ms)
        host = socket.gethostname()
        self._heartbeat = Heartbeat(f"{host}:{self._socket.getsockname()[1]}", external, now_ms())
        self._heartbeat.add(lambda at_ms: schedule.facts(groups.live(), at_ms), about_agent=False)
        self._tell_of_journal()
        self._outlets = Outlets(self._settings, self.committer, self._journal, self._heartbeat, self.telemetry, now_ms)
        self.stopping = asyncio.Event()
        self._reloader: Reloader | None = None
        self._site = self._make_site()
        intake = Intake(self.committer, lambda: self._settings.push, self.telemetry, now_ms)
        self._files = Files(config, host, intake, self._settings.rules)
        self.telemetry.registry.register(FileCollector(self._files.facts))
        self._heartbeat.add(lambda _: self._files.facts())

    def _tell_recovery(self) -> None:
        if self._journal.recovery is not None:
            self.telemetry.recoveries.set(1)
            _log.error(
                "journal_damaged",
                reason=self._journal.recovery.reason,
                set_aside=str(self._journal.recovery.set_aside),
                rows_saved=self._journal.recovery.rows_saved,
            )

    def _tell_of_journal(self) -> None:
        committer, now_ms, register = self.committer, self._now_ms, self.telemetry.registry.register
        reader, groups = self._readers[0], committer.groups
        register(AccountCollector(self._journal, reader, self._history, committer.ledger, groups, now_ms=now_ms))
        register(OverdueCollector(committer.schedule, groups, now_ms))

    def _make_site(self) -> Site:
        return Site(
            self._settings,
            self.committer,
            Receipts(self.committer, self._history, self._journal.id),
            RunList(self.committer, self._history, self._now_ms),
            DeadLetters(self.committer, self._history, self._journal.id, self._now_ms, self._outlets.send_again),
            self.telemetry,
            self._now_ms,
            self._now_ms(),
            lambda: self.committer.failure,
            self.stopping.set,
            self.reload,
        )

    async def reload(self) -> str:
        """Put the configuration in force again; gives why it was not, nothing when it was."""
        return await self._reloader.reload() if self._reloader else "the agent has not started yet"

    @property
    def url(self) -> str:
        """Where the agent listens."""
        host, port = self._socket.getsockname()[:2]
        return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"

    async def run(self, started: Callable[[str], None] = lambda _url: None) -> None:
        """Serve and deliver until `stopping` is set, then end in order; returns when all is on disk."""
        self._settings.tell_doubts()
        committing = asyncio.create_task(self.committer.run())
        await self._files.take_spooled()
        listener = Listener(self._site)
        await listener.start(self._socket)
        targets = Targets(self._outlets.open, _STOP_SENDERS_S)
        await targets.apply(self.config.remote_write)
        read = self._read or (lambda: self.config)
        self._reloader = Reloader(
            read, self._settings, self.committer, self._journal, targets, self.telemetry, self._now_ms, self._since_ms
        )
        services = (self._look_after_journal(), self._files.run(), self._keep_time())
        keeping = [asyncio.create_task(service) for service in services]
        _log.info("started", url=self.url, targets=len(targets), storage=str(self.config.storage.path))
        started(self.url)
        stop = asyncio.create_task(self.stopping.wait())
        ends: list[asyncio.Future[Any]] = [stop, committing, targets.broken, *keeping]
        await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
        stop.cancel()
        for task in keeping:
            task.cancel()
        await listener.stop(_STOP_HTTP_S)
        await targets.stop()
        targets.broken.cancel()
        faults = await asyncio.gather(targets.broken, *keeping, return_exceptions=True)
        self.committer.close()
        await committing
        for reader in self._readers:
            reader.close()
        self._history.close()
        self._journal.close()
        _log.info("stopped")
        for fault in faults:
            if isinstance(fault, Exception):
                raise fault

    @property
    def config(self) -> Config:
        """The configuration in force."""
        return self._settings.config

    def _now_s(self) -> float:
        return self._now_ms() / 1000

    async def _keep_time(self) -> None:
        # What files tell of the time before the start comes before the first repeat, if they can be read at all.
        # Not wait_for, which loses a cancellation that comes together with what it waits for (Python 3.11).
        with suppress(TimeoutError):
            async with asyncio.timeout(_FIRST_LOOK_S):
                await self._files.looked.wait()
        await self._timekeeper.run()

    async def _look_after_journal(self) -> None:
        next_trim_s = time.monotonic() + _TRIM_INTERVAL_S
        while True:
            await asyncio.sleep(_PROBE_INTERVAL_S)
            try:
                if self.committer.failure is not None:
                    await self.committer.probe()
                if time.monotonic() >= next_trim_s:
                    next_trim_s = time.monotonic() + _TRIM_INTERVAL_S
                    await self.committer.write_states()
                    while await self.committer.trim(int(self.config.storage.retention * 1000)):
                        pass
                    await self.committer.trim_runs(int(self.config.push.forget_after * 1000))
                    await self.committer.trim_letters(int(self.config.storage.dead_letter_retention * 1000))
            except PushRefusedError as error:
                _log.debug("journal_unavailable", error=str(error))


def listen(address: str) -> socket.socket:
    """Bind the listening socket, so that a port in use stops the start; raises ConfigError."""
    host, port = split_address(address)
    family = socket.AF_INET6 if ":" in host or not host else socket.AF_INET
    try:
        if not host:
            return socket.create_server(("", port), family=family, dualstack_ipv6=True)
        infos = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        return socket.create_server(infos[0][4][:2], family=infos[0][0])
    except OSError as error:
        raise ConfigError(f"web.listen_address: cannot listen on {address}: {error.strerror or error}") from error


async def run_until_signal(agent: Agent, started: Callable[[str], None] = lambda _url: None) -> None:
    """Run the agent until SIGTERM or SIGINT; SIGHUP reloads its configuration."""
    loop = asyncio.get_running_loop()
    reloads: set[asyncio.Task[str]] = set()

    def reload() -> None:
        task = asyncio.create_task(agent.reload())
        reloads.add(task)
        task.add_done_callback(reloads.discard)

    loop.add_signal_handler(signal.SIGHUP, reload)
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, agent.stopping.set)
    await agent.run(started)
