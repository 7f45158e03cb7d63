"""Native histograms in groups: what a push makes of them, what is repeated, what a crash leaves of them."""

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest

from bridge._pb import client_model_pb2 as cm
from bridge._pb import remote_write_v1_pb2 as pb
from bridge.content import Content
from bridge.delivery.rewrite import TargetRules
from bridge.delivery.taken import EVERYTHING
from bridge.errors import BadPushError
from bridge.exposition.protobuf import parse_delimited
from bridge.exposition.text import parse_text
from bridge.flatten import FUTURE_LIMIT_MS, FlattenOptions, flatten
from bridge.groups import Change, Group, delete, group_id, key_of, store
from bridge.hold import TargetHold, Tick, end
from bridge.journal.rows import EXEMPLARS, NATIVE_HISTOGRAMS
from bridge.model import Labels
from bridge.registry import Groups
from bridge.wire import snappy_block
from bridge.wire.histogram import STALE_CUSTOM, STALE_HISTOGRAM, decode_histogram
from tests.journal.test_committer import NOW_MS, committing
from tests.made import turn
from tests.test_pipeline import PROTOBUF, post, put, take
from tests.test_restore import crashed, start

JOB: Labels = (("job", "j"),)
ID = group_id(key_of(JOB), {})
AT_MS = NOW_MS + 60_000
TRACE = cm.Exemplar(label=[cm.LabelPair(name="trace_id", value="t")], value=0.5)


def native(count: int = 2, schema: int = 0, **more: object) -> cm.Histogram:
    """A histogram with one bucket."""
    buckets = [cm.Bucket(cumulative_count=count, upper_bound=1.0)] if schema == -53 else []
    histogram = cm.Histogram(
        sample_count=count,
        schema=schema,
        positive_span=[cm.BucketSpan(offset=0, length=1)],
        positive_delta=[count],
        bucket=buckets,
    )
    for name, value in more.items():
        setattr(histogram, name, value)
    return histogram


def body(*histograms: cm.Histogram, name: str = "x", timestamp_ms: int | None = None) -> bytes:
    """A family of histograms, told apart by a label."""
    metrics = [
        cm.Metric(histogram=one, label=[cm.LabelPair(name="n", value=str(at))], timestamp_ms=timestamp_ms)
        for at, one in enumerate(histograms)
    ]
    family = cm.MetricFamily(name=name, type=cm.HISTOGRAM, metric=metrics, unit="s").SerializeToString()
    assert len(family) < 1 << 14
    return bytes([len(family) & 0x7F | 0x80, len(family) >> 7]) + family


def content(data: bytes, options: FlattenOptions | None = None) -> Content:
    return flatten(parse_delimited(data, utf8_names=False), JOB, options or FlattenOptions({}), NOW_MS)


def text(data: str) -> Content:
    return flatten(parse_text(data.encode()), JOB, FlattenOptions({}), NOW_MS)


def pushed(*contents: Content) -> Group:
    group = Group(ID)
    for one in contents:
        group = store(group, one, NOW_MS, replace_all=False).group
    return group


def counts(part: Content) -> list[int | None]:
    """Counts of the histograms of a part, None for plain series."""
    return [None if one is None else decode_histogram(one).count_int for one in part.histograms or [None] * len(part)]


def test_classic_samples_come_first() -> None:
    """Values, histograms and exemplars stay with their series; the family knows its unit."""
    histogram = native(3)
    histogram.bucket.add(cumulative_count=1, upper_bound=1.0, exemplar=TRACE)
    histogram.exemplars.add().CopyFrom(TRACE)
    histogram.exemplars[0].timestamp.seconds = 5
    made = content(body(histogram))
    assert counts(made) == [None, None, None, None, 3]
    assert made.values == (1.0, 3.0, 0.0, 3.0, 0.0)
    assert made.exemplars is not None
    assert {at: [one.timestamp_ms for one in some] for at, some in made.exemplars.items()} == {0: [None], 4: [5000]}
    (family,) = made.shape.families
    assert (family.unit, family.start, family.stop) == ("s", 0, 5)


def test_plain_pushes_have_no_trace_of_histograms() -> None:
    """What costs memory is not there."""
    made = text("a 1\n")
    assert (made.histograms, made.exemplars) == (None, None)


@pytest.mark.parametrize("taken", [True, False])
def test_custom_buckets_are_taken_when_somebody_takes_them(*, taken: bool) -> None:
    """The refusal names the family and the setting."""
    options = FlattenOptions({}, custom_buckets=taken)
    if taken:
        assert counts(content(body(native(schema=-53)), options))[-1] == 2
        return
    with pytest.raises(BadPushError, match="'x' has custom buckets") as caught:
        content(body(native(schema=-53)), options)
    assert caught.value.reason == "custom_buckets"


def test_times_in_the_future_are_refused() -> None:
    """Of a histogram as of a sample, and of an exemplar too."""
    with pytest.raises(BadPushError, match=r"x: timestamp .* more than 10 minutes ahead"):
        content(body(native(), timestamp_ms=NOW_MS + FUTURE_LIMIT_MS + 1))
    assert content(body(native(), timestamp_ms=NOW_MS + FUTURE_LIMIT_MS)).timestamps == (NOW_MS + FUTURE_LIMIT_MS,)
    late = native()
    late.exemplars.add().CopyFrom(TRACE)
    late.exemplars[0].timestamp.seconds = (NOW_MS + FUTURE_LIMIT_MS) // 1000 + 1
    with pytest.raises(BadPushError, match=r"x: timestamp of an exemplar .* more than 10 minutes ahead"):
        content(body(late))


def test_a_histogram_twice_is_refused() -> None:
    """Two of the same labels are one series."""
    data = cm.MetricFamily(name="x", type=cm.HISTOGRAM, metric=[cm.Metric(histogram=native())] * 2).SerializeToString()
    with pytest.raises(BadPushError, match="is in this push twice"):
        content(bytes([len(data)]) + data)


def ends(change: Change) -> list[bytes | None]:
    """Markers of what ended, None for that of a plain series."""
    return [(change.markers or {}).get(head) for head in change.ended]


def test_each_series_ends_with_the_marker_of_its_kind() -> None:
    """By PUT, DELETE and expiry alike."""
    group = pushed(content(body(native(), native(schema=-53))), text("a 1\n"))
    want = [STALE_HISTOGRAM, STALE_CUSTOM]
    for change in (
        store(group, text("b 1\n"), NOW_MS, replace_all=True),
        delete(group, NOW_MS),
        end(group, NOW_MS),
    ):
        assert sorted(filter(None, ends(change))) == sorted(want)
        assert None in ends(change)


def test_a_histogram_that_becomes_a_gauge_has_not_ended() -> None:
    """The series goes on; its values are of another kind now."""
    group = pushed(content(body(native())))
    change = store(group, text('x{n="0"} 1\n'), NOW_MS, replace_all=True)
    assert change.ended == ()
    assert change.group.parts[0].histograms is None


def test_a_part_that_loses_a_family_keeps_its_histograms() -> None:
    """POST of one family leaves the others as they were."""
    both = content(body(native(5)) + body(native(7), name="y"))
    group = store(pushed(both), text("x 1\n"), NOW_MS, replace_all=False).group
    assert [counts(part) for part in group.parts] == [[7], [None]]
    group = store(
        pushed(content(body(native(5)) + b"\x05\x0a\x01y\x18\x01")), text("x 1\n"), NOW_MS, replace_all=False
    ).group
    assert group.parts[0].histograms is None


def repeats(group: Group, rules: TargetRules) -> Sequence[pb.TimeSeries]:
    """What a target is sent at a point of the grid."""
    groups = Groups({})
    groups.publish([group])
    tick = Tick(AT_MS, 0, (group.id.key,))
    request = TargetHold(groups, lambda: tick, 100, rules=rules).request(turn(0, drained=True))
    assert request is not None
    series = pb.WriteRequest.FromString(snappy_block.decompress(request.block, 1 << 20)).timeseries
    assert len(series) == request.samples
    return series


def test_histograms_are_repeated() -> None:
    """With the time of the grid and without exemplars; those with a time of their own are not."""
    traced = native(4)
    traced.exemplars.add().CopyFrom(TRACE)
    traced.exemplars[0].timestamp.seconds = 5
    group = pushed(content(body(traced)), content(body(native(9), name="timed", timestamp_ms=NOW_MS)), text("a 1\n"))
    series = repeats(group, TargetRules())
    (found,) = (one for one in series if one.histograms)
    assert (found.histograms[0].count_int, found.histograms[0].timestamp, len(found.exemplars)) == (4, AT_MS, 0)
    assert len(series) == 4


def test_a_target_without_histograms_is_repeated_the_rest() -> None:
    """And one without custom buckets all others."""
    group = pushed(content(body(native(4), native(5, schema=-53))), text("a 1\n"))
    kinds = [
        [one.histograms[0].schema for one in repeats(group, TargetRules(takes=partial(int, takes))) if one.histograms]
        for takes in (0, EXEMPLARS, NATIVE_HISTOGRAMS, EVERYTHING)
    ]
    assert [sorted(one) for one in kinds] == [[], [], [0], [-53, 0]]


async def test_histograms_come_back_after_a_crash(tmp_path: Path) -> None:
    """Rows behind the stored state tell the values of plain series beside them, and cost the histograms nothing."""
    protobuf = replace(post(body(native(4), native(5))), content_type=PROTOBUF)
    async with committing(tmp_path / "a") as bench:
        await take(bench, protobuf)
        for value in range(3):
            await take(bench, post(f"a {value}\n"))
        found, _, log = start(await crashed(bench, tmp_path / "b"))
    (group,) = found.values()
    assert ([counts(part) for part in group.parts], group.parts[1].values, log) == ([[4, 5], [None]], (2.0,), [])


async def test_a_histogram_pushed_again_is_the_newer_one_after_a_crash(tmp_path: Path) -> None:
    """Its state is stored with each push."""
    async with committing(tmp_path / "a") as bench:
        for count in (4, 5, 6):
            await take(bench, put(body(native(count)), content_type=PROTOBUF))
        found, replayed, _ = start(await crashed(bench, tmp_path / "b"))
    (group,) = found.values()
    assert ([counts(part) for part in group.parts], replayed) == ([[6]], set())
