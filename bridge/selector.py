"""Prometheus' series selectors, used to find groups: `backup_rows{job="x",instance=~"db.*"}`.

Owns the syntax (promql/parser's START_METRIC_SELECTOR, with Prometheus 3's quoted names) and what a
selector says of a group. Where groups are kept, and what is done with those found, does not belong here. Pure.
"""

import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from typing import Final, Literal, NoReturn, cast

from bridge.exposition.lexing import quote
from bridge.regex import compile_anchored

NAME: Final = "__name__"
Operator = Literal["=", "!=", "=~", "!~"]

_BLANK: Final = re.compile(r"(?:[ \t\r\n]|#[^\n]*)*")
_METRIC: Final = re.compile(r"[a-zA-Z_:][a-zA-Z0-9_:]*")
_LABEL: Final = re.compile(r"[a-zA-Z_][a-zA-Z0-9_]*")
_OPERATOR: Final = re.compile(r"=~|!~|!=|=")
_TOKEN: Final = re.compile(r"\w+|.", re.DOTALL)
_PLAIN: Final = {'"': re.compile(r'[^"\\\n]+'), "'": re.compile(r"[^'\\\n]+")}
_ESCAPE: Final = re.compile(
    r"\\(?:x(?P<x>[0-9a-fA-F]{2})|(?P<o>[0-7]{3})|u(?P<u>[0-9a-fA-F]{4})|U(?P<U>[0-9a-fA-F]{8})|(?P<c>[abfnrtv\\'\"]))"
)
_CHARACTERS: Final = dict(zip("abfnrtv", "\a\b\f\n\r\t\v", strict=True))
_MAX_BYTE, _MAX_RUNE, _SURROGATES = 0xFF, 0x10FFFF, range(0xD800, 0xE000)
_WORDS_OF_PROMQL: Final = frozenset("atan2 bool group_left group_right ignoring inf nan on".split())
"""What PromQL does not take for a metric name, in upper case neither."""


@dataclass(frozen=True, slots=True)
class Matcher:
    """One condition on the value of a label, or on a metric name."""

    label: str
    operator: Operator
    value: str
    _fits: Callable[[str], bool] = field(compare=False, repr=False)

    @property
    def negated(self) -> bool:
        """Whether the operator is one of the two that exclude."""
        return self.operator.startswith("!")

    def accepts(self, text: str) -> bool:
        """Tell whether a value meets the condition; a label that is missing has the value ""."""
        return self._fits(text) is not self.negated


@dataclass(frozen=True, slots=True)
class Selector:
    """Conditions that hold together."""

    matchers: tuple[Matcher, ...]

    def matches(self, labels: Mapping[str, str], names: Callable[[], Collection[str]]) -> bool:
        """Tell whether a group with these labels, holding series of these names, is selected.

        Conditions on the name find a group that holds a series which meets them, and those that exclude find
        one that holds no series which they exclude. `names` is called only when there is such a condition.
        """
        if not all(
            matcher.accepts(labels.get(matcher.label, "")) for matcher in self.matchers if matcher.label != NAME
        ):
            return False
        of_name = [matcher for matcher in self.matchers if matcher.label == NAME]
        if not of_name:
            return True
        held = names()
        wanted = [matcher for matcher in of_name if not matcher.negated]
        return all(matcher.accepts(name) for matcher in of_name if matcher.negated for name in held) and any(
            all(matcher.accepts(name) for matcher in wanted) for name in held
        )


def make_matcher(label: str, operator: Operator, value: str) -> Matcher:
    """Make a condition; ValueError when its regular expression is none."""
    return Matcher(label, operator, value, compile_anchored(value) if operator.endswith("~") else value.__eq__)


def parse_selector(text: str) -> Selector:
    """Read a selector; ValueError tells line and column, what was got and wanted.

    As for Prometheus, one matcher at least must not match the empty string: `{}` or `{job=~".*"}` would
    select everything, and hardly ever on purpose.
    """
    selector = Selector(tuple(_Reader(text).read()))
    if all(matcher.accepts("") for matcher in selector.matchers):
        raise ValueError(
            f"match[] must contain at least one non-empty matcher: got {text}, "
            'whose matchers all match the empty string, want for example {job=~".+"}'
        )
    return selector


class _Reader:
    """A selector and how far it is read."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._at = 0

    def read(self) -> list[Matcher]:
        """Read the whole text."""
        self._skip_blanks()
        start = self._at
        metric = self._take(_METRIC)
        if metric.lower() in _WORDS_OF_PROMQL:
            self._fail(start, f'a metric name; this one is a word of PromQL, so write {{{NAME}="{metric}"}}')
        matchers = [make_matcher(NAME, "=", metric)] if metric else []
        if self._peek() == "{":
            self._at += 1
            self._skip_blanks()
            matchers += self._read_list()
        elif not metric:
            self._fail(self._at, 'a metric name or "{"')
        if self._peek():
            self._fail(self._at, "the end of the selector")
        return matchers

    def _read_list(self) -> list[Matcher]:
        matchers: list[Matcher] = []
        while self._peek() != "}":
            if matchers:
                if self._peek() != ",":
                    self._fail(self._at, '"," or "}"')
                self._at += 1
                self._skip_blanks()
                if self._peek() == "}":
                    break
            matchers.append(self._read_matcher())
        self._at += 1
        self._skip_blanks()
        return matchers

    def _read_matcher(self) -> Matcher:
        start = self._at
        is_quoted = self._peek() in ('"', "'", "`")
        label = self._read_string() if is_quoted else self._take(_LABEL)
        if not label:
            self._fail(start, 'a label name or "}"')
        operator = self._take(_OPERATOR)
        if not operator and is_quoted:
            return make_matcher(NAME, "=", label)
        if not operator:
            self._fail(self._at, "one of = != =~ !~")
        if self._peek() not in ('"', "'", "`"):
            self._fail(self._at, "a quoted string")
        value = self._read_string()
        try:
            return make_matcher(label, cast("Operator", operator), value)
        except ValueError as error:
            raise ValueError(f"{self._where(start)}: parse error: {error}") from error

    def _read_string(self) -> str:
        r"""Read a Go string: `\xHH` and `\OOO` are bytes, so the value is put together from bytes."""
        start, mark = self._at, self._peek()
        self._at += 1
        if mark == "`":
            end = self._text.find(mark, self._at)
            if end < 0:
                self._fail(start, "a closing `")
            value, self._at = self._text[self._at : end], end + 1
            self._skip_blanks()
            return value
        parts: list[bytes] = []
        while (character := self._peek()) != mark:
            if character in ("", "\n"):
                self._fail(start, f"a closing {mark} on the same line")
            parts.append(self._read_escape(start, mark) if character == "\\" else self._take_plain(mark))
        self._at += 1
        self._skip_blanks()
        return b"".join(parts).decode(errors="surrogateescape")

    def _take_plain(self, mark: str) -> bytes:
        found = _PLAIN[mark].match(self._text, self._at)
        assert found is not None  # noqa: S101 - the caller has seen a character that it takes
        self._at = found.end()
        return found[0].encode()

    def _read_escape(self, start: int, mark: str) -> bytes:
        found = _ESCAPE.match(self._text, self._at)
        if found is None or (found["c"] in ('"', "'") and found["c"] != mark):
            shown = quote(self._text[self._at : self._at + 2])
            self._fail(start, rf"one of the escapes \a \b \f \n \r \t \v \\ \{mark} \xHH \OOO \uHHHH \UHHHHHHHH", shown)
        self._at = found.end()
        if found["c"]:
            return _CHARACTERS.get(found["c"], found["c"]).encode()
        code = int(found["o"], 8) if found["o"] else int(found["x"] or found["u"] or found["U"], 16)
        is_byte = bool(found["x"] or found["o"])
        if code > (_MAX_BYTE if is_byte else _MAX_RUNE) or code in _SURROGATES:
            self._fail(start, "an escape that stands for a byte or for a Unicode character", quote(found[0]))
        return bytes([code]) if is_byte else chr(code).encode()

    def _peek(self) -> str:
        return self._text[self._at : self._at + 1]

    def _take(self, pattern: re.Pattern[str]) -> str:
        """Take a token and the blanks behind it; nothing when the pattern does not match here."""
        found = pattern.match(self._text, self._at)
        if found is None:
            return ""
        self._at = found.end()
        self._skip_blanks()
        return found[0]

    def _skip_blanks(self) -> None:
        found = _BLANK.match(self._text, self._at)
        if found is not None:
            self._at = found.end()

    def _where(self, at: int) -> str:
        """Line and column, as Prometheus gives them."""
        return f"{self._text.count(chr(10), 0, at) + 1}:{at - self._text.rfind(chr(10), 0, at)}"

    def _fail(self, at: int, wanted: str, got: str = "") -> NoReturn:
        token = _TOKEN.match(self._text, at)
        shown = got or (quote(token[0]) if token else "the end")
        raise ValueError(f"{self._where(at)}: parse error: got {shown}, want {wanted}")
