"""What is said of a run: metrics, headers, and the text and names of spool files."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bridge.exposition.text import parse_text
from bridge.ingress.directive import Directive, find_directives
from bridge.wrapper.report import (
    METRICS,
    End,
    Report,
    Run,
    end_report,
    headers,
    metrics_report,
    spool_name,
    spool_text,
    start_report,
)
from tests.strategies import LEGACY_NAMES, TEXTS, labels

RUN = Run((("job", "backup"), ("instance", "db1")), "0" * 32, 1_700_000_000_123)
END = End(1_700_000_007_001, 6.8776, 3, 4096)
GROUPS = labels(LEGACY_NAMES.filter(lambda name: name not in {"ttl", "method", "key"}), TEXTS)


def values(report: Report) -> dict[str, str]:
    """Metrics of a body, as they are spelled."""
    return dict(line.split() for line in report.body.decode().splitlines() if not line.startswith("#"))


def test_the_start_says_when() -> None:
    """Before the job runs only its start is told, in seconds with milliseconds."""
    assert values(start_report(RUN)) == {"pushbridge_run_start_time_seconds": "1700000000.123"}


def test_the_end_says_all() -> None:
    """The end repeats the start and adds how the run went."""
    assert values(end_report(RUN, END)) == {
        "pushbridge_run_start_time_seconds": "1700000000.123",
        "pushbridge_run_end_time_seconds": "1700000007.001",
        "pushbridge_run_duration_seconds": "6.878",
        "pushbridge_run_exit_code": "3",
        "pushbridge_run_success": "0",
        "pushbridge_run_max_rss_bytes": "4096",
    }
    assert values(end_report(RUN, End(1, 0, 0, 0)))["pushbridge_run_success"] == "1"


def test_a_schedule_stands_in_both() -> None:
    """Start and end tell what is expected of the job, so that whoever reads either can judge it."""
    run = Run(RUN.labels, RUN.id, RUN.start_ms, 21600.0, 0.5)
    for report in (start_report(run), end_report(run, END)):
        assert (
            values(report).items()
            >= {
                "pushbridge_run_expected_interval_seconds": "21600.000",
                "pushbridge_run_grace_seconds": "0.500",
            }.items()
        )
    assert values(end_report(run, END)).keys() == METRICS.keys()


def test_the_agent_reads_it() -> None:
    """Bodies are valid text format: a gauge with help for each metric."""
    families = parse_text(end_report(Run(RUN.labels, RUN.id, 1, 60.0), END).body)
    assert {(family.name, family.type, family.help) for family in families} == {
        (name, "gauge", text) for name, text in METRICS.items()
    }


HOUR_S = 3600.0


@pytest.mark.parametrize(
    ("ttl", "every_s", "grace_s", "wanted"),
    [
        pytest.param(None, None, 0, None, id="neither"),
        pytest.param("8d", None, 0, "8d", id="given"),
        pytest.param("0", 168 * HOUR_S, 0, "0", id="given with an interval"),
        pytest.param(None, 24 * HOUR_S, 0, None, id="daily"),
        pytest.param(None, 24 * HOUR_S, 1, "90001s", id="daily with grace"),
        pytest.param(None, 168 * HOUR_S, 6 * HOUR_S, "630000s", id="weekly"),
        pytest.param(None, 24 * HOUR_S, 0.5, "90001s", id="never cut short"),
    ],
)
def test_metrics_of_rare_jobs_last(ttl: str | None, every_s: float | None, grace_s: float, wanted: str | None) -> None:
    """The TTL is the user's, or covers interval, grace and an hour when the agent's default would not."""
    report = start_report(Run(RUN.labels, RUN.id, 1, every_s, grace_s, ttl))
    assert headers(report).get("X-Push-TTL") == wanted
    assert find_directives(spool_text(report)).ttl == wanted


def test_each_push_has_its_key() -> None:
    """The key is the run's and the push's: repeated it is the same push, by whatever way."""
    reports = (start_report(RUN), metrics_report(RUN, b"a 1\n", 5), end_report(RUN, END))
    keys = [headers(report)["Idempotency-Key"] for report in reports]
    assert keys == [f"run-{'0' * 32}-{kind}" for kind in ("start", "metrics", "end")]
    assert [find_directives(spool_text(report)).key for report in reports] == keys


@given(GROUPS, st.binary(max_size=60), st.none() | st.sampled_from(["8d", "inf"]))
def test_a_spool_file_keeps_the_push(group: tuple[tuple[str, str], ...], body: bytes, ttl: str | None) -> None:
    """The first line gives group, method, TTL and key back; the rest is the body."""
    report = metrics_report(Run(group, RUN.id, 1, None, 0, ttl), body, 2)
    text = spool_text(report)
    assert find_directives(text) == Directive(group, ttl, "post", report.key)
    assert text.partition(b"\n")[2] == body


def test_a_spool_file_by_example() -> None:
    """The form of the first line is a promise to the agent."""
    run = Run((("job", 'a "b"'), ("path", "C:\\x\ny")), "f" * 32, 1, ttl="8d")
    assert spool_text(metrics_report(run, b"a 1\n", 2)).decode() == (
        r'# PUSHBRIDGE job="a \"b\"" path="C:\\x\ny" method="post" ttl="8d" '
        f'key="run-{"f" * 32}-metrics"\na 1\n'
    )


def test_a_job_cannot_say_who_it_is_by_a_comment() -> None:
    """What looks like a directive in the job's metrics stays a comment, as it is by HTTP."""
    body = b"# PUSHBRIDGE job=other\na 1\n# PUSHBRIDGE key=x\n"
    text = spool_text(metrics_report(RUN, body, 2))
    assert find_directives(text).labels == RUN.labels
    assert text.endswith(b"\n# # PUSHBRIDGE job=other\na 1\n# # PUSHBRIDGE key=x\n")


def test_names_sort_as_the_events_did() -> None:
    """A run of no time at all, and the runs after it, are taken up in their order."""
    run = Run(RUN.labels, RUN.id, 999)
    last_ms, names = 0, []
    for report in (start_report(run), metrics_report(run, b"", 999), end_report(run, End(999, 0, 0, 0))):
        names.append(spool_name(report, last_ms + 1))
        last_ms = int(names[-1].partition("-")[0])
    names.append(spool_name(start_report(Run(RUN.labels, "a" * 32, 10_000_000_000_000)), 0))
    assert names == sorted(names)
    assert all(re.fullmatch(r"\d{13,}-[0-9a-f]{32}-(start|metrics|end)\.prom", name) for name in names)
