"""The whole configuration and the YAML file that it comes from.

Owns the file's errors (source, line, key, what was got and wanted) and what sections must agree on.
"""

import re
from collections.abc import Hashable, Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml
from pydantic import Field, ValidationError, model_validator

from bridge.config.remote_write import REFUSED, RemoteWrite
from bridge.config.sections import Global, Log, Push, Rule, Storage, Textfile, Web
from bridge.config.units import METRIC_NAME, SECRET_ERROR, Section
from bridge.durations import duration_text
from bridge.errors import ConfigError

_LISTS = {"remote_write": "targets", "textfile": "directories"}
"""Sections that are lists, and the key under which overrides add to them."""


_OF_SHAPE = {"model_type", "dict_type", "list_type", "tuple_type"}
_SHAPES: Mapping[type, str] = {dict: "a mapping", list: "a list"}
_WORDS: Mapping[str, str] = {
    "int_parsing": "want a whole number",
    "int_type": "want a whole number",
    "bool_parsing": "want true or false",
    "bool_type": "want true or false",
    "string_type": "want a text",
    "string_too_short": "want a text that is not empty",
    "missing": "is missing",
    "model_type": "want a mapping",
    "dict_type": "want a mapping",
    "list_type": "want a list",
    "tuple_type": "want a list",
}
"""In place of pydantic's, which speaks of Python."""
_KEY = re.compile(r"(\w+(?:\.\w+)+): ")
_QUOTED = re.compile(r"'[^'<]{2,}'")


class _AsWritten(yaml.SafeLoader):
    """Reads scalars as they are written, only null is none: a tenant 007 and a password 1e3 are texts.

    The settings' types do the rest. A key that stands twice is an error: one of the two would be lost.
    """

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        """Read a mapping."""
        seen: set[str] = set()
        for key, _ in node.value:
            if key.value in seen:
                raise yaml.MarkedYAMLError(problem=f"key {key.value} stands twice", problem_mark=key.start_mark)
            seen.add(key.value)
        return super().construct_mapping(node, deep)


_AsWritten.yaml_implicit_resolvers = {
    first: [
        (tag, pattern) for tag, pattern in resolvers if tag in {"tag:yaml.org,2002:null", "tag:yaml.org,2002:merge"}
    ]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}


class Config(Section):
    """The whole configuration."""

    global_: Global = Field(default=Global(), alias="global")
    web: Web = Web()
    storage: Storage = Storage()
    push: Push = Push()
    log: Log = Log()
    rules: tuple[Rule, ...] = ()
    textfile: tuple[Textfile, ...] = ()
    remote_write: tuple[RemoteWrite, ...] = ()

    @model_validator(mode="after")
    def _distinct_targets(self) -> "Config":
        seen: set[str] = set()
        for at, target in enumerate(self.remote_write):
            if target.target in seen:
                msg = f"remote_write.{at}: two remote_write targets are called {target.target!r}; give each a name"
                raise ValueError(msg)
            seen.add(target.target)
        return self

    @model_validator(mode="after")
    def _distinct_directories(self) -> "Config":
        storage, seen = self.storage.path.resolve(), set[Path]()
        for at, entry in enumerate(self.textfile):
            path = entry.directory.resolve()
            if path in seen:
                msg = f"textfile.{at}.directory: {entry.directory} is given twice"
                raise ValueError(msg)
            is_own_spool = path == self.storage.spool.resolve() and entry.mode == "spool"
            if (path == storage or storage in path.parents) and not is_own_spool:
                msg = f"textfile.{at}.directory: got {entry.directory}, want one that is not inside storage.path"
                raise ValueError(msg)
            seen.add(path)
        return self

    @model_validator(mode="after")
    def _legacy_names(self) -> "Config":
        if self.push.enable_utf8_names:
            return self
        for at, target in enumerate(self.remote_write):
            for number, rule in enumerate(target.write_relabel_configs):
                for key, text in rule.odd_names():
                    where = f"remote_write.{at}.write_relabel_configs.{number}.{key}"
                    msg = f"{where}: got {text!r}, want a label name (others need push.enable_utf8_names)"
                    raise ValueError(msg)
        return self

    @model_validator(mode="after")
    def _rules_that_can_work(self) -> "Config":
        forget_s = self.push.forget_after
        for at, rule in enumerate(self.rules):
            if rule.expect_every is not None and rule.expect_every + rule.grace >= forget_s:
                late, forget = duration_text(rule.expect_every + rule.grace), duration_text(forget_s)
                msg = (
                    f"rules.{at}.expect_every: got {late} with its grace, want less than push.forget_after={forget}, "
                    "after which nobody knows the group any more"
                )
                raise ValueError(msg)
            metric = rule.runs.success_metric
            if metric and not self.push.enable_utf8_names and not METRIC_NAME.fullmatch(metric):
                msg = f"rules.{at}.runs.success_metric: got {metric!r}, want the name of a metric"
                raise ValueError(msg)
        return self

    @property
    def warnings(self) -> Iterator[tuple[str, str, str]]:
        """What is accepted and does not do what it says: target, key and words."""
        for target in self.remote_write:
            for key, words in target.warnings:
                yield target.target, key, words

    @property
    def exposes_groups(self) -> bool:
        """Whether /metrics shows the pushed groups (design.md section 9)."""
        if self.web.expose_groups == "auto":
            return not self.remote_write
        return self.web.expose_groups == "true"


def load(text: str, source: str, overrides: Mapping[str, Mapping[str, object]] | None = None) -> Config:
    """Read YAML `text`, put `overrides` (section -> key -> value) over it, and check everything.

    Relative paths of a target's files begin in the directory of `source`. Raises ConfigError with one line per
    fault: source, line, key, what was got and wanted; never the value of a secret.
    """
    try:
        node = yaml.compose(text, Loader=_AsWritten)
        document = yaml.load(text, Loader=_AsWritten)  # noqa: S506 - a SafeLoader that makes even fewer things
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f"{source}:{mark.line + 1}" if mark else source
        # What the parser quotes may be a password that begins with one of YAML's own characters.
        problem = _QUOTED.sub("'...'", getattr(error, "problem", None) or "cannot be read")
        raise ConfigError(f"{where}: not valid YAML: {problem}") from None
    if document is None:
        document = {}
    if not isinstance(document, dict):
        raise ConfigError(f"{source}: want a mapping of sections at the top, got {type(document).__name__}")
    for section, values in (overrides or {}).items():
        if section in _LISTS:
            document[section] = [*(document.get(section) or []), *values.get(_LISTS[section], [])]  # type: ignore[misc]
        else:
            document[section] = {**(document.get(section) or {}), **values}
    try:
        return Config.model_validate(
            {key: value for key, value in document.items() if value is not None},
            context={"directory": Path(source).parent},
        )
    except ValidationError as error:
        raise ConfigError("\n".join(_explain(item, node, source) for item in error.errors())) from None


def read(path: str | None, overrides: Mapping[str, Mapping[str, object]] | None = None) -> Config:
    """Load the file at `path`, or without one what `overrides` say alone; raises ConfigError."""
    try:
        text = Path(path).read_text(encoding="utf-8") if path else ""
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"--config.file: cannot read {path}: {error}") from error
    return load(text, path or "command line", overrides)


def _explain(item: Any, node: yaml.Node | None, source: str) -> str:
    path = [part for part in item["loc"] if part != "[key]"]
    told = item["msg"].removeprefix("Value error, ")
    if not path and (found := _KEY.match(told)):
        # What sections do not agree on names its key itself.
        told = told[found.end() :]
        path = [int(part) if part.isdigit() else part for part in found[1].split(".")]
    line = _line_of(node, path)
    where = f"{source}:{line}" if line else source
    # "key:secret" without a space is one word in YAML.
    key = ".".join(str(part).partition(":")[0] for part in path) or "configuration"
    if item["type"] == "extra_forbidden":
        reason = REFUSED.get(".".join(part for part in path[1:] if isinstance(part, str)))
        return f"{where}: {key} {reason}" if path[0] == "remote_write" and reason else f"{where}: unknown key {key}"
    wanted = _WORDS.get(item["type"]) or told.replace("Input should be", "want")
    return f"{where}: {key}: {wanted}{_got(item, wanted)}"


def _got(item: Any, wanted: str) -> str:
    """What was given, where that helps: not a whole section, which may hold secrets, and no secret."""
    value = item["input"]
    if "got" in wanted or item["type"] in {"missing", SECRET_ERROR}:
        return ""
    if item["type"] == "value_error" and isinstance(value, dict | list | tuple | Section):
        return ""
    if isinstance(value, dict | list) or item["type"] in _OF_SHAPE:
        return f", got {_SHAPES.get(type(value), 'a text')}"
    return f", got {value!r}"


def _line_of(node: yaml.Node | None, path: list[str | int]) -> int | None:
    """Line of the deepest part of `path` that the file has, None when it has none of it."""
    line = None
    for part in path:
        if isinstance(node, yaml.MappingNode):
            found = next((pair for pair in node.value if pair[0].value == part), None)
            if found is None:
                return line
            line, node = found[0].start_mark.line + 1, found[1]
        elif isinstance(node, yaml.SequenceNode) and isinstance(part, int) and part < len(node.value):
            node = node.value[part]
            line = node.start_mark.line + 1
        else:
            return line
    return line
