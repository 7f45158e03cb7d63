"""`pushbridge journal replay` against receivers that take, refuse, are away or are left alone in the middle."""

import re
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import snappy

from bridge._pb import remote_write_v1_pb2 as pb
from bridge.journal.rows import NATIVE_HISTOGRAMS, CursorRow, Record
from bridge.wire import snappy_block
from bridge.wire.head import make_head
from bridge.wire.histogram import STALE_HISTOGRAM
from bridge.wire.points import encode_field
from bridge.wire.remote_write import label_bytes
from tests.blackbox.checker import Stored
from tests.blackbox.scripted_receiver import ScriptedReceiver, Step
from tests.browse.journals import AT_MS, change, record, write

ROWS, SAMPLES = 50, 40
SECOND_MS = 1000
CONFIG = """
storage: {{path: {directory}}}
remote_write:
  - url: {url}
    name: target
    headers: {{X-Scope-OrgID: batch}}
    queue_config: {{max_samples_per_send: {most}, min_backoff: 5ms, max_backoff: 20ms}}
  - {{url: "http://127.0.0.1:1/", name: other}}
"""


def rows() -> list[Record]:
    """Rows a second apart, with samples of as many series each."""
    return [
        record(AT_MS + n * SECOND_MS, "j", *((f"s{series}", float(n)) for series in range(SAMPLES)))
        for n in range(ROWS)
    ]


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A journal that both targets have confirmed."""
    directory = tmp_path_factory.mktemp("replay") / "data"
    cursors = (CursorRow("other", 0, 0, 0, ()), CursorRow("target", ROWS, 0, ROWS * SAMPLES, ()))
    write(directory, *rows(), cursors=cursors)
    return directory


def command(directory: Path, receiver: ScriptedReceiver, *arguments: str, most: int = 500) -> list[str]:
    file = directory.parent / "pushbridge.yml"
    file.write_text(CONFIG.format(directory=directory, url=receiver.url, most=most))
    start = [sys.executable, "-m", "bridge", "journal", "replay", f"--config.file={file}", "--target=target"]
    return [*start, *arguments]


def replay(
    directory: Path, receiver: ScriptedReceiver, *arguments: str, most: int = 500
) -> subprocess.CompletedProcess[str]:
    """Run a replay to its end."""
    words = command(directory, receiver, *arguments, most=most)
    return subprocess.run(words, capture_output=True, text=True, check=False, timeout=60)


def times(stored: list[Stored]) -> list[int]:
    """The seconds of the samples, in order of arrival, without repetition."""
    return list(dict.fromkeys((sample.timestamp_ms - AT_MS) // SECOND_MS for sample in stored))


def test_everything_is_sent_again(directory: Path) -> None:
    """In order, with the old times, in requests and with headers as the target's settings say."""
    before = (directory / "journal.db").read_bytes()
    with ScriptedReceiver() as receiver:
        done = replay(directory, receiver)
        assert (done.returncode, done.stderr) == (0, "")
        assert done.stdout == "target: sent 2,000 samples of 50 rows\n"
        stored = receiver.stored(repeats=True)
        assert [(dict(sample.series)["__name__"], sample.timestamp_ms, sample.value) for sample in stored] == [
            (f"s{series}", AT_MS + n * SECOND_MS, float(n)) for n in range(ROWS) for series in range(SAMPLES)
        ]
        requests = receiver.requests()
        assert [len(request.samples) for request in requests] == [480, 480, 480, 480, 80]
        assert all("X-Scope-OrgID: batch" in request.head for request in requests)
    assert (directory / "journal.db").read_bytes() == before


def test_a_part_is_sent(directory: Path) -> None:
    """From a time on, before a time, of some series; nothing at all on a dry run, which tells the same number."""
    part = [f"--since={AT_MS // 1000 + 10}", f"--until={AT_MS // 1000 + 20}", '--match={__name__=~"s1.?"}']
    with ScriptedReceiver() as receiver:
        done = replay(directory, receiver, *part, "--dry-run")
        assert (done.returncode, done.stdout) == (0, "target: would send 110 samples of 10 rows\n")
        assert receiver.requests() == []
        done = replay(directory, receiver, *part)
        assert (done.returncode, done.stdout) == (0, "target: sent 110 samples of 10 rows\n")
        assert times(receiver.stored(repeats=True)) == list(range(10, 20))
        assert {dict(sample.series)["__name__"] for sample in receiver.stored()} == {
            "s1",
            *(f"s1{n}" for n in range(10)),
        }


def test_the_targets_own_rules_hold(tmp_path: Path) -> None:
    """What it gets is relabeled and has its tenant as when it was delivered; what its rules drop is counted."""
    write(tmp_path / "data", *(record(AT_MS + n, job, ("a", 1.0), ("b", 2.0)) for n, job in enumerate("jkj")))
    with ScriptedReceiver() as receiver:
        file = tmp_path / "pushbridge.yml"
        rule = "{source_labels: [__name__], regex: b, action: drop}, {target_label: site, replacement: eu}"
        file.write_text(
            f"storage: {{path: {tmp_path / 'data'}}}\n"
            'rules: [{match: {job: "[jk]"}, tenant: "team-{job}"}]\n'
            f"remote_write: [{{url: '{receiver.url}', name: target, write_relabel_configs: [{rule}]}}]\n"
        )
        words = [sys.executable, "-m", "bridge", "journal", "replay", f"--config.file={file}", "--target=target"]
        done = subprocess.run(words, capture_output=True, text=True, check=False, timeout=60)
        assert (done.returncode, done.stderr) == (0, "")
        assert done.stdout == "target: sent 3 samples of 3 rows; 3 dropped by the target's rules\n"
        found = [
            (re.findall(r"X-Scope-OrgID: (\S+)", request.head), [dict(sample.series) for sample in request.samples])
            for request in receiver.requests()
        ]
        of_job = {job: {"__name__": "a", "job": job, "site": "eu"} for job in "jk"}
        assert found == [(["team-j"], [of_job["j"]] * 2), (["team-k"], [of_job["k"]])]


def test_a_target_is_sent_nothing_that_it_does_not_take(tmp_path: Path) -> None:
    """A native histogram of the past is left out for a target that takes none, as it was when it was pushed."""
    plain = record(AT_MS, "j", ("plain", 1.0))
    head = make_head(label_bytes([("__name__", "native"), ("job", "j")]))
    body = snappy_block.compress(
        snappy_block.decompress(plain.body, 1 << 20) + encode_field(head, STALE_HISTOGRAM, AT_MS)
    )
    cursors = (CursorRow("other", 0, 0, 0, ()), CursorRow("target", 1, 0, 2, ()))
    write(tmp_path / "data", replace(plain, body=body, samples=2, kinds=NATIVE_HISTOGRAMS), cursors=cursors)
    with ScriptedReceiver() as receiver:
        done = replay(tmp_path / "data", receiver)
        assert done.returncode == 0
        (request,) = receiver.requests()
        series = pb.WriteRequest.FromString(bytes(snappy.decompress(request.body))).timeseries
        assert [label.value for one in series for label in one.labels if label.name == "__name__"] == ["plain"]


def test_what_is_not_confirmed_is_left_to_the_agent(tmp_path: Path) -> None:
    """Rows behind the target's cursor would overtake those that the agent still has to send."""
    write(tmp_path / "data", *rows(), cursors=(CursorRow("target", 20, 0, 20 * SAMPLES, ()),))
    with ScriptedReceiver() as receiver:
        done = replay(tmp_path / "data", receiver)
        assert (done.returncode, done.stdout) == (0, "target: sent 800 samples of 20 rows\n")
        assert "30 newer rows are left out: target has not confirmed them yet" in done.stderr
        assert times(receiver.stored(repeats=True)) == list(range(20))


def test_a_receiver_that_is_away_is_waited_for(directory: Path) -> None:
    """5xx, 429 and broken connections: the same request again, told once, and all of it arrives once."""
    steps = (Step(), Step(status=503, words=b"busy"), Step(status=429), Step(resets_at=0.5), Step(status=500))
    with ScriptedReceiver(*steps) as receiver:
        done = replay(directory, receiver)
        assert (done.returncode, done.stdout) == (0, "target: sent 2,000 samples of 50 rows\n")
        assert done.stderr == "pushbridge: the target does not take it now (503: busy); trying again\n"
        assert times(receiver.stored(repeats=True)) == list(range(ROWS))
        assert len(receiver.stored(repeats=True)) == ROWS * SAMPLES
        (_, *again) = receiver.requests()
        assert len({request.body for request in again[:5] if request.step.resets_at is None}) == 1


def test_what_is_refused_harms_no_neighbour(directory: Path) -> None:
    """A refused request is cut until the bad ones are alone; the rest arrives, and the words are told."""
    words = b"out of bounds:\nsecond 3"
    with ScriptedReceiver(Step(status=400, words=words)) as receiver:
        done = replay(directory, receiver, f"--until={AT_MS // 1000 + 1}", '--match={__name__=~"s[0-3]"}')
        assert (done.returncode, done.stdout) == (0, "target: sent 4 samples of 1 rows\n")
    # Four samples: refused; the first half taken; of the second, which must be bad, the first refused alone.
    steps = [Step(status=400, words=words), Step(), Step(status=400, words=words)]
    with ScriptedReceiver(*steps) as receiver:
        done = replay(directory, receiver, f"--until={AT_MS // 1000 + 1}", '--match={__name__=~"s[0-3]"}')
        assert (done.returncode, done.stdout) == (1, "target: sent 3 samples of 1 rows; 1 refused\n")
        assert done.stderr.splitlines() == [
            "pushbridge: refused by the target: 400 out of bounds: second 3",
            "pushbridge: refused (1): 400 out of bounds: second 3",
        ]
        assert [sample.series[0][1] for sample in receiver.stored(repeats=True)] == ["s0", "s1", "s3"]


def test_a_target_that_refuses_everything_is_asked_once(directory: Path) -> None:
    """What speaks of the sign-in or the address ends the replay, and is told with how to go on."""
    with ScriptedReceiver(Step(), Step(status=401, words=b"no org id")) as receiver:
        done = replay(directory, receiver)
        assert (done.returncode, done.stdout) == (1, "target: sent 480 samples of 12 rows\n")
        refused, how = done.stderr.splitlines()
        assert refused == "pushbridge: stopped by a refusal that is not about samples: 401 no org id"
        assert "--since 2023-11-14T22:13:32.000Z" in how
        assert len(receiver.requests()) == 2


def test_a_damaged_row_is_told_and_the_rest_goes_on(tmp_path: Path) -> None:
    """It costs its own samples, and the exit code."""
    write(tmp_path / "data", *rows()[:3])
    change(tmp_path / "data", "UPDATE journal SET body = x'00' WHERE seq = 2")
    with ScriptedReceiver() as receiver:
        done = replay(tmp_path / "data", receiver)
        assert (done.returncode, done.stdout) == (1, "target: sent 80 samples of 2 rows; 40 in damaged rows\n")
        assert "row 2 with 40 samples is damaged" in done.stderr
        assert times(receiver.stored(repeats=True)) == [0, 2]


def test_a_rate_is_kept(directory: Path) -> None:
    """Requests are spread so that no more samples per second leave than allowed."""
    with ScriptedReceiver() as receiver:
        assert replay(directory, receiver, "--rate=2000", most=200).returncode == 0
        requests = receiver.requests()
        taken_s = requests[-1].at_s - requests[0].at_s
        assert len(requests) == ROWS * SAMPLES // 200
        assert taken_s == pytest.approx(0.9, abs=0.3)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_replay_tells_how_to_go_on(directory: Path, number: signal.Signals) -> None:
    """Both parts together are the whole, in order, and only what was on its way may come twice."""
    with ScriptedReceiver(Step(), Step(), Step(held=True)) as receiver:
        words = command(directory, receiver, most=200)
        with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
            receiver.wait_for(lambda requests: len(requests) == 3)
            process.send_signal(number)
            out, err = process.communicate(timeout=30)
        assert (process.returncode, out) == (130, "target: sent 400 samples of 10 rows\n")
        found = re.search(r"to go on, the same with (--since \S+ --until \S+)\n", err)
        assert found is not None, err
        assert found[1].startswith("--since 2023-11-14T22:13:30.000Z --until ")
        done = replay(directory, receiver, *found[1].split())
        assert (done.returncode, done.stdout) == (0, "target: sent 1,600 samples of 40 rows\n")
        assert times(receiver.stored(repeats=True)) == list(range(ROWS))


def test_a_target_that_is_not_there_is_waited_for_until_it_is(directory: Path) -> None:
    """The replay begins when the receiver comes up."""
    with ScriptedReceiver(up=False) as receiver:
        words = command(directory, receiver)
        with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
            assert process.stderr is not None
            assert "(no answer: ClientConnectorError" in process.stderr.readline()
            receiver.start()
            assert process.wait(30) == 0
        assert times(receiver.stored(repeats=True)) == list(range(ROWS))
