"""`pushbridge dead-letters` on a journal without an agent: what is printed, told and refused."""

import asyncio
import json
import sys
import time
from asyncio.subprocess import PIPE
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from bridge.cli import main
from bridge.journal.rows import Batch, CursorRow, DeadLetter
from bridge.journal.store import Journal
from tests.browse.journals import AT_MS, MAX_BYTES, body, record, write
from tests.journal.test_committer import DEADLINE_S
from tests.web.test_dead_letters import site_with
from tests.web.test_receipts import target
from tests.web.test_server import Site

FIRST = "2023-11-14T22:13:20.000Z"


def letter(number: int, *names: str, tenant: str = "", of: str = "t") -> DeadLetter:
    """A letter of row `number`."""
    series = body(AT_MS, "j", [(name, None if name == "end" else 1.0) for name in names])
    return DeadLetter(number, len(names), 400, "no\n", number > 1, series, tenant, of, AT_MS + 5)


def add(directory: Path, *letters: DeadLetter) -> None:
    """Put letters into a journal."""
    journal = Journal.open(directory, max_bytes=MAX_BYTES, now_ms=AT_MS)
    journal.write(Batch(letters=letters))
    journal.commit()
    journal.close()


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """A journal with a push, a letter of it, and two of what is forgotten."""
    directory = tmp_path / "data"
    write(directory, record(AT_MS, "j", ("a", 1.0)))
    add(directory, letter(1, "a"), letter(7, "b", "end", tenant="red"), letter(8, *"abcdefghijkl", of="u"))
    return directory


def invoke(*arguments: str) -> Result:
    return CliRunner().invoke(main, ["dead-letters", *arguments])


def test_list_tells_what_was_refused_and_why(directory: Path) -> None:
    """A line for each letter with the target's own words, and one for each sample of small ones."""
    done = invoke("list", f"--storage.path={directory}")
    journal_id = json.loads(invoke("show", "1", "--format=json", f"--storage.path={directory}").stdout)["push"][:8]
    at = "2023-11-14T22:13:20.005Z"
    assert done.stdout.splitlines() == [
        f'3  {at}  u  -  -  12 samples  400 "no\\n"  (the target may have it)',
        f'2  {at}  t  -  {{job="j"}}  2 samples  400 "no\\n"  (the target may have it)  tenant red',
        f'    b{{job="j"}} 1.0 @ {FIRST}',
        f'    end{{job="j"}} stale @ {FIRST}',
        f'1  {at}  t  {journal_id}-1  {{job="j"}}  1 sample  400 "no\\n"',
        f'    a{{job="j"}} 1.0 @ {FIRST}',
    ]
    assert (done.exit_code, done.stderr) == (0, "")
    assert len(invoke("list", "--samples", f"--storage.path={directory}").stdout.splitlines()) == 18


def test_list_says_when_there_are_more(directory: Path) -> None:
    """The newest ones come, of one target if it is named, and it is told that others are left out."""
    done = invoke("list", "--target=t", "--limit=1", "--format=json", f"--storage.path={directory}")
    assert [json.loads(line)["id"] for line in done.stdout.splitlines()] == [2]
    assert done.stderr == "pushbridge: there are more; these are the newest 1 (--limit)\n"


def test_a_slip_in_a_target_is_told(directory: Path, tmp_path: Path) -> None:
    """A name that is in no cursor, letter or file is refused with those that are, but not that of a removed target."""
    write(tmp_path / "new", cursors=(CursorRow("t", 1, 0, 0, ()),))
    file = tmp_path / "c.yml"
    file.write_text("remote_write: [{url: 'http://x/', name: fresh}]\n")
    place, new = f"--storage.path={directory}", (f"--storage.path={tmp_path / 'new'}", f"--config.file={file}")
    done = invoke("list", "--target=v", place)
    assert (done.exit_code, done.stdout) == (2, "")
    assert done.stderr == "pushbridge: --target: no target is called 'v'; there are: t, u\n"
    assert invoke("list", "--target=u", place).exit_code == 0
    assert [invoke("list", f"--target={name}", *new).exit_code for name in ("t", "fresh", "u")] == [0, 0, 2]


def test_show_has_all_samples(directory: Path) -> None:
    """One letter comes with every sample; one that is not kept is told, with exit code 1."""
    done = invoke("show", "3", "--format=json", f"--storage.path={directory}")
    assert [one["labels"]["__name__"] for one in json.loads(done.stdout)["series"]] == list("abcdefghijkl")
    gone = invoke("show", "9", f"--storage.path={directory}")
    assert gone.exit_code == 1
    assert gone.stderr == "pushbridge: dead letter 9 is not kept, or no longer (storage.dead_letter_retention)\n"


def test_thousands_are_listed_quickly(directory: Path) -> None:
    """The newest of many letters are there at once, and all of them soon."""
    add(directory, *(letter(1, "a") for _ in range(20_000)))
    for flags, most_s in (((), 1.0), (("--limit=5000", "--format=json"), 5.0)):
        started_s = time.process_time()
        done = invoke("list", *flags, f"--storage.path={directory}")
        assert done.exit_code == 0
        assert time.process_time() - started_s < most_s


async def replay(site: Site) -> tuple[int | None, str, list[str]]:
    """Exit code, output and told lines of a replay that asks an agent."""
    command = (sys.executable, "-m", "bridge", "dead-letters", "replay", "--target=t0", f"--url={site.url}")
    process = await asyncio.create_subprocess_exec(*command, stdout=PIPE, stderr=PIPE)
    async with asyncio.timeout(DEADLINE_S):
        out, told = await process.communicate()
    return process.returncode, out.decode(), told.decode().splitlines()


async def test_replay_tells_of_each_tenant_why_it_was_not_sent(tmp_path: Path) -> None:
    """A line for each, and one for letters that have none; where nobody has one, no tenant is spoken of."""
    async with target(401, "who?") as receiver:
        async with site_with(tmp_path / "tenants", receiver.url, "red", "", "blue") as site:
            code, out, told = await replay(site)
            assert (code, out) == (1, "sent 0 samples of 3 dead letters\n")
        async with site_with(tmp_path / "none", receiver.url, "", "") as site:
            told += (await replay(site))[2]
    whom = ("letters without tenant", "letters of tenant blue", "letters of tenant red", "it")
    assert told == [
        f"pushbridge: the target does not take {what} now: 401: who?; what was not sent stays" for what in whom
    ]


async def test_replay_goes_on_behind_very_many_tenants_that_are_refused(tmp_path: Path) -> None:
    """No number of them makes a question that is too long."""
    tenants = [f"x{number}" for number in range(1100)]
    async with target(401, "who?") as receiver, site_with(tmp_path, receiver.url, *tenants) as site:
        code, out, told = await replay(site)
    assert (code, out, len(told)) == (1, "sent 0 samples of 1,100 dead letters\n", 1100)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("list", "--storage.path=/nowhere"), "storage.path: /nowhere has no journal"),
        (("replay",), "name the letters: --target T, or --id ID for each"),
        (("purge", "--yes"), "name the letters: --target T, or --id ID for each"),
        (("purge", "--target=t", "--older-than=soon"), "not a duration: got 'soon'"),
        (
            ("replay", "--target=t", "--url=http://user:hidden@127.0.0.1:1"),
            "no agent answers at http://127.0.0.1:1: ",
        ),
        (("purge", "--target=t", "--url=http://[user:hidden@x"), "--url: cannot read the URL"),
    ],
)
def test_what_cannot_be_done(arguments: tuple[str, ...], words: str) -> None:
    """Exit code 2 with the reason, and nothing of a password."""
    done = invoke(*arguments)
    assert done.exit_code == 2
    assert words in done.stderr
    assert "hidden" not in done.stderr
