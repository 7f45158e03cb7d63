"""Puts the agent together and takes it down in order: the only place that names the concrete parts.

Order of the end: stop accepting, finish what is in hand, let the senders finish their batch, write
what is left, close (design.md section 9; issue 2, "Commands").
"""

import asyncio
import random
import signal
import socket
import time
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack, suppress
from functools import cache, partial

import structlog

from bridge.config.file import Config
from bridge.config.remote_write import RemoteWrite
from bridge.config.units import split_address
from bridge.delivery.batch import Request
from bridge.delivery.client import RemoteWriteClient
from bridge.delivery.connect import connect
from bridge.delivery.metadata import MetadataSender, MetadataTimes
from bridge.delivery.negotiation import Negotiation
from bridge.delivery.rewrite import TargetRules
from bridge.delivery.sender import Options, Sender
from bridge.delivery.target import rules_of_target, speaks_version_2
from bridge.errors import ConfigError, JournalFullError, JournalUnavailableError, PushRefusedError
from bridge.flatten import FlattenOptions
from bridge.heartbeat import Heartbeat
from bridge.hold import HoldTimes, TargetHold
from bridge.journal.committer import Committer
from bridge.journal.history import History
from bridge.journal.reader import JournalReader
from bridge.journal.rows import CUSTOM_IN_RW1, NATIVE_DISABLED
from bridge.journal.store import Journal
from bridge.limits import LabelLimits
from bridge.pipeline import PushOptions
from bridge.restore import load_groups, load_ledger, load_schedule
from bridge.rules import Rules
from bridge.telemetry import AccountCollector, FileCollector, OverdueCollector, Telemetry
from bridge.textfile.files import Files, check_directories
from bridge.textfile.intake import Intake
from bridge.timekeeper import Timekeeper
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
_WANTED = {
    NATIVE_DISABLED: "send_native_histograms: true",
    CUSTOM_IN_RW1: "protobuf_message: io.prometheus.write.v2.Request",
}


def wall_ms() -> int:
    """Milliseconds since the epoch: the clock that is given to everything below."""
    return time.time_ns() // 1_000_000


class Agent:
    """The running agent: built from a config, run once."""

    def __init__(
        self, config: Config, *, now_ms: Callable[[], int] = wall_ms, new_targets_since_ms: int | None = None
    ) -> None:
        """Open the journal and the listening socket; raises ConfigError before anything is started."""
        check_directories(config)
        self.config = config
        self._now_ms = now_ms
        self.telemetry = Telemetry()
        external = config.global_.external_labels
        self._socket = listen(config.web.listen_address)
        try:
            self._journal = Journal.open(config.storage.path, max_bytes=config.storage.max_bytes, now_ms=now_ms())
        except BaseException:
            self._socket.close()
            raise
        if self._journal.recovery is not None:
            self.telemetry.recoveries.set(1)
            _log.error(
                "journal_damaged",
                reason=self._journal.recovery.reason,
                set_aside=str(self._journal.recovery.set_aside),
                rows_saved=self._journal.recovery.rows_saved,
            )
        try:
            rules = Rules(config.rules)
            groups, replayed = load_groups(self._journal, external)
            schedule = load_schedule(self._journal, rules, external)
            targets = [target.target for target in config.remote_write]
            ledger = load_ledger(self._journal, targets, new_targets_since_ms)
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
        self._readers = [JournalReader(self._journal.path)]
        self._metadata: list[MetadataSender] = []
        self._history = History(self._journal.path)
        times = HoldTimes(int(config.push.hold_interval * 1000), int(config.push.forget_after * 1000))
        self._timekeeper = Timekeeper(self.committer, times, now_ms)
        instance = f"{socket.gethostname()}:{self._socket.getsockname()[1]}"
        self._heartbeat = Heartbeat(instance, external, now_ms())
        self._heartbeat.add(lambda at_ms: schedule.facts(groups.live(), at_ms), about_agent=False)
        self.telemetry.registry.register(AccountCollector(self._journal, self._readers[0], ledger, groups, now_ms))
        self.telemetry.registry.register(OverdueCollector(schedule, groups, now_ms))
        self.stopping = asyncio.Event()
        options = self._push_options()
        self._site = self._make_site(options)
        self._files = Files(config, socket.gethostname(), Intake(self.committer, options, self.telemetry, now_ms))
        self.telemetry.registry.register(FileCollector(self._files.facts))
        self._heartbeat.add(lambda _: self._files.facts())

    def _push_options(self) -> PushOptions:
        config, push, rules = self.config, self.config.push, self.committer.schedule.rules
        flatten = FlattenOptions(
            config.global_.external_labels,
            canonical_bucket_labels=push.bucket_labels == "canonical",
            accept_timestamps=push.timestamps == "accept",
            utf8_names=push.enable_utf8_names,
            max_series=push.max_series_per_push,
            limits=LabelLimits(
                push.max_label_names_per_series, push.max_label_name_length, push.max_label_value_length
            ),
            custom_buckets=not config.remote_write or any(map(speaks_version_2, config.remote_write)),
        )
        ttl_ms = lambda grouping: rules.ttl_ms(grouping, push.default_ttl)  # noqa: E731
        return PushOptions(flatten, push.max_body_bytes, ttl_ms, rules.tenant)

    def _make_site(self, options: PushOptions) -> Site:
        return Site(
            self.config,
            options,
            self.committer,
            Receipts(self.committer, self._history, self._journal.id),
            RunList(self.committer, self._history, self._now_ms),
            self.telemetry,
            self._now_ms,
            self._now_ms(),
            lambda: self.committer.failure,
            self.stopping.set,
        )

    @property
    def url(self) -> str:
        """Where the agent listens."""
        host, port = self._socket.getsockname()[:2]
        return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"

    async def run(self, started: Callable[[str], None] = lambda _url: None) -> None:
        """Serve and deliver until `stopping` is set, then end in order; returns when all is on disk."""
        for target, key, words in self.config.warnings:
            _log.warning("setting_not_as_in_prometheus", target=target, key=key, words=words)
        committing = asyncio.create_task(self.committer.run())
        await self._files.take_spooled()
        listener = Listener(self._site)
        await listener.start(self._socket)
        async with AsyncExitStack() as connections:
            senders = [
                self._sender(target, await connections.enter_async_context(self._connect(target)))
                for target in self.config.remote_write
            ]
            sending = [asyncio.create_task(sender.run()) for sender in senders]
            services = (
                self._look_after_journal(),
                self._files.run(),
                self._keep_time(),
                *(metadata.run() for metadata in self._metadata),
            )
            keeping = [asyncio.create_task(service) for service in services]
            _log.info("started", url=self.url, targets=len(senders), storage=str(self.config.storage.path))
            started(self.url)
            stop = asyncio.create_task(self.stopping.wait())
            await asyncio.wait([stop, committing, *keeping, *sending], return_when=asyncio.FIRST_COMPLETED)
            stop.cancel()
            for task in keeping:
                task.cancel()
            await listener.stop(_STOP_HTTP_S)
            for sender in senders:
                sender.stop()
            if sending:
                await asyncio.wait(sending, timeout=_STOP_SENDERS_S)
            for task in sending:
                task.cancel()
            faults = await asyncio.gather(*sending, *keeping, return_exceptions=True)
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

    def _now_s(self) -> float:
        return self._now_ms() / 1000

    def _connect(self, target: RemoteWrite) -> AbstractAsyncContextManager[RemoteWriteClient]:
        name, describe = target.target, self.committer.groups.descriptions.of_series
        return connect(
            target,
            now_s=self._now_s,
            negotiation=Negotiation(name, target.protobuf_message, describe, self.telemetry),
            sent=lambda size: self.telemetry.sent(name, size),
        )

    def _sender(self, target: RemoteWrite, client: RemoteWriteClient) -> Sender:
        ledger = self.committer.ledger
        # The disk has a row a moment before the groups know of it; a repeat in that moment would follow it.
        reader = JournalReader(self._journal.path, lambda: self.committer.known_seq)
        self._readers.append(reader)
        queue = target.queue_config
        max_samples = queue.max_samples_per_send
        rules, utf8_names = self.committer.schedule.rules, self.config.push.enable_utf8_names
        note_missing = cache(partial(_note_missing, target.target))
        target_rules = rules_of_target(target, rules, utf8_names=utf8_names, note_missing=note_missing)
        hold = TargetHold(
            self.committer.groups,
            lambda: self.committer.newest_tick,
            max_samples,
            lambda at_ms: self._heartbeat.points(at_ms, rules.tenant_at_target),
            target_rules,
        )
        if target.metadata_config.send and not speaks_version_2(target):
            self._metadata.append(self._metadata_sender(target, client, target_rules))
        return Sender(
            target.target,
            target.url,
            reader=reader,
            hand_out=ledger.hand_out,
            confirm=self.committer.confirm,
            wait_for_work=lambda seq: self.committer.wait_for_work(seq, hold.tick),
            hold=hold,
            client=client,
            observer=self.telemetry,
            clock_s=time.monotonic,
            sleep=asyncio.sleep,
            random_01=random.random,
            cursor=self.committer.ledger.cursors[target.target].seq,
            options=Options(
                max_samples,
                capacity=queue.capacity,
                min_shards=queue.min_shards,
                max_shards=queue.max_shards,
                min_backoff_s=queue.min_backoff,
                max_backoff_s=queue.max_backoff,
                on_rejected=target.on_rejected,
                rules=target_rules,
            ),
            probe=lambda: Request(self._heartbeat.probe(self._now_ms()), 1),
        )

    def _metadata_sender(self, target: RemoteWrite, client: RemoteWriteClient, rules: TargetRules) -> MetadataSender:
        times, queue = target.metadata_config, target.queue_config
        return MetadataSender(
            target.target,
            target.url,
            MetadataTimes(times.send_interval, times.max_samples_per_send, queue.min_backoff, queue.max_backoff),
            live=self.committer.groups.live,
            tenant_of=rules.tenant_of,
            client=client,
            observer=self.telemetry,
            clock_s=time.monotonic,
            sleep=asyncio.sleep,
            random_01=random.random,
        )

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
                    storage = self.config.storage
                    await self.committer.trim_letters(
                        int(storage.dead_letter_retention * 1000), storage.max_dead_letters
                    )
            except PushRefusedError as error:
                _log.debug("journal_unavailable", error=str(error))


def _note_missing(target: str, reason: str) -> None:
    _log.warning("native_histograms_not_sent", target=target, reason=reason, want=_WANTED[reason])


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
    """Run the agent until SIGTERM or SIGINT."""
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, agent.stopping.set)
    await agent.run(started)
