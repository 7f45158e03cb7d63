"""The requests that are put to the real Pushgateway and to the agent alike: valid, odd and broken.

No expected answers: the real one answers live. Only where we mean to differ a case says why, and what we want.
A `~` in a path or body stands for a token of the case's own (`t001x`...), so that cases do not meet in the store.
"""

import gzip
from dataclasses import dataclass, field, replace

import snappy

from tests.blackbox import delimited as pb
from tests.blackbox.oracle_rows import KEPT_TIME, NEWER, PATHS, POISON_PATHS, TEXT_BODIES, TEXT_DIFFERENCES

Headers = tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class Request:
    """One HTTP request, sent exactly as written here."""

    method: str
    path: str
    body: bytes = b""
    headers: Headers = ()


@dataclass(frozen=True, slots=True)
class Case:
    """One request whose status and effect are compared, after the requests of `setup`."""

    name: str
    method: str
    path: str
    body: bytes = b""
    headers: Headers = ()
    difference: str = ""
    """Why our answer or effect is meant to differ; empty when it must not."""
    want_status: int | None = None
    """The status we want where there is a difference."""
    want_series: str | None = None
    """Exposition text of what the difference leaves written by us, push times aside; None where it is not judged."""
    setup: tuple[Request, ...] = field(default=())

    @property
    def request(self) -> Request:
        """The request under test."""
        return Request(self.method, self.path, self.body, self.headers)


JOB = "/metrics/job/~"
PROTOBUF: Headers = (
    (
        "Content-Type",
        "application/vnd.google.protobuf; proto=io.prometheus.client.MetricFamily; encoding=delimited",
    ),
)
OPENMETRICS: Headers = (("Content-Type", "application/openmetrics-text; version=1.0.0; charset=utf-8"),)
OWN_GROUPS_ONLY = "clashes across groups are counted, not refused"


def _framed(body: bytes) -> bytes:
    return bytes(snappy.StreamCompressor().compress(body))


def _put(body: str = "", path: str = JOB) -> Request:
    return Request("PUT", path, body.encode())


def _post(body: str = "", path: str = JOB) -> Request:
    return Request("POST", path, body.encode())


_DELETE = Request("DELETE", JOB)

# name, method, path, body
_PLAIN: tuple[tuple[str, str, str, str], ...] = (
    ("post", "POST", JOB, "~ 1\n"),
    ("get_group", "GET", JOB, ""),
    ("head_group", "HEAD", JOB, ""),
    ("patch_group", "PATCH", JOB, "~ 1\n"),
    ("options_group", "OPTIONS", JOB, ""),
    ("unknown_method", "PUSH", JOB, "~ 1\n"),
    ("put_metrics", "PUT", "/metrics", "~ 1\n"),
    ("delete_metrics", "DELETE", "/metrics", ""),
    ("get_metrics", "GET", "/metrics", ""),
    ("head_metrics", "HEAD", "/metrics", ""),
    ("get_metrics_slash", "GET", "/metrics/", ""),
    ("unknown_path", "GET", "/nothing/here", ""),
    ("put_unknown_path", "PUT", "/nothing/here", "~ 1\n"),
    ("healthy", "GET", "/-/healthy", ""),
    ("healthy_post", "POST", "/-/healthy", ""),
    ("healthy_head", "HEAD", "/-/healthy", ""),
    ("healthy_slash", "GET", "/-/healthy/", ""),
    ("ready", "GET", "/-/ready", ""),
    ("ready_put", "PUT", "/-/ready", ""),
    ("quit_disabled_put", "PUT", "/-/quit", ""),
    ("quit_disabled_post", "POST", "/-/quit", ""),
    ("quit_get", "GET", "/-/quit", ""),
    ("quit_delete", "DELETE", "/-/quit", ""),
    ("api_status", "GET", "/api/v1/status", ""),
    ("api_status_post", "POST", "/api/v1/status", ""),
    ("api_status_options", "OPTIONS", "/api/v1/status", ""),
    ("api_metrics", "GET", "/api/v1/metrics", ""),
    ("api_metrics_put", "PUT", "/api/v1/metrics", ""),
    ("api_metrics_options", "OPTIONS", "/api/v1/metrics", ""),
    ("api_unknown_options", "OPTIONS", "/api/v1/nothing", ""),
    ("api_unknown", "GET", "/api/v1/nothing", ""),
    ("api_wipe_disabled", "PUT", "/api/v1/admin/wipe", ""),
    ("api_wipe_get", "GET", "/api/v1/admin/wipe", ""),
    ("page", "GET", "/", ""),
    ("page_post", "POST", "/", ""),
    ("page_status", "GET", "/status", ""),
    ("empty_put", "PUT", JOB, ""),
    ("empty_post", "POST", JOB, ""),
    ("delete_unknown_group", "DELETE", JOB, ""),
    ("delete_with_body", "DELETE", JOB, "not a metric"),
    ("delete_bad_label", "DELETE", "/metrics/job/~/a-b/1", ""),
    ("delete_odd", "DELETE", "/metrics/job/~/a", ""),
    ("delete_empty_job", "DELETE", "/metrics/job@base64/=", ""),
    ("delete_no_job", "DELETE", "/metrics/job", ""),
    ("path_label_overwrites", "PUT", "/metrics/job/~/a/path", '~{a="body",b="2"} 1\n'),
    ("path_instance_overwrites", "PUT", "/metrics/job/~/instance/path", '~{instance="body"} 1\n'),
    ("path_empty_label_overwrites", "PUT", "/metrics/job/~/a@base64/=", '~{a="body"} 1\n'),
    ("path_label_makes_duplicates", "PUT", "/metrics/job/~/a/1", '~{a="x"} 1\n~{a="y"} 1\n'),
    ("bad_body_and_bad_path", "PUT", "/metrics/job/~/a", "broken\n"),
)

# name, setup, method, path, body: what the second request does to the state that the first ones left.
_SEQUENCES: tuple[tuple[str, tuple[Request, ...], str, str, str], ...] = (
    ("put_replaces_all", (_put("~ 1\n~_b 2\n"),), "PUT", JOB, "~_c 3\n"),
    ("put_empties", (_put("~ 1\n"),), "PUT", JOB, ""),
    ("put_same_again", (_put("~ 1\n"),), "PUT", JOB, "~ 1\n"),
    ("post_keeps_other_families", (_put("~ 1\n~_b 2\n"),), "POST", JOB, "~_c 3\n"),
    ("post_replaces_whole_family", (_put('~{a="1"} 1\n~{a="2"} 2\n'),), "POST", JOB, '~{a="3"} 3\n'),
    ("post_empty_keeps", (_put("~ 1\n"),), "POST", JOB, ""),
    ("post_changes_type", (_put("# TYPE ~ counter\n~ 1\n"),), "POST", JOB, "# TYPE ~ gauge\n~ 2\n"),
    ("put_changes_type", (_put("# TYPE ~ counter\n~ 1\n"),), "PUT", JOB, "# TYPE ~ gauge\n~ 2\n"),
    ("post_changes_help", (_put("# HELP ~ a\n~ 1\n"),), "POST", JOB, "# HELP ~ b\n~ 2\n"),
    ("broken_put_changes_nothing", (_put("~ 1\n"),), "PUT", JOB, "~ 2\nbroken\n"),
    ("inconsistent_put_sets_failure_time", (_put("~ 1\n"),), "PUT", JOB, "~ 2\n~ 3\n"),
    ("inconsistent_post_sets_failure_time", (_put("~ 1\n"),), "POST", JOB, "~ 2\n~ 3\n"),
    ("put_after_failure_keeps_failure_time", (_put("~ 2\n~ 3\n"),), "PUT", JOB, "~ 1\n"),
    ("delete", (_put("~ 1\n"),), "DELETE", JOB, ""),
    ("delete_other_key", (_put("~ 1\n", "/metrics/job/~/a/1"),), "DELETE", JOB, ""),
    ("delete_exact_key", (_put("~ 1\n", "/metrics/job/~/a/1"), _put("~ 2\n")), "DELETE", "/metrics/job/~/a/1", ""),
    ("delete_label_order", (_put("~ 1\n", "/metrics/job/~/a/1/b/2"),), "DELETE", "/metrics/job/~/b/2/a/1", ""),
    ("delete_empty_label_is_key", (_put("~ 1\n", "/metrics/job/~/a@base64/="),), "DELETE", JOB, ""),
    ("delete_then_put", (_put("~ 1\n~_b 1\n"), _DELETE), "PUT", JOB, "~ 2\n"),
    ("delete_then_post", (_put("~ 1\n~_b 1\n"), _DELETE), "POST", JOB, "~ 2\n"),
    ("delete_clears_failure_time", (_put("~ 2\n~ 3\n"), _DELETE), "POST", JOB, ""),
    ("put_label_order", (_put("~ 1\n", "/metrics/job/~/a/1/b/2"),), "PUT", "/metrics/job/~/b/2/a/1", "~_b 2\n"),
    ("two_groups_of_a_job", (_put("~ 1\n", "/metrics/job/~/a/1"),), "PUT", "/metrics/job/~/a/2", "~ 2\n"),
    (
        "base64_is_the_same_group",
        (_put("~ 1\n", "/metrics/job/~/a/x"),),
        "PUT",
        "/metrics/job/~/a@base64/eA",
        "~_b 2\n",
    ),
    (
        "duplicate_across_groups",
        (_put('~{instance="x"} 1\n'),),
        "PUT",
        "/metrics/job/~/instance/x",
        "~ 2\n",
    ),
    ("suffix_clash_in_group", (_put("# TYPE ~ summary\n~_sum 1\n~_count 1\n"),), "POST", JOB, "~_count 2\n"),
    (
        "bucket_clash_in_group",
        (_put('# TYPE ~ histogram\n~_bucket{le="+Inf"} 1\n~_count 1\n'),),
        "POST",
        JOB,
        "~_bucket 2\n",
    ),
    ("suffix_clash_reversed", (_put("~_count 2\n"),), "POST", JOB, "# TYPE ~ summary\n~_sum 1\n~_count 1\n"),
)

_ACROSS = "/metrics/job/~/a/2"
_DIFFERENT_SEQUENCES: tuple[Case, ...] = (
    Case(
        "type_conflict_across_groups",
        "PUT",
        _ACROSS,
        b"# TYPE ~ gauge\n~ 2\n",
        (),
        OWN_GROUPS_ONLY,
        200,
        '~{job="~",a="1"} 1\n~{job="~",a="2"} 2\n',
        (_put("# TYPE ~ counter\n~ 1\n", "/metrics/job/~/a/1"),),
    ),
    Case(
        "suffix_clash_across_groups",
        "PUT",
        _ACROSS,
        b"~_count 2\n",
        (),
        OWN_GROUPS_ONLY,
        200,
        '~_sum{job="~",a="1"} 1\n~_count{job="~",a="1"} 1\n~_count{job="~",a="2"} 2\n',
        (_put("# TYPE ~ summary\n~_sum 1\n~_count 1\n", "/metrics/job/~/a/1"),),
    ),
)

_GZIP: Headers = (("Content-Encoding", "gzip"),)
# As long as the token that takes its place, so that the length fields of the protobuf stay right.
_NAME = "~~~~~"
_NATIVE = pb.block(7, pb.native(6, 1.5, -2, 1, 1, 1))
_NATIVE_AND_CLASSIC = pb.block(7, pb.native(6, 1.5, -2, 1, 1, 1) + pb.classic((0.5, 2), (1, 6)))
_GAUGE = pb.family(_NAME, pb.GAUGE, pb.metric(pb.gauge(1.5), a="1"))
_PLAIN_TEXT: Headers = (("Content-Type", "text/plain; version=0.0.4; charset=utf-8"),)

# name, body, headers; each is PUT to a group of its own. `~` in a compressed body is not replaced.
_BODIES: tuple[tuple[str, bytes, Headers], ...] = (
    ("text_plain", b"~ 1\n", _PLAIN_TEXT),
    ("form_urlencoded", b"~ 1\n", (("Content-Type", "application/x-www-form-urlencoded"),)),
    ("json_type", b"~ 1\n", (("Content-Type", "application/json"),)),
    ("broken_type", b"~ 1\n", (("Content-Type", ";;="),)),
    ("invalid_utf8_label", b'~{a="\xff"} 1\n', ()),
    ("invalid_utf8_help", b"# HELP ~ \xff\n~ 1\n", ()),
    ("openmetrics", b"# TYPE ~ counter\n~_total 1\n# EOF\n", OPENMETRICS),
    ("gzip", gzip.compress(b"gzipped_by_oracle 1\n"), _GZIP),
    ("gzip_empty_content", gzip.compress(b""), _GZIP),
    ("gzip_two_members", gzip.compress(b"gzipped_a 1\n") + gzip.compress(b"gzipped_b 2\n"), _GZIP),
    ("gzip_not_really", b"~ 1\n", _GZIP),
    ("gzip_empty_body", b"", _GZIP),
    ("gzip_protobuf", gzip.compress(pb.family("gzipped_pb", pb.GAUGE, pb.metric(pb.gauge(2)))), _GZIP + PROTOBUF),
    ("identity", b"~ 1\n", (("Content-Encoding", "identity"),)),
    ("protobuf_empty", b"", PROTOBUF),
    ("protobuf_gauge", _GAUGE, PROTOBUF),
    ("protobuf_counter", pb.family(_NAME, pb.COUNTER, pb.metric(pb.counter(7)), help_text="h"), PROTOBUF),
    ("protobuf_untyped", pb.family(_NAME, pb.UNTYPED, pb.metric(pb.untyped(0))), PROTOBUF),
    (
        "protobuf_nan_and_inf",
        pb.family(_NAME, pb.GAUGE, pb.metric(pb.gauge(float("nan")), a="1"), pb.metric(pb.gauge(float("-inf")), a="2")),
        PROTOBUF,
    ),
    ("protobuf_summary", pb.family(_NAME, pb.SUMMARY, pb.metric(pb.summary(4, 3.5, (0.5, 1), (0.9, 2)))), PROTOBUF),
    (
        "protobuf_histogram",
        pb.family(_NAME, pb.HISTOGRAM, pb.metric(pb.histogram(4, 3.5, (1, 1), (2.5, 3), (float("inf"), 4)), a="1")),
        PROTOBUF,
    ),
    (
        "protobuf_histogram_without_inf",
        pb.family(_NAME, pb.HISTOGRAM, pb.metric(pb.histogram(4, 3.5, (1, 1)))),
        PROTOBUF,
    ),
    ("protobuf_native", pb.family(_NAME, pb.HISTOGRAM, pb.metric(_NATIVE, a="1")), PROTOBUF),
    ("protobuf_native_and_classic", pb.family(_NAME, pb.HISTOGRAM, pb.metric(_NATIVE_AND_CLASSIC, a="1")), PROTOBUF),
    ("protobuf_native_empty", pb.family(_NAME, pb.HISTOGRAM, pb.metric(pb.block(7, pb.double(6, 0.5)))), PROTOBUF),
    ("protobuf_two_families", _GAUGE + pb.family(_NAME + "_b", pb.COUNTER, pb.metric(pb.counter(1))), PROTOBUF),
    ("protobuf_family_twice", _GAUGE + pb.family(_NAME, pb.GAUGE, pb.metric(pb.gauge(9), a="2")), PROTOBUF),
    ("protobuf_series_twice", pb.family(_NAME, pb.GAUGE, pb.metric(pb.gauge(1)), pb.metric(pb.gauge(2))), PROTOBUF),
    ("protobuf_label_dunder", pb.family(_NAME, pb.GAUGE, pb.metric(pb.gauge(1), __a="1")), PROTOBUF),
    ("protobuf_label_quantile", pb.family(_NAME, pb.SUMMARY, pb.metric(pb.summary(1, 1), quantile="1")), PROTOBUF),
    ("protobuf_value_of_other_type", pb.family(_NAME, pb.COUNTER, pb.metric(pb.gauge(1))), PROTOBUF),
    ("protobuf_no_metrics", pb.family(_NAME, pb.GAUGE), PROTOBUF),
    (
        "protobuf_bad_label_name",
        pb.family(_NAME, pb.GAUGE, pb.block(1, pb.block(1, "a-b") + pb.block(2, "1")) + pb.gauge(1)),
        PROTOBUF,
    ),
    (
        "protobuf_label_twice",
        pb.family(_NAME, pb.GAUGE, pb.block(1, pb.block(1, "a") + pb.block(2, "1")) * 2 + pb.gauge(1)),
        PROTOBUF,
    ),
    ("protobuf_job_overwritten", pb.family(_NAME, pb.GAUGE, pb.metric(pb.gauge(1), job="other")), PROTOBUF),
    ("protobuf_truncated", _GAUGE[:-3], PROTOBUF),
    ("protobuf_length_too_long", b"\xff" * 11, PROTOBUF),
    ("protobuf_garbage", b"\x05hello", PROTOBUF),
    ("protobuf_as_text", b"~ 1\n", PROTOBUF),
    ("protobuf_sent_as_text", _GAUGE, _PLAIN_TEXT),
    ("protobuf_type_without_encoding", _GAUGE, (("Content-Type", PROTOBUF[0][1].split("; enc")[0]),)),
    ("protobuf_type_other_message", _GAUGE, (("Content-Type", PROTOBUF[0][1].replace("MetricFamily", "Other")),)),
    ("protobuf_type_no_blanks", _GAUGE, (("Content-Type", PROTOBUF[0][1].replace(" ", "")),)),
)

_SNAPPY_TEXT = b"snappied_by_oracle 1\n"

# name, body, headers, difference, want_status, want_series
_BODY_DIFFERENCES: tuple[tuple[str, bytes, Headers, str, int, str | None], ...] = (
    (
        "protobuf_timestamp",
        pb.family(_NAME, pb.GAUGE, pb.metric(pb.gauge(1), 1_700_000_000_000)),
        PROTOBUF,
        KEPT_TIME,
        200,
        '~{job="~"} 1\n',
    ),
    (
        "snappy_framed",
        _framed(_SNAPPY_TEXT),
        (("Content-Encoding", "snappy"),),
        NEWER,
        200,
        'snappied_by_oracle{job="~"} 1\n',
    ),
    (
        "snappy_block",
        snappy.compress(_SNAPPY_TEXT.replace(b"1", b"2")),
        (("Content-Encoding", "snappy"),),
        "we take both forms of snappy",
        200,
        None,
    ),
    (
        "gzip_upper_case",
        gzip.compress(b"gzipped_upper 1\n"),
        (("Content-Encoding", "GZIP"),),
        NEWER,
        200,
        'gzipped_upper{job="~"} 1\n',
    ),
    (
        "gzip_bad_checksum",
        gzip.compress(b"gzipped_sum 1\n")[:-8] + bytes(8),
        _GZIP,
        "a damaged body is refused",
        400,
        "",
    ),
    (
        "protobuf_native_float",
        pb.family(_NAME, pb.HISTOGRAM, pb.metric(pb.block(7, pb.native_float(2.5, 3.5, 0, 2.5)))),
        PROTOBUF,
        NEWER,
        200,
        '# TYPE ~ histogram\n~_bucket{job="~",le="+Inf"} 2.5\n~_sum{job="~"} 3.5\n~_count{job="~"} 2.5\n',
    ),
    (
        "protobuf_native_broken",
        pb.family(_NAME, pb.HISTOGRAM, pb.metric(pb.block(7, pb.native(7, 1.5, 0, 2)))),
        PROTOBUF,
        "a native histogram that no receiver takes is refused",
        400,
        "",
    ),
    ("gzip_truncated", gzip.compress(b"gzipped_cut 1\n")[:-9], _GZIP, "a damaged body is refused", 400, ""),
    ("unknown_encoding", b"~ 1\n", (("Content-Encoding", "br"),), "an unknown encoding is refused", 415, ""),
    ("deflate", b"~ 1\n", (("Content-Encoding", "deflate"),), "an unknown encoding is refused", 415, ""),
    ("openmetrics_no_eof", b"~ 1\n", OPENMETRICS, "OpenMetrics must end in # EOF", 400, ""),
    ("openmetrics_seconds", b"~ 1 1700000000.5\n# EOF\n", OPENMETRICS, KEPT_TIME, 200, '~{job="~"} 1\n'),
    (
        "openmetrics_exemplar",
        b'# TYPE ~ counter\n~_total 1 # {trace="x"} 1\n# EOF\n',
        OPENMETRICS,
        "OpenMetrics is read as such",
        200,
        '~_total{job="~"} 1\n',
    ),
)


_NO_REDIRECT = "a client that follows a redirect repeats its body; we say what is wrong at once"
_NO_PAGE = "the web page comes later"
# Rows of the tables above where we mean to differ: name -> why, and our status.
_NAMED: dict[str, tuple[str, int]] = {
    "text_histogram_without_inf": ("values arrive as pushed: no bucket is made up", 200),
    "bucket_clash_in_group": ("values arrive as pushed: no bucket is made up", 400),
    "broken_put_changes_nothing": ("a push that does not parse counts as a failure", 400),
    "path_empty_job": (_NO_REDIRECT, 400),
    "path_job_base64_missing": ("the job is what is missing", 400),
    "path_upper_case": (_NO_REDIRECT, 404),
    "unknown_method": ("a method that HTTP does not know", 400),
    "page": (_NO_PAGE, 404),
    "page_post": (_NO_PAGE, 404),
    "page_status": (_NO_PAGE, 404),
}


def _named(case: Case) -> Case:
    if case.name not in _NAMED:
        return case
    difference, status = _NAMED[case.name]
    return replace(case, difference=difference, want_status=status)


def _with_token(case: Case, token: str) -> Case:
    def own(request: Request) -> Request:
        body = request.body
        if b"snappied" not in body and not body.startswith(b"\x1f\x8b"):
            body = body.replace(_NAME.encode(), token.encode()).replace(b"~", token.encode())
        return replace(request, path=request.path.replace("~", token), body=body)

    request = own(case.request)
    wanted = None if case.want_series is None else case.want_series.replace("~", token)
    setup = tuple(own(one) for one in case.setup)
    return replace(case, path=request.path, body=request.body, want_series=wanted, setup=setup)


def _all_cases() -> tuple[Case, ...]:
    cases = [
        *(Case(f"text_{name}", "PUT", JOB, body.encode()) for name, body in TEXT_BODIES),
        *(Case(f"text_{row[0]}", "PUT", JOB, row[1].encode(), (), *row[2:]) for row in TEXT_DIFFERENCES),
        *(Case(f"path_{name}", "PUT", path, b"~ 1\n") for name, path in PATHS),
        *(Case(name, method, path, body.encode()) for name, method, path, body in _PLAIN),
        *(Case(name, method, path, body.encode(), setup=setup) for name, setup, method, path, body in _SEQUENCES),
        *_DIFFERENT_SEQUENCES,
        *(Case(name, "PUT", JOB, body, headers) for name, body, headers in _BODIES),
        *(Case(row[0], "PUT", JOB, *row[1:]) for row in _BODY_DIFFERENCES),
    ]
    return tuple(_with_token(_named(case), f"t{index:03d}x") for index, case in enumerate(cases))


CASES = _all_cases()

POISON_CASES = tuple(
    _with_token(Case(name, method, path, b"~ 1\n"), f"u{index:03d}x")
    for index, (name, method, path) in enumerate(POISON_PATHS)
)
"""Cases after which a Pushgateway is no longer of use, so that each needs one of its own."""
