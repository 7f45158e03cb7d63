"""What a receiver refuses for good: listed with its words, shown, sent again once it has changed its mind, deleted."""

import json
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.blackbox.checker import Stored
from tests.blackbox.load import account, metrics, request, settled_account
from tests.blackbox.ports import free_port
from tests.blackbox.scripted_receiver import ScriptedReceiver, Step
from tests.blackbox.servers import Server, agent

HIDDEN = "s3cret"
WORDS = "out of order sample"
MOST_SAMPLES_A_REQUEST = 50_000
"""That the API sends again; the command asks for the next ones."""
Judge = Callable[[Sequence[Stored]], Step | None]


def refusing(*bad: str, words: str = WORDS) -> Judge:
    """Refuse requests that hold a series with one of these names, and keep nothing of them."""

    def judge(samples: Sequence[Stored]) -> Step | None:
        return Step(400, words.encode()) if names(samples) & set(bad) else None

    return judge


def names(samples: Sequence[Stored]) -> set[str]:
    """The names of series."""
    return {dict(sample.series)["__name__"] for sample in samples}


def taking(_: Sequence[Stored]) -> None:
    """Take everything."""


def config(receiver: ScriptedReceiver) -> str:
    """A target whose URL nobody may see."""
    url = receiver.url.replace("http://", f"http://user:{HIDDEN}@") + f"?token={HIDDEN}"
    return f"remote_write: [{{url: '{url}', name: target}}]\n"


@pytest.fixture
def receiver() -> Iterator[ScriptedReceiver]:
    """A receiver that refuses the series `bad`."""
    with ScriptedReceiver() as receiver:
        receiver.judge = refusing("bad")
        yield receiver


@pytest.fixture
def server(tmp_path: Path, receiver: ScriptedReceiver) -> Iterator[Server]:
    """An agent that has pushed three good series and a bad one, and has a dead letter for it."""
    with agent(tmp_path, config=config(receiver)) as server:
        answer = request(server.port, "PUT", "/metrics/job/j/team/x?ttl=0", b"good 1\nbad 2\nfine 3\n")
        assert answer.status == 200
        assert settled_account(server.port).dead_lettered == {"http_400": 1}
        yield server
    assert HIDDEN not in server.log_tail(1 << 20)


def run(server: Server, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run a command: those that read get the journal's place, the others the agent's URL; none shows a secret."""
    place = f"--storage.path={server.directory / 'storage'}" if arguments[0] in {"list", "show"} else ""
    command = [sys.executable, "-m", "bridge", "dead-letters", *arguments, place or f"--url={server.url}"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert HIDDEN not in done.stdout + done.stderr
    return done


def listed(server: Server) -> list[dict[str, Any]]:
    """The dead letters, as the command and the API alike tell them."""
    done = run(server, "list", "--format=json")
    assert (done.returncode, done.stderr) == (0, "")
    found = [json.loads(line) for line in done.stdout.splitlines()]
    answer = request(server.port, "GET", "/api/v1/dead-letters")
    assert HIDDEN not in answer.text
    assert json.loads(answer.text) == {"status": "success", "data": found}
    return found


def kept(server: Server) -> float:
    """Samples kept now."""
    return metrics(server.port)['pushbridge_dead_letters{target="target"}']


def values(receiver: ScriptedReceiver) -> list[tuple[str, float | None]]:
    """What is stored of the push, in order of arrival."""
    return [
        (name, sample.value)
        for sample in receiver.stored()
        if (name := dict(sample.series)["__name__"]) in {"good", "bad", "fine"}
    ]


def test_a_refused_sample_comes_back(server: Server, receiver: ScriptedReceiver) -> None:
    """Listed with the receiver's words, arrives once with its old time when the receiver takes it, and is gone."""
    before = account(server.port)
    (letter,) = listed(server)
    push_time = letter["series"][0]["time"]
    assert letter == {
        "id": 1,
        "target": "target",
        "time": letter["time"],
        "push": letter["push"],
        "labels": {"job": "j", "team": "x"},
        "samples": 1,
        "status": 400,
        "reason": "http_400",
        "words": WORDS,
        "maybe_stored": False,
        "tenant": "",
        "series": [{"time": push_time, "labels": {"__name__": "bad", "job": "j", "team": "x"}, "value": 2.0}],
    }
    push = json.loads(request(server.port, "GET", f"/api/v1/pushes/{letter['push']}").text)["data"]
    assert (push["labels"], push["time"]) == ({"job": "j", "team": "x"}, push_time)
    shown = run(server, "show", "1")
    assert f'bad{{job="j",team="x"}} 2.0 @ {push_time}' in shown.stdout
    assert f'400 "{WORDS}"' in shown.stdout

    receiver.judge = refusing("bad", words="too old")
    again = run(server, "replay", "--target=target")
    assert (again.returncode, again.stdout) == (1, "sent 0 samples of 1 dead letters; 1 refused again\n")
    assert "refused (1): 400 too old" in again.stderr
    assert [letter["words"] for letter in listed(server)] == ["too old"]
    assert kept(server) == 1

    receiver.judge = taking
    counted = run(server, "replay", "--target=target", "--dry-run")
    assert (counted.returncode, counted.stdout) == (0, "would send 1 samples of 1 dead letters\n")
    done = run(server, "replay", "--target=target")
    assert (done.returncode, done.stdout, done.stderr) == (0, "sent 1 samples of 1 dead letters\n", "")
    assert values(receiver) == [("good", 1.0), ("fine", 3.0), ("bad", 2.0)]
    assert listed(server) == []
    assert kept(server) == 0
    assert metrics(server.port)['pushbridge_dead_letters_replayed_total{target="target"}'] == 1
    assert account(server.port) == before
    assert before.balanced
    assert run(server, "show", "1").returncode == 1


def test_dead_letters_are_deleted_on_demand(server: Server) -> None:
    """A purge takes what is old enough, asks first, and leaves the account as it is."""
    before = account(server.port)
    young = run(server, "purge", "--target=target", "--older-than=1h", "--yes")
    assert (young.returncode, young.stdout) == (0, "deleted 0 dead letters\n")
    unsure = run(server, "purge", "--target=target")
    assert unsure.returncode == 1
    assert "Delete 1 dead letters with 1 samples?" in unsure.stderr
    assert kept(server) == 1
    done = run(server, "purge", "--target=target", "--yes")
    assert (done.returncode, done.stdout) == (0, "deleted 1 dead letters\n")
    assert listed(server) == []
    assert account(server.port) == before


def test_letters_that_are_not_there(server: Server) -> None:
    """Naming a dead letter that is not kept is told, with exit code 1, whatever was to be done with it."""
    for command in (("replay",), ("purge", "--yes")):
        done = run(server, *command, "--id=424242")
        assert (done.returncode, done.stderr.count("1 of 1 dead letters are not kept")) == (1, 1), done


def test_a_slip_in_a_target(server: Server) -> None:
    """A target that there is not is refused by each command, with those that there are, and nothing is done."""
    for command in (("list",), ("purge", "--yes"), ("replay", "--dry-run"), ("replay",)):
        done = run(server, *command, "--target=tagret")
        assert (done.returncode, done.stdout) == (2, "")
        assert "target is called 'tagret'; there are: target\n" in done.stderr
    assert kept(server) == 1


def test_without_an_agent(server: Server, receiver: ScriptedReceiver, tmp_path: Path) -> None:
    """They survive the agent and are listed without it; to send them again it has to run, which is told."""
    server.stop()
    told = run(server, "list")
    assert told.returncode == 0
    assert WORDS in told.stdout
    for command in ("replay", "purge"):
        alone = run(server, command, "--target=target")
        assert alone.returncode == 2
        assert f"no agent answers at {server.url}" in alone.stderr
    receiver.judge = taking
    with agent(tmp_path, config=config(receiver), port=free_port()) as restarted:
        assert run(restarted, "replay", "--id=1").returncode == 0
        assert values(receiver)[-1] == ("bad", 2.0)
        assert account(restarted.port).balanced


def test_a_tenant_that_is_still_refused_holds_up_no_other(tmp_path: Path) -> None:
    """One command brings home all of a tenant behind many letters of one that is not taken, which is asked once."""
    refused = Step(401, b"who are you?")
    rules = 'rules: [{match: {team: ".+"}, tenant: "{team}"}]\n'
    with ScriptedReceiver(ordered=False) as receiver, agent(tmp_path, config=rules + receiver.config) as server:
        receiver.by_tenant = {"red": refused, "blue": refused}
        many = "".join(f'many{{number="{number}"}} 1\n' for number in range(20_000)).encode()
        for job, team, body in (("a", "red", many), ("b", "red", many), ("c", "red", many), ("d", "blue", b"few 7\n")):
            answer = request(server.port, "PUT", f"/metrics/job/{job}/team/{team}?ttl=0", body)
            assert answer.status == 200
            before = settled_account(server.port)
        letters = listed(server)
        assert [letter["tenant"] for letter in letters] == ["blue", *["red"] * (len(letters) - 1)]
        assert sum(letter["samples"] for letter in letters[1:]) > MOST_SAMPLES_A_REQUEST
        sent_before = len(receiver.requests())

        receiver.by_tenant = {"red": refused}
        done = run(server, "replay", "--target=target")
        assert (done.returncode, done.stdout.startswith("sent 3 samples of ")) == (1, True)
        words = "the target does not take letters of tenant red now: 401: who are you?; what was not sent stays"
        assert done.stderr == f"pushbridge: {words}\n"
        sent = [one for one in receiver.requests()[sent_before:] if "many" in names(one.samples)]
        assert [one.headers["x-scope-orgid"] for one in sent] == ["red"]
        assert "few" in names(receiver.stored())
        assert listed(server) == letters[1:]
        assert account(server.port) == before
        assert before.balanced

        receiver.by_tenant = {}
        assert run(server, "replay", "--target=target").returncode == 0
        assert listed(server) == []
        assert sum(dict(sample.series)["__name__"] == "many" for sample in receiver.stored()) == 60_000
        assert account(server.port) == before


def test_a_sign_in_that_fails_costs_no_words(server: Server, receiver: ScriptedReceiver) -> None:
    """When the target refuses whoever sends, the replay stops and the letter stays as it was."""
    before = listed(server)
    receiver.judge = lambda _: Step(401, b"who are you?")
    done = run(server, "replay", "--target=target")
    assert (done.returncode, done.stdout) == (1, "sent 0 samples of 1 dead letters\n")
    assert "the target does not take it now: 401: who are you?; what was not sent stays" in done.stderr
    assert listed(server) == before
