"""/api/v1/groups of a whole agent: what GET tells, what DELETE names and ends, and what both refuse."""

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode

import pytest

from tests.journal.test_committer import locked
from tests.web.test_server import Answer, Site, running

GROUPS = "/api/v1/groups"
PUSHES = {
    "job/a": b"# TYPE rows counter\nrows 1\n# TYPE took histogram\n"
    b'took_bucket{le="1"} 1\ntook_bucket{le="+Inf"} 1\ntook_sum 0.5\ntook_count 1\n',
    "job/a/instance/db1": b'rows{table="x"} 1\nrows{table="y"} 2\n',
    "job/b/instance@base64/=": b"other 1\n",
    "job/c/path@base64/L3Nydi9kYXRh": b"",
}
LABELS = [
    {"job": "a"},
    {"instance": "db1", "job": "a"},
    {"instance": "", "job": "b"},
    {"job": "c", "path": "/srv/data"},
]


@pytest.fixture
async def site(tmp_path: Path) -> AsyncIterator[Site]:
    async with running(tmp_path) as started:
        for path, body in PUSHES.items():
            assert (await started.ask("PUT", f"/metrics/{path}", body)).status == 200
        yield started


def question(*match: str, **others: str) -> str:
    """URL of a question, percent-encoded all over."""
    return f"{GROUPS}?{urlencode([*(('match[]', text) for text in match), *others.items()])}"


def data(answer: Answer) -> Any:
    """Content of an answer that has to be a success."""
    assert answer.status == 200, answer
    document = json.loads(answer.text)
    assert document.keys() == {"status", "data"}
    assert document["status"] == "success"
    return document["data"]


async def labels_found(site: Site, *match: str) -> list[dict[str, str]]:
    """Labels of the groups that GET finds."""
    return [group["labels"] for group in data(await site.ask("GET", question(*match)))]


async def test_get_tells_what_a_group_is(site: Site) -> None:
    """A group comes with labels, times, and the number and families of its series."""
    before = {group["labels"]["job"]: group for group in await site.groups() if "instance" not in group["labels"]}
    assert await site.put("a/instance/db1", b"rows eins\n") == 400
    groups = data(await site.ask("GET", GROUPS))
    assert [group["labels"] for group in groups] == LABELS
    pushed_s = float(before["a"]["push_time_seconds"]["metrics"][0]["value"])
    assert groups[0] == {
        "labels": {"job": "a"},
        "source": "push",
        "push_time_seconds": pushed_s,
        "push_failure_time_seconds": 0.0,
        "last_push_successful": True,
        "expires_seconds": pushed_s + 25 * 3600,
        "expired": False,
        "series": 5,
        "families": ["rows", "took"],
    }
    assert (groups[1]["series"], groups[1]["families"], groups[1]["last_push_successful"]) == (2, ["rows"], False)
    assert groups[1]["push_failure_time_seconds"] > groups[1]["push_time_seconds"] > 0
    assert (groups[3]["series"], groups[3]["families"]) == (0, [])


@pytest.mark.parametrize(
    ("match", "found"),
    [
        ([], LABELS),
        (['{job="a"}'], LABELS[:2]),
        (['{job="a",instance=""}'], LABELS[:1]),
        (['{job=~".+",instance=""}'], [LABELS[0], LABELS[2], LABELS[3]]),
        (['{path="/srv/data"}'], LABELS[3:]),
        (["rows"], LABELS[:2]),
        (["took_bucket"], LABELS[:1]),
        (["took"], []),
        (["push_time_seconds"], LABELS),
        (['rows{instance!=""}'], LABELS[1:2]),
        (['{job=~".+",__name__!="rows"}'], LABELS[2:]),
        (['{job="c"}', "other"], LABELS[2:]),
        (["rows", 'rows{job="a"}'], LABELS[:2]),
        (['{table="x"}'], []),
    ],
)
async def test_selectors_find_groups_by_label_and_name(
    site: Site, match: list[str], found: list[dict[str, str]]
) -> None:
    """Selectors look at grouping labels and names of series; several of them are a union, each group once."""
    assert await labels_found(site, *match) == found


@pytest.mark.parametrize(
    "spelled", ['match[]={job="a"}', "match%5B%5D=%7Bjob%3D%22a%22%7D", "match[]=%7Bjob=%22a%22+%7D"]
)
async def test_parameters_may_be_percent_encoded(site: Site, spelled: str) -> None:
    """The brackets of match[] and its value mean the same encoded or not, and a plus is a blank."""
    answer = await site.ask("GET", f"{GROUPS}?{quote(spelled, safe='%=+[]') if '{' in spelled else spelled}")
    assert [group["labels"] for group in data(answer)] == LABELS[:2]


async def test_delete_without_confirm_changes_nothing(site: Site) -> None:
    """A dry run names the groups that would go, and all of them stay."""
    before = await site.groups()
    for others in ({}, {"confirm": "false"}):
        answer = data(await site.ask("DELETE", question('{job="a"}', "other", **others)))
        assert answer == {"dry_run": True, "deleted": 0, "groups": LABELS[:3]}
    assert await site.groups() == before


async def test_delete_with_confirm_ends_what_the_dry_run_named(site: Site) -> None:
    """The groups matched are gone once it is answered; a second try finds none, which is no error."""
    answer = data(await site.ask("DELETE", question('{job="a"}', "other", confirm="true")))
    assert answer == {"dry_run": False, "deleted": 3, "groups": LABELS[:3]}
    assert [group["labels"] for group in await site.groups()] == LABELS[3:]
    again = data(await site.ask("DELETE", question('{job="a"}', confirm="true")))
    assert again == {"dry_run": False, "deleted": 0, "groups": []}


@pytest.mark.parametrize(
    ("method", "query", "words"),
    [
        ("GET", "match[]=%7Bjob=x%7D", 'invalid parameter "match[]": 1:6: parse error: got "x", want a quoted string'),
        ("GET", "match[]=", 'invalid parameter "match[]": 1:1: parse error: got the end, want a metric name or "{"'),
        ("GET", "match[]=a&match[]=%7B%7D", 'invalid parameter "match[]": match[] must contain at least one non-empty'),
        ("GET", "match=a", "unknown parameter 'match': want match[]"),
        ("GET", "confirm=true", "unknown parameter 'confirm': want match[]"),
        ("GET", "match[]=%FF", "not valid UTF-8 after percent-decoding"),
        ("GET", "&" * 1000, "too many parameters: got 1001, want at most 1000"),
        ("DELETE", "", "no match[] parameter provided"),
        ("DELETE", "confirm=true", "no match[] parameter provided"),
        ("DELETE", "match[]=%7B%7D&confirm=true", "must contain at least one non-empty matcher"),
        ("DELETE", "match[]=a&confirm=yes", "invalid parameter \"confirm\": got 'yes', want true or false"),
        ("DELETE", "match[]=a&confirm=", "invalid parameter \"confirm\": got '', want true or false"),
        ("DELETE", "match[]=a&confirm=true&confirm=false", "got 'true' and 'false', want true or false"),
        ("DELETE", "match[]=rows&confirm=true&dry_run=true", "unknown parameter 'dry_run': want match[] or confirm"),
    ],
)
async def test_questions_that_are_refused(site: Site, method: str, query: str, words: str) -> None:
    """What is not understood is a 400 in the shape of Prometheus' API, and nothing is deleted."""
    answer = await site.ask(method, f"{GROUPS}?{query}")
    document = json.loads(answer.text)
    assert (answer.status, document["status"], document["errorType"]) == (400, "error", "bad_data")
    assert words in document["error"]
    assert answer.headers["Content-Type"] == "application/json; charset=utf-8"
    assert answer.headers["Access-Control-Allow-Origin"] == "*"
    assert len(await site.groups()) == len(LABELS)


async def test_methods_and_headers(site: Site) -> None:
    """GET and DELETE are what there is, with the headers of the other answers under /api/v1/."""
    refused = await site.ask("POST", GROUPS)
    assert (refused.status, refused.headers["Allow"]) == (405, "DELETE, GET, OPTIONS")
    shared = ("Content-Type", "Access-Control-Allow-Methods", "Access-Control-Allow-Origin", "Cache-Control")
    other = await site.ask("GET", "/api/v1/status")
    for answer in (await site.ask("GET", GROUPS), await site.ask("DELETE", question("rows"))):
        assert [answer.headers[name] for name in shared] == [other.headers[name] for name in shared]
    preflight = await site.ask("OPTIONS", GROUPS)
    assert (preflight.status, preflight.headers["Access-Control-Allow-Methods"]) == (200, "GET, POST, DELETE, OPTIONS")


async def test_a_disk_that_fails_deletes_nothing(site: Site) -> None:
    """Without a disk the answer is a 503 with Retry-After, and the groups are as they were; dry runs go on."""
    before = await site.groups()
    with locked(site.journal):
        refused = await site.ask("DELETE", question('{job="a"}', confirm="true"))
        document = json.loads(refused.text)
        assert (refused.status, refused.headers["Retry-After"], document["errorType"]) == (503, "10", "unavailable")
        assert str(site.journal) in document["error"]
        assert data(await site.ask("DELETE", question('{job="a"}')))["groups"] == LABELS[:2]
    assert await site.groups() == before
