"""Which journal entries make up the next requests: rows in, bytes to POST out.

Pure. Reading the journal, sending and counting are the sender's; what a target's rules make of a row is `rewrite`.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from bridge.delivery.rewrite import MOST_ROW_BYTES, Row, TargetRules, prepare
from bridge.journal.rows import Entry, Settled
from bridge.wire import snappy_block
from bridge.wire.remote_write import split_series

_NO_RULES = TargetRules()


@dataclass(frozen=True, slots=True)
class Request:
    """The bytes of one POST, which stay the same for all its attempts."""

    block: bytes
    samples: int
    tenant: str = ""
    """Whose samples these are, all of them; "" when the target's own headers say it."""
    rows: tuple[int, ...] = ()
    """Sequence numbers of its rows; empty when all rows of the batch are its own, or one row is in several requests."""


@dataclass(frozen=True, slots=True)
class Batch:
    """A stretch of the journal that is confirmed as one."""

    first_seq: int
    last_seq: int
    requests: tuple[Request, ...]
    """Usually one, or one for each tenant; several when one entry is over the limits; none for nothing to send."""
    damaged: int = 0
    """Samples in entries that cannot be read back; there are no requests then."""
    dropped: Mapping[str, int] = field(default_factory=dict)
    """Samples that the target's rules dropped, by reason."""


@dataclass(frozen=True, slots=True)
class Fate:
    """What became of the samples of a request."""

    delivered: int = 0
    dropped: Mapping[str, int] | None = None
    words: str = ""


@dataclass(slots=True)
class _Part:
    """The rows of one tenant."""

    rows: list[int] = field(default_factory=list)
    samples: int = 0
    _blocks: list[bytes] = field(default_factory=list)
    _contents: list[bytes] = field(default_factory=list)
    """Of rows behind the blocks, not compressed yet."""

    def add(self, seq: int, row: Row) -> None:
        self.rows.append(seq)
        self.samples += row.samples if row.content_bytes else 0
        if row.content is not None:
            self._contents.append(row.content)
        elif row.content_bytes:
            self._compress()
            self._blocks.append(row.body)

    def block(self) -> bytes:
        self._compress()
        return snappy_block.join(self._blocks)

    def _compress(self) -> None:
        if content := b"".join(self._contents):
            self._blocks.append(snappy_block.compress(content))
        self._contents.clear()


def plan_batch(
    entries: Sequence[Entry], max_samples: int, max_body_bytes: int, rules: TargetRules = _NO_RULES
) -> Batch:
    """Take as many entries from the front (at least one) as fit one request, or one for each tenant; pure.

    `max_body_bytes` counts uncompressed, and both limits count all tenants together. A first entry that alone is over
    a limit becomes several requests. Damaged entries are passed over and counted, in batches of their own: what is
    told of a batch is told of every push in it.
    """
    parts: dict[str, _Part] = {}
    dropped: Counter[str] = Counter()
    samples = body_bytes = damaged = 0
    last_seq = entries[0].seq
    for entry in entries:
        row = prepare(entry, rules)
        if row is None:
            if parts:
                break
            damaged += entry.samples
        elif damaged:
            break
        elif samples + row.samples <= max_samples and body_bytes + row.content_bytes <= max_body_bytes:
            parts.setdefault(row.tenant, _Part()).add(entry.seq, row)
            samples += row.samples
            body_bytes += row.content_bytes
            dropped.update(row.dropped)
        elif parts:
            break
        else:
            return _plan_large_row(entry, row, max_samples, max_body_bytes)
        last_seq = entry.seq
    requests = [
        Request(part.block(), part.samples, tenant, tuple(part.rows) if len(parts) > 1 else ())
        for tenant, part in parts.items()
        if part.samples
    ]
    return Batch(entries[0].seq, last_seq, tuple(requests), damaged, dropped)


def _plan_large_row(entry: Entry, row: Row, max_samples: int, max_body_bytes: int) -> Batch:
    """Cut one row into requests, in order; the cuts depend on the limits alone, so repeats are alike."""
    try:
        content = row.content
        series = split_series(snappy_block.decompress(row.body, MOST_ROW_BYTES) if content is None else content)
    except ValueError:
        return Batch(entry.seq, entry.seq, (), entry.samples)
    requests: list[Request] = []
    part: list[bytes] = []
    part_bytes = 0
    for one in series:
        if part and (len(part) >= max_samples or part_bytes + len(one) > max_body_bytes):
            requests.append(Request(snappy_block.compress(b"".join(part)), len(part), row.tenant))
            part, part_bytes = [], 0
        part.append(one)
        part_bytes += len(one)
    requests.append(Request(snappy_block.compress(b"".join(part)), len(part), row.tenant))
    return Batch(entry.seq, entry.seq, tuple(requests), dropped=row.dropped)


def settle(batch: Batch, fates: Sequence[Fate]) -> list[Settled]:
    """What to confirm of a batch whose requests, in order, met with these fates.

    One stretch, unless one tenant's request was refused and another's was not: then a stretch for each run of rows
    with the same fate, so that each push is told its own. The samples of a request are counted with its first rows,
    so all of this has to be confirmed in one transaction.
    """
    dropped = Counter(batch.dropped)
    if batch.damaged:
        dropped["damaged"] += batch.damaged
    if len({(frozenset(fate.dropped or ()), fate.words) for fate in fates}) <= 1 or not batch.requests[0].rows:
        for fate in fates:
            dropped.update(fate.dropped)
        words = next((fate.words for fate in fates if fate.words), "")
        return [Settled(batch.first_seq, batch.last_seq, sum(fate.delivered for fate in fates), dropped, words)]
    owners = sorted((seq, at) for at, request in enumerate(batch.requests) for seq in request.rows)
    starts = [
        (seq, at) for (seq, at), before in zip(owners, (None, *owners), strict=False) if not before or before[1] != at
    ]
    settled: list[Settled] = []
    counted: set[int] = set()
    for number, (seq, at) in enumerate(starts):
        fate = fates[at]
        last_seq = starts[number + 1][0] - 1 if number + 1 < len(starts) else batch.last_seq
        reasons = Counter(fate.dropped) if at not in counted else Counter(dict.fromkeys(fate.dropped or (), 0))
        if not settled:
            reasons.update(dropped)
        delivered = fate.delivered if at not in counted else 0
        settled.append(Settled(seq if settled else batch.first_seq, last_seq, delivered, reasons, fate.words))
        counted.add(at)
    return settled
