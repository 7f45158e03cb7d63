"""Directive lines: what they may say, what is refused, and that writing and reading are each other's reverse."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bridge.ingress.directive import Directive, find_directives, write_directive
from tests.strategies import LEGACY_NAMES, TEXTS, WORDS, labels

GROUPS = labels(LEGACY_NAMES.filter(lambda name: name not in {"ttl", "method", "key"}), TEXTS)
DIRECTIVES = st.builds(Directive, GROUPS, st.none() | WORDS, st.sampled_from([None, "put", "post"]), st.none() | WORDS)


@given(DIRECTIVES, st.binary(max_size=20).filter(lambda body: not body.startswith(b"# PUSHBRIDGE ")))
def test_what_is_written_is_read(directive: Directive, body: bytes) -> None:
    """Any value survives the quoting, in one line, whatever follows it."""
    line = write_directive(directive)
    assert "\n" not in line
    assert find_directives(line.encode()) == directive
    assert find_directives(line.encode() + b"\n# " + body.replace(b"\n", b"")) == directive


def read(text: str) -> Directive:
    """Read these lines, each behind the mark."""
    return find_directives("\n".join(f"# PUSHBRIDGE {line}" for line in text.split("\n")).encode())


READ = {
    "": Directive(),
    "   ": Directive(),
    "job=backup": Directive((("job", "backup"),)),
    " job=backup\tinstance=db1 ttl=8d": Directive((("job", "backup"), ("instance", "db1")), "8d"),
    'job="a b" x=""': Directive((("job", "a b"), ("x", ""))),
    r'job="a\\b\"c\nd"': Directive((("job", 'a\\b"c\nd'),)),
    r"path=C:\temp=x": Directive((("path", r"C:\temp=x"),)),
    "method=put key=k-1": Directive((), None, "put", "k-1"),
    "job=a\nmethod=post": Directive((("job", "a"),), None, "post"),
    "job=ü\u00a0x\r": Directive((("job", "ü\u00a0x"),)),
}


@pytest.mark.parametrize(("text", "wanted"), READ.items(), ids=map(repr, READ))
def test_what_may_be_said(text: str, wanted: Directive) -> None:
    """Labels and the reserved names, quoted or bare, of one line or several."""
    assert read(text) == wanted


REFUSED = {
    "job": "want name=value or name=\"value\", got 'job'",
    "job=": "want name=value",
    "=x": "want name=value",
    "job = x": "want name=value",
    'job="x': "got 'job=\"x'",
    'job="x"y=z': "want name=value",
    'job=x"y': "want name=value",
    'job="a\nb"': "want name=value",
    r'job="\t"': r"unknown escape \t",
    "a-b=1": "not a label name: 'a-b'",
    "__name__=x": "not a label name: '__name__'",
    "1a=x": "not a label name: '1a'",
    "job=a job=b": "job is given twice",
    "ttl=1d\nttl=2d": "ttl is given twice",
    'key=""': "key is empty",
    "method=PUT": "method: got 'PUT', want put or post",
    "method=delete": "method: got 'delete'",
}


@pytest.mark.parametrize(("text", "words"), REFUSED.items(), ids=map(repr, REFUSED))
def test_what_is_refused(text: str, words: str) -> None:
    """A mistake is named, and never read as something else."""
    with pytest.raises(ValueError, match=re.escape(words)):
        read(text)


@given(st.text(st.sampled_from('ab_=" \\n\t\n'), max_size=12))
def test_any_text_gives_a_directive_or_the_error(text: str) -> None:
    """What is not refused is stable: written again it reads the same."""
    try:
        directive = read(text)
    except ValueError:
        return
    assert find_directives(write_directive(directive).encode()) == directive


BODY = b"""\
# HELP a PUSHBRIDGE job=no
# PUSHBRIDGE job=backup
a 1
# PUSHBRIDGE instance="db 1" ttl=8d\r
#PUSHBRIDGE job=no
 # PUSHBRIDGE job=no
# PUSHBRIDGES job=no
"""


def test_the_lines_of_a_file_add_up() -> None:
    """Only comment lines that begin with the mark count, wherever they stand, with either kind of line end."""
    assert find_directives(BODY) == Directive((("job", "backup"), ("instance", "db 1")), "8d")


@pytest.mark.parametrize(
    ("line", "words"),
    [(b"job=x", "line 8: job is given twice"), (b"a=\xff", "line 8: not valid UTF-8"), (b'a="', "line 8: want name=")],
)
def test_a_mistake_in_a_file_has_its_line(line: bytes, words: str) -> None:
    """Whoever wrote the file is told where to look, also when two lines disagree."""
    with pytest.raises(ValueError, match=words):
        find_directives(BODY + b"# PUSHBRIDGE " + line + b"\n")
