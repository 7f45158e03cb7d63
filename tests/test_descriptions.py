import pytest

from bridge import descriptions
from bridge.content import Content, FamilyShape, make_shape
from bridge.descriptions import OWN_SERIES, Descriptions
from bridge.groups import PUSH_TIME
from bridge.model import Metadata, MetricType
from tests.made import make_content


def part(*families: FamilyShape) -> Content:
    return make_content(make_shape(families, ()), ())


def family(name: str, kind: MetricType, text: str = "", unit: str = "") -> FamilyShape:
    return FamilyShape(name, kind, text, 0, 0, unit)


def known(*families: FamilyShape) -> Descriptions:
    made = Descriptions()
    made.begin([part(*families)])
    return made


@pytest.mark.parametrize(
    ("series", "kind"),
    [
        ("h", "histogram"),
        ("h_bucket", "histogram"),
        ("h_sum", "histogram"),
        ("h_count", "histogram"),
        ("h_created", "histogram"),
        ("h_total", "untyped"),
        ("c_total", "counter"),
        ("c_created", "counter"),
        ("c_sum", "untyped"),
        ("g", "gauge"),
        ("g_sum", "untyped"),
        ("s_count", "summary"),
        ("s_bucket", "untyped"),
        ("d_gcount", "gaugehistogram"),
        ("i_info", "info"),
        ("g_own", "counter"),
        ("none", "untyped"),
        ("h_", "untyped"),
        ("", "untyped"),
    ],
)
def test_series_belong_to_their_family(series: str, kind: str) -> None:
    """A series is described by the family of its name, or by that whose member the ending makes it."""
    found = known(
        family("h", "histogram"),
        family("c", "counter"),
        family("g", "gauge"),
        family("s", "summary"),
        family("d", "gaugehistogram"),
        family("i", "info"),
        family("g_own", "counter"),
    )
    assert found.of_series(series).type == kind


def test_help_and_unit_go_with_the_type() -> None:
    """All members of a family say the same of it."""
    found = known(family("x_seconds", "histogram", "How long.", "seconds"))
    wanted = Metadata("histogram", "How long.", "seconds")
    assert [found.of_series(f"x_seconds{ending}") for ending in ("", "_bucket", "_sum")] == [wanted] * 3


def test_groups_that_differ_leave_the_type_unknown() -> None:
    """While two groups give a family two types it has none; once one of them ends, the other's counts."""
    found = known(family("x", "gauge", "Old."))
    other = [part(family("x", "counter", "New."))]
    found.begin(other)
    assert found.of_series("x") == Metadata("untyped", "New.")
    assert set(found.types("x")) == {"gauge", "counter"}
    found.end(other)
    assert found.of_series("x").type == "gauge"


def test_an_ended_family_is_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    """What ended is still described while its markers are on their way, and forgotten after so many others."""
    monkeypatch.setattr(descriptions, "MOST_ENDED", 2)
    found = Descriptions()
    for name in ("a", "b", "c"):
        held = [part(family(name, "gauge"))]
        found.begin(held)
        found.end(held)
    assert [found.of_series(name).type for name in ("a", "b", "c")] == ["untyped", "gauge", "gauge"]
    assert list(found.types("c")) == []


def test_the_agents_own_series_are_described() -> None:
    """Push times and the agent's own series are gauges with a help, whatever anybody pushes by their names."""
    found = known(family(PUSH_TIME, "counter"))
    assert found.of_series(PUSH_TIME) == OWN_SERIES[PUSH_TIME]
    assert all(one.type == "gauge" and one.help for one in OWN_SERIES.values())
