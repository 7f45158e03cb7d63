"""What groups look like from outside: on /metrics and in /api/v1/metrics."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from bridge import __version__
from bridge.exposition.formats import parse_body
from bridge.exposition.write import ExposedFamily, write_text
from bridge.flatten import FlattenOptions, flatten
from bridge.groups import Group, group_id, key_of, refuse, store
from bridge.model import Labels
from bridge.web.views import group_families, groups_json, own_families
from tests.web.test_server import AWAY, Site, running

NOW_MS = 1_700_000_000_123
JOB: Labels = (("job", "j"),)
EXTERNAL = {"cluster": "eu1", "zone": "a"}
OPENMETRICS = "application/openmetrics-text"


@pytest.fixture
async def site(tmp_path: Path) -> AsyncIterator[Site]:
    async with running(tmp_path) as started:
        yield started


def pushed(
    *bodies: str, grouping: Labels = JOB, external: dict[str, str] | None = None, content_type: str = ""
) -> Group:
    """A group after these POSTs."""
    labels = external or {}
    group = Group(group_id(key_of(grouping), labels))
    for body in bodies:
        families = parse_body(body.encode(), content_type, utf8_names=False)
        content = flatten(families, grouping, FlattenOptions(labels), NOW_MS)
        group = store(group, content, NOW_MS, replace_all=False).group
    return group


def lines(group: Group, external: dict[str, str] | None = None) -> list[str]:
    """What /metrics shows of a group's own series."""
    families = [family for family in group_families(group, external or {}) if not family.name.startswith("push_")]
    return [line for line in write_text(families).splitlines() if not line.startswith("#")]


@pytest.mark.parametrize(
    ("body", "grouping", "shown"),
    [
        pytest.param("a 1\n", JOB, 'a{instance="",job="j"} 1', id="added by the agent"),
        pytest.param('a{cluster="us"} 1\n', JOB, 'a{cluster="us",instance="",job="j"} 1', id="pushed with the sample"),
        pytest.param("a 1\n", (("cluster", "eu1"), *JOB), 'a{cluster="eu1",instance="",job="j"} 1', id="in the path"),
        pytest.param('a{zone=""} 1\n', JOB, 'a{instance="",job="j"} 1', id="pushed empty"),
    ],
)
def test_external_labels_are_hidden(body: str, grouping: Labels, shown: str) -> None:
    """What every delivered series has is not shown, unless the push said it itself."""
    assert lines(pushed(body, grouping=grouping, external=EXTERNAL), EXTERNAL) == [shown]


@pytest.mark.parametrize(
    ("body", "grouping", "shown"),
    [
        pytest.param("a 1\n", JOB, 'a{instance="",job="j"} 1', id="none"),
        pytest.param('a{instance="b"} 1\n', JOB, 'a{instance="b",job="j"} 1', id="pushed"),
        pytest.param("a 1\n", (("instance", "g"), *JOB), 'a{instance="g",job="j"} 1', id="grouped"),
        pytest.param('a{instance="b"} 1\n', (("instance", ""), *JOB), 'a{instance="",job="j"} 1', id="grouped, empty"),
        pytest.param("a 1\n", (*JOB, ("x", "")), 'a{instance="",job="j",x=""} 1', id="another empty one"),
        pytest.param('a{x=""} 1\n', JOB, 'a{instance="",job="j"} 1', id="empty in the body"),
    ],
)
def test_a_missing_instance_is_shown_empty(body: str, grouping: Labels, shown: str) -> None:
    """As on Pushgateway there is always an instance, and the group's empty labels are seen."""
    assert lines(pushed(body, grouping=grouping)) == [shown]


def test_families_of_all_posts_are_shown_with_the_push_times_last() -> None:
    """A group shows what each of its pushes left, then when it was pushed and when that failed."""
    group = pushed("# HELP b Second.\nb 1\n", "# TYPE a counter\na 2\n")
    failed = refuse(group, NOW_MS + 5000).group
    labels: Labels = (("instance", ""), ("job", "j"))
    assert [(family.name, family.type, family.samples) for family in group_families(failed, {})] == [
        ("b", "untyped", (("b", labels, 1.0),)),
        ("a", "counter", (("a", labels, 2.0),)),
        ("push_time_seconds", "gauge", (("push_time_seconds", labels, (NOW_MS + 1) / 1000),)),
        ("push_failure_time_seconds", "gauge", (("push_failure_time_seconds", labels, (NOW_MS + 5000) / 1000),)),
    ]


def shown_json(group: Group, name: str) -> dict[str, Any]:
    """One family as the API shows it, less what all have in common."""
    family: dict[str, Any] = groups_json([group], {})[0][name]
    assert family.pop("time_stamp") == "2023-11-14T22:13:20.123000Z"
    for metric in family["metrics"]:
        assert (metric["labels"].pop("job"), metric["labels"].pop("instance")) == ("j", "")
    return family


def simple(kind: str, value: str, **labels: str) -> dict[str, Any]:
    return {"type": kind, "metrics": [{"labels": labels, "value": value}]}


@pytest.mark.parametrize(
    ("body", "content_type", "family"),
    [
        pytest.param("x +Inf\n", "", simple("UNTYPED", "+Inf"), id="untyped"),
        pytest.param("# TYPE x gauge\nx NaN\n", "", simple("GAUGE", "NaN"), id="gauge"),
        pytest.param('x{y="\\"\\\\"} -0.5\n', "", simple("UNTYPED", "-0.5", y='"\\'), id="escapes"),
        pytest.param("# TYPE x counter\nx 1583872347.5\n", "", simple("COUNTER", "1.5838723475e+09"), id="counter"),
        pytest.param("# HELP x Y.\nx 1\n", "", {**simple("UNTYPED", "1"), "help": "Y."}, id="help"),
        pytest.param(
            '# TYPE x summary\nx{quantile="0.5",n="1"} 2\nx_sum{n="1"} 3\nx_count{n="1"} 4\nx_count{n="2"} 5\n',
            "",
            {
                "type": "SUMMARY",
                "metrics": [
                    {"labels": {"n": "1"}, "quantiles": {"0.5": "2"}, "count": "4", "sum": "3"},
                    {"labels": {"n": "2"}, "quantiles": {}, "count": "5", "sum": "0"},
                ],
            },
            id="summary",
        ),
        pytest.param(
            '# TYPE x histogram\nx_bucket{le="1"} 2\nx_bucket{le="+Inf"} 3\nx_sum 4.5\nx_count 3\n',
            "",
            {
                "type": "HISTOGRAM",
                "metrics": [{"labels": {}, "buckets": {"1": "2", "+Inf": "3"}, "count": "3", "sum": "4.5"}],
            },
            id="histogram",
        ),
        pytest.param('# TYPE x info\nx_info{v="1"} 1\n# EOF\n', OPENMETRICS, simple("GAUGE", "1", v="1"), id="info"),
        pytest.param(
            '# TYPE x stateset\nx{x="on"} 1\n# EOF\n', OPENMETRICS, simple("GAUGE", "1", x="on"), id="stateset"
        ),
    ],
)
def test_a_family_in_json_has_pushgateways_shape(body: str, content_type: str, family: dict[str, Any]) -> None:
    """Each type has its own members, numbers are Go's texts, and a help is there only if there is one."""
    assert shown_json(pushed(body, content_type=content_type), "x") == family


def test_a_group_in_json_tells_its_labels_and_pushes() -> None:
    """A group has its grouping labels, whether its newest push succeeded, and the times of both kinds."""
    group = pushed("a 1\n", grouping=(("instance", ""), *JOB), external=EXTERNAL)
    failed = refuse(group, NOW_MS + 5000).group
    good, bad = groups_json([group, failed], EXTERNAL)
    assert good.keys() == {"labels", "last_push_successful", "a", "push_time_seconds", "push_failure_time_seconds"}
    assert good["labels"] == {"instance": "", "job": "j"}
    assert (good["last_push_successful"], bad["last_push_successful"]) == (True, False)
    assert good["push_time_seconds"] == {
        "time_stamp": "2023-11-14T22:13:20.123000Z",
        "type": "GAUGE",
        "help": "Last Unix time when changing this group in the Pushgateway succeeded.",
        "metrics": [{"labels": {"instance": "", "job": "j"}, "value": "1.700000000123e+09"}],
    }
    assert bad["push_time_seconds"] == good["push_time_seconds"]
    times = [shown["push_failure_time_seconds"]["metrics"][0]["value"] for shown in (good, bad)]
    assert times == ["0", "1.700000005123e+09"]


def test_a_group_that_only_failed_is_shown() -> None:
    """A first push that was refused leaves a group without series, whose push time is 0."""
    (shown,) = groups_json([refuse(Group(group_id(key_of(JOB), {})), NOW_MS).group], {})
    assert shown["last_push_successful"] is False
    assert shown["push_time_seconds"]["metrics"][0]["value"] == "0"


def test_own_metrics_are_named_as_text_names_them() -> None:
    """Counters end in _total and bring no _created; labels and buckets stay."""
    registry = CollectorRegistry()
    Counter("c", "Counts.", ["x"], registry=registry).labels("1").inc(2)
    Gauge("g", "", registry=registry).set(3)
    Histogram("h", "Sizes.", buckets=(1.0,), registry=registry).observe(0.5)
    buckets = (("h_bucket", (("le", "1.0"),), 1.0), ("h_bucket", (("le", "+Inf"),), 1.0))
    assert list(own_families(registry)) == [
        ExposedFamily("c_total", "counter", "Counts.", (("c_total", (("x", "1"),), 2.0),)),
        ExposedFamily("g", "gauge", "", (("g", (), 3.0),)),
        ExposedFamily("h", "histogram", "Sizes.", (*buckets, ("h_count", (), 1.0), ("h_sum", (), 0.5))),
    ]


@pytest.mark.parametrize(
    ("expose", "targets", "shown", "scrapes"),
    [
        ("auto", [], True, 0.0),
        ("auto", [AWAY], False, 0.0),
        ("true", [], True, 0.0),
        ("true", [AWAY], True, 1.0),
        ("false", [], False, 0.0),
        ("false", [AWAY], False, 0.0),
    ],
)
async def test_groups_are_exposed_as_configured(
    tmp_path: Path, expose: str, targets: list[str], shown: bool, scrapes: float
) -> None:
    """The own metrics are always there, the groups by the setting; a scrape that doubles them is counted."""
    async with running(tmp_path, *targets, web={"expose_groups": expose}) as site:
        await site.put("j", b"a 1\n")
        assert bool(await site.shown("a{")) is shown
        assert bool(await site.shown("push_time_seconds{")) is shown
        await site.ask("GET", "/metrics", headers={"X-Prometheus-Scrape-Timeout-Seconds": "10"})
        assert len(await site.groups()) == 1
        own = await site.shown("pushbridge_")
        assert f"pushbridge_group_scrapes_total {scrapes:g}" in own


async def test_metrics_are_well_formed(site: Site) -> None:
    """Own and pushed families come with a type, once each, as text 0.0.4; all own names tell whose they are."""
    await site.put("j", b"# TYPE a counter\n# HELP a Counts.\na 1\n")
    answer = await site.ask("GET", "/metrics")
    assert answer.headers["Content-Type"] == "text/plain; version=0.0.4; charset=utf-8"
    typed = [line.split()[2] for line in answer.text.splitlines() if line.startswith("# TYPE ")]
    helped = [line.split()[2] for line in answer.text.splitlines() if line.startswith("# HELP ")]
    assert typed == helped == sorted(set(typed))
    foreign = [name for name in typed if not name.startswith("pushbridge_")]
    assert foreign == ["a", "push_failure_time_seconds", "push_time_seconds"]
    assert f'pushbridge_build_info{{version="{__version__}"}} 1\n' in answer.text
