"""Reading repeated bodies: equal to the parser where it reads, silent where it cannot be sure."""

import math
import random
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bridge.errors import BadPushError
from bridge.exposition.openmetrics import parse_openmetrics
from bridge.exposition.template import Template, TextFormat, make_template
from bridge.exposition.text import parse_text
from bridge.model import Family

PARSERS = {"text": parse_text, "openmetrics": parse_openmetrics}
BODY = b"""# HELP rows Rows read, version 1
# TYPE rows counter
rows{table="a b"} 10
rows{table="c"} 2.5e3
# TYPE took histogram
took_bucket{le="1"} 1
took_bucket{le="+Inf"} 2
took_sum 3
took_count 2
load 0.5
"""
OPENMETRICS = b"""# TYPE rows counter
rows_total{table="a"} 10
# TYPE took summary
took{quantile="0.5"} NaN
took_sum 3
# EOF
"""


def values(families: tuple[Family, ...]) -> list[str]:
    """Values in the families' order, spelled so that NaN and -0 can be compared."""
    return [repr(sample.value) for family in families for sample in family.samples]


def template_of(body: bytes, format_: TextFormat = "text") -> Template:
    """The template of a body that has one."""
    template = make_template(body, format_, PARSERS[format_](body))
    assert template is not None
    return template


def read(template: Template, body: bytes) -> list[str] | None:
    """What the template reads, spelled as `values` does."""
    found = template.read(body)
    return None if found is None else list(map(repr, found))


@pytest.mark.parametrize(
    ("number", "spelled"),
    [
        (b"7", "7.0"),
        (b"+7", "7.0"),
        (b".5", "0.5"),
        (b"5.", "5.0"),
        (b"-0", "-0.0"),
        (b"1e-400", "0.0"),
        (b"NaN", "nan"),
        (b"-Inf", "-inf"),
        (b"+inf", "inf"),
        (b"1e308", "1e+308"),
    ],
)
def test_reads_every_spelling_of_a_number(number: bytes, spelled: str) -> None:
    """A gauge may become any number that the parser takes."""
    body = BODY.replace(b"load 0.5", b"load " + number)
    assert read(template_of(BODY), body) == values(parse_text(body))
    assert values(parse_text(body))[-1] == spelled


@pytest.mark.parametrize(
    "change",
    [
        (b"load 0.5", b"load 1e999"),
        (b"load 0.5", b"load 0x1"),
        (b"load 0.5", b"load 1_0"),
        (b"load 0.5", b"load +nan"),
        (b"load 0.5", b"load e5"),
        (b"load 0.5", b"load -"),
        (b"load 0.5", b"load "),
        (b"load 0.5", b"load 0.5 1700000000000"),
        (b"load 0.5", b"load 0.5\r"),
        (b"load 0.5", b"load  0.5"),
        (b"load 0.5", b"5"),
        (b"load 0.5", b"loud 0.5"),
        (b"load 0.5\n", b"load 0.5"),
        (b"load 0.5\n", b""),
        (b"load 0.5\n", b"load 0.5\n\n"),
        (b"load 0.5\n", b"load 0.5\nload 0.6\n"),
        (b"version 1", b"version 12"),
        (b"version 1", b"version 2"),
        (b'le="1"', b'le="2"'),
        (b"took_count 2", b"took_count -2"),
        (b'"1"} 1', b'"1"} -1'),
        (b"counter\nrows", b"counter\n\nrows"),
        (b"a b", b"a c"),
    ],
    ids=repr,
)
def test_leaves_other_bodies_to_the_parser(change: tuple[bytes, bytes]) -> None:
    """Whatever differs in more than plain numbers, or has a number that a parser refuses, is not read."""
    assert BODY.count(change[0]) == 1
    assert template_of(BODY).read(BODY.replace(*change)) is None


def test_keeps_the_order_of_interleaved_families() -> None:
    """Values come in the families' order, not in that of the lines."""
    body = b'a 1\nb 2\na{x="y"} 3\n'
    assert read(template_of(body), body) == ["1.0", "3.0", "2.0"]


@pytest.mark.parametrize(
    ("body", "format_"),
    [
        pytest.param(b"", "text", id="nothing"),
        pytest.param(b"a 5 5\n", "text", id="timestamp that equals the value"),
        pytest.param(b"a 5\nb 1 1700000000000\n", "text", id="one timestamp"),
        pytest.param(b"#" * 9000 + b"\na 1\n", "text", id="mostly comment"),
        pytest.param(b"a\t1\n", "text", id="tab before the value"),
        pytest.param(
            b'# TYPE a counter\na_total 1 # {x="y"} 1\n# EOF\n', "openmetrics", id="exemplar of the same value"
        ),
        pytest.param(b"# TYPE a info\na_info 1\n# EOF\n", "openmetrics", id="value is prescribed"),
        pytest.param(b'# TYPE a stateset\na{a="x"} 1\n# EOF\n', "openmetrics", id="state"),
    ],
)
def test_makes_none_where_the_value_cannot_be_told(body: bytes, format_: TextFormat) -> None:
    """A body whose values might be mistaken gets no template."""
    assert make_template(body, format_, PARSERS[format_](body)) is None


def test_a_line_that_the_parser_drops_stays_dropped() -> None:
    """A summary line without quantile, which Go leaves out, is compared as a whole."""
    body = b"# TYPE s summary\ns 1\ns_sum 2\n"
    assert read(template_of(body), body.replace(b" 2", b" 3")) == ["3.0"]
    assert template_of(body).read(body.replace(b"s 1", b"s 2")) is None


def test_openmetrics_counters_stay_counters() -> None:
    """A counter that turns negative or NaN is the parser's to refuse; a quantile may be NaN."""
    template = template_of(OPENMETRICS, "openmetrics")
    assert read(template, OPENMETRICS.replace(b" 10", b" 11")) == ["11.0", "nan", "3.0"]
    for wrong in (b" -1", b" NaN"):
        body = OPENMETRICS.replace(b" 10", wrong)
        assert template.read(body) is None
        with pytest.raises(BadPushError, match="line 2"):
            parse_openmetrics(body)


def test_equal_forms_share_one_template() -> None:
    """Ten thousand groups with the same lines cost one template; the same bytes in another format do not share."""
    assert template_of(BODY) is template_of(BODY.replace(b" 0.5", b" 7"))
    body = b"# TYPE a gauge\na 1\n# EOF\n"
    assert template_of(body) is not template_of(body, "openmetrics")


@given(st.integers(0, 2**32), st.sampled_from(["text", "openmetrics"]))
def test_never_disagrees_with_the_parser(seed: int, format_: TextFormat) -> None:
    """For any small damage or change of a body the template reads what the parser reads, or nothing."""
    rng = random.Random(seed)
    original = BODY if format_ == "text" else OPENMETRICS
    body = bytearray(original)
    for _ in range(rng.randint(1, 4)):
        at = rng.randrange(len(body) + 1)
        numbers = [match.span() for match in re.finditer(rb"(?<= )[-+.0-9eE]+(?=\n)", body)]
        match rng.randrange(5):
            case 0:
                body[at:at] = rng.choice([b"1", b" ", b"\n", b"-", b"#", b"e", b"\r", b"_", b"+Inf", b"\xff"])
            case 1:
                del body[at : at + rng.randint(1, 3)]
            case 2 if numbers:
                start, stop = rng.choice(numbers)
                body[start:stop] = repr(rng.choice([0.0, -1.0, math.inf, 1e300, rng.random()])).encode()
            case 3:
                lines = bytes(body).split(b"\n")
                rng.shuffle(lines)
                body = bytearray(b"\n".join(lines))
            case _:
                body[at:at] = rng.choice(bytes(body).split(b"\n")) + b"\n"
    found = read(template_of(original, format_), bytes(body))
    if found is not None:
        assert found == values(PARSERS[format_](bytes(body)))
