"""`python -m tests.bench.wire`: bytes on the wire for each sample, of both versions of remote_write and of vmagent.

And what it costs the agent to write a request of 2.0. The bodies are the benchmark's; a receiver that decodes counts.
"""

import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import click

from bridge.model import Metadata
from bridge.wire import snappy_block
from bridge.wire.remote_write import split_series
from bridge.wire.remote_write_v2 import Encoder
from tests.bench.bodies import make_bodies
from tests.bench.contenders import VMAGENT
from tests.blackbox import servers
from tests.blackbox.compliance import MESSAGES
from tests.blackbox.load import request, wait_for
from tests.blackbox.scripted_receiver import ScriptedReceiver
from tests.blackbox.servers import Server

GROUPS, ROUNDS = 100, 4
SERIES = (10, 100, 1000)
_TIMES = 20


@dataclass(frozen=True, slots=True)
class Row:
    """One contender and one size of push."""

    series: int
    contender: str
    bytes_each: float
    requests: int


def _agent(version: str) -> Callable[[Path, str], Server]:
    def start(directory: Path, url: str) -> Server:
        return servers.agent(
            directory, config=f"remote_write: [{{url: '{url}', protobuf_message: {MESSAGES[version]}}}]"
        )

    return start


CONTENDERS = {
    "agent, 1.0": (_agent("1.0"), "PUT", "/metrics/job/bench/instance/host-{:05}"),
    "agent, 2.0": (_agent("2.0"), "PUT", "/metrics/job/bench/instance/host-{:05}"),
    "vmagent": (VMAGENT.start, VMAGENT.method, VMAGENT.path),
}


def measure(series: int, name: str, directory: Path) -> Row:
    """Push each group's bodies in turn, and look at what arrives until all of it has."""
    start, method, path = CONTENDERS[name]
    with ScriptedReceiver() as receiver, start(directory, receiver.url) as server:
        for number, body in enumerate(make_bodies(series, ROUNDS)):
            for group in range(GROUPS):
                answer = request(server.port, method, path.format(group), body)
                assert answer.status < 300, f"{name}: push {number} to group {group}: {answer}"

        def samples() -> int:
            return sum(len(one.samples) for one in receiver.requests())

        wanted = series * GROUPS * ROUNDS
        assert wait_for(samples, lambda count: count >= wanted, 60) >= wanted, f"{name}: {samples()} of {wanted} came"
        found = receiver.requests()
        return Row(series, name, sum(len(one.body) for one in found) / samples(), len(found))


def encoding_us() -> Iterator[tuple[str, float, float]]:
    """Kind of request, µs for each sample to encode it in 2.0, and to cut it into series, which is a measure."""
    with tempfile.TemporaryDirectory() as own, ScriptedReceiver() as receiver:
        with servers.agent(Path(own), f"--remote-write.url={receiver.url}") as server:
            for body in make_bodies(100, ROUNDS):
                assert request(server.port, "PUT", "/metrics/job/bench/instance/host-00000", body).status == 200
            wait_for(receiver.requests, lambda found: sum(len(one.samples) for one in found) >= 100 * ROUNDS)
        fields = [
            field for one in receiver.requests() for field in split_series(snappy_block.decompress(one.body, 1 << 30))
        ][:100]
    once = b"".join(field.replace(b"host-00000", b"host-%05d" % at) for at in range(20) for field in fields)
    encoder = Encoder(_describe)
    for kind, body in (("each series once", once), ("each series 20 times", b"".join(fields) * 20)):
        count = len(split_series(body))
        encode_s, split_s = _best_s(partial(encoder.encode, body)), _best_s(partial(split_series, body))
        yield kind, encode_s / count * 1e6, split_s / count * 1e6


def _describe(_: str) -> Metadata:
    return Metadata("gauge", "Wall time of this stage in the last run.")


def _best_s(work: Callable[[], object]) -> float:
    best_s = float("inf")
    for _ in range(_TIMES):
        start_s = time.perf_counter()
        work()
        best_s = min(best_s, time.perf_counter() - start_s)
    return best_s


def main() -> None:
    """Print both tables."""
    click.echo("| series | contender | bytes a sample | requests |\n|---|---|---|---|")
    for series in SERIES:
        for name in CONTENDERS:
            with tempfile.TemporaryDirectory(dir="/var/tmp") as own:
                row = measure(series, name, Path(own))
            click.echo(f"| {row.series} | {row.contender} | {row.bytes_each:.1f} | {row.requests} |")
    click.echo("\n| request of 2,000 samples | encode to 2.0, µs a sample | split_series, µs a sample |\n|---|---|---|")
    for kind, encode_us, split_us in encoding_us():
        click.echo(f"| {kind} | {encode_us:.2f} | {split_us:.2f} |")


if __name__ == "__main__":
    main()
