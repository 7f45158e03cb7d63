"""A configuration that changes while the agent runs: targets, rules and limits, and files that are wrong."""

import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.blackbox.checker import judge
from tests.blackbox.load import Client, Load, metrics, numbers, push_next, request, settled_account, wait_for
from tests.blackbox.scripted_receiver import ScriptedReceiver
from tests.blackbox.servers import Server, agent

LIFECYCLE = "--web.enable-lifecycle"
OK = "pushbridge_config_last_reload_successful"


def write(tmp_path: Path, text: str) -> None:
    """Change the file that the agent was started with."""
    (tmp_path / "pushbridge.yml").write_text(text, encoding="utf-8")


def reload(server: Server) -> tuple[int, str]:
    answer = request(server.port, "POST", "/-/reload")
    return answer.status, answer.text


def put(server: Server, job: str, body: str) -> int:
    return request(server.port, "PUT", f"/metrics/job/{job}", body.encode()).status


def names(receiver: ScriptedReceiver) -> set[str]:
    return {dict(sample.series)["__name__"] for sample in receiver.stored()}


def wait_names(receiver: ScriptedReceiver, good: Callable[[set[str]], bool]) -> set[str]:
    return wait_for(lambda: names(receiver), good)


def test_a_target_is_added_and_one_removed(tmp_path: Path) -> None:
    """The new one starts with what is pushed from then on; the old one gets no more and its account goes."""
    with ScriptedReceiver() as old, ScriptedReceiver() as new:
        with agent(tmp_path, LIFECYCLE, config=old.config) as server:
            assert put(server, "j", "before 1\n") == 200
            wait_names(old, lambda found: "before" in found)
            write(tmp_path, new.config.replace("name: target", "name: other"))
            assert reload(server) == (200, "")
            assert put(server, "k", "behind 2\n") == 200
            assert "before" not in wait_names(new, lambda found: "behind" in found)
            assert "behind" not in names(old)
            shown = metrics(server.port)
            assert 'pushbridge_samples_pending{target="other"}' in shown
            assert 'pushbridge_samples_pending{target="target"}' not in shown
            assert shown[OK] == 1
            assert "event=target_forgotten" in server.log_tail()
            assert server.stop() == 0
        with agent(tmp_path, config=new.config.replace("name: target", "name: other")) as again:
            assert settled_account(again.port).pending == 0


def test_a_target_that_is_added_may_get_what_was_before(tmp_path: Path) -> None:
    """With --remote-write.since a target that a reload adds begins with what the journal has from then on."""
    with (
        ScriptedReceiver() as old,
        ScriptedReceiver() as new,
        agent(tmp_path, LIFECYCLE, "--remote-write.since=1h", config=old.config) as server,
    ):
        assert put(server, "j", "before 1\n") == 200
        wait_names(old, lambda found: "before" in found)
        write(tmp_path, new.config.replace("name: target", "name: other"))
        assert reload(server) == (200, "")
        wait_names(new, lambda found: "before" in found)
        assert settled_account(server.port).pending == 0


def test_rules_and_limits_change(tmp_path: Path) -> None:
    """What a push may hold and how long it lives follow the file from the next push on; a relabeling too."""
    with ScriptedReceiver() as receiver, agent(tmp_path, LIFECYCLE, config=receiver.config) as server:
        assert put(server, "j", "a 1\nb 2\n") == 200
        changed = receiver.config.replace("}", ", write_relabel_configs: [{target_label: site, replacement: eu}]}")
        write(tmp_path, f"push: {{max_series_per_push: 1}}\nrules: [{{match: {{job: short}}, ttl: 1s}}]\n{changed}")
        assert reload(server) == (200, "")
        assert put(server, "j", "a 1\nb 2\n") == 413
        assert put(server, "short", "c 3\n") == 200
        of_c = lambda: [sample for sample in receiver.stored() if dict(sample.series)["__name__"] == "c"]  # noqa: E731
        (value, end) = wait_for(of_c, lambda found: len(found) == 2)
        assert (value.value, end.value) == (3.0, None)
        assert dict(value.series)["site"] == "eu"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("push: {default_til: 1h}", "unknown key push.default_til"),
        ("remote_write: [{url: 'ftp://x'}]", "remote_write.0.url"),
        ("a: [", "not valid YAML"),
    ],
)
def test_a_bad_file_changes_nothing_and_says_why(text: str, words: str, tmp_path: Path) -> None:
    """The answer and the log name the fault, a metric says so, and the targets go on as before."""
    with ScriptedReceiver() as receiver, agent(tmp_path, LIFECYCLE, config=receiver.config) as server:
        write(tmp_path, text)
        status, told = reload(server)
        assert status == 500
        assert words in told
        assert "event=reload_failed" in server.log_tail()
        assert metrics(server.port)[OK] == 0
        assert put(server, "j", "a 1\n") == 200
        assert "a" in wait_names(receiver, lambda found: "a" in found)
        write(tmp_path, receiver.config)
        assert reload(server) == (200, "")
        assert metrics(server.port)[OK] == 1


def test_every_fault_has_its_line(tmp_path: Path) -> None:
    """A file with several faults gives a line for each, in the answer and in the log."""
    with agent(tmp_path, LIFECYCLE, config="log: {}") as server:
        write(tmp_path, "push: {default_til: 1h}\nremote_write: [{url: 'ftp://x'}]\n")
        status, told = reload(server)
        assert (status, len(told.splitlines())) == (500, 2)
        logged = [line for line in server.log_tail().splitlines() if "event=reload_failed" in line]
        for line, fault in zip(logged, ("unknown key push.default_til", "remote_write.0.url"), strict=True):
            assert fault in line


def test_what_is_in_doubt_is_logged(tmp_path: Path) -> None:
    """What check-config warns of is in the log at the start, and again after a reload."""
    doubt = "event=setting_in_doubt key=remote_write.0.basic_auth.password_file words="
    with (
        ScriptedReceiver() as receiver,
        agent(
            tmp_path, LIFECYCLE, config=receiver.config.replace("}", ", basic_auth: {password_file: none}}")
        ) as server,
    ):
        assert server.log_tail().count(doubt) == 1
        assert reload(server) == (200, "")
        assert server.log_tail().count(doubt) == 2
        write(tmp_path, "")
        assert reload(server) == (200, "")
        assert 'level=info event=setting_in_doubt key=remote_write words="no target: ' in server.log_tail()


def test_what_waits_for_a_restart_is_named(tmp_path: Path) -> None:
    """A file whose storage path or external labels changed is put in force but for these, and the log names them."""
    with ScriptedReceiver() as receiver, agent(tmp_path, LIFECYCLE, config=receiver.config) as server:
        write(tmp_path, f"global: {{external_labels: {{site: eu}}}}\npush: {{default_ttl: 5m}}\n{receiver.config}")
        assert reload(server) == (200, "")
        assert "keys=global.external_labels" in server.log_tail()
        status = request(server.port, "GET", "/api/v1/status").text
        assert '"push.default-ttl": "5m"' in status or '"push.default-ttl":"5m"' in status
        assert put(server, "j", "a 1\n") == 200
        wait_names(receiver, lambda found: "a" in found)
        assert all("site" not in dict(sample.series) for sample in receiver.stored())


def test_reload_needs_the_lifecycle_flag(tmp_path: Path) -> None:
    """Without it the endpoint answers 403, as /-/quit does; SIGHUP works all the same."""
    with ScriptedReceiver() as receiver, agent(tmp_path, config=receiver.config) as server:
        assert reload(server)[0] == 403
        assert request(server.port, "GET", "/-/reload").status == 405
        write(tmp_path, f"push: {{max_series_per_push: 1}}\n{receiver.config}")
        server.process.send_signal(signal.SIGHUP)
        assert wait_for(lambda: put(server, "j", "a 1\nb 2\n"), lambda status: status == 413) == 413


def test_reloads_under_load_lose_nothing(tmp_path: Path) -> None:
    """Targets that come and go and senders that start again while pushes pour in: every push arrives, in order."""
    with ScriptedReceiver() as receiver, ScriptedReceiver() as guest:
        with agent(tmp_path, LIFECYCLE, config=receiver.config) as server:
            with Load(server.port) as load:
                for turn in range(6):
                    rule = f"rules: [{{match: {{job: x}}, ttl: {turn + 1}h}}]\n"
                    more = f"  - {{url: '{guest.url}', name: guest}}\n" if turn % 2 else ""
                    target = f"remote_write:\n  - {{url: '{receiver.url}', name: target}}\n"
                    write(tmp_path, rule + target + more)
                    assert reload(server) == (200, "")
                    time.sleep(0.2)
            write(tmp_path, receiver.config)
            assert reload(server) == (200, "")
            final = settled_account(server.port)
            assert final.pending == 0
            assert final.balanced
            assert final.dropped == {}
        assert judge(load.log(), numbers(receiver.stored()), max_rewinds=10) == []


def test_what_left_a_full_journal_in_the_hands_of_a_sender_that_ends_is_dropped(tmp_path: Path) -> None:
    """A sender that is started again counts what it cannot read any more, so that nothing is pending for ever."""
    storage = "storage: {max_bytes: 1MiB, when_full: drop_oldest}\n"
    with ScriptedReceiver(up=False) as receiver:
        flags = LIFECYCLE, "--push.default-ttl=0"
        with agent(tmp_path, *flags, config=storage + receiver.config) as server, Client(server.port) as client:
            for _ in range(120):
                push_next(client)
            changed = receiver.config.replace("}", ", write_relabel_configs: [{target_label: site, replacement: eu}]}")
            write(tmp_path, storage + changed)
            assert reload(server) == (200, "")
            receiver.start()
            final = settled_account(server.port, within_s=5)
        assert (final.balanced, final.pending) == (True, 0)
        assert set(final.dropped) == {"journal_full"}
        assert final.delivered == len({(sample.series, sample.timestamp_ms) for sample in receiver.stored()})
