"""Tenants: how a rule's template makes one of a group's labels, and what a tenant may be called.

Owns the template's form and the check of what comes out. Which header carries it, and to whom, is told elsewhere. Pure.
"""

import re
from collections.abc import Mapping
from string import Formatter

MOST_BYTES = 150
_NOT_ALLOWED = re.compile(r"[^a-zA-Z0-9!_.*'()-]")
_WANT = f"want at most {MOST_BYTES} letters, digits and !-_.*'() other than '.' and '..'"
_RESERVED = frozenset({".", "..", "__mimir_cluster"})
_LABEL = re.compile(r"[a-zA-Z_][a-zA-Z0-9_]*", re.ASCII)
Template = tuple[tuple[str, str | None], ...]
"""Texts, each with the label whose value follows it."""


def parse_template(text: str) -> Template:
    """Read a template such as `{team}` or `batch-{team}`; ValueError says what is wrong with it."""
    want = 'want text with labels of the group in braces, for example "{team}"'
    try:
        pieces = list(Formatter().parse(text))
    except ValueError as error:
        raise ValueError(f"got {text!r}: {error}; {want}") from error
    for literal, label, form, conversion in pieces:
        if label is not None and (form or conversion or not _LABEL.fullmatch(label)):
            raise ValueError(f"got {text!r}, in which {{{label}}} is no label; {want}")
        if wrong := _NOT_ALLOWED.search(literal):
            raise ValueError(f"got {text!r} with {wrong[0]!r}; {_WANT}")
    if all(label is None for _, label, _, _ in pieces):
        check_tenant(text)
    return tuple((literal, label) for literal, label, _, _ in pieces)


def fill(template: Template, labels: Mapping[str, str]) -> str:
    """Make the tenant of a group with these labels; none ("") when the group lacks one of those that are needed."""
    parts: list[str] = []
    for literal, label in template:
        value = "" if label is None else labels.get(label, "")
        if label is not None and not value:
            return ""
        parts += literal, value
    return "".join(parts)


def check_tenant(tenant: str) -> None:
    """Refuse what Mimir and Cortex do not take for a tenant; raises ValueError."""
    if tenant in _RESERVED:
        raise ValueError(f"tenant {tenant!r} is reserved; {_WANT}")
    if wrong := _NOT_ALLOWED.search(tenant):
        raise ValueError(f"tenant {tenant!r} has {wrong[0]!r}; {_WANT}")
    if len(tenant) > MOST_BYTES:
        raise ValueError(f"tenant {tenant[:20]!r}... is {len(tenant)} bytes long; {_WANT}")
