"""`make bench`: pushes the same bodies to the agent and its peers, and holds the agent against its floors.

Exit code 0 when every floor that was measured holds, 1 when one does not, 2 when a peer is not installed.
"""

import argparse
import shlex
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import click

from tests.bench import drain, hold, table, textfile
from tests.bench.bodies import make_bodies
from tests.bench.contenders import (
    CONTENDERS,
    Account,
    Contender,
    await_delivery,
    cpu_s,
    missing_packages,
    peak_rss_bytes,
    receiver,
)
from tests.bench.load import Load, Plan, push_at_random, push_each
from tests.bench.table import Floor, Row

_README = Path(__file__).with_name("README.md")


@dataclass(frozen=True, slots=True)
class Options:
    """What to measure."""

    series: list[int]
    groups: list[int]
    contenders: list[Contender]
    connections: int
    seconds: float
    populate_seconds: float
    drain_seconds: float
    directory: Path
    also: list[str]
    write: bool


def read_options(arguments: list[str]) -> Options:
    """Read the command line."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description="Measure the agent beside its peers.")
    parser.add_argument("--seconds", type=float, default=5.0, help="time of each row (default 5)")
    parser.add_argument("--series", default="10,100,1000", help="series in a push (default %(default)s)")
    parser.add_argument("--groups", default="100,10000", help="groups to push to (default %(default)s)")
    parser.add_argument("--only", default=",".join(CONTENDERS), help="contenders (default %(default)s)")
    parser.add_argument("--connections", type=int, default=16, help="pushes in flight (default 16)")
    parser.add_argument("--populate-seconds", type=float, default=600.0, help="limit for the first push to each group")
    parser.add_argument("--drain-seconds", type=float, default=120.0, help="limit for delivering what is left")
    parser.add_argument("--directory", type=Path, default="/var/tmp", help="for journals; on a real disk, not tmpfs")  # noqa: S108
    parser.add_argument("--also", default="hold,files,drain", help="further tables (default %(default)s)")
    parser.add_argument("--write", action="store_true", help="put the results into tests/bench/README.md")
    given = vars(parser.parse_args(arguments))
    if unknown := set(given["only"].split(",")) - set(CONTENDERS):
        parser.error(f"--only: got {', '.join(sorted(unknown))}, want some of {', '.join(CONTENDERS)}")
    given["contenders"] = [CONTENDERS[name] for name in given.pop("only").split(",")]
    for name in ("series", "groups"):
        given[name] = [int(number) for number in filter(None, given[name].split(","))]
    given["also"] = given["also"].split(",")
    return Options(**given)


def measure_all(options: Options, url: str, directory: Path) -> Iterator[Row]:
    """Measure row by row, each contender in a fresh process and directory."""
    for series in options.series:
        for groups in options.groups:
            for contender in options.contenders:
                if series * groups > contender.most_series:
                    note = f"more than {contender.most_series:,} series in all would only measure its memory"
                    yield Row(contender.name, series, groups, note=note)
                    continue
                with tempfile.TemporaryDirectory(dir=directory) as own:
                    yield _measure(contender, series, groups, options=options, url=url, directory=Path(own))


def _measure(contender: Contender, series: int, groups: int, *, options: Options, url: str, directory: Path) -> Row:
    bodies = make_bodies(series)
    paths = tuple(contender.path.format(group) for group in range(groups))
    server = (contender.start_to_populate or contender.start)(directory, url)
    try:
        plan = Plan(server.port, contender.method, paths, bodies, options.connections)
        populated = push_each(plan, options.populate_seconds)
        if populated.refused:
            raise SystemExit(f"bench: {contender.name} refused a push: {populated.refusal}")
        if populated.answers < groups:
            note = f"{populated.answers:,} groups were populated in {options.populate_seconds:g} s"
            return Row(contender.name, series, groups, note=note)
        if contender.start_to_populate:
            server.stop()
            server = contender.start(directory, url)
            plan = Plan(server.port, contender.method, paths, bodies, options.connections)
        before = await_delivery(contender, server, options.drain_seconds)
        start_cpu_s = cpu_s(server)
        load = push_at_random(plan, options.seconds)
        start_s = time.monotonic()
        after = await_delivery(contender, server, options.drain_seconds)
        delivered, complete = _judge(before, after, load, series, time.monotonic() - start_s)
        used_s = cpu_s(server) - start_cpu_s
        return Row(contender.name, series, groups, load, used_s, peak_rss_bytes(server), delivered, complete)
    except (ConnectionError, TimeoutError) as error:
        raise SystemExit(f"bench: {contender.name}: {error}; its log ends:\n{server.log_tail()}") from error
    finally:
        server.kill()


def _judge(before: Account | None, after: Account | None, load: Load, series: int, seconds: float) -> tuple[str, bool]:
    """Whether the receiver confirmed every sample of every push that was answered 2xx."""
    if before is None or after is None:
        return "", True
    pushed = (load.answers - load.refused) * series
    if before.unsent or after.unsent or after.lost or after.accepted - before.accepted < pushed:
        return f"NO: {after} after {seconds:.0f} s, {before} before {pushed} samples were pushed", False
    return f"{seconds:.1f} s", True


def _measure_hold(_: Options, url: str, directory: Path) -> Iterator[tuple[str, list[Floor]]]:
    yield f"\n{hold.write_head()}", []
    for series, groups in hold.SHAPES:
        with tempfile.TemporaryDirectory(dir=directory) as own:
            row = hold.measure_hold(url, Path(own), series, groups)
        yield hold.write_row(row), list(hold.find_floors(row))


def _measure_files(_: Options, url: str, directory: Path) -> Iterator[tuple[str, list[Floor]]]:
    yield f"\n{textfile.write_head()}", []
    for series, files in textfile.SHAPES:
        with tempfile.TemporaryDirectory(dir=directory) as own:
            row = textfile.measure_files(url, Path(own), series, files)
        yield textfile.write_row(row), list(textfile.find_floors(row))


def _measure_drain(options: Options, _url: str, directory: Path) -> Iterator[tuple[str, list[Floor]]]:
    yield f"\n{drain.write_head()}", []
    for contender in options.contenders:
        if contender in drain.CONTENDERS:
            with tempfile.TemporaryDirectory(dir=directory) as own:
                row = drain.measure_drain(contender, Path(own))
            yield drain.write_row(row), list(drain.find_floors(row))


_FURTHER = {"hold": _measure_hold, "files": _measure_files, "drain": _measure_drain}
"""Lines of further tables, with the floors that each brings."""


def main(arguments: list[str]) -> int:
    """Measure, show, judge."""
    options = read_options(arguments)
    if missing := missing_packages(options.contenders):
        click.echo(f"bench: not installed: {', '.join(missing)}; run `make servers` as root, or use --only", err=True)
        return 2
    packages = sorted({contender.package for contender in options.contenders} - {""})
    command = shlex.join(["python", "-m", "tests.bench", *arguments])
    with tempfile.TemporaryDirectory(prefix="pushbridge-bench-", dir=options.directory) as directory:
        lines = [table.conditions(command, Path(directory), packages), "", table.write_head()]
        click.echo("\n".join(lines))
        rows = []
        with receiver(Path(directory)) as target:
            for row in measure_all(options, f"{target.url}/api/v1/write", Path(directory)):
                rows.append(row)
                lines.append(table.write_row(row))
                click.echo(lines[-1])
            floors = list(table.find_floors(rows))
            for name, measure in _FURTHER.items():
                if name in options.also:
                    url = f"{target.url}/api/v1/write"
                    for line, found in measure(options, url, Path(directory)):
                        lines.append(line)
                        click.echo(line)
                        floors += found
    lines += ["", *map(table.write_floor, floors)]
    click.echo("\n".join(lines[-1 - len(floors) :]))
    if options.write:
        _README.write_text(table.replace_results(_README.read_text(), "\n".join(lines)))
    return 0 if all(floor.passed for floor in floors) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
