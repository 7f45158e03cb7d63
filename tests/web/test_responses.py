"""Answers to what goes wrong: which status, with which words, and when to come back."""

import json
import random
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from aiohttp import web

from bridge.errors import (
    BadPushError,
    JournalFullError,
    JournalUnavailableError,
    PushRefusedError,
    TooLargeError,
    UnsupportedEncodingError,
)
from bridge.web.responses import ACCEPTED, ENDED, Answer, api, refusal, text
from tests.journal.test_committer import locked
from tests.web.test_server import AWAY, Site, running


@pytest.fixture
async def site(tmp_path: Path) -> AsyncIterator[Site]:
    async with running(tmp_path) as started:
        yield started


@pytest.mark.parametrize(
    ("error", "status", "again"),
    [
        (BadPushError, 400, None),
        (TooLargeError, 413, None),
        (UnsupportedEncodingError, 415, None),
        (JournalFullError, 503, "10"),
        (JournalUnavailableError, 503, "10"),
    ],
)
def test_an_error_has_one_status(error: type[PushRefusedError], status: int, again: str | None) -> None:
    """Each error is answered with its own words as plain text; what may be better later says when."""
    answer = refusal(error("parse", "line 3: got \u00fc"))
    headers = dict(answer.headers)
    assert (answer.status, answer.body.decode()) == (status, "line 3: got \u00fc\n")
    assert (headers["Content-Type"], headers.get("Retry-After")) == ("text/plain; charset=utf-8", again)
    assert headers["X-Content-Type-Options"] == "nosniff"


def test_every_error_has_a_status() -> None:
    """No refusal is left without an answer."""
    errors = PushRefusedError.__subclasses__()
    assert len(errors) >= 5
    assert {refusal(error("parse", "words")).status for error in errors} == {400, 409, 413, 415, 503}


@pytest.mark.parametrize(
    ("answer", "status"), [(ACCEPTED, 200), (ENDED, 202), (Answer(400, b"no\n", (("A", "b"),)), 400)]
)
def test_both_ways_send_the_same_answer(answer: Answer, status: int) -> None:
    """An answer keeps status, body and headers when it goes through aiohttp."""
    response = answer.response()
    assert isinstance(response, web.Response)
    assert (response.status, response.body or b"") == (status, answer.body)
    assert dict(answer.headers).items() <= dict(response.headers).items()


def test_text_ends_its_line() -> None:
    """Words are one line of plain text, with the headers that the caller adds."""
    response = text(405, "Method Not Allowed", {"Allow": "GET"})
    assert (response.status, response.text, response.headers["Allow"]) == (405, "Method Not Allowed\n", "GET")
    assert response.headers["Content-Type"] == "text/plain; charset=utf-8"


@pytest.mark.parametrize("data", [[], {"a": "Bj\u00f6rn \U0001f680"}, [{"n": "NaN"}]])
def test_api_answers_are_json_in_pushgateways_envelope(data: object) -> None:
    """Data comes with its status, any text readable as it is."""
    response = api(data)
    assert response.text is not None
    assert json.loads(response.text) == {"status": "success", "data": data}
    assert response.text.isascii() is json.dumps(data, ensure_ascii=False).isascii()
    assert response.headers["Content-Type"].startswith("application/json")


async def test_a_push_that_does_not_fit_is_told_the_bound(tmp_path: Path) -> None:
    """A journal that is full answers 503 with the setting's name, to a wipe too."""
    noise = random.Random(1)
    body = "".join(f'a{{n="{noise.randbytes(512).hex()}"}} 1\n' for _ in range(900)).encode()
    async with running(tmp_path, AWAY, storage={"max_bytes": "1MiB"}, web={"enable_admin_api": True}) as site:
        answer = await site.ask("PUT", "/metrics/job/j", body)
        assert (answer.status, answer.headers["Retry-After"]) == (503, "10")
        assert "storage.max_bytes = 1048576" in answer.text
        assert site.count("put", "refused", "journal_full") == 1
        assert (await site.groups(), await site.put("j", b"a 1\n")) == ([], 200)
        with locked(site.journal):
            assert (await site.ask("PUT", "/api/v1/admin/wipe")).status == 503
        assert len(await site.groups()) == 1


@pytest.mark.parametrize("encoding", ["br", "gzip, gzip", "zstd"])
async def test_other_encodings_are_not_supported(site: Site, encoding: str) -> None:
    """A Content-Encoding that we do not decode is 415, with those that we do."""
    answer = await site.ask("PUT", "/metrics/job/j", b"a 1\n", {"Content-Encoding": encoding})
    assert (answer.status, "gzip, snappy or identity" in answer.text) == (415, True)
    assert site.count("put", "refused", "encoding") == 1


async def test_a_browser_may_read_the_api(site: Site) -> None:
    """Preflights under /api/v1/ and the answers there allow any origin, and nothing is cached."""
    for method, path in (("OPTIONS", "/api/v1/metrics"), ("OPTIONS", "/api/v1/any"), ("GET", "/api/v1/status")):
        answer = await site.ask(method, path)
        assert (answer.status, answer.headers["Access-Control-Allow-Origin"]) == (200, "*")
        assert answer.headers["Access-Control-Allow-Methods"] == "GET, POST, DELETE, OPTIONS"
        assert answer.headers["Cache-Control"] == "no-cache, no-store, must-revalidate"
