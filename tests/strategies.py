"""Hypothesis strategies for the values of the pure core, and the plain model of what a group holds."""

import struct

from hypothesis import strategies as st

from bridge.content import Content, FamilyShape, make_shape
from bridge.model import Exemplar, Family, Labels, MetricType, NativeHistogram, Sample, Span
from bridge.wire.head import labels_of, make_head
from bridge.wire.histogram import CUSTOM_SCHEMA, encode_histogram
from bridge.wire.remote_write import STALE_NAN, label_bytes, pack_doubles

TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
"""Unicode scalar values: what valid UTF-8 can say."""
WORDS = TEXTS.filter(bool)
LEGACY_NAMES = st.from_regex(r"[a-zA-Z][a-zA-Z0-9_]{0,8}", fullmatch=True)
METRIC_NAMES = st.from_regex(r"[a-zA-Z_:][a-zA-Z0-9_:]{0,8}", fullmatch=True)

INT64 = st.integers(-(2**63), 2**63 - 1)
ARRIVALS_MS = st.integers(0, 2**43) | st.integers(1_600_000_000_000, 1_900_000_000_000)
"""Mostly times of our century, which take another way through the encoder than others."""
VALUES = st.floats() | st.sampled_from([struct.unpack("<d", STALE_NAN)[0], -0.0])

_BODY_NAMES = WORDS.filter(lambda name: name != "__name__")

TYPES: list[MetricType] = ["counter", "gauge", "untyped", "summary", "histogram", "gaugehistogram", "info", "stateset"]


def labels(
    names: st.SearchStrategy[str] = WORDS, values: st.SearchStrategy[str] = TEXTS, *, min_size: int = 0
) -> st.SearchStrategy[Labels]:
    """Label pairs whose names do not repeat, in any order."""
    return st.dictionaries(names, values, min_size=min_size, max_size=4).map(lambda pairs: tuple(pairs.items()))


_SPANS = st.lists(st.builds(Span, st.integers(0, 5), st.integers(0, 3)), max_size=3).map(tuple)
_COUNTS = st.integers(0, 2**63 - 1)


@st.composite
def native_histograms(draw: st.DrawFn) -> NativeHistogram:
    """What a receiver takes: whole or float, exponential or custom buckets, with populations that make up the count."""
    is_float, schema = draw(st.booleans()), draw(st.sampled_from([-4, 0, 3, 8, CUSTOM_SCHEMA]))
    custom = schema == CUSTOM_SCHEMA
    positive, negative = draw(_SPANS), () if custom else draw(_SPANS)
    sizes = [sum(span.length for span in spans) for spans in (positive, negative)]
    some = st.integers(0, 1000) | st.integers(0, 2**40)
    populations = [draw(st.lists(some, min_size=size, max_size=size)) for size in sizes]
    deltas = [tuple(now - before for before, now in zip((0, *each), each, strict=False)) for each in populations]
    counts = [tuple(map(float, each)) for each in populations]
    zero = 0 if custom else draw(some)
    last = sum(span.offset + span.length for span in positive)
    count = zero + sum(map(sum, populations))
    return NativeHistogram(
        "x",
        (),
        None,
        float(count) if is_float else count,
        draw(st.floats()),
        schema,
        0.0 if custom else draw(st.floats(0, 1)),
        float(zero) if is_float else zero,
        negative,
        () if is_float else deltas[1],
        counts[1] if is_float else (),
        positive,
        () if is_float else deltas[0],
        counts[0] if is_float else (),
        is_float=is_float,
        is_gauge=draw(st.booleans()),
        custom_values=tuple(float(at) for at in range(last)) if custom else (),
    )


EXEMPLARS = st.builds(Exemplar, labels(), st.floats(), st.none() | INT64)


@st.composite
def contents(draw: st.DrawFn) -> Content:
    """What any push may bring.

    Families of any text, values of any bits, native histograms, explicit timestamps and exemplars on some, all or none.
    """
    names = draw(st.lists(WORDS, unique=True, max_size=3))
    shapes: list[FamilyShape] = []
    heads: list[bytes] = []
    for name in names:
        start = len(heads)
        series = draw(st.lists(labels(_BODY_NAMES, WORDS), max_size=3, unique_by=frozenset))
        heads.extend(make_head(label_bytes([("__name__", name), *pairs])) for pairs in series)
        kind, unit = draw(st.sampled_from(TYPES)), draw(st.just("") | TEXTS)
        shapes.append(FamilyShape(name, kind, draw(TEXTS), start, len(heads), unit))
    values = draw(st.lists(VALUES, min_size=len(heads), max_size=len(heads)))
    stamps = draw(st.none() | st.lists(st.none() | INT64, min_size=len(heads), max_size=len(heads)))
    has_stamp = any(stamp is not None for stamp in stamps or ())
    some = st.none() | native_histograms().map(encode_histogram)
    messages = draw(st.none() | st.lists(some, min_size=len(heads), max_size=len(heads)))
    exemplars = st.dictionaries(
        st.sampled_from(range(len(heads))), st.lists(EXEMPLARS, min_size=1, max_size=2).map(tuple)
    )
    return Content(
        make_shape(shapes, heads),
        pack_doubles(values),
        tuple(stamps) if stamps and has_stamp else None,
        tuple(messages) if messages and any(messages) else None,
        (draw(st.none() | exemplars) or None) if heads else None,
    )


@st.composite
def mutations(draw: st.DrawFn, body: bytes) -> bytes:
    """A body with up to three cuts, insertions or overwritten bytes."""
    changed = bytearray(body)
    for _ in range(draw(st.integers(1, 3))):
        at = draw(st.integers(0, len(changed)))
        size = draw(st.integers(0, 4))
        changed[at : at + size] = draw(st.binary(max_size=4) | st.sampled_from([b"\n", b'"', b"\\", b"}", b" ", b"#"]))
    return bytes(changed)


Wire = frozenset[tuple[str, str]]
"""The labels of a series as a receiver knows it."""
Point = tuple[float, int | None]
"""Value and explicit timestamp."""
ModelGroup = dict[str, tuple[MetricType, dict[Wire, Point]]]
"""What a group holds, in plain containers: family -> type and series."""
PushedBody = dict[str, tuple[MetricType, list[tuple[Labels, float, int | None]]]]

_BODY_LABELS: list[Labels] = [(), (("instance", "x"),), (("instance", ""), ("n", "1")), (("n", "1"),), (("job", "b"),)]
_POINTS = st.tuples(st.sampled_from(_BODY_LABELS), st.integers(0, 9).map(float), st.sampled_from([None, None, 7]))
_TYPES: list[MetricType] = ["gauge", "counter"]
BODIES: st.SearchStrategy[PushedBody] = st.dictionaries(
    st.sampled_from("ab"),
    st.tuples(st.sampled_from(_TYPES), st.lists(_POINTS, min_size=1, max_size=3)),
    max_size=2,
)
"""Small bodies whose series often meet those of other groups."""


def families_of(body: PushedBody) -> list[Family]:
    """A body as its parser would give it."""
    return [
        Family(name, kind, "", tuple(Sample(name, pairs, value, stamp) for pairs, value, stamp in points))
        for name, (kind, points) in body.items()
    ]


def wire_of(name: str, pairs: Labels, grouping: Labels) -> Wire:
    """Labels of a pushed series."""
    merged = {**dict(pairs), **dict(grouping), "__name__": name}
    return frozenset((label, value) for label, value in merged.items() if value)


def series_of(held: ModelGroup) -> dict[Wire, Point]:
    """All series of a group."""
    return {wire: point for _, points in held.values() for wire, point in points.items()}


def model_of(content: Content) -> ModelGroup:
    """A content in plain containers."""
    stamps = content.timestamps or (None,) * len(content.values)
    rows = [
        (frozenset(labels_of(head)), point)
        for head, point in zip(content.shape.heads, zip(content.values, stamps, strict=True), strict=True)
    ]
    return {family.name: (family.type, dict(rows[family.start : family.stop])) for family in content.shape.families}
