import base64
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bridge.errors import BadPushError
from bridge.ingress.path import needs_redirect, parse_grouping_path, write_grouping_path
from bridge.model import Labels


@pytest.mark.parametrize(
    ("path", "labels"),
    [
        ("job/a", (("job", "a"),)),
        ("job/a/", (("job", "a"),)),
        ("job/a/instance/b", (("instance", "b"), ("job", "a"))),
        ("job/a/zone/z/instance/b", (("instance", "b"), ("job", "a"), ("zone", "z"))),
        ("job/a%2Finstance%2Fb", (("instance", "b"), ("job", "a"))),
        ("job/a+b%20c", (("job", "a+b c"),)),
        ("job/Bj%C3%B6rn", (("job", "Björn"),)),
        ("job@base64/dGVzdC9qb2I=", (("job", "test/job"),)),
        ("job@base64/dGVzdC9qb2I", (("job", "test/job"),)),
        ("job/a/i@base64/dGVzdC9qb2I====", (("i", "test/job"), ("job", "a"))),
        ("job/a/i@base64/L19-", (("i", "/_~"), ("job", "a"))),
        ("job/a/i@base64/=", (("i", ""), ("job", "a"))),
        ("job/a/i%40base64/%3D", (("i", ""), ("job", "a"))),
        ("job/a/i@base64/eA%0A", (("i", "x"), ("job", "a"))),
        ("job/a/i/", (("i", ""), ("job", "a"))),
        ("job/a/job/b", (("job", "a"),)),
        ("job/a/i/1/i/2", (("i", "2"), ("job", "a"))),
        ("job/a/i/x=y", (("i", "x=y"), ("job", "a"))),
        ("job/a/U__x_2e_y/1", (("U__x_2e_y", "1"), ("job", "a"))),
    ],
)
def test_paths_give_sorted_labels(path: str, labels: Labels) -> None:
    """Well-formed paths give their labels in order, with empty values kept."""
    assert parse_grouping_path(path, utf8_names=False) == labels


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("job/a/x", 'odd number of components in label string "/x"'),
        ("job/a/i/b/", 'odd number of components in label string "/i/b/"'),
        ("job/a/i/b%2Fc", 'odd number of components in label string "/i/b/c"'),
        ('job/a/%22x"%5C%0A', r'odd number of components in label string "/\"x\"\\\n"'),
        ("job/a/x%E2%80%8B%01", r'odd number of components in label string "/x\u200b\x01"'),
        ("job/a//b", 'improper label name ""'),
        ("job/a/x.y/b", 'improper label name "x.y"'),
        ("job/a/x=/b", 'improper label name "x="'),
        ("job/a/1x/b", 'improper label name "1x"'),
        ("job/a/__x@base64/eA", 'improper label name "__x"'),
        ("job@base64/eA$", 'invalid base64 encoding in job name "": illegal base64 data at input byte 2'),
        ("job@base64/dGVzdC9q!", 'invalid base64 encoding in job name "test/j": illegal base64 data at input byte 8'),
        ("job@base64/eA=eA", 'invalid base64 encoding in job name "": illegal base64 data at input byte 2'),
        ("job@base64/_____w/odd", r'invalid base64 encoding in job name "\xff\xff\xff\xff": not valid UTF-8'),
        ("job/a/i@base64/A", 'invalid base64 encoding for label i="A": illegal base64 data at input byte 0'),
        ("job/a/i@base64/AAAAA", 'invalid base64 encoding for label i="AAAAA": illegal base64 data at input byte 4'),
        ("job/a/i@base64/a+b", 'invalid base64 encoding for label i="a+b": illegal base64 data at input byte 1'),
        ("job@base64/=", "job name is required"),
        ("job/", "job name is required"),
        ("job@base64/=/x", 'odd number of components in label string "/x"'),
        ("job@base64/!/x", 'invalid base64 encoding in job name "": illegal base64 data at input byte 0'),
    ],
)
def test_bad_paths_get_the_texts_of_pushgateway(path: str, message: str) -> None:
    """Each fault has Pushgateway's text; of several faults the one it checks first is told."""
    with pytest.raises(BadPushError) as caught:
        parse_grouping_path(path, utf8_names=False)
    assert (caught.value.reason, str(caught.value)) == ("path", message)


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("job/%zz", 'invalid URL escape "%zz"'),
        ("job/%4", 'invalid URL escape "%4"'),
        ("job/%", 'invalid URL escape "%"'),
        ("job/%ff", "not valid UTF-8"),
        ("job/a/i@base64/_w", r'decodes to "\xff", which is not valid UTF-8'),
        ("", "job name is required"),
        ("instance/b", "want job or job@base64"),
    ],
)
def test_paths_that_are_no_text_are_refused(path: str, message: str) -> None:
    """Broken escapes, bytes that are not UTF-8 and paths without a job are the sender's fault."""
    with pytest.raises(BadPushError) as caught:
        parse_grouping_path(path, utf8_names=False)
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("name", "label"),
    [
        ("U__x_2e_y", "x.y"),
        ("U__x_2E_y", "x.y"),
        ("U__x__y", "x_y"),
        ("U___1f600_", "\U0001f600"),
        ("x.y", "x.y"),
        ("U__x_2e", "U__x_2e"),
        ("U__x_", "U__x_"),
        ("U__x_zz_", "U__x_zz_"),
        ("U___d800_", "U___d800_"),
        ("U___fffff1_", "U___fffff1_"),
        ("U___00002e_", "U___00002e_"),
    ],
)
def test_utf8_names_are_unescaped_as_in_go(name: str, label: str) -> None:
    """With UTF-8 names on, well-formed U__ names are decoded and all others stay literal."""
    assert dict(parse_grouping_path(f"job/a/{name}/1", utf8_names=True)) == {"job": "a", label: "1"}


@pytest.mark.parametrize("name", ["U__", "U______x", "U___5f__5f_x", "__x"])
def test_utf8_names_that_end_up_improper_are_refused(name: str) -> None:
    """A name that is empty or reserved after decoding is refused under its written form."""
    with pytest.raises(BadPushError) as caught:
        parse_grouping_path(f"job/a/{name}/1", utf8_names=True)
    assert str(caught.value) == f'improper label name "{name}"'


@pytest.mark.parametrize("value", ["a", "a/b", "", ".", "..", "ä b+c%", "=", "a@base64"])
def test_written_paths_read_back(value: str) -> None:
    """Any label value survives the way through a path."""
    labels = (("job", "j/k"), ("x", value))
    assert parse_grouping_path(write_grouping_path(labels), utf8_names=False) == tuple(sorted(labels))


@pytest.mark.parametrize(
    ("path", "target"),
    [
        ("/metrics/job/a", None),
        ("/metrics/job/a/", None),
        ("/", None),
        ("/metrics/job/a%2F%2Fb", None),
        ("/metrics/job/..a/.b", None),
        ("//metrics/job/a", "/metrics/job/a"),
        ("/metrics/job//a", "/metrics/job/a"),
        ("/metrics/job/a//", "/metrics/job/a/"),
        ("/metrics/./job/a", "/metrics/job/a"),
        ("/metrics/x/../job/a", "/metrics/job/a"),
        ("/../../a", "/a"),
        ("/a/.", "/a"),
        ("/a/..", "/"),
        ("/a/../", "/"),
        ("//", "/"),
        ("", "/"),
        ("a/b", "/a/b"),
    ],
)
def test_unclean_paths_are_redirected_as_by_go(path: str, target: str | None) -> None:
    """Doubled slashes and dot segments lead to the cleaned path; clean paths stay."""
    assert needs_redirect(path) == target


@given(st.text(alphabet="/.a%", max_size=30))
def test_a_redirect_target_is_clean(path: str) -> None:
    """No path is redirected twice."""
    target = needs_redirect(path)
    assert target is None or needs_redirect(target) is None


@given(job=st.text(min_size=1), value=st.text())
def test_any_text_comes_back_through_base64(job: str, value: str) -> None:
    """Any job and value that UTF-8 can carry survives base64 in the path, with and without padding."""
    encoded_job = base64.urlsafe_b64encode(job.encode()).decode()
    encoded_value = quote(base64.urlsafe_b64encode(value.encode()).decode().rstrip("=") or "=")
    labels = parse_grouping_path(f"job@base64/{encoded_job}/v@base64/{encoded_value}", utf8_names=False)
    assert labels == (("job", job), ("v", value))


@given(
    path=st.one_of(st.text(), st.text(alphabet="job@base64/%2Fx_U=A").map("job@base64/A/".__add__)),
    utf8_names=st.booleans(),
)
def test_any_path_gives_labels_or_the_documented_error(path: str, utf8_names: bool) -> None:
    """Any text gives labels with a job, or the one documented error."""
    try:
        assert dict(parse_grouping_path(path, utf8_names=utf8_names))["job"]
    except BadPushError as error:
        assert error.reason == "path"  # noqa: PT017 - either outcome is right
