"""The whole way of a push over a real journal: what is stored, what is refused, and what a refusal leaves."""

import asyncio
import gzip
import struct
from dataclasses import replace
from pathlib import Path

import pytest
import snappy

from bridge._pb import client_model_pb2 as pb
from bridge.errors import BadPushError, PushRefusedError, TooLargeError, UnsupportedEncodingError
from bridge.flatten import FlattenOptions
from bridge.groups import Group, key_of
from bridge.model import Labels
from bridge.pipeline import Push, PushOptions, Receipt, accept, end_all, end_group
from bridge.wire import snappy_block
from bridge.wire.head import decode_sample, labels_of
from bridge.wire.remote_write import STALE_NAN, split_series
from tests.journal.test_committer import MIB, NOW_MS, Bench, committing

JOB: Labels = (("job", "j"),)
OTHER: Labels = (("instance", "i"), ("job", "j"))
OPTIONS = PushOptions(FlattenOptions({}, max_series=5000), max_body_bytes=MIB)
OPENMETRICS = "application/openmetrics-text; version=1.0.0"
PAIR = 'a{n="1"} 1\nb 1\n'
RUN = "pushbridge_run_start_time_seconds 1\npushbridge_run_success 1\n"
PROTOBUF = "application/vnd.google.protobuf; proto=io.prometheus.client.MetricFamily; encoding=delimited"


def put(body: str | bytes, grouping: Labels = JOB, content_type: str = "", content_encoding: str = "") -> Push:
    data = body.encode() if isinstance(body, str) else body
    return Push(grouping, replace_all=True, body=data, content_type=content_type, content_encoding=content_encoding)


def post(body: str | bytes, grouping: Labels = JOB) -> Push:
    return replace(put(body, grouping), replace_all=False)


async def take(bench: Bench, push: Push, options: PushOptions = OPTIONS) -> Receipt:
    return await accept(push, bench.committer, options, NOW_MS)


def group(bench: Bench, grouping: Labels = JOB) -> Group:
    return bench.committer.groups.get(key_of(grouping))


def held(bench: Bench, grouping: Labels = JOB) -> dict[str, float]:
    """What a group holds: name and labels, without those of the group, to value."""
    found: dict[str, float] = {}
    for part in group(bench, grouping).parts:
        for head, value in zip(part.shape.heads, part.values, strict=True):
            labels = dict(set(labels_of(head)) - set(grouping))
            found[" ".join([labels.pop("__name__"), *(f"{key}={labels[key]}" for key in sorted(labels))])] = value
    return found


def sent(bench: Bench, after_seq: int = 0) -> list[tuple[str, float | None, int]]:
    """What the journal has for delivery: name, value (None for a staleness marker) and time."""
    samples: list[tuple[str, float | None, int]] = []
    for row in bench.rows(after_seq):
        for field in split_series(snappy_block.decompress(row.body, MIB)):
            head, value, stamp = decode_sample(field)
            stale = struct.pack("<d", value) == STALE_NAN
            samples.append((dict(labels_of(head))["__name__"], None if stale else value, stamp))
    return samples


def protobuf(name: str, value: float) -> bytes:
    family = pb.MetricFamily(name=name, type=pb.GAUGE, metric=[pb.Metric(gauge=pb.Gauge(value=value))])
    return bytes([family.ByteSize()]) + family.SerializeToString()


def ran(number: float) -> dict[str, float]:
    """What a group holds of a run."""
    return {"pushbridge_run_start_time_seconds": number, "pushbridge_run_success": number}


async def test_an_accepted_push_is_on_disk(tmp_path: Path) -> None:
    """When a push is accepted its samples and the two push times are in the journal, with the time of arrival."""
    async with committing(tmp_path) as bench:
        assert await take(bench, put("# TYPE a gauge\na 1\nb 2 1234567890123\n")) == Receipt(1, 1, 2)
        assert sent(bench) == [
            ("a", 1.0, NOW_MS),
            ("b", 2.0, 1234567890123),
            ("push_time_seconds", NOW_MS / 1000, NOW_MS),
            ("push_failure_time_seconds", 0.0, NOW_MS),
        ]
    async with committing(tmp_path) as bench:
        assert held(bench) == {"a": 1.0, "b": 2.0}


@pytest.mark.parametrize(
    ("pushes", "holds", "ended"),
    [
        pytest.param([put(PAIR), put('a{n="2"} 2\n')], {"a n=2": 2.0}, ["a", "b"], id="put replaces"),
        pytest.param([put(PAIR), post('a{n="2"} 2\n')], {"a n=2": 2.0, "b": 1.0}, ["a"], id="post replaces families"),
        pytest.param([post("a 1\n"), post("b 2\n"), post("a 3\n")], {"a": 3.0, "b": 2.0}, [], id="posts add up"),
        pytest.param([post("a 1\n"), post("b 2\n"), put("c 3\n")], {"c": 3.0}, ["a", "b"], id="put replaces all posts"),
        pytest.param([put("a 1\n"), put("")], {}, ["a"], id="empty put"),
        pytest.param([put("a 1\n"), post("")], {"a": 1.0}, [], id="empty post"),
        pytest.param([put("a 1\n"), post(RUN), put("b 2\n")], {**ran(1), "b": 2.0}, ["a"], id="put keeps the run"),
        pytest.param([post(f"a 1\n{RUN}"), put("")], ran(1), ["a"], id="empty put keeps the run"),
        pytest.param([post(RUN), put(RUN.replace("1", "2"))], ran(2), [], id="put of the run replaces it"),
        pytest.param([post(RUN), put("a 1\n"), put("a 2\n")], {**ran(1), "a": 2.0}, [], id="puts beside the run"),
        pytest.param([put("")], {}, [], id="empty put of a new group"),
        pytest.param([post("")], {}, [], id="empty post of a new group"),
        pytest.param([put("push_time_seconds 7\na 1\n")], {"a": 1.0}, [], id="own gauges are not the job's"),
    ],
)
async def test_put_replaces_the_group_and_post_its_families(
    tmp_path: Path, pushes: list[Push], holds: dict[str, float], ended: list[str]
) -> None:
    """After a push the group holds what it should, what is missing got a marker, and its push time is new."""
    async with committing(tmp_path) as bench:
        for push in pushes:
            await take(bench, push)
        assert held(bench) == holds
        assert [name for name, value, _ in sent(bench) if value is None] == ended
        after = group(bench)
        assert (after.live, after.failure_ms) == (True, 0)
        assert (after.push_ms, after.last_push_successful) == (NOW_MS + len(pushes) - 1, True)


@pytest.mark.parametrize(
    "push",
    [
        pytest.param(put("a 1\n"), id="text"),
        pytest.param(put("a 1\n", content_type="application/x-www-form-urlencoded"), id="as curl sends it"),
        pytest.param(put("a 1\n# EOF\n", content_type=OPENMETRICS), id="openmetrics"),
        pytest.param(put(protobuf("a", 1), content_type=PROTOBUF), id="protobuf"),
        pytest.param(put("a 1\n", content_encoding="identity"), id="identity"),
        pytest.param(put(gzip.compress(b"a 1\n"), content_encoding="gzip"), id="gzip"),
        pytest.param(put(gzip.compress(b"a 1\n"), content_encoding=" GZip"), id="gzip, oddly written"),
        pytest.param(put(snappy.StreamCompressor().compress(b"a 1\n"), content_encoding="snappy"), id="snappy stream"),
        pytest.param(put(snappy.compress(b"a 1\n"), content_encoding="snappy"), id="snappy block"),
    ],
)
async def test_every_format_and_encoding_gives_the_same(tmp_path: Path, push: Push) -> None:
    """The same sample arrives whatever it was written in."""
    async with committing(tmp_path) as bench:
        assert (await take(bench, push)).series == 1
        assert held(bench) == {"a": 1.0}


SMALL = PushOptions(FlattenOptions({}, max_series=2), max_body_bytes=30)
NO_TIMES = PushOptions(FlattenOptions({}, accept_timestamps=False), max_body_bytes=MIB)


@pytest.mark.parametrize(
    ("push", "options", "error", "reason"),
    [
        pytest.param(put("a eins\n"), OPTIONS, BadPushError, "parse", id="no number"),
        pytest.param(put("a 1\n", content_type=OPENMETRICS), OPTIONS, BadPushError, "parse", id="no EOF"),
        pytest.param(put("a 1\n", content_type=PROTOBUF), OPTIONS, BadPushError, "parse", id="no protobuf"),
        pytest.param(put('a{x="1"} 1\na{x="1"} 2\n'), OPTIONS, BadPushError, "inconsistent", id="series twice"),
        pytest.param(
            put("# TYPE h histogram\nh_count 1\nh_sum 1\n# TYPE h_count gauge\nh_count 1\n"),
            OPTIONS,
            PushRefusedError,
            "parse",
            id="suffix collision within the body",
        ),
        pytest.param(put("a 1 1234\n"), NO_TIMES, BadPushError, "timestamps", id="timestamps refused"),
        pytest.param(put(f"a 1 {NOW_MS + 601_000}\n"), OPTIONS, BadPushError, "future", id="far future"),
        pytest.param(put("a 1\n", content_encoding="gzip"), OPTIONS, BadPushError, "encoding", id="no gzip"),
        pytest.param(put("a 1\n", content_encoding="snappy"), OPTIONS, BadPushError, "encoding", id="no snappy"),
        pytest.param(put("", content_encoding="gzip"), OPTIONS, BadPushError, "encoding", id="empty gzip"),
        pytest.param(put("a 1\n", content_encoding="br"), OPTIONS, UnsupportedEncodingError, "encoding", id="brotli"),
        pytest.param(
            put(gzip.compress(b"a 1\n" * 8), content_encoding="gzip"), SMALL, TooLargeError, "too_large", id="bomb"
        ),
        pytest.param(put("a 1\nb 1\nc 1\n"), SMALL, TooLargeError, "too_many_series", id="too many series"),
    ],
)
@pytest.mark.parametrize("known", [True, False], ids=["known group", "new group"])
async def test_a_refused_push_sets_the_failure_time_only(
    tmp_path: Path, push: Push, options: PushOptions, error: type[PushRefusedError], reason: str, *, known: bool
) -> None:
    """The sender is told why; the group keeps series and push time, and its failure time is on its way."""
    async with committing(tmp_path) as bench:
        if known:
            await take(bench, put("a 1\nb 2\n"))
        before, rows = group(bench), len(bench.rows())
        with pytest.raises(error) as refusal:
            await take(bench, push, options)
        assert refusal.value.reason == reason
        after = group(bench)
        assert after.parts == before.parts
        assert (after.live, after.push_ms, after.last_push_successful) == (True, before.push_ms, False)
        failed_ms = max(NOW_MS, before.last_ms + 1)
        assert (after.failure_ms, after.last_ms) == (failed_ms, failed_ms)
        assert sent(bench, rows) == [
            ("push_time_seconds", before.push_ms / 1000, failed_ms),
            ("push_failure_time_seconds", failed_ms / 1000, failed_ms),
        ]


async def test_a_series_of_another_group_is_refused(tmp_path: Path) -> None:
    """A series that another group owns is refused until that group is deleted; the owner is named."""
    async with committing(tmp_path) as bench:
        await take(bench, put("a 1\nb 1\n", OTHER))
        for push in (put('c 1\na{instance="i"} 2\n'), post('b{instance="i"} 2\n')):
            with pytest.raises(BadPushError, match="'instance': 'i'") as refusal:
                await take(bench, push)
            assert refusal.value.reason == "inconsistent"
        assert (held(bench), held(bench, OTHER)) == ({}, {"a": 1.0, "b": 1.0})
        await take(bench, put('a{instance="k"} 2\n'))
        await end_group(OTHER, bench.committer)
        await take(bench, put('a{instance="i"} 2\n'))
        with pytest.raises(BadPushError):
            await take(bench, put("a 1\n", OTHER))


@pytest.mark.parametrize("body", ["b 1\n", "b eins\n", ""], ids=["good", "bad", "empty"])
async def test_a_group_that_would_be_another_one_on_the_wire_is_refused(tmp_path: Path, body: str) -> None:
    """Groups that differ in an empty label only have the same push times, so the second never comes to be."""
    twin: Labels = (("instance", ""), *JOB)
    async with committing(tmp_path) as bench:
        await take(bench, put("a 1\n"))
        before = bench.state()
        with pytest.raises(BadPushError):
            await take(bench, put(body, twin))
        assert bench.state() == before
        await end_group(JOB, bench.committer)
        await take(bench, put("b 1\n", twin))
        assert held(bench, twin) == {"b": 1.0}


@pytest.mark.parametrize(
    ("one", "other"),
    [
        pytest.param(put("a 1\n", OTHER), put('a{instance="i"} 2\n'), id="series of two groups"),
        pytest.param(post("# TYPE h histogram\nh_count 1\nh_sum 1\n"), post("h_count 1\n"), id="suffixes of one group"),
        pytest.param(post("s_sum 1\n"), post("# TYPE s summary\ns_count 1\ns_sum 1\n"), id="suffixes, other way round"),
        pytest.param(post("h_bucket 1\n"), post('# TYPE h histogram\nh_bucket{le="+Inf"} 1\n'), id="buckets"),
    ],
)
@pytest.mark.parametrize("together", [True, False], ids=["together", "one after the other"])
async def test_of_two_pushes_that_clash_the_first_wins(
    tmp_path: Path, one: Push, other: Push, *, together: bool
) -> None:
    """The second of two pushes that cannot stand together is refused, also when they share a transaction."""
    async with committing(tmp_path) as bench:
        rounds = [[one, other]] if together else [[one], [other]]
        answers: list[Receipt | BaseException] = []
        for pushes in rounds:
            answers += await asyncio.gather(*(take(bench, push) for push in pushes), return_exceptions=True)
        assert isinstance(answers[0], Receipt)
        assert isinstance(answers[1], BadPushError)
        assert answers[1].reason == "inconsistent"
        assert len(held(bench, one.grouping)) == answers[0].series
        assert group(bench, other.grouping).failure_ms > 0


@pytest.mark.parametrize(
    "push",
    [put("h_count 1\n"), post("# TYPE h gauge\nh 1\n"), post("# TYPE h summary\nh_count 1\n")],
    ids=["put", "post of another type", "post of another compound"],
)
async def test_families_that_are_replaced_do_not_clash(tmp_path: Path, push: Push) -> None:
    """What a push takes away cannot collide with what it brings."""
    async with committing(tmp_path) as bench:
        await take(bench, post("# TYPE h histogram\nh_count 1\nh_sum 1\n"))
        assert (await take(bench, push)).series == len(held(bench)) == 1


async def test_a_type_that_another_group_disputes_is_told(tmp_path: Path) -> None:
    """A push is accepted with its own type, and the receipt names the family and the other type."""
    async with committing(tmp_path) as bench:
        await take(bench, put("# TYPE a counter\na 1\nb 1\n"))
        receipt = await take(bench, put("# TYPE a gauge\na 1\nb 1\n", OTHER))
        assert receipt == Receipt(2, 2, 2, (("a", "gauge", "counter"),))
        assert (await take(bench, put("# TYPE a gauge\na 1\n", (("job", "k"),)))).type_conflicts[0][0] == "a"


COUNTERS = '# HELP c Counts.\n# TYPE c counter\nc 1\n# TYPE g gauge\ng{x="1"} 1\ng{x="2"} 2\n'
OM = '# TYPE c counter\nc_total 1\n# TYPE g gauge\ng{x="1"} 1\n# EOF\n'


@pytest.mark.parametrize(
    ("first", "second", "content_type"),
    [
        pytest.param(COUNTERS, COUNTERS, "", id="same"),
        pytest.param(COUNTERS, COUNTERS.replace(" 2\n", " -2.5e3\n"), "", id="other value"),
        pytest.param(COUNTERS, COUNTERS.replace("} 1\n", "} +Inf\n"), "", id="infinity"),
        pytest.param(COUNTERS, COUNTERS.replace("c 1\n", "c 0x1F\n"), "", id="hexadecimal"),
        pytest.param(COUNTERS, COUNTERS.replace("c 1\n", "c NaN\n").replace(" 2\n", " 1_000\n"), "", id="underscore"),
        pytest.param(COUNTERS, COUNTERS.replace("c 1\n", "c -1\n"), "", id="negative counter"),
        pytest.param(COUNTERS, COUNTERS.replace("c 1\n", "c 1e999\n"), "", id="too large"),
        pytest.param(COUNTERS, COUNTERS.replace("c 1\n", "c\n"), "", id="no value"),
        pytest.param(COUNTERS, COUNTERS.replace("c 1\n", "c 1 1234567890123\n"), "", id="a timestamp"),
        pytest.param(COUNTERS, COUNTERS.replace("Counts.", "Counts!"), "", id="other help"),
        pytest.param(COUNTERS, COUNTERS.replace("c counter", "c gauge"), "", id="other type"),
        pytest.param(COUNTERS, COUNTERS.replace('"2"', '"3"'), "", id="other label"),
        pytest.param(COUNTERS, COUNTERS.replace('"2"', '"1"'), "", id="series twice"),
        pytest.param(COUNTERS, COUNTERS + "h 1\n", "", id="one more line"),
        pytest.param(COUNTERS, COUNTERS.replace("c 1\n", ""), "", id="one line less"),
        pytest.param(COUNTERS, COUNTERS.removesuffix("\n"), "", id="no last LF"),
        pytest.param(COUNTERS, COUNTERS.replace("\n", "\r\n"), "", id="CR LF"),
        pytest.param(COUNTERS, COUNTERS.replace("} 1\n", "}  1 \n"), "", id="more blanks"),
        pytest.param(COUNTERS, COUNTERS.replace("} 1\n", "} 1\u0661\n"), "", id="foreign digits"),
        pytest.param(COUNTERS, "", "", id="nothing"),
        pytest.param(OM, OM.replace(" 1\n", " 7\n"), OPENMETRICS, id="openmetrics"),
        pytest.param(OM, OM.replace("total 1\n", "total -1\n"), OPENMETRICS, id="openmetrics, negative counter"),
        pytest.param(OM, OM.replace("total 1\n", 'total 1 # {t="x"} 1\n'), OPENMETRICS, id="openmetrics, an exemplar"),
        pytest.param(OM, OM.removesuffix("# EOF\n"), OPENMETRICS, id="openmetrics, cut"),
        pytest.param(OM, OM + "x 1\n", OPENMETRICS, id="openmetrics, more after the end"),
        pytest.param(OM.replace("c_total 1\n", ""), "g 1\n# EOF\n", OPENMETRICS, id="openmetrics, other form"),
    ],
)
async def test_a_repeated_push_means_what_it_would_mean_alone(
    tmp_path: Path, first: str, second: str, content_type: str
) -> None:
    """What a group has seen before never changes how the next body is read, however much it looks like the last."""

    async def outcome(bench: Bench, *bodies: str) -> object:
        try:
            for body in bodies:
                receipt = await take(bench, put(body, JOB, content_type))
        except PushRefusedError as error:
            return type(error), error.reason, str(error)
        families = [part.shape.families for part in group(bench).parts]
        shown = {name: repr(value) for name, value in held(bench).items()}
        stamps = [part.timestamps for part in group(bench).parts]
        return receipt.series, families, shown, stamps

    async with committing(tmp_path) as bench:
        alone = await outcome(bench, second)
        await end_group(JOB, bench.committer)
        assert await outcome(bench, first, first, second) == alone


async def test_the_format_decides_not_the_last_body(tmp_path: Path) -> None:
    """The very bytes that were accepted in one format are read anew when they are sent as another."""
    async with committing(tmp_path) as bench:
        await take(bench, put(OM, content_type=OPENMETRICS))
        with pytest.raises(BadPushError, match="protobuf"):
            await take(bench, put(OM, content_type=PROTOBUF))
        await take(bench, put(OM))
        families = [family for part in group(bench).parts for family in part.shape.families]
        assert ("c_total", "untyped") in [(family.name, family.type) for family in families]


async def test_long_bodies_and_short_ones_do_not_mix(tmp_path: Path) -> None:
    """Large pushes, good and bad, and small ones at the same time each get their own answer."""
    large = "".join(f'large{{row="{row}",pad="{"x" * 80}"}} {row}\n' for row in range(3000))
    assert len(large) > 200_000
    pushes = [put(large, (("job", f"l{n}"),)) for n in range(2)]
    pushes += [put(f"{large}large eins\n", (("job", "bad"),))]
    pushes += [put(f"small {n}\n", (("job", f"s{n}"),)) for n in range(10)]
    async with committing(tmp_path) as bench:
        answers = await asyncio.gather(*(take(bench, push) for push in pushes), return_exceptions=True)
        assert [answer.series for answer in answers if isinstance(answer, Receipt)] == [3000] * 2 + [1] * 10
        assert isinstance(answers[2], BadPushError)
        assert "line 3001" in str(answers[2])
        assert sum(held(bench, (("job", "l1"),)).values()) == sum(range(3000))
        assert held(bench, (("job", "s9"),)) == {"small": 9.0}


async def test_the_end_of_a_group_is_sent(tmp_path: Path) -> None:
    """DELETE sends a marker for every series and both gauges, and the group is gone."""
    async with committing(tmp_path) as bench:
        await take(bench, put("a 1\n"))
        await take(bench, put("b 1\n", OTHER))
        before = bench.journal.end_seq
        await end_group(JOB, bench.committer)
        ended = [name for name, value, _ in sent(bench, before) if value is None]
        assert ended == ["a", "push_time_seconds", "push_failure_time_seconds"]
        assert (group(bench).live, held(bench), held(bench, OTHER)) == (False, {}, {"b": 1.0})


@pytest.mark.parametrize("known", [True, False], ids=["ended already", "never was"])
async def test_the_end_of_an_unknown_group_is_no_error(tmp_path: Path, *, known: bool) -> None:
    """DELETE of a group that is not there is accepted, and sends nothing."""
    async with committing(tmp_path) as bench:
        if known:
            await take(bench, put("a 1\n"))
            await end_group(JOB, bench.committer)
        rows = len(bench.rows())
        await end_group(JOB, bench.committer)
        assert (len(bench.rows()), bench.live()) == (rows, [])


async def test_a_group_that_returns_keeps_time_going_forward(tmp_path: Path) -> None:
    """After a DELETE in the same millisecond the next push is later than the markers."""
    async with committing(tmp_path) as bench:
        await take(bench, put("a 1\n"))
        await end_group(JOB, bench.committer)
        await take(bench, put("a 2\n"))
        points = [(value, stamp - NOW_MS) for name, value, stamp in sent(bench) if name == "a"]
        assert points == [(1.0, 0), (None, 1), (2.0, 2)]


async def test_the_end_of_all_groups(tmp_path: Path) -> None:
    """A wipe ends every group, those that only ever failed too, and what comes later begins anew."""
    async with committing(tmp_path) as bench:
        await take(bench, put("a 1\n"))
        await take(bench, put("b 1\n", OTHER))
        await asyncio.gather(take(bench, put("b eins\n", (("job", "k"),))), return_exceptions=True)
        await end_all(bench.committer)
        assert bench.live() == []
        assert [name for name, value, _ in sent(bench) if value is None and len(name) == 1] == ["a", "b"]
        rows = len(bench.rows())
        await end_all(bench.committer)
        assert len(bench.rows()) == rows
        await take(bench, put('a{instance="i"} 1\n'))
        assert held(bench) == {"a instance=i": 1.0}
