"""A directory whose files are pushes, looked at over a real journal with a clock of the test's own."""

import os
from pathlib import Path

import pytest

from bridge.errors import JournalFullError
from bridge.groups import key_of
from bridge.ingress.terms import Terms
from bridge.pipeline import Push, accept
from bridge.textfile.spool import Spool
from tests.journal.test_committer import MIB, NOW_MS
from tests.textfile.desk import Desk, desk

BACKUP = b'# PUSHBRIDGE job="backup" method=post key="k-1"\na 1\n'


def errors(spool: Spool) -> dict[str, float]:
    """Give what is said of errors, by file name."""
    return {Path(labels[0][1]).name: value for _, labels, value in spool.facts()}


def counted(here: Desk, outcome: str) -> float | None:
    """Give the count of files of the spool directory."""
    labels = {"directory": f"{here.base}/s", "outcome": outcome}
    return here.intake.telemetry.registry.get_sample_value("pushbridge_spool_files_total", labels)


def names(directory: Path) -> list[str]:
    """List a directory."""
    return sorted(path.name for path in directory.iterdir())


async def test_a_file_is_taken_once_and_removed(tmp_path: Path) -> None:
    """It is a PUT to the group of the directory's labels with its mtime, counted, and gone."""
    async with desk(tmp_path) as here:
        spool = here.spool()
        here.drop("s/1.prom", "a 1\n", at_ms=5)
        assert await spool.look()
        assert not await spool.look()
        (group,) = here.groups()
        assert group.id.key == key_of((("job", "textfile"), ("instance", "host")))
        assert (group.push_ms, here.sent()) == (NOW_MS + 5, [("a", 1, 5)])
        assert names(tmp_path / "s") == []
        assert (counted(here, "taken"), counted(here, "failed"), here.pushes("put", "accepted")) == (1, 0, 1)


async def test_files_are_taken_in_the_order_of_their_names(tmp_path: Path) -> None:
    """Each is a push of its own, by the method that it names, and times of a group rise."""
    async with desk(tmp_path) as here:
        spool = here.spool()
        here.drop("s/2.prom", "# PUSHBRIDGE method=post\nb 2\n", at_ms=20)
        here.drop("s/1.prom", "a 1\n", at_ms=10)
        here.drop("s/3.prom", "# PUSHBRIDGE method=put\nc 3\n", at_ms=5)
        here.drop("s/4.prom", "c 4\n", at_ms=3_600_000)
        await spool.look()
        wanted = [("a", 1, 10), ("b", 2, 20), ("a", None, 21), ("b", None, 21), ("c", 3, 21), ("c", 4, 1000)]
        assert here.sent() == wanted


async def test_a_file_that_comes_back_is_not_taken_twice(tmp_path: Path) -> None:
    """The very file that was taken, as after a crash before its removal, is only removed; another one is taken."""
    async with desk(tmp_path) as here:
        spool = here.spool()
        here.drop("s/1.prom", BACKUP, at_ms=5)
        here.drop("s/2.prom", "b 1\n", at_ms=5)
        await spool.look()
        sent = here.sent()
        assert sorted(sample[0] for sample in sent) == ["a", "b"]
    async with desk(tmp_path) as here:
        spool = here.spool()
        here.drop("s/1.prom", BACKUP, at_ms=5)
        here.drop("s/2.prom", "b 1\n", at_ms=5)
        await spool.look()
        assert (here.sent(), names(tmp_path / "s"), counted(here, "taken")) == (sent, [], 0)
        here.drop("s/2.prom", "b 1\n", at_ms=6)
        await spool.look()
        assert len(here.sent()) == 3


async def test_a_report_that_came_by_http_as_well_is_taken_once(tmp_path: Path) -> None:
    """The key of the directive is the idempotency key of the same push by HTTP."""
    async with desk(tmp_path) as here:
        spool = here.spool()
        push = Push((("job", "backup"),), replace_all=False, body=b"a 1\n", terms=Terms(key="k-1"))
        await accept(push, here.bench.committer, here.intake.options(), here.clock.ms)
        here.drop("s/1.prom", BACKUP)
        await spool.look()
        assert (len(here.sent()), names(tmp_path / "s"), counted(here, "failed")) == (1, [], 0)


@pytest.mark.parametrize(
    ("body", "told", "reason"),
    [
        (b"a 1\na one\n", "error in line 2", "parse"),
        (b"a 1\na 2", "line 2: unexpected end", "parse"),
        (b"", "is empty", "parse"),
        (b"# PUSHBRIDGE ttl=x\na 1\n", "ttl: got 'x'", "directive"),
        (b"a 1\na 2\n", "in line 1 and in line 2", "inconsistent"),
        (b"#" * MIB + b"\n", "want at most push.max_body_bytes", "unreadable"),
    ],
    ids=["value", "cut", "empty", "directive", "twice", "large"],
)
async def test_a_bad_file_is_set_aside_with_an_explanation(
    tmp_path: Path, body: bytes, told: str, reason: str
) -> None:  # fmt: skip
    """It is moved to failed/ beside what, where and why, counts as a refused push, and the others are taken."""
    async with desk(tmp_path) as here:
        spool = here.spool()
        here.drop("s/1.prom", body, at_ms=-5000)
        here.drop("s/2.prom", "b 1\n", at_ms=5)
        await spool.look()
        assert names(tmp_path / "s") == ["failed"]
        assert (tmp_path / "s/failed/1.prom").read_bytes() == body
        note = (tmp_path / "s/failed/1.prom.error.txt").read_text(encoding="utf-8")
        assert f"{tmp_path}/s/1.prom: " in note
        assert told in note
        assert ("b", 1, 5) in here.sent() or reason not in {"directive", "unreadable"}
        assert (counted(here, "taken"), counted(here, "failed"), here.pushes("put", "refused", reason)) == (1, 1, 1)
        assert errors(spool) == {"s": 0}


async def test_a_refused_push_is_remembered_by_its_group(tmp_path: Path) -> None:
    """As by HTTP, the group keeps its series and its failure time is set."""
    async with desk(tmp_path) as here:
        spool = here.spool()
        here.drop("s/1.prom", "# PUSHBRIDGE job=j\na 1\n", at_ms=5)
        await spool.look()
        here.drop("s/2.prom", "# PUSHBRIDGE job=j\na one\n", at_ms=6)
        await spool.look()
        (group,) = here.groups()
        assert (group.push_ms, group.failure_ms, len(group.parts)) == (NOW_MS + 5, here.clock.ms, 1)


async def test_links_lead_nowhere_and_nothing_is_quoted(tmp_path: Path) -> None:
    """A link is set aside itself; neither series nor the explanation have anything of what it leads to."""
    async with desk(tmp_path) as here:
        spool = here.spool()
        (tmp_path / "secret").write_bytes(b"a 1\npassword hunter2\n")
        (tmp_path / "s/1.prom").symlink_to(tmp_path / "secret")
        (tmp_path / "s/2.prom").hardlink_to(tmp_path / "secret")
        (tmp_path / "s/3.prom").symlink_to(tmp_path / "nowhere")
        os.mkfifo(tmp_path / "s/4.prom")
        await spool.look()
        assert here.sent() == []
        assert (tmp_path / "secret").read_bytes() == b"a 1\npassword hunter2\n"
        notes = {path.name: path.read_text(encoding="utf-8") for path in (tmp_path / "s/failed").glob("*.error.txt")}
        assert len(notes) == 4
        assert "hunter2" not in str(notes)
        assert "is a symbolic link, want a regular file" in notes["3.prom.error.txt"]
        assert (tmp_path / "s/failed/1.prom").is_symlink()


async def test_a_file_that_is_still_written_is_left_alone(tmp_path: Path) -> None:
    """One without an end is looked at again soon, for a second; then it is refused."""
    async with desk(tmp_path) as here:
        spool = here.spool()
        here.drop("s/1.prom", "a 1\nb", at_ms=900)
        here.drop("s/2.prom", "", at_ms=900)
        await spool.look()
        assert (names(tmp_path / "s"), spool.soon) == (["1.prom", "2.prom"], True)
        here.drop("s/1.prom", "a 1\nb 1\n", at_ms=950)
        here.clock.ms += 1000
        await spool.look()
        assert (names(tmp_path / "s"), names(tmp_path / "s/failed"), spool.soon) == (
            ["failed"],
            ["2.prom", "2.prom.error.txt"],
            False,
        )


async def test_a_file_that_cannot_leave_is_taken_once(tmp_path: Path) -> None:
    """What is in the way of its removal is told, and the next looks leave it alone until it changes."""
    async with desk(tmp_path) as here:
        spool = here.spool()
        (tmp_path / "s/failed").touch()
        here.drop("s/1.prom", "a one\n")
        for _ in range(2):
            await spool.look()
        assert errors(spool) == {"s": 0, "1.prom": 1}
        assert here.pushes("put", "refused", "parse") == 1
        here.drop("s/1.prom", "a 1\n", at_ms=3)
        await spool.look()
        assert (errors(spool), here.sent()) == ({"s": 0}, [("a", 1, here.sent()[0][2])])


async def test_a_full_journal_keeps_the_files(tmp_path: Path) -> None:
    """What does not fit stays where it is, and is taken when there is room."""
    async with desk(tmp_path, max_bytes=MIB // 2) as here:
        spool = here.spool()
        await here.bench.fill()
        for number in range(6):
            here.drop(f"s/{number}.prom", f"# PUSHBRIDGE job=j{number}\na 1\n")
        with pytest.raises(JournalFullError):
            await spool.look()
        assert len(names(tmp_path / "s")) == 6
        assert counted(here, "failed") == 0


async def test_a_missing_directory_is_told(tmp_path: Path) -> None:
    """Its error is there as long as it is away."""
    async with desk(tmp_path) as here:
        spool = here.spool()
        (tmp_path / "s").rmdir()
        await spool.look()
        assert errors(spool) == {"s": 1}
        (tmp_path / "s").mkdir()
        await spool.look()
        assert errors(spool) == {"s": 0}
