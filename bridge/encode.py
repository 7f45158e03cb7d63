"""A change to remote_write bytes: the journal's rows and the group's stored parts, and back.

Encoding happens once. A row's body is a snappy block of timeseries fields, so that delivery only
joins blocks. Pure; it neither decides what a push does nor touches the disk.
"""

import json
import struct
from collections.abc import Sequence

from bridge.groups import Change, Content, FamilyShape, Group, GroupId, make_shape
from bridge.journal.rows import GroupRow, PartRow, Record
from bridge.wire import snappy_block
from bridge.wire.head import HEAD_TIMES_MS, decode_sample, encode_sample
from bridge.wire.remote_write import STALE_NAN, doubles_of, split_series, timestamp_field, value_bytes

ROW_SAMPLES = 2000
"""Most samples in one row: what one remote_write request carries by default (protocol.md section 0)."""
_PART_LIMIT_BYTES = 1 << 31
_SECOND_MS = 1000


def encode_content(content: Content, arrival_ms: int) -> list[tuple[int, bytes]]:
    """(samples, snappy block) of a push's own series, at most `ROW_SAMPLES` each, in the push's order."""
    heads, values, stamps = content.shape.heads, content.values, content.timestamps
    blocks: list[tuple[int, bytes]] = []
    for start in range(0, len(values), ROW_SAMPLES):
        chunk = slice(start, start + ROW_SAMPLES)
        doubles = doubles_of(values[chunk])
        if stamps is None and arrival_ms in HEAD_TIMES_MS:
            fields = [timestamp_field(arrival_ms)] * (3 * len(doubles))
            fields[::3], fields[1::3] = heads[chunk], doubles
        else:
            times = stamps[chunk] if stamps else (None,) * len(doubles)
            fields = [
                encode_sample(head, double, arrival_ms if time is None else time)
                for head, double, time in zip(heads[chunk], doubles, times, strict=True)
            ]
        blocks.append((len(doubles), snappy_block.compress(b"".join(fields))))
    return blocks


def encode_markers(ended: Sequence[bytes], arrival_ms: int) -> list[tuple[int, bytes]]:
    """(samples, snappy block) of the staleness markers for series that ended."""
    chunks = [ended[start : start + ROW_SAMPLES] for start in range(0, len(ended), ROW_SAMPLES)]
    return [
        (len(heads), snappy_block.compress(b"".join([encode_sample(head, STALE_NAN, arrival_ms) for head in heads])))
        for heads in chunks
    ]


def encode_gauges(group: Group) -> tuple[int, bytes]:
    """The two push-time gauges of a group, in seconds, 0 for never (protocol.md section 5.4)."""
    success = encode_sample(group.id.push_time_head, value_bytes(group.push_ms / _SECOND_MS), group.last_ms)
    failure = encode_sample(group.id.push_failure_time_head, value_bytes(group.failure_ms / _SECOND_MS), group.last_ms)
    return 2, snappy_block.compress(success + failure)


def encode_change(change: Change) -> tuple[list[Record], Group]:
    """Rows for the journal, and the group with the stored form of each part.

    Markers come first: what ended did so before what came instead.
    """
    group, arrival_ms = change.group, change.group.last_ms
    content = encode_content(change.content, arrival_ms)
    pieces = encode_markers(change.ended, arrival_ms) + content
    if change.gauges:
        pieces.append(encode_gauges(group))
    records = [
        Record(arrival_ms, group.id.key, change.operation, sum(count for count, _ in run), _join(run))
        for run in _pack(pieces)
    ]
    known = {id(part): row for part, row in zip(change.before.parts, change.before.rows, strict=True)}
    if content:
        known[id(change.content)] = PartRow(encode_families(change.content), _join(content))
    rows = tuple([known.get(id(part)) or _encode_part(part, arrival_ms) for part in group.parts])
    return records, Group(group.id, arrival_ms, group.push_ms, group.failure_ms, group.live, group.parts, rows)


def _encode_part(part: Content, arrival_ms: int) -> PartRow:
    return PartRow(encode_families(part), _join(encode_content(part, arrival_ms)))


def _join(pieces: list[tuple[int, bytes]]) -> bytes:
    return pieces[0][1] if len(pieces) == 1 else snappy_block.join([block for _, block in pieces])


def _pack(pieces: list[tuple[int, bytes]]) -> list[list[tuple[int, bytes]]]:
    """Neighbours go into one row while they fit."""
    runs: list[list[tuple[int, bytes]]] = []
    room = 0
    for piece in pieces:
        room -= piece[0]
        if room < 0:
            runs.append([])
            room = ROW_SAMPLES - piece[0]
        runs[-1].append(piece)
    return runs


def encode_families(content: Content) -> bytes:
    """What timeseries fields lack: the families, and which series have explicit timestamps."""
    if content.timestamps is None:
        return content.shape.header
    timed = [at for at, stamp in enumerate(content.timestamps) if stamp is not None]
    return content.shape.header + b"\n" + json.dumps(timed, separators=(",", ":")).encode()


def decode_part(row: PartRow) -> Content:
    """Bring back a stored content; ValueError when the row is damaged."""
    if row.damaged:
        raise ValueError("stored group part is damaged: its checksum does not match")
    try:
        return _decode_part(row)
    except (IndexError, KeyError, TypeError, struct.error) as error:
        raise ValueError(f"stored group part is damaged: {type(error).__name__}: {error}") from error


def _decode_part(row: PartRow) -> Content:
    header, _, explicit_positions = row.families.partition(b"\n")
    families = json.loads(header)
    samples = [decode_sample(field) for field in split_series(snappy_block.decompress(row.body, _PART_LIMIT_BYTES))]
    shapes: list[FamilyShape] = []
    at = 0
    for name, kind, text, count in families:
        shapes.append(FamilyShape(name, kind, text, at, at + count))
        at += count
    if at != len(samples):
        raise ValueError(f"stored group part: families name {at} series, the body has {len(samples)}")
    explicit = set(json.loads(explicit_positions or b"[]"))
    stamps = tuple(stamp if at in explicit else None for at, (_, _, stamp) in enumerate(samples))
    shape = make_shape(shapes, [head for head, _, _ in samples])
    return Content(shape, tuple(value for _, value, _ in samples), stamps if explicit else None)


def encode_group(group: Group) -> GroupRow:
    """A group's stored form."""
    return GroupRow(group.id.key, group.last_ms, group.push_ms, group.failure_ms, group.live, group.rows)


def decode_group(row: GroupRow, group_id: GroupId) -> tuple[Group, list[str]]:
    """Bring back a group as it was stored, and what is wrong with each part of it that is lost."""
    parts: list[Content] = []
    rows: list[PartRow] = []
    faults: list[str] = []
    for part in row.parts:
        try:
            parts.append(decode_part(part))
            rows.append(part)
        except ValueError as error:
            faults.append(str(error))
    return Group(group_id, row.last_ms, row.push_ms, row.failure_ms, row.live, tuple(parts), tuple(rows)), faults
