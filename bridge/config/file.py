"""The whole configuration and the YAML file that it comes from.

Owns what sections must agree on, and the line that each fault becomes: source, line, key, what was got and wanted.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import Field, ValidationError, ValidationInfo, model_validator

from bridge.config.document import Document
from bridge.config.faults import FAULT, Fault, raise_faults
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
    def _agree_with_each_other(self, info: ValidationInfo) -> "Config":
        context = info.context or {}
        faulty, checks = context.get("faulty", ()), (*_CHECKS, *context.get("checks", ()))
        raise_faults(fault for section, find in checks if section not in faulty for fault in find(self))
        return self

    @property
    def exposes_groups(self) -> bool:
        """Whether /metrics shows the pushed groups (design.md section 9)."""
        if self.web.expose_groups == "auto":
            return not self.remote_write
        return self.web.expose_groups == "true"


Check = tuple[str, Callable[[Config], Iterator[Fault]]]
"""What several sections must agree on, behind the one whose own faults would make the answer worthless."""


def _same_targets(config: Config) -> Iterator[Fault]:
    seen: set[str] = set()
    for at, target in enumerate(config.remote_write):
        if target.target in seen:
            words = f"two remote_write targets are called {target.target!r}; give each a name"
            yield ("remote_write", at), words
        seen.add(target.target)


def _same_directories(config: Config) -> Iterator[Fault]:
    storage, seen = config.storage.path.resolve(), set[Path]()
    for at, entry in enumerate(config.textfile):
        path = entry.directory.resolve()
        is_own_spool = path == config.storage.spool.resolve() and entry.mode == "spool"
        if path in seen:
            yield ("textfile", at, "directory"), f"{entry.directory} is given twice"
        elif (path == storage or storage in path.parents) and not is_own_spool:
            words = f"got {entry.directory}, want one that is not inside storage.path"
            yield ("textfile", at, "directory"), words
        seen.add(path)


def _odd_names(config: Config) -> Iterator[Fault]:
    if config.push.enable_utf8_names:
        return
    for at, target in enumerate(config.remote_write):
        for number, rule in enumerate(target.write_relabel_configs):
            for key, text in rule.odd_names():
                words = f"got {text!r}, want a label name (others need push.enable_utf8_names)"
                yield ("remote_write", at, "write_relabel_configs", number, key), words
    for at, wanted in enumerate(config.rules):
        metric = wanted.runs.success_metric
        if metric and not METRIC_NAME.fullmatch(metric):
            yield ("rules", at, "runs", "success_metric"), f"got {metric!r}, want the name of a metric"


def _forgotten_too_early(config: Config) -> Iterator[Fault]:
    forget_s = config.push.forget_after
    for at, rule in enumerate(config.rules):
        if rule.expect_every is not None and rule.expect_every + rule.grace >= forget_s:
            late, forget = duration_text(rule.expect_every + rule.grace), duration_text(forget_s)
            words = (
                f"got {late} with its grace, want less than push.forget_after={forget}, "
                "after which nobody knows the group any more"
            )
            yield ("rules", at, "expect_every"), words


_CHECKS: tuple[Check, ...] = (
    ("remote_write", _same_targets),
    ("storage", _same_directories),
    ("push", _odd_names),
    ("push", _forgotten_too_early),
)


def load(
    text: str,
    source: str,
    overrides: Mapping[str, Mapping[str, object]] | None = None,
    checks: Sequence[Check] = (),
) -> Config:
    """Read YAML `text`, put `overrides` (section -> key -> value) over it, and check everything, `checks` too.

    Relative paths of a target's files begin in the directory of `source`. Raises ConfigError with one line per
    fault: source, line, key, what was got and wanted; never the value of a secret.
    """
    document = Document(text, source)
    sections = document.sections
    _put_over(sections, overrides or {})
    context = {"directory": Path(source).parent, "checks": checks}
    found = [
        (line, f"{source}:{line}: not valid YAML: key {key.partition(':')[0]} stands twice")
        for line, key in document.repeated()
    ]
    try:
        config = Config.model_validate({k: v for k, v in sections.items() if v is not None}, context=context)
    except ValidationError as error:
        faults = [*error.errors(), *_faults_of_the_rest(sections, error.errors(), context)]
        found += [(document.line(_path(item)), _explain(item, document)) for item in faults]
    if found:
        raise ConfigError("\n".join(line for _, line in sorted(found, key=lambda one: one[0])))
    return config


def _put_over(sections: dict[str, Any], overrides: Mapping[str, Mapping[str, Any]]) -> None:
    for section, values in overrides.items():
        given = sections.get(section)
        # What has the wrong form stays as it is, to be told.
        if section in _LISTS and isinstance(given, list | None):
            sections[section] = [*(given or []), *values.get(_LISTS[section], [])]
        elif section not in _LISTS and isinstance(given, dict | None):
            sections[section] = {**(given or {}), **values}


def read(
    path: str | None, overrides: Mapping[str, Mapping[str, object]] | None = None, checks: Sequence[Check] = ()
) -> Config:
    """Load the file at `path`, or without one what `overrides` say alone; raises ConfigError."""
    return load(read_text(path), path or "command line", overrides, checks)


def read_text(path: str | None) -> str:
    """Give the text of the file at `path`; raises ConfigError."""
    try:
        return Path(path).read_text(encoding="utf-8") if path else ""
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"--config.file: cannot read {path}: {error}") from error


def _faults_of_the_rest(sections: dict[str, Any], found: Sequence[Any], context: Mapping[str, Any]) -> list[Any]:
    """Find what sections do not agree on that have no fault of their own: pydantic does not ask when any has."""
    faulty, entries = {item["loc"][0] for item in found if item["loc"]}, {item["loc"][:2] for item in found}
    rest: dict[str, Any] = {}
    places: dict[str, list[int]] = {}
    for section, value in sections.items():
        if section not in faulty and value is not None:
            rest[section] = value
        elif isinstance(value, list) and (section,) not in entries:
            places[section] = [at for at in range(len(value)) if (section, at) not in entries]
            rest[section] = [value[at] for at in places[section]]
    try:
        Config.model_validate(rest, context={**context, "faulty": faulty - places.keys()})
    except ValidationError as error:
        return [{**item, "loc": _original(item["loc"], places)} for item in error.errors()]
    return []


def _original(path: tuple[Any, ...], places: Mapping[str, list[int]]) -> tuple[Any, ...]:
    """Give the path in the whole of what was found in the rest."""
    return (path[0], places[path[0]][path[1]], *path[2:]) if path[0] in places else path


def _path(item: Any) -> tuple[str | int, ...]:
    return tuple(part for part in item["loc"] if part != "[key]")


def _explain(item: Any, document: Document) -> str:
    path = _path(item)
    told = item["msg"].removeprefix("Value error, ")
    where = document.at(path)
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
    if "got" in wanted or item["type"] in {"missing", SECRET_ERROR, FAULT}:
        return ""
    if item["type"] == "value_error" and isinstance(value, dict | list | tuple | Section):
        return ""
    if isinstance(value, dict | list) or item["type"] in _OF_SHAPE:
        return f", got {_SHAPES.get(type(value), 'a text')}"
    return f", got {value!r}"
