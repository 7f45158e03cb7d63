"""A target's way out put together: settings, journal, hold and client joined to a sender.

Owns which setting becomes which part of a sender. When there is a sender is `bridge.targets`' business.
"""

import asyncio
import random
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from dataclasses import dataclass
from functools import cache, partial

import structlog

from bridge.config.remote_write import RemoteWrite
from bridge.delivery.batch import Request
from bridge.delivery.client import RemoteWriteClient
from bridge.delivery.connect import connect
from bridge.delivery.metadata import MetadataSender, MetadataTimes
from bridge.delivery.negotiation import Negotiation
from bridge.delivery.options import Options
from bridge.delivery.resend import Clock, Resent, Way, resend
from bridge.delivery.rewrite import TargetRules
from bridge.delivery.sender import Sender
from bridge.delivery.target import rules_of_target, wants_version_2
from bridge.errors import PushRefusedError
from bridge.heartbeat import Heartbeat
from bridge.hold import TargetHold
from bridge.journal import ahead
from bridge.journal.committer import Committer
from bridge.journal.reader import JournalReader
from bridge.journal.rows import DeadLetter
from bridge.journal.staging import Staging
from bridge.journal.store import Journal
from bridge.reasons import CUSTOM_IN_RW1, NATIVE_DISABLED
from bridge.restore import book_gone, lacks_next
from bridge.settings import Settings
from bridge.telemetry import Telemetry

_log = structlog.get_logger(__name__)
_AHEAD_INTERVAL_S = 5.0
_AHEAD_ROWS = 100
"""Fewer are in flight at any time, and are sent again after a crash as those are."""
_WANTED = {
    NATIVE_DISABLED: "send_native_histograms: true",
    CUSTOM_IN_RW1: "protobuf_message: io.prometheus.write.v2.Request",
}


@dataclass(frozen=True, slots=True)
class Outlets:
    """What all targets' senders are made of."""

    settings: Settings
    committer: Committer
    journal: Journal
    heartbeat: Heartbeat
    telemetry: Telemetry
    now_ms: Callable[[], int]

    @asynccontextmanager
    async def open(self, target: RemoteWrite) -> AsyncIterator[Sender]:
        """Hand over a target's sender; metadata and notes of what got ahead are sent beside it until the block ends."""
        await self._take_back(target.target)
        self.telemetry.have_target(target.target)
        note_missing = cache(partial(_note_missing, target.target))
        utf8_names = self.settings.config.push.enable_utf8_names
        rules = rules_of_target(
            target,
            self.settings.rules,
            utf8_names=utf8_names,
            gets_version_2=partial(self.settings.gets_version_2, target),
            note_missing=note_missing,
        )
        # The disk has a row a moment before the groups know of it; a repeat in that moment would follow it.
        with JournalReader(self.journal.path, lambda: self.committer.known_seq) as reader:
            async with self._connect(target) as client:
                sender = self._sender(target, client, reader, rules)
                beside = [self._keep_ahead(target.target, sender)]
                if target.metadata_config.send:
                    beside.append(self._metadata(target, client, rules).run())
                tasks = [asyncio.create_task(one) for one in beside]
                try:
                    yield sender
                finally:
                    for task in tasks:
                        task.cancel()
                    await asyncio.gather(*tasks, return_exceptions=True)
                    self._leave_ahead(target.target, sender.delivered_ahead)

    async def _take_back(self, name: str) -> None:
        """Count what left the journal in the hands of a sender before this one; at the start that is done already."""
        ledger = self.committer.ledger
        if ledger.take_back(name):
            # Where the disk takes no word of it, the next start counts it.
            with suppress(PushRefusedError):
                await self.committer.submit(partial(self._book_gone, name))

    def _standing(self, name: str) -> ahead.Standing:
        return ahead.Standing(self.journal.id, self.committer.ledger.cursors[name].seq, self.journal.end_seq)

    async def _keep_ahead(self, name: str, sender: Sender) -> None:
        while True:
            await asyncio.sleep(_AHEAD_INTERVAL_S)
            if len(seqs := sender.delivered_ahead) >= _AHEAD_ROWS:
                self._leave_ahead(name, seqs)

    def _leave_ahead(self, name: str, seqs: Sequence[int]) -> None:
        try:
            ahead.leave(self.journal.path.parent, name, self._standing(name), seqs)
        except OSError as error:
            _log.warning("delivered_rows_not_noted", target=name, rows=len(seqs), error=error.strerror)

    def _take_ahead(self, name: str) -> frozenset[int]:
        try:
            return ahead.take(self.journal.path.parent, name, self._standing(name))
        except OSError as error:
            _log.warning("delivered_rows_not_known", target=name, error=error.strerror)
            return frozenset()

    def _book_gone(self, name: str, staging: Staging) -> None:
        cursor = staging.cursors.get(name) or staging.ledger.cursors[name]
        if lacks_next(self.journal, cursor):
            staging.cursors[name] = book_gone(self.journal, cursor)

    def _connect(self, target: RemoteWrite) -> AbstractAsyncContextManager[RemoteWriteClient]:
        name, describe = target.target, self.committer.groups.descriptions.of_series
        return connect(
            target,
            now_s=lambda: self.now_ms() / 1000,
            negotiation=Negotiation(
                name,
                target.protobuf_message,
                describe,
                self.telemetry,
                fallen=wants_version_2(target) and not self.settings.gets_version_2(target),
                fell_back=partial(self.settings.fall_back, target),
            ),
            sent=lambda size_bytes: self.telemetry.sent(name, size_bytes),
        )

    async def send_again(self, name: str, letters: Sequence[DeadLetter]) -> Resent | None:
        """Send dead letters to the target of that name, over connections of their own; None when there is none."""
        target = next((target for target in self.settings.config.remote_write if target.target == name), None)
        if target is None:
            return None
        queue, clock = target.queue_config, Clock(time.monotonic, asyncio.sleep, random.random)
        async with self._connect(target) as client:
            way = Way(
                name, target.url, client, self.telemetry, self._probe, queue.max_samples_per_send, queue.min_backoff
            )
            resent = await resend(letters, way, clock)
        self.telemetry.letters_replayed.labels(name).inc(resent.samples)
        if all(target.target != name for target in self.settings.config.remote_write):
            # Removed meanwhile: what the replay counted must not stay.
            self.telemetry.forget_target(name)
        return resent

    def _sender(
        self, target: RemoteWrite, client: RemoteWriteClient, reader: JournalReader, rules: TargetRules
    ) -> Sender:
        committer, tenant_of = self.committer, self.settings.rules.tenant_at_target
        hold = TargetHold(
            committer.groups,
            lambda: committer.newest_tick,
            target.queue_config.max_samples_per_send,
            lambda at_ms: self.heartbeat.points(at_ms, tenant_of),
            rules,
        )
        return Sender(
            target.target,
            target.url,
            reader=reader,
            hand_out=committer.ledger.hand_out,
            confirm=committer.confirm,
            wait_for_work=lambda seq: committer.wait_for_work(seq, hold.tick),
            hold=hold,
            client=client,
            observer=self.telemetry,
            clock_s=time.monotonic,
            sleep=asyncio.sleep,
            random_01=random.random,
            cursor=committer.ledger.cursors[target.target].seq,
            sent_before=self.journal.end_seq,
            delivered_before=self._take_ahead(target.target),
            options=self._options(target, rules),
            probe=self._probe,
        )

    def _options(self, target: RemoteWrite, rules: TargetRules) -> Options:
        queue = target.queue_config
        age_ms = int(queue.sample_age_limit * 1000)
        return Options(
            queue.max_samples_per_send,
            capacity=queue.capacity,
            min_shards=queue.min_shards,
            max_shards=queue.max_shards,
            min_backoff_s=queue.min_backoff,
            max_backoff_s=queue.max_backoff,
            batch_send_deadline_s=queue.batch_send_deadline,
            on_rejected=target.on_rejected,
            rules=rules,
            oldest_ms=(lambda: self.now_ms() - age_ms) if age_ms else None,
        )

    def _probe(self) -> Request:
        return Request(self.heartbeat.probe(self.now_ms()), 1)

    def _metadata(self, target: RemoteWrite, client: RemoteWriteClient, rules: TargetRules) -> MetadataSender:
        times, queue = target.metadata_config, target.queue_config
        return MetadataSender(
            target.target,
            target.url,
            MetadataTimes(times.send_interval, times.max_samples_per_send, queue.min_backoff, queue.max_backoff),
            wanted=lambda: not self.settings.gets_version_2(target),
            live=self.committer.groups.live,
            tenant_of=rules.tenant_of,
            client=client,
            observer=self.telemetry,
            clock_s=time.monotonic,
            sleep=asyncio.sleep,
            random_01=random.random,
        )


def _note_missing(target: str, reason: str) -> None:
    _log.warning("native_histograms_not_sent", target=target, reason=reason, want=_WANTED[reason])
