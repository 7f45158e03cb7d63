"""What a configuration says that is accepted and hardly meant: told when it is checked and when it is put in force.

Owns the words and the looks at files that go with them. A fault stops the start and is `file`'s; nothing here does,
for what is missing now may be there before it is needed.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pydantic import BaseModel

from bridge.config.faults import KeyPath
from bridge.config.file import Config
from bridge.config.sections import Rule

_EVERYTHING = ".*"
_NO_TARGET = "no target: pushes are kept and shown on /metrics, and sent nowhere"


@dataclass(frozen=True, slots=True)
class Doubt:
    """One of them."""

    path: KeyPath
    words: str
    kind: Literal["warning", "note"] = "warning"

    @property
    def key(self) -> str:
        """The path as it is written in messages."""
        return ".".join(map(str, self.path))


def doubts(config: Config) -> Iterator[Doubt]:
    """Find them all, in the order of the sections; looks at the files of sign-ins and certificates."""
    yield from _unused(config.rules)
    for at, target in enumerate(config.remote_write):
        for key, words in target.warnings:
            yield Doubt(("remote_write", at, *key.split(".")), words)
        if "tenant_header" in target.model_fields_set and not any(rule.tenant for rule in config.rules):
            yield Doubt(("remote_write", at, "tenant_header"), "has no effect: no rule gives a tenant")
        for path, file in _files(target, ("remote_write", at)):
            if why := _unreadable(file):
                yield Doubt(path, f"cannot read {file}: {why}; nothing is sent that needs it")
    if not config.remote_write:
        yield Doubt(("remote_write",), _NO_TARGET, "note")


def _unused(rules: tuple[Rule, ...]) -> Iterator[Doubt]:
    """Find rules that no group gets to: an earlier one asks for nothing that these do not ask for."""
    seen: list[set[tuple[str, str]]] = []
    for at, rule in enumerate(rules):
        asked = {(name, pattern) for name, pattern in rule.match.items() if pattern != _EVERYTHING}
        first = next((number for number, before in enumerate(seen) if before <= asked), None)
        if first is not None:
            yield Doubt(("rules", at), f"never used: rules.{first} matches all of its groups, and the first match wins")
        seen.append(asked)


def _files(value: object, path: KeyPath) -> Iterator[tuple[KeyPath, Path]]:
    """Find every file that settings name, however deep."""
    if isinstance(value, Path):
        yield path, value
    elif isinstance(value, BaseModel):
        for name in type(value).model_fields:
            yield from _files(getattr(value, name), (*path, name))
    elif isinstance(value, dict):
        for key, inner in value.items():
            yield from _files(inner, (*path, key))
    elif isinstance(value, tuple):
        for at, inner in enumerate(value):
            yield from _files(inner, (*path, at))


def _unreadable(file: Path) -> str | None:
    """Why a file cannot be read as it will be, None when it can; what gives its content only once is left alone."""
    try:
        if file.is_file() or not file.exists():
            file.read_text(encoding="utf-8")
        elif file.is_dir():
            return "Is a directory"
    except OSError as error:
        return error.strerror or "cannot be read"
    except UnicodeDecodeError:
        return "not UTF-8"
    return None
