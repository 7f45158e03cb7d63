"""The tokens that both text formats share: names, quoted strings, numbers, and how errors spell them.

Every function takes text and gives a value or `ValueError`; which format's error that becomes, and on
which line, is decided by the parsers. No rule that only one format has may live here.
"""

import math
import re
from typing import Final

METRIC_NAME: Final = re.compile(r"[a-zA-Z_:][a-zA-Z0-9_:]*")
LABEL_NAME: Final = re.compile(r"[a-zA-Z_][a-zA-Z0-9_]*")
QUOTED: Final = re.compile(r'"([^"\\\n]*(?:\\[^\n][^"\\\n]*)*)"')
"""A quoted string on one line; group 1 is still escaped."""
FLOAT_PATTERN: Final = (
    r"[+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?"
    r"|[+-]?[iI][nN][fF](?:[iI][nN][iI][tT][yY])?"
    r"|[nN][aA][nN]"
)

_FLOAT: Final = re.compile(FLOAT_PATTERN)
_ESCAPE: Final = re.compile(r"\\(.?)", re.DOTALL)
_ESCAPED: Final = {"\\": "\\", '"': '"', "n": "\n"}
_SURROGATE: Final = re.compile("[\ud800-\udfff]")
_LONGEST_QUOTE: Final = 200


def parse_go_float(text: str) -> float:
    """Read a number as Go's `strconv.ParseFloat` does, less the characters `p`, `P` and `_`.

    So no hex, no signed NaN, no surrounding blanks; `1e400` is out of range, while an underflow is 0.
    Raises `ValueError` (prometheus/common expfmt/text_parse.go, `parseFloat`).
    """
    # Python's float() alone also takes underscores, blanks, "+nan" and digits of other scripts.
    if _FLOAT.fullmatch(text) is None:
        raise ValueError(f"not a float: {quote(text)}")
    value = float(text)
    if math.isinf(value) and text[-1] not in "fFyY":
        raise ValueError(f"float out of range: {quote(text)}")
    return value


def unescape(text: str, *, lenient: bool = False) -> str:
    r"""Resolve `\\`, `\n` and `\"`; any other escape is kept as written if `lenient`, else `ValueError`."""
    if "\\" not in text:
        return text

    def resolve(match: re.Match[str]) -> str:
        found = _ESCAPED.get(match[1])
        if found is not None:
            return found
        if lenient:
            return match[0]
        raise ValueError(f"invalid escape sequence '\\{quote(match[1])[1:-1]}'")

    return _ESCAPE.sub(resolve, text)


def is_utf8(text: str) -> bool:
    """Tell whether text decoded with `surrogateescape` was valid UTF-8."""
    return text.isascii() or _SURROGATE.search(text) is None


def quote(text: str) -> str:
    """Spell text for an error message: in double quotes, unprintable and broken bytes as escapes, cut if long."""
    cut = text[:_LONGEST_QUOTE]
    spelled = "".join(_spell(character) for character in cut)
    return f'"{spelled}"' if len(cut) == len(text) else f'"{spelled}"...'


def _spell(character: str) -> str:
    if "\udc80" <= character <= "\udcff":
        return f"\\x{ord(character) - 0xDC00:02x}"
    if character in '"\\':
        return "\\" + character
    return character if character.isprintable() else repr(character)[1:-1]
