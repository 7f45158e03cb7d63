"""Which journal entries make up the next requests: rows in, bytes to POST out.

Pure. Reading the journal, sending and counting are the sender's.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from bridge.journal.rows import Entry
from bridge.wire import snappy_block
from bridge.wire.remote_write import split_series

_MAX_ENTRY_BYTES = 1 << 30
"""An entry that claims more when decompressed is taken for damaged."""


@dataclass(frozen=True, slots=True)
class Request:
    """The bytes of one POST, which stay the same for all its attempts."""

    block: bytes
    samples: int


@dataclass(frozen=True, slots=True)
class Batch:
    """A stretch of the journal that is confirmed as one."""

    first_seq: int
    last_seq: int
    requests: tuple[Request, ...]
    """Usually one; several when one entry is over the limits; none when there is nothing to send."""
    damaged: int = 0
    """Samples in entries that cannot be read back; there are no requests then."""


def plan_batch(entries: Sequence[Entry], max_samples: int, max_body_bytes: int) -> Batch:
    """Take as many entries from the front (at least one) as fit one request; pure.

    `max_body_bytes` counts uncompressed. A first entry that alone is over a limit becomes several
    requests. Damaged entries are passed over and counted, in batches of their own: what is told of a batch is told
    of every push in it.
    """
    blocks: list[bytes] = []
    samples = body_bytes = damaged = 0
    last_seq = entries[0].seq
    for entry in entries:
        size = _readable_bytes(entry)
        if size is None:
            if blocks:
                break
            damaged += entry.samples
        elif damaged:
            break
        elif samples + entry.samples <= max_samples and body_bytes + size <= max_body_bytes:
            blocks.append(entry.body)
            samples += entry.samples
            body_bytes += size
        elif blocks:
            break
        else:
            return _plan_large_entry(entry, max_samples, max_body_bytes)
        last_seq = entry.seq
    requests = (Request(snappy_block.join(blocks), samples),) if body_bytes else ()
    return Batch(entries[0].seq, last_seq, requests, damaged)


def _readable_bytes(entry: Entry) -> int | None:
    """Return the uncompressed size, None when the entry is damaged."""
    if entry.damaged:
        return None
    try:
        size = snappy_block.declared_length(entry.body)
    except ValueError:
        return None
    return size if size <= _MAX_ENTRY_BYTES else None


def _plan_large_entry(entry: Entry, max_samples: int, max_body_bytes: int) -> Batch:
    """Cut one entry into requests, in order; the cuts depend on the limits alone, so repeats are alike."""
    try:
        series = split_series(snappy_block.decompress(entry.body, _MAX_ENTRY_BYTES))
    except ValueError:
        return Batch(entry.seq, entry.seq, (), entry.samples)
    requests: list[Request] = []
    part: list[bytes] = []
    part_bytes = 0
    for field in series:
        if part and (len(part) >= max_samples or part_bytes + len(field) > max_body_bytes):
            requests.append(Request(snappy_block.compress(b"".join(part)), len(part)))
            part, part_bytes = [], 0
        part.append(field)
        part_bytes += len(field)
    requests.append(Request(snappy_block.compress(b"".join(part)), len(part)))
    return Batch(entry.seq, entry.seq, tuple(requests))
