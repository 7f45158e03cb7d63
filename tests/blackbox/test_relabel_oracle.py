"""Our relabeling beside that of a real Prometheus, which scrapes one page for each row under the row's rules."""

import json
import threading
import urllib.parse
import urllib.request
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
import yaml

from bridge.config.relabel import RelabelConfig
from bridge.delivery.relabel import Relabeler
from bridge.exposition.formats import parse_body
from bridge.wire.head import labels_of, make_head
from bridge.wire.remote_write import label_bytes
from tests.blackbox import binaries
from tests.blackbox.load import wait_for
from tests.blackbox.relabel_rows import NO_DOT_NL, OLD_REPLACE, ROWS, SORTED_LABELMAP, Row
from tests.blackbox.servers import Server, needs, prometheus

Labels = dict[str, str]
NUMBERS = {row_id: number for number, row_id in enumerate(ROWS, 1)}
_DIRECT = urllib.request.build_opener(urllib.request.ProxyHandler({}))


def page(row_id: str) -> str:
    """The page of a row: its one series, whose value is the row's number."""
    row = ROWS[row_id]
    return f"{row.name}{{{row.labels}}} {NUMBERS[row_id]}\n"


class Pages(BaseHTTPRequestHandler):
    """Serves `/<number>`."""

    def do_GET(self) -> None:
        """Give the page of a row."""
        body = page(list(ROWS)[int(self.path[1:]) - 1]).encode()
        self.send_response(200)
        self.send_header("Content-Type", "text/plain; version=0.0.4")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Say nothing."""


def query(server: Server, text: str) -> list[tuple[Labels, int]]:
    """Series and values of an instant query."""
    url = f"{server.url}/api/v1/query?{urllib.parse.urlencode({'query': text})}"
    with _DIRECT.open(url, timeout=10) as response:
        result = json.load(response)["data"]["result"]
    return [(one["metric"], round(float(one["value"][1]))) for one in result]


def job(number: int, row: Row, port: int) -> dict[str, object]:
    """A scrape job."""
    return {
        "job_name": f"row_{number}",
        "metrics_path": f"/{number}",
        "static_configs": [{"targets": [f"127.0.0.1:{port}"], "labels": {"instance": "i"}}],
        "metric_relabel_configs": yaml.safe_load(row.rules),
    }


IS_3 = binaries.version("prometheus") >= (3,)
"""Names of any text are its default."""
SINCE_3 = {NO_DOT_NL, OLD_REPLACE, SORTED_LABELMAP}
"""Reasons that are gone with Prometheus 3."""


@pytest.fixture(scope="module")
def theirs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[int, Labels]]:
    """What Prometheus made of each series, by its value, once every page was scraped."""
    directory = tmp_path_factory.mktemp("oracle")
    pages = ThreadingHTTPServer(("127.0.0.1", 0), Pages)
    threading.Thread(target=pages.serve_forever, daemon=True).start()
    jobs = [job(NUMBERS[row_id], row, pages.server_address[1]) for row_id, row in ROWS.items()]
    config = yaml.safe_dump({"global": {"scrape_interval": "1s"}, "scrape_configs": jobs})
    try:
        with prometheus(directory, config=config) as server:
            ups = wait_for(lambda: query(server, "up"), lambda found: len(found) == len(ROWS))
            assert len(ups) == len(ROWS)
            yield {value: labels for labels, value in query(server, '{__name__=~".+",__name__!~"up|scrape_.*"}')}
    finally:
        pages.shutdown()
        pages.server_close()


def ours(row_id: str) -> Labels | None:
    """What our rules make of the same series."""
    row = ROWS[row_id]
    (family,) = parse_body(page(row_id).encode(), "text/plain; version=0.0.4", utf8_names=False)
    (sample,) = family.samples
    labels = {"job": f"row_{NUMBERS[row_id]}", "instance": "i", **dict(sample.labels), "__name__": sample.name}
    rules = [RelabelConfig.model_validate(rule) for rule in yaml.safe_load(row.rules)]
    made = Relabeler(rules, utf8_names=IS_3).relabel(make_head(label_bytes(tuple(labels.items()))))
    return None if isinstance(made, str) else dict(labels_of(made))


@needs("prometheus")
@pytest.mark.real
@pytest.mark.parametrize("row_id", ROWS)
def test_a_rule_does_what_it_does_in_prometheus(row_id: str, theirs: dict[int, Labels]) -> None:
    """The same series is left, or none; where 3 differs from 2.42, we are with 3, and 2.42 really differs."""
    row, their = ROWS[row_id], theirs.get(NUMBERS[row_id])
    if not row.differs:
        assert ours(row_id) == their
        return
    head = None if row.head is None else {"job": f"row_{NUMBERS[row_id]}", "instance": "i", **row.head}
    assert ours(row_id) == head
    if IS_3 and row.differs in SINCE_3:
        assert their == head
        return
    assert head is None or their != head


def test_there_are_enough_rows() -> None:
    """The comparison stays a broad one."""
    assert len(ROWS) >= 60
