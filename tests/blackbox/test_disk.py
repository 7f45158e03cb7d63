"""The agent without room on disk and with a damaged journal: what it refuses, what it keeps, how it comes back."""

import os
import random
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import pytest

from bridge.journal.rows import NEVER_MS, Batch, GroupRow, PartRow, Record
from bridge.journal.store import Journal
from bridge.wire import snappy_block
from bridge.wire.head import make_head
from bridge.wire.remote_write import label_bytes, pack_doubles
from tests.blackbox.checker import HOLD_INTERVAL_MS, Pushed, Stored, judge, missing
from tests.blackbox.load import (
    Client,
    metrics,
    noise,
    numbers,
    one_value,
    padded,
    push_next,
    ready,
    request,
    settled_account,
    wait_for,
)
from tests.blackbox.scripted_receiver import ScriptedReceiver
from tests.blackbox.servers import Server, agent

PAGE = 4096
MIB = 1 << 20
GROUPS = 20
BULK_PUSHES = 250
SAMPLES_PER_PUSH = 5  # the number, its padding, the end of the padding before, the two push times
EXPOSED = "--web.expose-groups=true"
OPEN_ALL = """
import sys
from pathlib import Path
from bridge.restore import load_groups, load_ledger
from bridge.journal.store import Journal
for directory in map(Path, sys.argv[1:]):
    print(directory.name, flush=True)
    journal = Journal.open(directory, max_bytes=1 << 30, now_ms=1)
    load_groups(journal, {})
    load_ledger(journal, ["target"])
    journal.close()
"""


def groups_of(server: Server) -> dict[str, float]:
    """Return what the groups hold, push times included, from /metrics."""
    return {key: value for key, value in metrics(server.port).items() if not key.startswith("pushbridge_")}


@dataclass(frozen=True, slots=True)
class Tight:
    """An agent that is running out of room."""

    server: Server
    receiver: ScriptedReceiver
    take_room: Callable[[], object]
    make_room: Callable[[], object]


@contextmanager
def tight_disk(tmp: Path) -> Iterator[Tight]:
    """Run an agent whose storage is a small tmpfs, which another file can fill."""
    with small_disk(tmp) as disk, ScriptedReceiver() as receiver:
        flags = (f"--storage.path={disk / 'storage'}", EXPOSED)
        with agent(tmp / "agent", *flags, config=receiver.config) as server:
            yield Tight(server, receiver, lambda: fill(disk), (disk / "ballast").unlink)


@contextmanager
def tight_journal(tmp: Path) -> Iterator[Tight]:
    """Run an agent whose journal may only be small, and whose receiver is away."""
    with ScriptedReceiver(up=False) as receiver:
        flags = ("--storage.max-bytes=1MiB", EXPOSED)
        with agent(tmp / "agent", *flags, config=receiver.config) as server:
            yield Tight(server, receiver, lambda: None, receiver.start)


@contextmanager
def small_disk(tmp: Path) -> Iterator[Path]:
    """Mount a tmpfs of 8 MiB; the log of an agent must not be on it."""
    disk = tmp / "disk"
    disk.mkdir()
    mount, umount = shutil.which("mount"), shutil.which("umount")
    if os.geteuid() != 0 or mount is None or umount is None:
        pytest.skip("mounting a small tmpfs needs root")
    if subprocess.run([mount, "-t", "tmpfs", "-o", "size=8m", "none", disk], check=False).returncode:
        pytest.skip("mounting a tmpfs is not allowed here")
    try:
        yield disk
    finally:
        subprocess.run([umount, disk], check=True)


def fill(disk: Path) -> Path:
    """Fill a file system with one file."""
    ballast = disk / "ballast"
    with ballast.open("wb", buffering=0) as file, suppress(OSError):
        while True:
            file.write(bytes(PAGE))
    return ballast


@pytest.mark.parametrize("tight", [tight_disk, tight_journal])
def test_no_room_refuses_pushes_until_there_is_room(
    tight: Callable[[Path], AbstractContextManager[Tight]], tmp_path: Path
) -> None:
    """Without room a push gets 503, costs nothing and leaves its group as it was; with room it is ready by itself."""
    with tight(tmp_path) as run, Client(run.server.port) as client:
        for number in range(1, 6):
            client.must_accept(padded(number))
        run.take_room()
        before = groups_of(run.server)
        while (answer := push_next(client)).status == 200:
            before = groups_of(run.server)
        assert answer.status == 503
        assert int(answer.headers["Retry-After"]) > 0
        assert (ready(run.server.port), groups_of(run.server)) == (503, before)
        assert push_next(client).status == 503
        run.make_room()
        assert wait_for(lambda: ready(run.server.port), lambda status: status == 200) == 200
        assert wait_for(lambda: push_next(client), lambda got: got.status == 200).status == 200
        final = settled_account(run.server.port)
        assert final.balanced
        assert (final.pending, final.dropped) == (0, {})
        assert judge(client.log, numbers(run.receiver.stored())) == []


def test_acknowledged_pushes_survive_a_kill_on_a_full_disk(tmp_path: Path) -> None:
    """What was acknowledged before the disk was full is there after a kill and a start with room."""
    with tight_disk(tmp_path) as run, Client(run.server.port) as client:
        run.receiver.stop()
        for number in range(1, 6):
            client.must_accept(padded(number))
        run.take_room()
        while push_next(client).status == 200:
            pass
        run.server.kill()
        run.make_room()
        run.receiver.start()
        flag = f"--storage.path={tmp_path / 'disk' / 'storage'}"
        with agent(tmp_path / "agent", flag, config=run.receiver.config) as again:
            assert settled_account(again.port).pending == 0
            assert judge(client.log, numbers(run.receiver.stored())) == []


def test_a_full_disk_stays_not_ready(tmp_path: Path) -> None:
    """While pushes are refused, an operation that needs no write does not make the agent ready."""
    with tight_disk(tmp_path) as run, Client(run.server.port) as client:
        client.must_accept(one_value("bulk", 1))
        run.take_room()
        while push_next(client).status == 200:
            pass
        assert ready(run.server.port) == 503
        request(run.server.port, "DELETE", "/metrics/job/nobody")
        assert push_next(client).status == 503
        request(run.server.port, "DELETE", "/metrics/job/nobody")
        assert ready(run.server.port) == 503
        run.make_room()


def test_start_on_a_full_disk_says_why_it_fails(tmp_path: Path) -> None:
    """An agent that cannot start because the disk is full says so in one line and exits with 2."""
    with tight_disk(tmp_path) as run, Client(run.server.port) as client:
        client.must_accept(one_value("bulk", 1))
        run.server.kill()
        run.take_room()
        flags = ("--web.listen-address=127.0.0.1:0", f"--config.file={tmp_path / 'agent' / 'pushbridge.yml'}")
        started = subprocess.run(
            [sys.executable, "-m", "bridge", "run", f"--storage.path={tmp_path / 'disk' / 'storage'}", *flags],
            capture_output=True,
            text=True,
            check=False,
            timeout=30,
        )
        assert (started.returncode, started.stderr.count("\n")) == (2, 1), started.stderr


@dataclass(frozen=True, slots=True)
class Filled:
    """A journal with pushes that wait for their receiver, and the log of these pushes."""

    directory: Path
    log: list[Pushed]


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory) -> Filled:
    """Fill a journal through an agent and stop it in order."""
    directory = tmp_path_factory.mktemp("filled")
    with ScriptedReceiver(up=False) as receiver, agent(directory, config=receiver.config) as server:
        with Client(server.port) as client:
            for group in range(GROUPS):
                client.must_accept(one_value(f"group{group}", 1, padding="x"))
            for number in range(1, BULK_PUSHES + 1):
                client.must_accept(padded(number, 1000))
        server.stop()
    return Filled(directory, client.log)


def overwrite(path: Path, offset: int, data: bytes) -> None:
    """Change bytes of a file in place."""
    with path.open("r+b") as file:
        file.seek(offset)
        file.write(data)


def pages_in_the_middle(path: Path) -> None:
    overwrite(path, path.stat().st_size // 2 // PAGE * PAGE, b"\xff" * 3 * PAGE)


def second_half(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2 // PAGE * PAGE)


def first_page(path: Path) -> None:
    overwrite(path, 0, random.Random(1).randbytes(PAGE))


def bytes_of_a_row(path: Path) -> None:
    overwrite(path, path.read_bytes().index(noise(1000, BULK_PUSHES // 2).encode()) + 100, b"damage")


@dataclass(frozen=True, slots=True)
class Damage:
    """What is done to the file, and what must be left of it."""

    what: Callable[[Path], None]
    set_aside: bool
    groups: int
    """Groups that must be back."""
    most_lost: int
    """Pushes that may be lost."""
    counted_as: str | None
    """Reason under which their samples are counted; None when the file no longer knows how many there were."""


def not_held(receiver: ScriptedReceiver) -> list[Stored]:
    """Return what came from the journal: a group outlives the rows that told of it, and repeats what they lost."""
    requests = [request for request in receiver.requests() if request.kept]
    return [
        sample
        for request in requests
        if any(sample.timestamp_ms % HOLD_INTERVAL_MS for sample in request.samples)
        for sample in request.samples
    ]


DAMAGES = [
    Damage(pages_in_the_middle, True, GROUPS, 20, "lost"),
    Damage(second_half, True, GROUPS, BULK_PUSHES * 2 // 3, "lost"),
    Damage(first_page, True, 0, BULK_PUSHES + GROUPS, None),
    Damage(bytes_of_a_row, False, GROUPS, 1, "damaged"),
]


@pytest.mark.parametrize("damage", DAMAGES, ids=[damage.what.__name__ for damage in DAMAGES])
def test_damaged_journal_is_saved_as_far_as_it_can_be_read(damage: Damage, filled: Filled, tmp_path: Path) -> None:
    """An agent starts on a damaged journal, says so, delivers what can be read, counts the rest and takes pushes."""
    storage = tmp_path / "storage"
    shutil.copytree(filled.directory / "storage", storage)
    journal = storage / "journal.db"
    damage.what(journal)
    damaged_bytes = journal.read_bytes()
    with (
        ScriptedReceiver() as receiver,
        agent(tmp_path, EXPOSED, config=receiver.config) as server,
        Client(server.port, list(filled.log)) as client,
    ):
        aside = [path for path in storage.glob("journal.db.damaged-*") if path.suffix[-4:] not in ("-wal", "-shm")]
        assert [path.read_bytes() for path in aside] == [damaged_bytes] * damage.set_aside
        assert ("event=journal_damaged" in server.log_tail()) == damage.set_aside
        assert metrics(server.port)["pushbridge_journal_damaged"] == damage.set_aside
        back = groups_of(server)
        assert sum(back.get(f'numbered{{instance="",job="group{n}"}}') == 1 for n in range(GROUPS)) == damage.groups
        client.must_accept(one_value("bulk", BULK_PUSHES + 1))
        client.must_accept(one_value("new", 1))
        final = settled_account(server.port)
        arrived = not_held(receiver)
        lost = missing(client.log, arrived)
        assert final.balanced
        assert final.pending == 0
        if damage.counted_as is not None:
            assert final.dropped == {damage.counted_as: SAMPLES_PER_PUSH * len(lost)}
        assert 0 < len(lost) <= damage.most_lost
        assert {fault.kind for fault in judge(client.log, numbers(arrived))} == {"missing"}
        assert server.stop() == 0


@pytest.fixture(scope="module")
def plain_journal(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """Make a journal file of 30 groups and 300 rows, always the same."""
    directory = tmp_path_factory.mktemp("plain")
    journal = Journal.open(directory, max_bytes=64 * MIB, now_ms=1)
    for n in range(300):
        group = b"job\xffg%d" % (n % 30)
        heads = make_head(label_bytes([("__name__", "x"), ("l", noise(200, n))]))
        part = PartRow(b'[["x","untyped","",1]]', snappy_block.compress(heads))
        record = Record(n, group, "put", 1, random.Random(n).randbytes(700))
        state = GroupRow(group, n, n, 0, True, NEVER_MS, True, pack_doubles([float(n)]), (part,))
        journal.write(Batch((record,), (state,)))
        journal.commit()
    journal.close()
    return journal.path.read_bytes()


def cut(data: bytes, seed: int) -> bytes:
    return data[: (10 + 3 * seed) * PAGE + 512]


def zeroed(data: bytes, seed: int) -> bytes:
    start = random.Random(seed).randrange(len(data) - 2 * PAGE)
    return data[:start] + bytes(2 * PAGE) + data[start + 2 * PAGE :]


def flipped(data: bytes, seed: int) -> bytes:
    changed = bytearray(data)
    choice = random.Random(seed)
    for _ in range(40):
        changed[choice.randrange(len(changed))] ^= 1 << choice.randrange(8)
    return bytes(changed)


@pytest.mark.parametrize(
    "damages",
    [
        [(cut, n) for n in range(5)] + [(zeroed, n) for n in range(5)],
        [(flipped, n) for n in (0, 1, 2, 19, 83, 116, 170)],
    ],
    ids=["empty pages", "flipped bits"],
)
def test_journal_with_any_damage_is_opened(
    damages: list[tuple[Callable[[bytes, int], bytes], int]], plain_journal: bytes, tmp_path: Path
) -> None:
    """However a file is damaged, an agent gets through reading it and starts."""
    directories = [tmp_path / f"{damage.__name__}-{seed}" for damage, seed in damages]
    for directory, (damage, seed) in zip(directories, damages, strict=True):
        directory.mkdir()
        (directory / "journal.db").write_bytes(damage(plain_journal, seed))
    opened = subprocess.run(
        [sys.executable, "-c", OPEN_ALL, *map(str, directories)], capture_output=True, text=True, check=False, timeout=8
    )
    assert opened.returncode == 0, f"at {opened.stdout.splitlines()[-1]}: {opened.stderr[-2000:]}"


def test_damaged_group_does_not_spoil_metrics(filled: Filled, tmp_path: Path) -> None:
    """A group whose stored labels are damaged costs itself, not everybody's /metrics."""
    shutil.copytree(filled.directory / "storage", tmp_path / "storage")
    journal = tmp_path / "storage" / "journal.db"
    label = noise(1000, BULK_PUSHES).encode()
    journal.write_bytes(journal.read_bytes().replace(label, b"\xff" * len(label)))
    with agent(tmp_path, EXPOSED) as server:
        answer = request(server.port, "GET", "/metrics")
        assert answer.status == 200
        assert 'numbered{instance="",job="group1"} 1' in answer.text
