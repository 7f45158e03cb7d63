"""What a rule of write_relabel_configs may say, and the words for what it may not."""

import pytest

from bridge.config.file import load
from bridge.config.relabel import RelabelConfig
from bridge.errors import ConfigError

BLOCK = "remote_write:\n  - url: http://x/\n    write_relabel_configs:\n      - {}\n"
UTF8 = "push: {enable_utf8_names: true}\n"
PLACE = r"remote_write\.0\.write_relabel_configs\.0"
GOOD = [
    "{target_label: a}",
    "{target_label: 'a_${1}_$name$2'}",
    "{target_label: '$1'}",
    "{target_label: __tmp_x, regex: , replacement: 7}",
    "{source_labels: [a, __name__], regex: a|b, action: Keep}",
    "{regex: a, action: DROP, target_label: unused, replacement: unused}",
    "{source_labels: [a], modulus: 18446744073709551615, target_label: h, action: hashmod}",
    "{source_labels: [a], target_label: b, action: KeepEqual}",
    "{source_labels: [a], target_label: b, action: dropequal, separator: ;}",
    "{regex: 'a_(.*)', action: labelmap}",
    "{regex: 'a_(.*)', action: labelmap, replacement: 'b_$1'}",
    "{regex: a, action: labeldrop}",
    "{regex: a, action: labelkeep, source_labels: []}",
    "{source_labels: [a], target_label: b, action: lowercase, regex: ignored}",
    "{source_labels: [a], target_label: b, action: uppercase, separator: ','}",
    "{target_label: a, separator: null, action: null}",
]
BAD = [
    ("{action: replace}", r": action replace needs target_label"),
    ("{action: shout}", r"\.action: .*'replace'.*got 'shout'"),
    ("{action: ''}", r"\.action: .*got ''"),
    ("{regex: '(', action: drop}", r"\.regex: not a regular expression: got '\(', RE2 says: missing \)"),
    ("{regex: '(?=a)', action: drop}", r"\.regex: not a regular expression: .*invalid perl operator"),
    ("{source_labels: a, target_label: b}", r"\.source_labels: want a list, got a text"),
    ("{source_labels: [''], target_label: b}", r"\.source_labels: got an empty label name"),
    ("{source_labels: [a-b], target_label: b}", r"\.source_labels: got 'a-b', want a label name"),
    ("{target_label: a-b}", r"\.target_label: got 'a-b', want a label name"),
    ("{target_label: 9a}", r"\.target_label: got '9a', want a label name"),
    ("{target_label: '9$1'}", r"\.target_label: got '9\$1', want a label name"),
    ("{target_label: 'a$'}", r": target_label: got 'a\$', want a template"),
    ("{target_label: 'a$$b'}", r": target_label: got 'a\$\$b', want a template"),
    ("{target_label: '${a'}", r": target_label: got '\$\{a', want a template"),
    ("{action: hashmod, modulus: 5}", r": action hashmod needs target_label"),
    ("{action: hashmod, target_label: a}", r": action hashmod needs modulus, more than 0"),
    ("{action: hashmod, target_label: a, modulus: -1}", r"\.modulus: .*0, got '-1'"),
    ("{action: hashmod, target_label: a, modulus: 18446744073709551616}", r"\.modulus: .*18446744073709551615"),
    ("{action: hashmod, target_label: $1, modulus: 5}", r"\.target_label: got '\$1', want a label name"),
    ("{action: keepequal}", r": action keepequal needs target_label"),
    ("{action: keepequal, target_label: a, regex: b}", r": action keepequal does not use regex: got 'b'"),
    ("{action: dropequal, target_label: a, separator: b}", r": action dropequal does not use separator: got 'b'"),
    ("{action: dropequal, target_label: a, modulus: 2}", r": action dropequal does not use modulus: got 2"),
    ("{action: lowercase, target_label: a, replacement: b}", r": action lowercase does not use replacement: got 'b'"),
    ("{action: uppercase, source_labels: [a]}", r": action uppercase needs target_label"),
    ("{action: labeldrop, source_labels: [a]}", r": action labeldrop does not use source_labels: got \('a',\)"),
    ("{action: labelkeep, target_label: a}", r": action labelkeep does not use target_label: got 'a'"),
    ("{action: labeldrop, replacement: a}", r": action labeldrop does not use replacement: got 'a'"),
    ("{action: labelmap, replacement: 'a-$1'}", r"\.replacement: got 'a-\$1', want a label name"),
    ("{action: labelmap, replacement: ''}", r": replacement: got '', want a template"),
    ("{target_label: a, target: b}", r"unknown key remote_write\.0\.write_relabel_configs\.0\.target"),
    ("null", r": want a mapping, got a text"),
]


def write(rule: str, head: str = "") -> str:
    return head + BLOCK.replace("{}", rule)


@pytest.mark.parametrize("rule", GOOD)
def test_what_prometheus_takes(rule: str) -> None:
    """A rule that Prometheus takes is taken as it is."""
    (target,) = load(write(rule), "c.yml").remote_write
    assert len(target.write_relabel_configs) == 1


def test_defaults() -> None:
    """What is left out is what it is in Prometheus, and a pattern without a value is the empty one."""
    shown = RelabelConfig(target_label="a")
    assert (shown.source_labels, shown.separator, shown.regex) == ((), ";", "(.*)")
    assert (shown.modulus, shown.replacement, shown.action) == (0, "$1", "replace")
    (target,) = load(write("{regex: , separator: , action: drop}"), "c.yml").remote_write
    (rule,) = target.write_relabel_configs
    assert (rule.regex, rule.separator) == ("", ";")


@pytest.mark.parametrize(("rule", "message"), BAD)
def test_what_it_refuses_is_named(rule: str, message: str) -> None:
    """Each fault names the rule, the key, what was got and what is wanted."""
    with pytest.raises(ConfigError, match=message) as refusal:
        load(write(rule), "c.yml")
    assert "write_relabel_configs.0" in str(refusal.value)


@pytest.mark.parametrize(
    "rule",
    [
        "{source_labels: [a.b], target_label: 'c-d'}",
        "{target_label: 'a.$1'}",
        "{action: labelmap, replacement: 'a.$1'}",
        "{action: lowercase, target_label: ä}",
    ],
)
def test_other_names_need_their_setting(rule: str) -> None:
    """Names beyond the legacy ones are taken with push.enable_utf8_names, and only then."""
    load(write(rule, UTF8), "c.yml")
    with pytest.raises(ConfigError, match=r"write_relabel_configs\.0\.\w+: got .*push\.enable_utf8_names"):
        load(write(rule), "c.yml")


@pytest.mark.parametrize("rule", ["{target_label: 'a$'}", "{action: labelmap, replacement: '$$'}"])
def test_broken_templates_are_refused_whatever_names_are_taken(rule: str) -> None:
    """A dollar sign that names no group is a mistake in a name."""
    with pytest.raises(ConfigError, match="want a template"):
        load(write(rule, UTF8), "c.yml")
