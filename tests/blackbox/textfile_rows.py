"""Rows of the textfile oracle: what lies in a directory, and where node_exporter and the agent are meant to differ.

Rows only; the expected series of a row without a difference come from node_exporter at the time of the test.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

HISTOGRAM = '# TYPE h histogram\nh_bucket{le="1"} 1\nh_bucket{le="+Inf"} 2\nh_sum 3.5\nh_count 2\n'
SUMMARY = '# TYPE s summary\ns{quantile="0.5"} 1\ns{quantile="0.99"} 2\ns_sum 3\ns_count 4\n'


@dataclass(frozen=True, slots=True)
class Row:
    """One directory."""

    name: str
    files: Mapping[str, str | bytes] = field(default_factory=dict)
    links: Mapping[str, str] = field(default_factory=dict)
    """Name to what it leads to."""
    directories: tuple[str, ...] = ()
    difference: str = ""
    """Why the agent differs, empty when it must not."""
    read: frozenset[str] | None = None
    """Where it differs: names of the files that the agent takes."""
    series: str | None = None
    """Where it differs: the agent's series, in text format."""

    def make(self, base: Path) -> Path:
        """Make the directory."""
        directory = base / self.name
        directory.mkdir(parents=True)
        for name, content in self.files.items():
            path = directory / name
            path.parent.mkdir(exist_ok=True)
            path.write_bytes(content if isinstance(content, bytes) else content.encode())
        for name, target in self.links.items():
            (directory / name).symlink_to(target)
        for name in self.directories:
            (directory / name).mkdir()
        return directory


def one(name: str, content: str | bytes) -> Row:
    """Give a row with one file that both treat alike."""
    return Row(name, {"a.prom": content})


def differs(name: str, content: str | bytes, why: str, series: str, *, taken: bool) -> Row:
    """Give a row with one file that is treated otherwise."""
    return Row(
        name, {"a.prom": content}, difference=why, read=frozenset({"a.prom"} if taken else ()), series=series
    )  # fmt: skip


ALIKE = (
    one("untyped", "x 1\n"),
    one("gauge", "# HELP x Some help.\n# TYPE x gauge\nx 1\n"),
    one("counter", "# TYPE x_total counter\nx_total 3\n"),
    one("histogram", HISTOGRAM),
    one("summary", SUMMARY),
    one("all types", HISTOGRAM + SUMMARY + "# TYPE g gauge\ng 1\n# TYPE c counter\nc 2\nu 3\n"),
    one("labels", 'x{a="1",b="two words"} 1\nx{a="2",b=""} 2\n'),
    one("trailing comma", 'x{a="1",} 1\n'),
    one("blanks", '  x  {  a = "1" , b = "2" }   1  \n'),
    one("escapes in labels", 'x{a="\\\\ \\" \\n"} 1\n'),
    one("unknown escape in a label", 'x{a="\\t"} 1\n'),
    one("escapes in help", "# HELP x a\\\\b\\nc\nx 1\n"),
    one("utf-8 in a label", 'x{a="ü☃"} 1\n'),
    one("no utf-8 in a label", b'x{a="\xff"} 1\n'),
    one("infinity", "x +Inf\ny -Inf\n"),
    one("exponent", "x 1e-7\ny 0x1p-2\nz 1_000\n"),
    one("no number", "x one\n"),
    one("no value", "x\n"),
    one("no final LF", "x 1"),
    one("no final LF after a good line", "x 1\ny 2"),
    one("cut in a label", 'x{a="1\n'),
    one("CRLF", "# TYPE x gauge\r\nx 1\r\n"),
    one("CR before the value ends", "x 1\r\n"),
    one("blank lines and comments", "\n\n# a comment\n#\nx 1\n\n"),
    one("EOF comment", "x 1\n# EOF\n"),
    one("only comments", "# nothing\n"),
    one("byte order mark", "\ufeffx 1\n"),
    one("binary", bytes(range(256)) + b"\n"),
    one("same label twice", 'x{a="1",a="2"} 1\n'),
    one("type twice", "# TYPE x gauge\n# TYPE x gauge\nx 1\n"),
    one("help twice", "# HELP x a\n# HELP x b\nx 1\n"),
    one("type after the sample", "x 1\n# TYPE x gauge\n"),
    one("unknown type", "# TYPE x strange\nx 1\n"),
    one("families interleaved", 'x{a="1"} 1\ny 1\nx{a="2"} 2\n'),
    one("bad metric name", "1x 1\n"),
    one("bad label name", 'x{1a="1"} 1\n'),
    one("colon in a name", "a:b 1\n"),
    one("text behind the value", "x 1 # why\n"),
    one("NaN", "x NaN\n"),
    one("empty file", ""),
    one(
        "buckets out of order",
        '# TYPE h histogram\nh_sum 3.5\nh_bucket{le="+Inf"} 2\nh_bucket{le="1"} 1\nh_count 2\n',
    ),
    one("other spelling of a bucket", HISTOGRAM.replace('"1"', '"1.00"')),
    one("negative counter", "# TYPE x counter\nx -1\n"),
    one("different label names", 'x{a="1"} 1\nx{b="1"} 2\nx 3\n'),
    one("only an empty label", 'x{a=""} 1\n'),
    one(
        "counter by the name of a summary's member",
        "# TYPE s summary\ns_count 1\ns_sum 1\n# TYPE s_count counter\ns_count 1\n",
    ),
    one("large", "".join(f'x{{n="{number}"}} {number}\n' for number in range(5000))),
    Row("empty directory"),
    Row("other names", {"a.txt": "x 1\n", "b.prom.tmp": "y 1\n", "prom": "z 1\n", "c.PROM": "u 1\n"}),
    Row("names with blanks", {"a b.prom": "x 1\n", "ü.prom": "y 1\n"}),
    Row("directory inside", {"inside/a.prom": "x 1\n", "b.prom": "y 1\n"}),
    Row("link", {"a.text": "x 1\n"}, links={"a.prom": "a.text"}),
    Row("link that leads nowhere", {"b.prom": "y 1\n"}, links={"a.prom": "missing"}),
    Row("one bad of two", {"a.prom": "x one\n", "b.prom": "y 1\n"}),
    Row("one family in two files", {"a.prom": 'x{a="1"} 1\n', "b.prom": 'x{a="2"} 2\n'}),
)

DIFFERENT = (
    differs("timestamp", "x 1 1700000000000\n", "timestamps are kept", "x 1\n", taken=True),
    differs("timestamp on one of two", "x 1 1700000000000\ny 1\n", "timestamps are kept", "x 1\ny 1\n", taken=True),
    differs("series twice", 'x{a="1"} 1\nx{a="1"} 2\n', "two values of one series: none is right", "", taken=False),
    differs("series twice, one with an empty label", 'x{a=""} 1\nx 2\n', "an empty label is none", "", taken=False),
    differs("reserved label", 'x{__name="1"} 1\n', "node_exporter ends with a panic", "", taken=False),
    differs(
        "job and instance in the body",
        'x{job="j",instance="i",a="1"} 1\n',
        "labels of the directory and of directives stand over the body's, as those of a push do",
        'x{instance="i",a="1"} 1\n',
        taken=True,
    ),
    differs(
        "histogram without +Inf",
        '# TYPE h histogram\nh_bucket{le="1"} 1\nh_sum 3.5\nh_count 2\n',
        "nothing is made up",
        'h_bucket{le="1"} 1\nh_sum 3.5\nh_count 2\n',
        taken=True,
    ),
    differs(
        "summary without sum",
        '# TYPE s summary\ns{quantile="0.5"} 1\n',
        "nothing is made up",
        's{quantile="0.5"} 1\n',
        taken=True,
    ),
    differs(
        "negative bucket",
        '# TYPE h histogram\nh_bucket{le="+Inf"} -1\nh_sum 1\nh_count 1\n',
        "node_exporter wraps it around",
        "",
        taken=False,
    ),
    differs(
        "fraction in a bucket",
        '# TYPE h histogram\nh_bucket{le="+Inf"} 1.5\nh_sum 1\nh_count 1.5\n',
        "node_exporter cuts it off",
        'h_bucket{le="+Inf"} 1.5\nh_sum 1\nh_count 1.5\n',
        taken=True,
    ),
    differs("gauge histogram", "# TYPE x gaugehistogram\nx_count 1\n", "a newer type", "x_count 1\n", taken=True),
    differs("push time", "push_time_seconds 7\nx 1\n", "the agent's own metric", "x 1\n", taken=True),
    differs(
        "its own metric",
        "node_textfile_scrape_error 7\n",
        "node_exporter's own metric",
        "node_textfile_scrape_error 7\n",
        taken=True,
    ),
    Row(
        "hidden",
        {".a.prom": "x 1\n"},
        difference="hidden files are those that are not done",
        read=frozenset(),
        series="",
    ),
    Row(
        "directory by a file's name",
        {"b.prom": "y 1\n"},
        directories=("a.prom",),
        difference="node_exporter has a time for it although it cannot read it",
        read=frozenset({"b.prom"}),
        series="y 1\n",
    ),
    Row(
        "same series in two files",
        {"a.prom": "x 1\n", "b.prom": "x 2\ny 2\n"},
        difference="the second file is refused and says so; node_exporter only leaves out the sample",
        read=frozenset({"a.prom"}),
        series="x 1\n",
    ),
    Row(
        "other help in two files",
        {"a.prom": '# HELP x one\nx{a="1"} 1\n', "b.prom": '# HELP x two\nx{a="2"} 2\n'},
        difference="a help text is no reason to lose samples",
        read=frozenset({"a.prom", "b.prom"}),
        series='x{a="1"} 1\nx{a="2"} 2\n',
    ),
    Row(
        "help in one of two files",
        {"a.prom": '# HELP x one\nx{a="1"} 1\n', "b.prom": 'x{a="2"} 2\n'},
        difference="a help text is no reason to lose samples",
        read=frozenset({"a.prom", "b.prom"}),
        series='x{a="1"} 1\nx{a="2"} 2\n',
    ),
    Row(
        "other type in two files",
        {"a.prom": '# TYPE x gauge\nx{a="1"} 1\n', "b.prom": '# TYPE x counter\nx{a="2"} 2\n'},
        difference="taken, told and counted, as between groups",
        read=frozenset({"a.prom", "b.prom"}),
        series='x{a="1"} 1\nx{a="2"} 2\n',
    ),
    Row(
        "member of a summary in another file",
        {"a.prom": SUMMARY, "b.prom": 's_count{a="2"} 2\n'},
        difference="taken, as between groups",
        read=frozenset({"a.prom", "b.prom"}),
        series=SUMMARY + 's_count{a="2"} 2\n',
    ),
)
ROWS = (*ALIKE, *DIFFERENT)
