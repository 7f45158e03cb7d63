from collections.abc import Callable
from typing import NamedTuple

import pytest

from bridge.errors import BadPushError
from bridge.flatten import FlattenOptions, flatten
from bridge.limits import LabelLimits
from bridge.model import Family, Labels, Sample
from bridge.pipeline import Push, parse
from bridge.wire.head import make_head
from bridge.wire.remote_write import label_bytes
from tests.blackbox import delimited as pb

SMALL = LabelLimits(4, 10, 20)
NOW_MS = 1_700_000_000_000


class Case(NamedTuple):
    """Labels of a series beside its name and job, and what is wrong with it, if anything is."""

    labels: Labels
    words: str = ""
    limits: LabelLimits = SMALL


CASES = {
    "as many as allowed": Case((("a", "1"), ("b", "2"))),
    "one more": Case((("a", "1"), ("b", "2"), ("c", "3")), "5 labels, more than push.max_label_names_per_series=4"),
    "an empty one is none": Case((("a", "1"), ("b", "2"), ("c", ""))),
    "name as long as allowed": Case((("n" * 10, "1"),)),
    "name too long": Case(
        (("n" * 11, "1"),), "label name nnnnnnnnnnn has 11 bytes, more than push.max_label_name_length=10"
    ),
    "value as long as allowed": Case((("a", "é" * 10),)),
    "value too long in bytes": Case(
        (("a", "é" * 11),), "value of label a has 22 bytes, more than push.max_label_value_length=20"
    ),
    "no limits": Case(tuple(("n" * 2000 + str(at), "v" * 5000) for at in range(99)), limits=LabelLimits(0, 0, 0)),
    "only one limit": Case((("a", "v" * 21),), "max_label_value_length=20", LabelLimits(0, 0, 20)),
    "Mimir's": Case((("a", "v" * 2049),), "value of label a has 2049 bytes", LabelLimits()),
    "Mimir's, just": Case(tuple((f"a{at}", "v" * 2048) for at in range(28)), limits=LabelLimits()),
    "Mimir's, one more": Case(tuple((f"a{at}", "v") for at in range(29)), "31 labels", LabelLimits()),
}


@pytest.mark.parametrize("name", CASES)
def test_limits(name: str) -> None:
    """A series over a limit is refused with its name, the label, what was got and the setting that says so."""
    labels, words, limits = CASES[name]
    family = Family("x", "gauge", "", (Sample("x", labels, 1.0, line=7),))
    options = FlattenOptions({}, limits=limits)
    if not words:
        assert len(flatten([family], (("job", "j"),), options, NOW_MS)) == 1
        return
    with pytest.raises(BadPushError) as caught:
        flatten([family], (("job", "j"),), options, NOW_MS)
    assert caught.value.reason == "label_limits"
    assert words in str(caught.value)
    assert str(caught.value).startswith("x{")
    assert "in line 7" in str(caught.value)


@pytest.mark.parametrize("where", ["grouping", "external"])
def test_every_label_that_is_sent_counts(where: str) -> None:
    """Grouping and external labels are on the series as much as its own."""
    family = Family("x", "gauge", "", (Sample("x", (), 1.0),))
    long: dict[str, str] = {"team": "v" * 21}
    grouping = tuple(long.items()) if where == "grouping" else ()
    options = FlattenOptions(long if where == "external" else {}, limits=SMALL)
    with pytest.raises(BadPushError, match="label team has 21 bytes"):
        flatten([family], grouping, options, NOW_MS)


LONG = "v" * 2049
PROTOBUF = "application/vnd.google.protobuf; proto=io.prometheus.client.MetricFamily; encoding=delimited"


def protobuf(labels: str) -> bytes:
    """A gauge with labels that are spelled as in text."""
    pairs = [pair.split("=") for pair in labels.split(",")]
    metric = pb.metric(pb.gauge(1))
    for name, value in pairs:
        metric += pb.block(1, pb.block(1, name) + pb.block(2, value.strip('"')))
    return pb.family("x", pb.GAUGE, metric)


WAYS: dict[str, tuple[str, Callable[[str], bytes]]] = {
    "text": ("", lambda labels: f"x{{{labels}}} 1\n".encode()),
    "OpenMetrics": ("application/openmetrics-text", lambda labels: f"x{{{labels}}} 1\n# EOF\n".encode()),
    "protobuf": (PROTOBUF, protobuf),
}
BAD_LABELS = {
    "too long": (f'a="{LONG}"', "has 2049 bytes"),
    "too many": (",".join(f'a{at}="1"' for at in range(29)), "31 labels"),
    "twice": ('a="1",a="2"', "duplicate label name"),
    "reserved": ('__a="1"', "improper label name"),
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("labels", BAD_LABELS)
def test_every_way_in_is_checked(way: str, labels: str) -> None:
    """Labels that receivers refuse are refused in each format; files are read as text."""
    content_type, spell = WAYS[way]
    push = Push((("job", "j"),), replace_all=True, body=b"", content_type=content_type)
    with pytest.raises(BadPushError, match=BAD_LABELS[labels][1]):
        parse(spell(BAD_LABELS[labels][0]), push, FlattenOptions({}), NOW_MS)


def test_messages_stay_short() -> None:
    """What is too long is not repeated in full."""
    head = make_head(label_bytes([("__name__", "x"), ("n" * 5000, "v" * 100_000)]))
    with pytest.raises(BadPushError) as caught:
        LabelLimits().check(head, 2)
    assert len(str(caught.value)) < 1000
