"""`pushbridge journal` on journals as agents leave them: what is printed, written, told and refused."""

import csv
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from pyarrow import parquet

from bridge.cli import main
from bridge.groups import key_of
from bridge.journal.rows import CursorRow, DeliveryRow, Record
from bridge.journal.schema import VERSION
from tests.browse.journals import AT_MS, change, record, write

FIRST, SECOND = "2023-11-14T22:13:20.000Z", "2023-11-14T22:13:21.000Z"
CURSORS = CursorRow("dead", 1, 0, 0, (("http_400", 2),)), CursorRow("live", 3, 0, 6, ())
DELIVERIES = (
    DeliveryRow("dead", 1, 1, AT_MS + 5, "http_400", "out of\norder"),
    DeliveryRow("live", 1, 3, AT_MS + 5),
)


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """Two pushes of a job, the second one of two rows, and the end of a TTL; two targets."""
    directory = tmp_path / "data"
    write(
        directory,
        record(AT_MS, "j", ("a", 1.5), ("b", float("nan"))),
        record(AT_MS + 1000, "j", ("a", 2.0), ("b", None), operation="post"),
        record(AT_MS + 1000, "j", ("a", float("inf")), operation="post"),
        record(AT_MS + 2000, "other", ("c", None), operation="expire"),
        cursors=CURSORS,
        deliveries=DELIVERIES,
    )
    return directory


def invoke(directory: Path, *arguments: str) -> Result:
    return CliRunner().invoke(main, ["journal", *arguments, f"--storage.path={directory}"])


def printed(directory: Path, *arguments: str) -> str:
    done = invoke(directory, *arguments)
    assert done.exit_code == 0, done.output
    return done.stdout


def ids(directory: Path) -> str:
    journal_id: str = json.loads(printed(directory, "stats", "--format=json"))["id"]
    return journal_id


def exported(directory: Path, *arguments: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in printed(directory, "export", *arguments).splitlines()]


def test_stats_are_a_table_or_a_document(directory: Path) -> None:
    """Both tell the file, what it holds and the account of each target."""
    told = json.loads(printed(directory, "stats", "--format=json", "--storage.max-bytes=2MiB"))
    assert (told["rows"], told["samples"], told["max_bytes"], told["oldest"]) == (4, 6, 2 << 20, FIRST)
    assert {name: target["pending"] for name, target in told["targets"].items()} == {"dead": 4, "live": 0}
    table = printed(directory, "stats").splitlines()
    assert table[0] == f"journal  {directory / 'journal.db'} (id {told['id']})"
    assert table[-2].split()[:5] == ["dead", "1", "0", "4", "0"]


def test_the_place_comes_from_the_configuration_file_too(directory: Path, tmp_path: Path) -> None:
    """As for run: the file names it, and the flag stands over the file."""
    file = tmp_path / "c.yml"
    file.write_text(f"storage: {{path: {directory}, max_bytes: 3MiB}}\n")
    done = CliRunner().invoke(main, ["journal", "stats", "--format=json", f"--config.file={file}"])
    assert json.loads(done.stdout)["max_bytes"] == 3 << 20
    done = CliRunner().invoke(main, ["journal", "stats", f"--config.file={file}", "--storage.path=/nowhere"])
    assert (done.exit_code, done.stderr) == (2, "pushbridge: storage.path: /nowhere has no journal (journal.db)\n")


@pytest.mark.parametrize("command", ["stats", "list", "export"])
def test_a_journal_of_a_newer_agent_is_one_line(directory: Path, command: str) -> None:
    """Exit code 2, and what to do."""
    change(directory, "UPDATE meta SET value = ? WHERE name = 'schema_version'", VERSION + 1)
    done = invoke(directory, command)
    assert (done.exit_code, done.stdout, done.stderr.count("\n")) == (2, "", 1)
    assert f"has schema version {VERSION + 1}" in done.stderr


def test_pushes_are_listed_newest_first(directory: Path) -> None:
    """With id, time, group, samples and what became of them; what is not a push is left out."""
    journal, refused = ids(directory), 'dead: refused (http_400) "out of\\norder"'
    assert printed(directory, "list").splitlines() == [
        f'{SECOND}  {journal}-2  post    {{job="j"}}  3 samples  dead: pending  live: delivered',
        f'{FIRST}  {journal}-1  put     {{job="j"}}  2 samples  {refused}  live: delivered',
    ]
    (newest, oldest) = [json.loads(line) for line in printed(directory, "list", "--format=json").splitlines()]
    assert newest == {
        "id": f"{journal}-2",
        "time": SECOND,
        "method": "post",
        "labels": {"job": "j"},
        "samples": 3,
        "targets": {"dead": {"state": "pending"}, "live": {"state": "delivered", "at": SECOND}},
    }
    assert oldest["targets"]["dead"]["words"] == "out of\norder"


def test_a_list_shows_samples_of_the_series_asked_for(directory: Path) -> None:
    """All rows of a push belong to it; a push without such a series is left out."""
    assert printed(directory, "list", "--samples", "--match=b", f"--until={SECOND}").splitlines()[1:] == [
        f'    b{{job="j"}} NaN @ {FIRST}'
    ]
    (newest,) = [
        json.loads(line)
        for line in printed(directory, "list", "--samples", "--match=a", "--limit=1", "--format=json").splitlines()
    ]
    assert [sample["value"] for sample in newest["series"]] == [2.0, "+Inf"]
    assert printed(directory, "list", "--match=c") == ""


def test_a_limit_is_told(directory: Path) -> None:
    """Who sees a part knows it."""
    done = invoke(directory, "list", "--limit=1")
    assert (len(done.stdout.splitlines()), done.stderr) == (
        1,
        "pushbridge: there are more; these are the newest 1 (--limit)\n",
    )
    assert invoke(directory, "list", "--limit=2").stderr == ""


def test_every_sample_is_exported(directory: Path) -> None:
    """In order, what JSON has no number for as text, and the push that it came with, where it came with one."""
    journal = ids(directory)
    a, b, c = ({"__name__": name, "job": job} for name, job in (("a", "j"), ("b", "j"), ("c", "other")))
    end = "2023-11-14T22:13:22.000Z"
    wanted: list[tuple[str, dict[str, str], object, str | None]] = [
        (FIRST, a, 1.5, f"{journal}-1"),
        (FIRST, b, "NaN", f"{journal}-1"),
        (SECOND, a, 2.0, f"{journal}-2"),
        (SECOND, b, "stale", f"{journal}-2"),
        (SECOND, a, "+Inf", f"{journal}-2"),
        (end, c, "stale", None),
    ]
    assert [tuple(line.values()) for line in exported(directory)] == wanted
    assert [list(line) for line in exported(directory)] == [["time", "labels", "value", "push"]] * 6
    rows = list(csv.reader(printed(directory, "export", "--format=csv").splitlines()))
    assert rows[0] == ["time", "labels", "value", "histogram", "push"]
    assert [(row[0], json.loads(row[1]), row[2], row[4] or None) for row in rows[1:]] == [
        (time, labels, str(value), push) for time, labels, value, push in wanted
    ]


def test_a_part_is_exported(directory: Path) -> None:
    """From a time on, before a time, of some series."""
    assert [line["value"] for line in exported(directory, f"--since={SECOND}")] == [2.0, "stale", "+Inf", "stale"]
    assert [line["value"] for line in exported(directory, f"--until={SECOND}", "--match=a")] == [1.5]


def test_parquet_has_columns_with_types(directory: Path, tmp_path: Path) -> None:
    """Times are times and labels a map; a marker has no value."""
    file = tmp_path / "x.parquet"
    assert printed(directory, "export", "--format=parquet", f"--output={file}") == ""
    rows = parquet.read_table(file).to_pylist()
    assert [round(row["time"].timestamp() * 1000) - AT_MS for row in rows] == [0, 0, 1000, 1000, 1000, 2000]
    assert [repr(row["value"]) for row in rows] == ["1.5", "nan", "2.0", "None", "inf", "None"]
    assert [row["stale"] for row in rows] == [False, False, False, True, False, True]
    assert (dict(rows[0]["labels"]), rows[5]["push"]) == ({"__name__": "a", "job": "j"}, None)


def test_parquet_without_its_library_or_a_file_says_so(
    directory: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One line names the extra; nothing is left behind. Standard output is no place for it."""
    assert "needs --output FILE" in invoke(directory, "export", "--format=parquet").stderr
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    done = invoke(directory, "export", "--format=parquet", f"-o{tmp_path / 'x'}")
    assert (done.exit_code, done.stderr.count("\n")) == (2, 1)
    assert "pip install 'pushbridge[parquet]'" in done.stderr
    assert {path.name for path in tmp_path.iterdir()} == {"data"}


def test_a_file_appears_when_it_is_whole(directory: Path, tmp_path: Path) -> None:
    """It replaces what was there if it is told to; one that cannot be written is told, and nothing is left behind."""
    file = tmp_path / "x.jsonl"
    file.write_text("old")
    printed(directory, "export", f"-o{file}", "--force")
    assert len(file.read_text().splitlines()) == 6
    done = invoke(directory, "export", f"-o{tmp_path / 'none' / 'x'}")
    assert (done.exit_code, "No such file or directory" in done.stderr) == (2, True)
    done = invoke(directory, "export", f"-o{tmp_path}")
    assert (done.exit_code, done.stderr.count("\n")) == (2, 1)
    assert {path.name for path in tmp_path.iterdir()} == {"data", "x.jsonl"}


@pytest.mark.parametrize("form", ["jsonl", "csv", "parquet"])
def test_a_file_that_is_there_stays(directory: Path, tmp_path: Path, form: str) -> None:
    """Without --force an export touches neither a file nor a link, and no device with it; one line says why."""
    file, link, pipe = tmp_path / "x", tmp_path / "link", tmp_path / "pipe"
    file.write_text("old")
    link.symlink_to("nowhere")
    os.mkfifo(pipe)
    for name, flags, words in (
        (file, (), f"{file} is there already; want another name, or --force to replace it"),
        (link, (), f"{link} is there already; want another name, or --force to replace it"),
        (pipe, ("--force",), f"{pipe} is no regular file; want one, or no --output for standard output"),
    ):
        done = invoke(directory, "export", f"--format={form}", f"-o{name}", *flags)
        assert (done.exit_code, done.stderr) == (2, f"pushbridge: export: {words}\n")
    assert (file.read_text(), link.is_symlink(), pipe.is_fifo()) == ("old", True, True)
    assert {path.name for path in tmp_path.iterdir()} == {"data", "x", "link", "pipe"}


def test_a_damaged_row_is_told_and_the_rest_goes_on(directory: Path) -> None:
    """Whether its checksum is wrong or its content, a row costs only itself."""
    change(directory, "UPDATE journal SET body = x'00' WHERE seq = 2")
    done = invoke(directory, "export")
    assert [json.loads(line)["value"] for line in done.stdout.splitlines()] == [1.5, "NaN", "+Inf", "stale"]
    told = "pushbridge: row 2 with 2 samples is damaged and left out: its checksum does not match\n"
    assert (done.exit_code, done.stderr) == (0, told)
    done = invoke(directory, "list", "--samples")
    assert (done.exit_code, done.stderr, "+Inf" in done.stdout) == (0, told, True)
    write(directory, Record(AT_MS + 3000, key_of((("job", "j"),)), "put", 7, b"\x05hello"))
    assert "row 5 with 7 samples is damaged and left out: snappy" in invoke(directory, "export").stderr


@pytest.mark.parametrize("key", [b"job", b"\xc3\xffx"], ids=repr)
def test_a_damaged_group_or_time_is_shown_as_it_is(directory: Path, key: bytes) -> None:
    """No checksum covers them, so the row is listed and exported with what is left."""
    change(directory, "UPDATE journal SET grp = ?, arrival_ms = ? WHERE seq = 1", key, 1 << 60)
    for arguments in (["list"], ["list", "--format=json"]):
        (_, oldest) = printed(directory, *arguments).splitlines()
        assert ("1152921504606846.976" in oldest, "damaged" in oldest) == (True, True)
    assert len(exported(directory)) == 6


def test_what_is_gone_is_told(directory: Path) -> None:
    """Who asks for more than the journal has is told where it begins, who asks for less is not."""
    change(directory, "DELETE FROM journal WHERE seq = 1")
    told = f"pushbridge: the journal begins at {SECOND}; what arrived before is gone (storage.retention)\n"
    for command in ("list", "export"):
        assert invoke(directory, command, f"--since={FIRST}").stderr == told
        assert invoke(directory, command, f"--since={SECOND}").stderr == ""


def test_progress_is_shown_on_a_terminal_alone(directory: Path, tmp_path: Path) -> None:
    """A bar on standard error when that is a terminal and the samples do not go there too."""
    export = [sys.executable, "-m", "bridge", "journal", "export", f"--storage.path={directory}"]
    screen, terminal = os.openpty()
    for arguments, shown in (([*export, f"-o{tmp_path / 'x'}"], True), (export, True)):
        done = subprocess.run(arguments, stdout=subprocess.PIPE, stderr=terminal, check=True, timeout=30)
        assert (b"exporting" in os.read(screen, 10_000)) == shown
        assert b"exporting" not in done.stdout
    subprocess.run(export, stdout=terminal, stderr=terminal, check=True, timeout=30)
    assert b"exporting" not in os.read(screen, 10_000)
    os.close(terminal)
    os.close(screen)


def test_a_reader_that_has_seen_enough_ends_it_quietly(directory: Path) -> None:
    """A broken pipe is no error."""
    write(directory, *(record(AT_MS + 3000 + n, "j", *[("a", float(n))] * 1000) for n in range(50)))
    read, write_end = os.pipe()
    arguments = [sys.executable, "-m", "bridge", "journal", "export", f"--storage.path={directory}"]
    with subprocess.Popen(arguments, stdout=write_end, stderr=subprocess.PIPE) as process:
        os.close(write_end)
        assert os.read(read, 10).startswith(b"{")
        os.close(read)
        assert process.stderr is not None
        assert (process.stderr.read(), process.wait(30)) == (b"", 0)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["list", "--since=soon"], "want a duration back from now"),
        (["export", "--match={"], "parse error"),
        (["list", "--match={}"], "must contain at least one non-empty matcher"),
        (["list", "--limit=0"], "not in the range"),
        (["replay"], "--target"),
        (["replay", "--target=t", "--rate=0"], "not in the range"),
        (["replay", "--target=t"], "no remote_write target is called 't'"),
    ],
)
def test_arguments_that_make_no_sense_are_refused(directory: Path, arguments: list[str], words: str) -> None:
    """A mistake in the arguments is told, with the exit code 2."""
    done = invoke(directory, *arguments)
    assert (done.exit_code, words in " ".join(done.stderr.split())) == (2, True), done.stderr
