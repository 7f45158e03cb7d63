"""A change to remote_write bytes: the journal's rows and the group's stored parts, and back.

Encoding happens once. A row's body is a snappy block of timeseries fields, so that delivery only
joins blocks. Pure; it neither decides what a push does nor touches the disk.
"""

import json
import struct
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from math import isnan

from bridge.content import Content, FamilyShape, make_shape
from bridge.groups import PUSH_FAILURE_TIME, PUSH_TIME, Change, Group, GroupId, gauge_doubles, gauge_seconds
from bridge.journal.rows import (
    CUSTOM_BUCKETS,
    EXEMPLARS,
    NATIVE_HISTOGRAMS,
    NEVER_MS,
    GroupRow,
    PartRow,
    Record,
)
from bridge.model import Exemplar
from bridge.wire import snappy_block
from bridge.wire.head import decode_sample, encode_samples, is_sample, labels_of, split_heads
from bridge.wire.histogram import all_plain, cut_messages, is_custom, join_messages
from bridge.wire.points import encode_field
from bridge.wire.remote_write import DOUBLE_BYTES, STALE_NAN, pack_doubles, split_series

ROW_SAMPLES = 2000
"""Most samples in one row: what one remote_write request carries by default (protocol.md section 0)."""
_PART_LIMIT_BYTES = 1 << 31
_SECOND_MS = 1000


def encode_change(change: Change) -> list[Record]:
    """Rows for the journal: markers first, since what ended did so before what came instead, push-time gauges last."""
    group, content, ended = change.group, change.content, change.ended
    heads, points, stamps, exemplars = content.shape.heads, content.points(), content.timestamps, content.exemplars
    if ended:
        markers = change.markers or {}
        heads = *ended, *heads
        points = *(markers.get(head, STALE_NAN) for head in ended), *points
    if change.gauges:
        heads, points = (*heads, *group.id.gauge_heads), (*points, *gauge_doubles(group))
    if stamps:
        stamps = (*(None,) * len(ended), *stamps, *(None,) * (len(heads) - len(ended) - len(stamps)))
    if exemplars:
        exemplars = {at + len(ended): some for at, some in exemplars.items()}
    plain = not (exemplars or change.markers or content.histograms)
    records: list[Record] = []
    for start in range(0, len(heads), ROW_SAMPLES):
        chunk = slice(start, start + ROW_SAMPLES)
        parts = heads[chunk], points[chunk], stamps[chunk] if stamps else None
        if plain or (not exemplars and all_plain(parts[1])):
            data, kinds = _encode_plain(*parts, group.last_ms), 0
        else:
            some = {at - start: more for at, more in (exemplars or {}).items() if start <= at < start + ROW_SAMPLES}
            data, kinds = _encode_all(*parts, group.last_ms, some)
        samples, body = len(parts[0]), snappy_block.compress(data)
        records.append(Record(group.last_ms, group.id.key, change.operation, samples, body, kinds))
    return records


def _encode_plain(
    heads: Sequence[bytes], points: Sequence[bytes], stamps: Sequence[int | None] | None, arrival_ms: int
) -> bytes:
    if stamps is None:
        return encode_samples(heads, points, arrival_ms)
    return _encode_all(heads, points, stamps, arrival_ms, {})[0]


def _encode_all(
    heads: Sequence[bytes],
    points: Sequence[bytes],
    stamps: Sequence[int | None] | None,
    arrival_ms: int,
    exemplars: Mapping[int, Sequence[Exemplar]],
) -> tuple[bytes, int]:
    """Fields one by one, and what kinds they are of."""
    fields: list[bytes] = []
    kinds = EXEMPLARS if exemplars else 0
    for at, (head, point, stamp) in enumerate(zip(heads, points, stamps or (None,) * len(heads), strict=True)):
        fields.append(encode_field(head, point, arrival_ms if stamp is None else stamp, exemplars.get(at, ())))
        if len(point) != DOUBLE_BYTES:
            kinds |= CUSTOM_BUCKETS if is_custom(point) else NATIVE_HISTOGRAMS
    return b"".join(fields), kinds


def encode_group(group: Group, stored: Group | None) -> GroupRow:
    """A group's stored form; `stored` is what the journal has under its key."""
    was = stored.parts if stored else ()
    known = len(was) == len(group.parts) and all(map(_same_form, was, group.parts))
    return GroupRow(
        group.id.key,
        group.last_ms,
        group.push_ms,
        group.failure_ms,
        group.live,
        group.expires_ms,
        group.hold,
        b"".join([part.doubles for part in group.parts]),
        None if known else tuple(map(_encode_part, group.parts)),
    )


def _same_form(one: Content, other: Content) -> bool:
    return one.shape is other.shape and one.timestamps is other.timestamps and one.histograms is other.histograms


def _encode_part(part: Content) -> PartRow:
    """Its families, then, each in a line and where there are some, timestamps and histograms."""
    families = part.shape.header
    if part.timestamps is not None or part.histograms is not None:
        families += b"\n" + json.dumps(part.timestamps, separators=(",", ":")).encode()
    if part.histograms is not None:
        families += b"\n" + snappy_block.compress(join_messages(part.histograms))
    return PartRow(families, snappy_block.compress(b"".join(part.shape.heads)))


def samples_of(body: bytes) -> dict[bytes, float]:
    """Head and value of every plain sample of a row; ValueError when the body is damaged."""
    fields = split_series(snappy_block.decompress(body, _PART_LIMIT_BYTES))
    try:
        return {head: value for head, value, _ in map(decode_sample, filter(is_sample, fields))}
    except (IndexError, struct.error) as error:
        raise ValueError(f"{type(error).__name__}: {error}") from error


def replay(group: Group, arrival_ms: int, samples: Mapping[bytes, float]) -> Group:
    """The group after pushes of the form that it had: its state is stored late, their rows never are.

    `samples` are the newest values of all series in these rows, `arrival_ms` is the newest row's.
    """
    parts = tuple(
        replace(
            part, doubles=pack_doubles([samples.get(*pair) for pair in zip(part.shape.heads, part.values, strict=True)])
        )
        for part in group.parts
    )
    push_ms, failure_ms = _push_times(group, arrival_ms, samples)
    return replace(
        group,
        last_ms=arrival_ms,
        push_ms=push_ms,
        failure_ms=failure_ms,
        parts=parts,
        expires_ms=group.expires_ms if group.expires_ms in (0, NEVER_MS) else arrival_ms + group.ttl_ms,
    )


def _push_times(group: Group, arrival_ms: int, samples: Mapping[bytes, float]) -> tuple[int, int]:
    if not group.id.gauge_heads:
        return arrival_ms, group.failure_ms
    found = [samples.get(head) for head in group.id.gauge_heads]
    if None in found:
        # Rows from before the external labels were changed have other heads for the gauges.
        others = samples.keys() - {head for part in group.parts for head in part.shape.heads}
        by_name = {dict(labels_of(head))["__name__"]: samples[head] for head in others}
        found = [by_name.get(name) for name in (PUSH_TIME, PUSH_FAILURE_TIME)]
    push_ms, failure_ms = (
        # A marker: the group was deleted and came back in one transaction.
        0 if isnan(seconds) else round(seconds * _SECOND_MS)
        for seconds in (now if value is None else value for value, now in zip(found, gauge_seconds(group), strict=True))
    )
    return push_ms, failure_ms


def decode_group(row: GroupRow, group_id: GroupId) -> Group:
    """Bring back a group as it was stored; ValueError when what it holds is damaged."""
    if row.damaged:
        raise ValueError("a stored checksum does not match")
    try:
        parts = tuple(_decode_parts(row))
    except (IndexError, KeyError, TypeError) as error:
        raise ValueError(f"{type(error).__name__}: {error}") from error
    return Group(group_id, row.last_ms, row.push_ms, row.failure_ms, row.live, parts, row.expires_ms, row.hold)


def _decode_parts(row: GroupRow) -> Iterator[Content]:
    at = 0
    for part in row.parts or ():
        header, _, more = part.families.partition(b"\n")
        stamps_json, _, packed = more.partition(b"\n")
        heads = split_heads(snappy_block.decompress(part.heads, _PART_LIMIT_BYTES))
        shape = make_shape(_decode_families(header), heads)
        times = json.loads(stamps_json) if stamps_json else None
        stamps = None if times is None else tuple(times)
        messages = tuple(cut_messages(snappy_block.decompress(packed, _PART_LIMIT_BYTES))) if packed else None
        end = at + DOUBLE_BYTES * len(heads)
        if end > len(row.doubles) or sum(family.stop - family.start for family in shape.families) != len(heads):
            raise ValueError(f"a stored part has {len(heads)} series, its families or values are more or less")
        for found, what in ((stamps, "timestamps"), (messages, "histograms")):
            if found is not None and len(found) != len(heads):
                raise ValueError(f"a stored part has {len(heads)} series, {len(found)} {what}")
        yield Content(shape, row.doubles[at:end], stamps, messages)
        at = end
    if at != len(row.doubles):
        raise ValueError(f"stored parts have {at} bytes of values, the group {len(row.doubles)}")


def _decode_families(header: bytes) -> list[FamilyShape]:
    families: list[FamilyShape] = []
    at = 0
    for name, kind, text, count, *unit in json.loads(header):
        families.append(FamilyShape(name, kind, text, at, at + count, *unit))
        at += count
    return families
