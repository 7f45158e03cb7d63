import pytest
from google.protobuf import text_format
from hypothesis import example, given, settings
from hypothesis import strategies as st

from bridge._pb import client_model_pb2 as pb
from bridge.errors import BadPushError
from bridge.exposition.formats import BodyFormat, format_of, parse_body
from bridge.exposition.template import make_template
from bridge.wire.varint import uvarint
from tests.strategies import mutations

PROTOBUF = "application/vnd.google.protobuf; proto=io.prometheus.client.MetricFamily; encoding=delimited"
OPENMETRICS = "application/openmetrics-text; version=1.0.0; charset=utf-8"
TEXT = "text/plain; version=0.0.4; charset=utf-8"

FAMILY = text_format.Parse(
    'name: "x" help: "h" type: HISTOGRAM metric { label { name: "a" value: "ü" } timestamp_ms: 5'
    " histogram { sample_count: 3 sample_sum: 2.5 bucket { upper_bound: 1 cumulative_count: 2 } } }",
    pb.MetricFamily(),
).SerializeToString()

BODIES: dict[str, bytes] = {
    PROTOBUF: uvarint(len(FAMILY)) + FAMILY,
    OPENMETRICS: (
        b'# TYPE x histogram\n# HELP x a\\nb\nx_bucket{le="+Inf"} 1 # {trace="b"} 2 3.5\nx_count 1\nx_sum 2\n'
        b'# TYPE y counter\ny_total{a="b\\"c"} 1 1.5\ny_created{a="b\\"c"} 2\n# EOF\n'
    ),
    TEXT: (
        b'# HELP x a\\nb\n# TYPE x histogram\nx_bucket{le="1"} 1\nx_bucket{le="+Inf"} 2\nx_count 2\nx_sum 3\n'
        b'y{a="b\\"c\\\\",d="\xc3\xbc"} NaN 1234\n{"z",a="b"} 1e5\n'
    ),
}


@pytest.mark.parametrize(
    ("content_type", "format_"),
    [
        (PROTOBUF, "protobuf"),
        ("application/vnd.google.protobuf;encoding=delimited;proto=io.prometheus.client.MetricFamily", "protobuf"),
        (PROTOBUF.replace("application/vnd", "Application/VND"), "protobuf"),
        (PROTOBUF.replace("; ", " ;\t"), "protobuf"),
        (PROTOBUF.replace("delimited", '"delimited"'), "protobuf"),
        (PROTOBUF.replace("encoding", "ENCODING"), "protobuf"),
        (f"{PROTOBUF}; escaping=allow-utf-8", "protobuf"),
        (PROTOBUF.replace("delimited", "text"), "text"),
        (PROTOBUF.replace("delimited", "compact-text"), "text"),
        (PROTOBUF.replace("MetricFamily", "metricfamily"), "text"),
        ("application/vnd.google.protobuf", "text"),
        ("application/x-protobuf", "text"),
        (OPENMETRICS, "openmetrics"),
        ("application/openmetrics-text", "openmetrics"),
        ("APPLICATION/OpenMetrics-Text; version=0.0.1", "openmetrics"),
        ("application/openmetrics-text2", "text"),
        (TEXT, "text"),
        ("text/plain", "text"),
        ("application/x-www-form-urlencoded", "text"),
        ("application/json", "text"),
        ("", "text"),
        (";", "text"),
        ("nonsense", "text"),
    ],
)
def test_the_format_follows_from_the_content_type(content_type: str, format_: BodyFormat) -> None:
    """Protobuf and OpenMetrics are asked for by name; whatever else is said is text, as curl sends it."""
    assert format_of(content_type) == format_


PARTS = st.sampled_from([*"/;=\"*'\\% ", "proto", "encoding", "delimited", "*0*", "utf-8''", "%ff", "text/plain", "é"])


@given(st.text() | st.lists(PARTS).map("".join))
@example("text/plain\nx: y")
@example("text/plain; a=\udc80")
@example("\udc80/\udc81; proto=\udc80")
@example("a/b; proto*0*=utf-8''%ff; proto*1=x")
@example("a/b; proto*=no-such-charset''%41")
def test_any_content_type_names_a_format(content_type: str) -> None:
    """Whatever a client sends as Content-Type, the body goes to one of the parsers."""
    assert format_of(content_type) in {"text", "openmetrics", "protobuf"}


@pytest.mark.parametrize(
    "content_type",
    [
        pytest.param(f"text/plain; a*{'9' * 5000}=b", id="section number of many digits"),
        pytest.param(b"text/plain; a=\xc3\xa9\xff".decode("utf-8", "surrogateescape"), id="valid and broken UTF-8"),
    ],
)
def test_an_odd_content_type_is_text(content_type: str) -> None:
    """A Content-Type that HTTP lets through and that is no known one is text, however odd."""
    assert format_of(content_type) == "text"


@pytest.mark.parametrize("content_type", BODIES, ids=format_of)
@pytest.mark.parametrize("body_type", BODIES, ids=format_of)
def test_each_format_has_its_own_parser(content_type: str, body_type: str) -> None:
    """A body is read by the parser of its Content-Type, never by one that its bytes would suit better."""
    body = BODIES[body_type]
    if content_type == body_type:
        families = parse_body(body, content_type, utf8_names=False)
        assert families[0].name == "x"
        assert families[0].type == "histogram"
    else:
        with pytest.raises(BadPushError) as caught:
            parse_body(body, content_type, utf8_names=False)
        starts = {PROTOBUF: "protobuf parsing", OPENMETRICS: "OpenMetrics parsing", TEXT: "text format parsing"}
        assert str(caught.value).startswith(starts[content_type])


def dotted(content_type: str) -> bytes:
    if content_type == PROTOBUF:
        family = text_format.Parse('name: "a.b" type: GAUGE metric { gauge { value: 1 } }', pb.MetricFamily())
        return uvarint(family.ByteSize()) + family.SerializeToString()
    return b'{"a.b"} 1\n' + (b"# EOF\n" if content_type == OPENMETRICS else b"")


@pytest.mark.parametrize("content_type", BODIES, ids=format_of)
def test_names_outside_the_legacy_set_must_be_enabled(content_type: str) -> None:
    """Every format takes a dotted name if that is configured, and refuses it else."""
    (family,) = parse_body(dotted(content_type), content_type, utf8_names=True)
    assert family.name == "a.b"
    with pytest.raises(BadPushError):
        parse_body(dotted(content_type), content_type, utf8_names=False)


def only_families_or_bad_push(body: bytes, content_type: str) -> None:
    for utf8_names in (False, True):
        try:
            families = parse_body(body, content_type, utf8_names=utf8_names)
        except BadPushError as error:
            assert error.reason == "parse"  # noqa: PT017 - either outcome is right
            str(error).encode()
        else:
            for family in families:
                texts = [family.name, family.help, family.unit]
                texts += [part for sample in family.samples for pair in sample.labels for part in (sample.name, *pair)]
                "".join(texts).encode()


CONTENT_TYPES = st.sampled_from([*BODIES, "", "application/json"])


@given(st.binary(max_size=60), CONTENT_TYPES)
def test_any_bytes_give_families_or_the_one_error(body: bytes, content_type: str) -> None:
    """Any bytes as any type give families of valid text or BadPushError, and nothing else."""
    only_families_or_bad_push(body, content_type)


@given(st.sampled_from(list(BODIES)).flatmap(lambda kind: mutations(BODIES[kind])), CONTENT_TYPES)
def test_any_damage_gives_families_or_the_one_error(body: bytes, content_type: str) -> None:
    """A valid body with bytes changed, as its own type or another, gives families or BadPushError, and nothing else."""
    only_families_or_bad_push(body, content_type)


@pytest.mark.parametrize("content_type", BODIES, ids=format_of)
def test_every_prefix_gives_families_or_the_one_error(content_type: str) -> None:
    """A body cut short anywhere gives families or BadPushError, and nothing else."""
    body = BODIES[content_type]
    for length in range(len(body)):
        only_families_or_bad_push(body[:length], content_type)


TEMPLATE_BODY = '# TYPE a counter\na{{n="1"}} {}\n# TYPE h histogram\nh_bucket{{le="+Inf"}} {}\na{{n="2"}} {}\n'
NUMBERS = st.sampled_from(["1", "2.5", "-0", "1e5", "-1", "NaN", "+Inf", "1e400", "1 5", "0x1", "", "1_0", " 1", "1\n"])


@settings(deadline=None)
@given(st.lists(NUMBERS, min_size=3, max_size=3))
@example(["1", "-1", "2.5"])
@example(["-1", "1", "NaN"])
@example(["1", "NaN", "+Inf"])
@example(["1", "1e400", "1"])
@example(["1", "1 5", "1"])
def test_a_repeated_form_is_read_as_the_parser_reads_it(numbers: list[str]) -> None:
    """A body of the form of an earlier one gives the parser's values, or is left to the parser."""
    first = TEMPLATE_BODY.format(1, 2, 3).encode()
    template = make_template(first, "text", parse_body(first, "", utf8_names=False))
    assert template is not None
    body = TEMPLATE_BODY.format(*numbers).encode()
    values = template.read(body)
    try:
        families = parse_body(body, "", utf8_names=False)
    except BadPushError:
        assert values is None
        return
    samples = [sample for family in families for sample in family.samples]
    if values is not None:
        assert list(map(repr, values)) == [repr(sample.value) for sample in samples]
        assert all(sample.timestamp_ms is None for sample in samples)
    if all(number in {"1", "2.5", "1e5"} for number in numbers):
        assert values is not None
