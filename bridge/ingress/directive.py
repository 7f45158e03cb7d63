r"""`# PUSHBRIDGE name=value ...`: what a dropped file says of itself, read and written.

Names are grouping labels but for three: `ttl`, `method` and `key`. A value stands in double quotes with the
escapes `\\`, `\"` and `\n`, or bare when it has neither blanks nor quotes. Comments to every other reader of
the text format. Pure; what a TTL or a missing job means is decided where files are taken in.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final, Literal

from bridge.model import Labels

RESERVED_NAMES: Final = frozenset({"ttl", "method", "key"})
MARK: Final = "# PUSHBRIDGE "

Method = Literal["put", "post"]
_METHODS: Final[dict[str | None, Method]] = {"put": "put", "post": "post"}
LABEL_NAME: Final = re.compile(r"(?!__)[a-zA-Z_][a-zA-Z0-9_]*")
_BLANKS: Final = " \t\r\n"
_PAIR: Final = re.compile(
    r'[ \t\r\n]*(?P<name>[^ \t\r\n="]+)='
    r'(?:"(?P<quoted>[^"\\\n]*(?:\\.[^"\\\n]*)*)"|(?P<bare>[^ \t\r\n"]+))(?=[ \t\r\n]|\Z)'
)
_ESCAPE: Final = re.compile(r"\\(.)", re.DOTALL)
_ESCAPED: Final = {"\\": "\\", '"': '"', "n": "\n"}
_LINE: Final = re.compile(b"^" + MARK.encode() + b"(.*)$", re.MULTILINE)
_SHOWN: Final = 40


@dataclass(frozen=True, slots=True)
class Directive:
    """All that the directive lines of a file say."""

    labels: Labels = ()
    """In the order of the lines."""
    ttl: str | None = None
    method: Method | None = None
    key: str | None = None
    """Idempotency key."""


def find_directives(body: bytes) -> Directive:
    """Read all directive lines of a text body; they add up. ValueError names the line and what is wrong."""
    values: dict[str, str] = {}
    for line in _LINE.finditer(body):
        try:
            _add(values, line[1].decode())
        except ValueError as error:
            what = "not valid UTF-8" if isinstance(error, UnicodeDecodeError) else error
            number = body.count(b"\n", 0, line.start()) + 1
            raise ValueError(f"line {number}: {what}") from error
    return _directive(values)


def write_directive(directive: Directive) -> str:
    """Spell a directive as one line, without its end; its label names are not reserved ones."""
    named = (("method", directive.method), ("ttl", directive.ttl), ("key", directive.key))
    pairs = [*directive.labels, *((name, value) for name, value in named if value is not None)]
    return MARK + " ".join(f"{name}={_quote(value)}" for name, value in pairs)


def _add(values: dict[str, str], text: str) -> None:
    for name, value in _pairs(text):
        if LABEL_NAME.fullmatch(name) is None:
            raise ValueError(f"not a label name: {name!r}")
        if name in values:
            raise ValueError(f"{name} is given twice")
        if name in RESERVED_NAMES and not value:
            raise ValueError(f"{name} is empty")
        if name == "method" and value not in _METHODS:
            raise ValueError(f"method: got {value!r}, want put or post")
        values[name] = value


def _pairs(text: str) -> Iterator[tuple[str, str]]:
    text = text.rstrip(_BLANKS)
    position = 0
    while position < len(text):
        pair = _PAIR.match(text, position)
        if pair is None:
            raise ValueError(f'want name=value or name="value", got {text[position:].strip()[:_SHOWN]!r}')
        bare = pair["bare"]
        yield pair["name"], _unquote(pair["quoted"]) if bare is None else bare
        position = pair.end()


def _directive(values: dict[str, str]) -> Directive:
    labels = tuple((name, value) for name, value in values.items() if name not in RESERVED_NAMES)
    return Directive(labels, values.get("ttl"), _METHODS.get(values.get("method")), values.get("key"))


def _unquote(quoted: str) -> str:
    return _ESCAPE.sub(_unescape, quoted)


def _unescape(escape: re.Match[str]) -> str:
    character = _ESCAPED.get(escape[1])
    if character is None:
        raise ValueError(f'unknown escape {escape[0]}, want \\\\, \\" or \\n')
    return character


def _quote(value: str) -> str:
    escaped = value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
    return f'"{escaped}"'
