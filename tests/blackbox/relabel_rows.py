"""Rules and series to compare our relabeling with a real Prometheus; expectations only where HEAD differs from it."""

from dataclasses import dataclass

OLD_REPLACE = "a replace of 2.42 that sets nothing removes the label named by the target_label as it is spelled"
SORTED_LABELMAP = "labelmap of 2.42 takes all labels by name, that of HEAD those last that a rule has set"
NO_DOT_NL = "before 3.0 a dot does not match a newline"
KEEPS_HIDDEN = "Prometheus keeps labels that begin with __ and receivers refuse them, so ours go at the end"
REFUSES_NAMELESS = "a scrape with a series without a name fails; remote_write drops that series alone"


@dataclass(frozen=True, slots=True)
class Row:
    """One series and what is done with it."""

    rules: str
    """YAML of a list of rules."""
    labels: str = ""
    """As in the text format, less the braces."""
    name: str = "m"
    differs: str = ""
    """Why HEAD, and we, do something else than Prometheus 2.42."""
    head: dict[str, str] | None = None
    """What HEAD leaves, where it differs: labels without job and instance, None when the series is dropped."""


ROWS: dict[str, Row] = {
    "nothing": Row("[]", 'a="1"'),
    # replace
    "replace sets": Row("[{target_label: b, replacement: x}]", 'a="1"'),
    "replace overwrites": Row("[{target_label: a, replacement: x}]", 'a="1"'),
    "replace copies": Row("[{source_labels: [a], target_label: b}]", 'a="1"'),
    "replace from what is not there": Row("[{source_labels: [z], target_label: a}]", 'a="1"'),
    "replace with nothing removes": Row("[{target_label: a, replacement: ''}]", 'a="1",b="2"'),
    "replace does nothing without a match": Row("[{source_labels: [a], regex: x, target_label: b}]", 'a="1"'),
    "replace with a part": Row("[{source_labels: [a], regex: '(.*):.*', target_label: b}]", 'a="host:9100"'),
    "replace with two parts": Row(
        "[{source_labels: [a], regex: '(.*):(.*)', target_label: b, replacement: '$2-$1'}]", 'a="host:9100"'
    ),
    "replace joins": Row("[{source_labels: [a, b], target_label: c}]", 'a="1",b="2"'),
    "replace joins with a separator": Row(
        "[{source_labels: [a, b, z], separator: '', target_label: c}]", 'a="1",b="2"'
    ),
    "replace is anchored at the front": Row("[{source_labels: [a], regex: 'b.*', target_label: c}]", 'a="abc"'),
    "replace is anchored at the end": Row("[{source_labels: [a], regex: '.*b', target_label: c}]", 'a="abc"'),
    "an alternative is anchored as a whole": Row("[{source_labels: [a], regex: 'a|b', target_label: c}]", 'a="ab"'),
    "the first alternative that fits": Row(
        "[{source_labels: [a], regex: '(a|ab)(c|bcd)?(.*)', target_label: c, replacement: '$1/$2/$3'}]", 'a="abcd"'
    ),
    "the name": Row(
        "[{source_labels: [__name__], regex: 'm(.*)', target_label: __name__, replacement: 'n$1'}]", name="mx"
    ),
    "the name into a label": Row("[{source_labels: [__name__], target_label: metric}]"),
    "a name of a label from a value": Row(
        "[{source_labels: [a], regex: '(.*)=(.*)', target_label: 'x_$1', replacement: '$2'}]", 'a="k=v"'
    ),
    "a label whose name is a value": Row("[{source_labels: [a], target_label: '$1', replacement: x}]", 'a="key"'),
    "no label of a name that is none": Row("[{source_labels: [a], target_label: '$1', replacement: x}]", 'a="9key"'),
    "no label of an empty name": Row(
        "[{source_labels: [a], regex: '(x?).*', target_label: '${1}', replacement: y}]", 'a="b"'
    ),
    "a value that makes nothing removes the label that was meant": Row(
        "[{source_labels: [a], regex: '(.*)=(.*)', target_label: '$1', replacement: '$2'}]",
        'a="b=",b="1"',
        differs=OLD_REPLACE,
        head={"__name__": "m", "a": "b="},
    ),
    # templates
    "a number followed by a letter is a name": Row(
        "[{source_labels: [a], target_label: b, replacement: '$1x'}]", 'a="1",b="2"'
    ),
    "braces end a number": Row("[{source_labels: [a], target_label: b, replacement: '${1}x'}]", 'a="1"'),
    "a named group": Row(
        "[{source_labels: [a], regex: '(?P<n>.).*', target_label: b, replacement: '<$n>${n}x'}]", 'a="12"'
    ),
    "a name that there is not": Row("[{source_labels: [a], target_label: b, replacement: '<$n>'}]", 'a="12"'),
    "a number that there is not": Row("[{source_labels: [a], target_label: b, replacement: '<$2$10>'}]", 'a="12"'),
    "the whole": Row("[{source_labels: [a], regex: '.(.).', target_label: b, replacement: '$0$1'}]", 'a="123"'),
    "a leading zero makes a name": Row("[{source_labels: [a], target_label: b, replacement: '<$01>'}]", 'a="12"'),
    "a dollar sign": Row("[{source_labels: [a], target_label: b, replacement: '$$1$$$1'}]", 'a="12"'),
    "a dollar sign at the end": Row("[{source_labels: [a], target_label: b, replacement: 'a$'}]", 'a="12"'),
    "a dollar sign before no name": Row("[{source_labels: [a], target_label: b, replacement: '$-$ ${$1'}]", 'a="12"'),
    "an open brace": Row("[{source_labels: [a], target_label: b, replacement: '${1-${1'}]", 'a="12"'),
    "empty braces": Row("[{source_labels: [a], target_label: b, replacement: '${}'}]", 'a="12"'),
    "a group that caught nothing": Row(
        "[{source_labels: [a], regex: '1(2)?', target_label: b, replacement: '<$1>'}]", 'a="1"'
    ),
    "a name in other letters": Row("[{source_labels: [a], target_label: b, replacement: '<$1é>'}]", 'a="12"'),
    # RE2
    "a newline": Row("[{source_labels: [a], regex: 'x.y', action: drop}]", 'a="x\\ny"', differs=NO_DOT_NL, head=None),
    "a newline and the default": Row(
        "[{source_labels: [a], target_label: b}]",
        'a="x\\ny"',
        differs=NO_DOT_NL,
        head={"__name__": "m", "a": "x\ny", "b": "x\ny"},
    ),
    "a newline at the end is not the end": Row("[{source_labels: [a], regex: 'x$', action: drop}]", 'a="x\\n"'),
    "any case": Row("[{source_labels: [a], regex: '(?i)ABC', action: drop}]", 'a="abc"'),
    "letters of other scripts": Row("[{source_labels: [a], regex: 'Z\\pLrich', action: drop}]", 'a="Zürich"'),
    "ungreedy": Row("[{source_labels: [a], regex: '(?U)(a+)(a*)', target_label: b}]", 'a="aaa"'),
    "a class by name": Row("[{source_labels: [a], regex: '[[:alpha:]]+', action: keep}]", 'a="abc"'),
    "no pattern": Row("[{source_labels: [a], regex: , action: drop}]", 'a="1"'),
    "no pattern and no value": Row("[{source_labels: [z], regex: , action: drop}]", 'a="1"'),
    # keep and drop
    "keep": Row("[{source_labels: [a], regex: '1|2', action: keep}]", 'a="1"'),
    "keep nothing": Row("[{source_labels: [a], regex: '1|2', action: keep}]", 'a="3"'),
    "drop": Row("[{source_labels: [a], regex: '1|2', action: drop}]", 'a="1"'),
    "drop nothing": Row("[{source_labels: [a], regex: '1|2', action: drop}]", 'a="3"'),
    "drop by name": Row("[{source_labels: [__name__], regex: 'go_.*', action: drop}]", name="go_threads"),
    "drop all": Row("[{action: drop}]", 'a="1"'),
    "keep all": Row("[{action: keep}]", 'a="1"'),
    "actions in any case": Row("[{source_labels: [a], regex: '1', action: DROP}]", 'a="1"'),
    "what comes behind a drop does not count": Row("[{action: drop}, {action: keep}]", 'a="1"'),
    # keepequal and dropequal
    "keepequal": Row("[{source_labels: [a], target_label: b, action: keepequal}]", 'a="1",b="1"'),
    "keepequal unequal": Row("[{source_labels: [a], target_label: b, action: keepequal}]", 'a="1",b="2"'),
    "dropequal": Row("[{source_labels: [a], target_label: b, action: dropequal}]", 'a="1",b="1"'),
    "dropequal unequal": Row("[{source_labels: [a], target_label: b, action: dropequal}]", 'a="1",b="2"'),
    "dropequal of what is not there": Row("[{source_labels: [y], target_label: z, action: dropequal}]", 'a="1"'),
    "keepequal of several": Row("[{source_labels: [a, b], target_label: c, action: keepequal}]", 'a="1",b="2",c="1;2"'),
    # hashmod
    "hashmod": Row("[{source_labels: [a], modulus: 1000, target_label: h, action: hashmod}]", 'a="1"'),
    "hashmod of several": Row(
        "[{source_labels: [a, b], modulus: 97, target_label: h, action: hashmod}]", 'a="1",b="ü"'
    ),
    "hashmod of nothing": Row("[{modulus: 18446744073709551615, target_label: h, action: hashmod}]"),
    "hashmod to keep a part": Row(
        "[{source_labels: [a], modulus: 2, target_label: h, action: hashmod},"
        " {source_labels: [h], regex: '1', action: keep}]",
        'a="1"',
    ),
    # labelmap
    "labelmap": Row("[{regex: 'k_(.+)', action: labelmap}]", 'k_a="1",k_b="2"'),
    "labelmap with a replacement": Row("[{regex: 'k_(.+)', replacement: 'x_$1', action: labelmap}]", 'k_a="1",b="2"'),
    "labelmap over what is there": Row("[{regex: 'k_(.+)', action: labelmap}]", 'a="0",k_a="1"'),
    "labelmap of two to one": Row("[{regex: 'k_.+', replacement: x, action: labelmap}]", 'k_a="1",k_b="2"'),
    "labelmap of labels that were set": Row(
        "[{target_label: b, replacement: '3'}, {target_label: a, replacement: '4'},"
        " {regex: 'a|b|c', replacement: x, action: labelmap}]",
        'a="1",c="2"',
        differs=SORTED_LABELMAP,
        head={"__name__": "m", "a": "4", "b": "3", "c": "2", "x": "4"},
    ),
    "labelmap does not map what it made": Row("[{regex: '(.)', replacement: '${1}x', action: labelmap}]", 'a="1"'),
    "labelmap of the name": Row("[{regex: '__(name)__', action: labelmap}]"),
    # labeldrop and labelkeep
    "labeldrop": Row("[{regex: 'a|b', action: labeldrop}]", 'a="1",b="2",c="3"'),
    "labeldrop is anchored": Row("[{regex: 'a', action: labeldrop}]", 'a="1",ab="2"'),
    "labelkeep": Row("[{regex: 'a|__name__|job', action: labelkeep}]", 'a="1",b="2"'),
    "labeldrop of job and instance": Row("[{regex: 'job|instance', action: labeldrop}]", 'a="1"'),
    "labeldrop of the name": Row(
        "[{regex: __name__, action: labeldrop}]", 'a="1"', differs=REFUSES_NAMELESS, head=None
    ),
    "labelkeep of nothing": Row("[{regex: x, action: labelkeep}]", 'a="1"'),
    "replace of the name with nothing": Row(
        "[{target_label: __name__, replacement: ''}]", 'a="1"', differs=REFUSES_NAMELESS, head=None
    ),
    # lowercase and uppercase
    "lowercase": Row("[{source_labels: [a], target_label: b, action: lowercase}]", 'a="AbC"'),
    "uppercase": Row("[{source_labels: [a], target_label: a, action: uppercase}]", 'a="AbC"'),
    "uppercase of letters that have none": Row(
        "[{source_labels: [a], target_label: b, action: uppercase}]", 'a="straße ŉ ﬁ ᾳ ΐ ά ǆ"'
    ),
    "lowercase letter by letter": Row("[{source_labels: [a], target_label: b, action: lowercase}]", 'a="ΟΔΟΣ İ Ǆ"'),
    "uppercase of several": Row("[{source_labels: [a, b], target_label: c, action: uppercase}]", 'a="x",b="y"'),
    "lowercase of nothing removes": Row("[{source_labels: [z], target_label: a, action: lowercase}]", 'a="1"'),
    # one after the other
    "rules see what those before them did": Row(
        "[{target_label: a, replacement: x}, {source_labels: [a], regex: x, target_label: b, replacement: 'y'},"
        " {regex: a, action: labeldrop}]",
        'a="1"',
    ),
    "a temporary label": Row(
        "[{source_labels: [a], target_label: __tmp}, {source_labels: [__tmp], target_label: b}]",
        'a="1"',
        differs=KEEPS_HIDDEN,
        head={"__name__": "m", "a": "1", "b": "1"},
    ),
    "numbers need no quotes": Row("[{source_labels: [a], regex: 1, target_label: b, replacement: 9100}]", 'a="1"'),
    "a typical block": Row(
        "[{source_labels: [__name__], regex: 'go_.*', action: drop}, {regex: 'pod|uid', action: labeldrop},"
        " {target_label: cluster, replacement: eu1}]",
        'a="1",pod="x",uid="y"',
    ),
}
