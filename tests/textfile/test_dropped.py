"""What a dropped file says: directory labels and directives together."""

import pytest

from bridge.durations import FOREVER_MS
from bridge.errors import BadPushError
from bridge.textfile.dropped import Defaults, Dropped, as_sent, digest, line_of, read_push, read_state
from bridge.wrapper.report import Run, spool_text, start_report

OWN = Defaults({"job": "textfile", "instance": "host"}, given=False)
GIVEN = Defaults({"job": "batch", "team": "db"}, given=True)


def grouping(dropped: Dropped) -> dict[str, str]:
    """Give the labels as a mapping."""
    return dict(dropped.grouping)


def test_a_file_that_says_nothing_has_the_directorys_labels() -> None:
    """Labels of the directory name the group, and TTL and method are left to the settings."""
    for read in (read_state, read_push):
        assert read(b"a 1\n", OWN) == Dropped((("job", "textfile"), ("instance", "host")), None)


def test_a_state_replaces_labels_name_by_name() -> None:
    """What the file does not name stays as the directory has it."""
    body = b"# PUSHBRIDGE job=backup ttl=8d\n# PUSHBRIDGE disk=sda\na 1\n"
    dropped = read_state(body, OWN)
    assert grouping(dropped) == {"job": "backup", "instance": "host", "disk": "sda"}
    assert dropped.ttl_ms == 8 * 86_400_000
    assert read_state(b"# PUSHBRIDGE ttl=inf\n", OWN).ttl_ms == FOREVER_MS


def test_a_push_that_names_its_job_names_its_group() -> None:
    """A spooled push is in the group that it would have by HTTP, unless the user gave the directory labels."""
    body = b'# PUSHBRIDGE job="backup" method=post key=k1\na 1\n'
    assert read_push(body, OWN) == Dropped((("job", "backup"),), None, replace_all=False, key="k1")
    assert grouping(read_push(body, GIVEN)) == {"job": "backup", "team": "db"}
    assert grouping(read_push(b"# PUSHBRIDGE disk=sda\n", OWN)) == {
        "job": "textfile",
        "instance": "host",
        "disk": "sda",
    }


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("job=", "line 2: want name=value"),
        ('job=""', "job is empty"),
        ("ttl=soon", "ttl: got 'soon'"),
        ("method=get", "line 2: method"),
        ("9=1", "line 2: not a label name"),
    ],
)
def test_a_directive_that_is_not_understood_refuses_the_file(line: str, told: str) -> None:
    """The refusal says where and what."""
    body = f"a 1\n# PUSHBRIDGE {line}\n".encode()
    for read in (read_state, read_push):
        with pytest.raises(BadPushError, match="^PUSHBRIDGE: .*" + told.replace("(", r"\(")):
            read(body, OWN)


@pytest.mark.parametrize("line", ["method=put", "key=k"])
def test_a_state_is_no_push(line: str) -> None:
    """Method and key mean nothing for a file that is the state, so they are told."""
    with pytest.raises(BadPushError, match="spool"):
        read_state(f"# PUSHBRIDGE {line}\n".encode(), OWN)


def test_a_report_is_the_same_push_by_file_and_by_http() -> None:
    """Without its directives a spooled report is what exec sends, so that one key stands for one push."""
    report = start_report(Run((("job", "backup"), ("instance", "")), "0" * 32, 1_700_000_000_123))
    assert as_sent(spool_text(report)) == report.body
    dropped = read_push(spool_text(report), OWN)
    assert (dropped.grouping, dropped.key, dropped.replace_all) == (report.labels, report.key, False)


def test_digests_tell_contents_apart() -> None:
    """Neither the content nor the split into pieces is mixed up."""
    assert len({digest(b"ab", b"c"), digest(b"a", b"bc"), digest(b"abc"), digest(b"")}) == 4
    assert digest(b"a") == digest(b"a")


def test_the_line_of_a_refusal() -> None:
    """The log has the line by itself when the refusal names one."""
    assert line_of("text format parsing error in line 12: what") == 12
    assert line_of("baseline 3 is something else") is None
