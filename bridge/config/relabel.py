"""One rule of `write_relabel_configs`, in Prometheus' words and with its defaults (protocol.md section 4.6).

Owns what a rule may say. What it does to a series is `bridge.delivery.relabel`.
"""

import re
from collections.abc import Iterator
from typing import Annotated, Literal

from pydantic import AfterValidator, BeforeValidator, Field, field_validator, model_validator

from bridge.config.faults import Fault
from bridge.config.units import LABEL_NAME, Section
from bridge.regex import Pattern, parse_template

Action = Literal[
    "replace",
    "keep",
    "drop",
    "keepequal",
    "dropequal",
    "hashmod",
    "labelmap",
    "labeldrop",
    "labelkeep",
    "lowercase",
    "uppercase",
]
_DEFAULTS: dict[str, object] = {
    "source_labels": (),
    "separator": ";",
    "regex": "(.*)",
    "modulus": 0,
    "target_label": "",
    "replacement": "$1",
}
_WITH_TARGET = frozenset({"replace", "hashmod", "lowercase", "uppercase", "keepequal", "dropequal"})
_UNUSED: dict[str, tuple[str, ...]] = {
    "lowercase": ("replacement",),
    "uppercase": ("replacement",),
    "keepequal": ("regex", "modulus", "separator", "replacement"),
    "dropequal": ("regex", "modulus", "separator", "replacement"),
    "labeldrop": ("source_labels", "target_label", "modulus", "separator", "replacement"),
    "labelkeep": ("source_labels", "target_label", "modulus", "separator", "replacement"),
}
"""Action -> keys that it does not look at; a rule that sets one means something else."""
_MOST_MODULUS = (1 << 64) - 1
_VARIABLE = re.compile(r"\$(?:\{\w+\}|\w+)", re.ASCII)


def _text(value: object) -> object:
    # As in Prometheus: `replacement: 1` needs no quotes.
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else value


def _utf8(text: str) -> str:
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise ValueError(f"got {text!r}, which is not valid UTF-8") from error
    return text


Text = Annotated[str, BeforeValidator(_text), AfterValidator(_utf8)]


class RelabelConfig(Section):
    """One rule; rules are applied one after the other."""

    source_labels: tuple[Text, ...] = Field(default=(), description="Labels whose values are joined.")
    separator: Text = Field(default=";", description="Between the joined values.")
    regex: Text = Field(default="(.*)", description="RE2, anchored at both ends.")
    modulus: int = Field(default=0, ge=0, le=_MOST_MODULUS, description="Of hashmod.")
    target_label: Text = Field(default="", description="Label that is set; with replace a template.")
    replacement: Text = Field(default="$1", description="Template of the value that is set.")
    action: Action = Field(default="replace", description="What is done.")

    @model_validator(mode="before")
    @classmethod
    def _nulls(cls, values: object) -> object:
        if not isinstance(values, dict):
            return values
        # `regex:` without a value is the empty pattern, any other key without one is not given.
        return {k: "" if v is None else v for k, v in values.items() if v is not None or k == "regex"}

    @field_validator("action", mode="before")
    @classmethod
    def _any_case(cls, value: object) -> object:
        return value.lower() if isinstance(value, str) else value

    @field_validator("regex")
    @classmethod
    def _pattern(cls, regex: str) -> str:
        Pattern(regex)
        return regex

    @field_validator("source_labels")
    @classmethod
    def _names(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        if "" in names:
            raise ValueError("got an empty label name")
        return names

    def _faults(self) -> Iterator[Fault]:
        action = self.action
        if action in _WITH_TARGET and not self.target_label:
            yield (), f"action {action} needs target_label"
        if action == "hashmod" and not self.modulus:
            yield (), "action hashmod needs modulus, more than 0"
        for key in _UNUSED.get(action, ()):
            if getattr(self, key) != _DEFAULTS[key]:
                yield (), f"action {action} does not use {key}: got {getattr(self, key)!r}, want no such key"
        for key, template in self._templates():
            if any(piece != "" and "$" in piece for piece in parse_template(template)):
                yield (), f"{key}: got {template!r}, want a template of a label name, for example foo_${{1}}"
        if action == "labelmap" and not self.replacement:
            yield (), "replacement: got '', want a template of a label name"

    def odd_names(self) -> Iterator[tuple[str, str]]:
        """Key and text of names that receivers take only when they take UTF-8 names."""
        for name in self.source_labels:
            if not LABEL_NAME.fullmatch(name):
                yield "source_labels", name
        templates = dict(self._templates())
        if self.action in _WITH_TARGET:
            templates.setdefault("target_label", self.target_label)
        for key, text in templates.items():
            example = _VARIABLE.sub("x", text) if key == "replacement" or self.action == "replace" else text
            if not LABEL_NAME.fullmatch(example):
                yield key, text

    def _templates(self) -> Iterator[tuple[str, str]]:
        """The keys that make names of labels."""
        if self.action == "replace":
            yield "target_label", self.target_label
        elif self.action == "labelmap":
            yield "replacement", self.replacement
