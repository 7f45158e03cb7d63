"""Puts the tables of selectors to a real Prometheus: what it reads, where it breaks off, which series it finds.

Prometheus 2.42 knows no quoted names, so those are not in the tables.
"""

import http.client
import json
import re
import time
from collections.abc import Iterator
from urllib.parse import urlencode

import pytest
import snappy

from tests.blackbox import binaries
from tests.blackbox.queries import fetch
from tests.blackbox.servers import Server, needs, prometheus
from tests.made import encode_series
from tests.test_selector import BROKEN, EMPTY, SERIES, VALID, Series, selects

pytestmark = [pytest.mark.real, needs("prometheus")]


IS_OLD = binaries.version("prometheus") < (3,)
OTHERWISE_SINCE_3 = ("", r'{job=~"\xff"}')
"""Prometheus 3 does not say where the first breaks, and takes the second, which no label can match."""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with prometheus(tmp_path_factory.mktemp("prometheus")) as started:
        body = b"".join(encode_series(labels, 1.0, time.time_ns() // 1_000_000) for labels in SERIES)
        fetch(started, "/api/v1/write", snappy.compress(body))
        yield started


def ask(server: Server, selector: str) -> tuple[int, str, set[Series]]:
    """Status, error and series that Prometheus gives for a selector."""
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=30)
    try:
        connection.request("GET", f"/api/v1/series?{urlencode({'match[]': selector})}")
        response = connection.getresponse()
        answer = json.loads(response.read())
    finally:
        connection.close()
    found = {tuple(sorted(labels.items())) for labels in answer.get("data", [])}
    return response.status, answer.get("error", ""), found


@pytest.mark.parametrize("text", VALID)
def test_a_selector_finds_what_prometheus_finds(server: Server, text: str) -> None:
    """Each selector reads in both, and of the same series selects the same."""
    status, error, found = ask(server, text)
    assert (status, error) == (200, "")
    if IS_OLD and "." in text and "~" in text:
        # A dot stops at a newline in Prometheus 2.42, and not in 3.
        found = {series for series in found if "\n" not in dict(series)["job"]}
        assert {series for series in SERIES if "\n" not in dict(series)["job"] and selects(text, series)} == found
    else:
        assert {series for series in SERIES if selects(text, series)} == found


def test_the_series_tell_selectors_apart(server: Server) -> None:
    """The oracle has the series: most selectors find some and none finds all but by matching a label that all have."""
    found = [ask(server, text)[2] for text in VALID]
    assert set().union(*found) == set(SERIES)
    assert sum(1 for some in found if some) > len(VALID) * 0.8


@pytest.mark.parametrize(("text", "where"), BROKEN)
def test_a_selector_breaks_where_prometheus_says(server: Server, text: str, where: str) -> None:
    """Each broken selector is broken for Prometheus too, at the same line and column."""
    status, error, _ = ask(server, text)
    if not IS_OLD and text in OTHERWISE_SINCE_3:
        return
    assert status == 400
    assert re.search(rf"(?:^|: ){where}: parse error", error), error


@pytest.mark.parametrize("text", EMPTY)
def test_prometheus_refuses_what_would_select_everything(server: Server, text: str) -> None:
    """The rule of the non-empty matcher is Prometheus' own."""
    status, error, _ = ask(server, text)
    assert status == 400
    assert "must contain at least one non-empty matcher" in error
