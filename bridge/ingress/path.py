"""The grouping key in a push URL: path to labels, labels to key.

Owns the rules of Pushgateway's `/metrics/job/...` paths and their error texts (section 5.3 of the
protocol reference). Routing, methods and what a group holds do not belong here.
"""

import re
from base64 import urlsafe_b64encode
from collections.abc import Sequence
from functools import lru_cache
from typing import Final
from urllib.parse import quote, unquote_to_bytes

from bridge.errors import BadPushError
from bridge.model import Labels, sorted_labels

_BASE64_SUFFIX: Final = "@base64"
_LABEL_NAME: Final = re.compile(r"[a-zA-Z_][a-zA-Z0-9_]*")
_BAD_ESCAPE: Final = re.compile(r"%(?![0-9a-fA-F]{2}).{0,2}", re.DOTALL)
_ESCAPED_NAME_PART: Final = re.compile(r"[^_]+|_(?:(?P<underscore>_)|(?P<hex>[0-9a-fA-F]{1,5})_)")
_MAX_RUNE: Final = 0x10FFFF
_SURROGATES: Final = range(0xD800, 0xE000)
_BASE64_VALUES: Final = {
    byte: value for value, byte in enumerate(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_")
}
_QUOTED: Final = {
    '"': '\\"',
    "\\": "\\\\",
    "\a": "\\a",
    "\b": "\\b",
    "\f": "\\f",
    "\n": "\\n",
    "\r": "\\r",
    "\t": "\\t",
    "\v": "\\v",
}


@lru_cache(1 << 14)
def parse_grouping_path(raw_path: str, *, utf8_names: bool) -> Labels:
    """Read the grouping labels from the percent-encoded path behind `/metrics/`.

    The path is `job/<job>` or `job@base64/<job>`, then `/<label>/<value>` pairs. Percent escapes are
    undone first, so `%2F` separates like `/`; `+` stays a plus. With `utf8_names` label names may be
    `U__` escaped. Gives the labels in bytewise order with empty values kept, as they belong to the key.
    Raises `BadPushError` (reason `path`). Source: protocol reference 5.3.
    """
    head, _, rest = _decode_percent(raw_path).partition("/")
    if head not in ("job", "job" + _BASE64_SUFFIX):
        raise _bad_path(
            f"job name is required: got {_go_quote(head)} as the first part of the grouping key, want job or job@base64"
        )
    job, slash, labels_text = rest.partition("/")
    if head != "job":
        job = _decode_job(job)
    labels = _split_labels(slash + labels_text, utf8_names=utf8_names)
    if not job:
        raise _bad_path("job name is required")
    labels["job"] = job
    return sorted_labels(tuple(labels.items()))


def write_grouping_path(labels: Sequence[tuple[str, str]]) -> str:
    """Spell grouping labels as a path, `job` first as given; values that a path cannot carry go as base64."""
    parts: list[str] = []
    for name, value in labels:
        if not value or "/" in value or value in {".", ".."}:
            encoded = urlsafe_b64encode(value.encode()).decode().rstrip("=") or "="
            parts += [f"{quote(name, safe='')}@base64", encoded]
        else:
            parts += [quote(name, safe=""), quote(value, safe="")]
    return "/".join(parts)


@lru_cache(1 << 14)
def needs_redirect(path: str) -> str | None:
    """Give the path that Go's ServeMux redirects `path` to, None when it is clean already.

    Works on the path as it stands in the request line, percent escapes untouched: `//` becomes `/`, and
    dot segments are resolved; a trailing slash stays.
    """
    kept: list[str] = []
    for segment in path.split("/"):
        if segment == "..":
            del kept[-1:]
        elif segment not in ("", "."):
            kept.append(segment)
    cleaned = "/" + "/".join(kept)
    if path.endswith("/") and kept:
        cleaned += "/"
    return None if cleaned == path else cleaned


def _decode_percent(raw_path: str) -> str:
    bad = _BAD_ESCAPE.search(raw_path)
    if bad:
        raise _bad_path(f"invalid URL escape {_go_quote(bad[0])} in the path, want % and two hexadecimal digits")
    try:
        return unquote_to_bytes(raw_path).decode()
    except UnicodeError as error:
        raise _bad_path(f"the path is not valid UTF-8 after percent-decoding: {error}") from error


def _decode_job(encoded: str) -> str:
    decoded, bad_offset = _decode_base64(encoded)
    if bad_offset is not None:
        raise _bad_path(
            f"invalid base64 encoding in job name {_go_quote(decoded)}: illegal base64 data at input byte {bad_offset}"
        )
    try:
        return decoded.decode()
    except UnicodeDecodeError as error:
        raise _bad_path(f"invalid base64 encoding in job name {_go_quote(decoded)}: not valid UTF-8") from error


def _split_labels(text: str, *, utf8_names: bool) -> dict[str, str]:
    """Read `/name/value/...`; an empty text or a lone slash has no labels."""
    labels: dict[str, str] = {}
    if text in ("", "/"):
        return labels
    components = text[1:].split("/")
    if len(components) % 2:
        raise _bad_path(f"odd number of components in label string {_go_quote(text)}")
    for full_name, value in zip(components[::2], components[1::2], strict=True):
        name = full_name.removesuffix(_BASE64_SUFFIX)
        unescaped = _unescape_name(name) if utf8_names else name
        valid = bool(unescaped) if utf8_names else _LABEL_NAME.fullmatch(unescaped)
        if not valid or unescaped.startswith("__"):
            raise _bad_path(f"improper label name {_go_quote(name)}")
        labels[unescaped] = value if name == full_name else _decode_value(name, value)
    return labels


def _decode_value(name: str, encoded: str) -> str:
    decoded, bad_offset = _decode_base64(encoded)
    where = f"invalid base64 encoding for label {name}={_go_quote(encoded)}"
    if bad_offset is not None:
        raise _bad_path(f"{where}: illegal base64 data at input byte {bad_offset}")
    try:
        return decoded.decode()
    except UnicodeDecodeError as error:
        raise _bad_path(f"{where}: it decodes to {_go_quote(decoded)}, which is not valid UTF-8") from error


def _decode_base64(text: str) -> tuple[bytes, int | None]:
    """Decode as Go's base64.RawURLEncoding, after stripping `=` from the end.

    Gives the bytes of all whole quanta before a fault, and the fault's byte offset or None. The
    standard library cannot tell the offset, and drops foreign characters instead of refusing them.
    """
    decoded = bytearray()
    quantum: list[int] = []
    data = text.rstrip("=").encode()
    for offset, byte in enumerate(data):
        if byte in b"\r\n":
            continue
        value = _BASE64_VALUES.get(byte)
        if value is None:
            return bytes(decoded), offset
        quantum.append(value)
        if len(quantum) == 4:  # noqa: PLR2004 - base64 works in quanta of four
            decoded += _quantum_bytes(quantum)
            quantum.clear()
    if len(quantum) == 1:
        return bytes(decoded), len(data) - 1
    return bytes(decoded + _quantum_bytes(quantum)), None


def _quantum_bytes(quantum: list[int]) -> bytes:
    number = 0
    for value in [*quantum, 0, 0, 0, 0][:4]:
        number = number << 6 | value
    return number.to_bytes(3, "big")[: max(0, len(quantum) - 1)]


def _unescape_name(name: str) -> str:
    """Undo `U__` escaping as Go's model.UnescapeName: whatever is not well-formed stays literal."""
    if not name.startswith("U__"):
        return name
    parts: list[str] = []
    position = len("U__")
    while position < len(name):
        part = _ESCAPED_NAME_PART.match(name, position)
        if part is None:
            return name
        position = part.end()
        if part["underscore"]:
            parts.append("_")
        elif part["hex"]:
            rune = int(part["hex"], 16)
            if rune > _MAX_RUNE or rune in _SURROGATES:
                return name
            parts.append(chr(rune))
        else:
            parts.append(part[0])
    return "".join(parts)


def _go_quote(text: str | bytes) -> str:
    """Quote as Go's %q, so that error texts equal Pushgateway's."""
    if isinstance(text, bytes):
        text = text.decode(errors="surrogateescape")
    return '"' + "".join(map(_quote_character, text)) + '"'


def _quote_character(character: str) -> str:
    code = ord(character)
    if character in _QUOTED:
        return _QUOTED[character]
    if character.isprintable():
        return character
    if 0xDC80 <= code <= 0xDCFF:  # noqa: PLR2004 - surrogateescape's range for undecodable bytes
        return f"\\x{code - 0xDC00:02x}"
    if code < 0x80:  # noqa: PLR2004 - end of ASCII
        return f"\\x{code:02x}"
    return f"\\u{code:04x}" if code <= 0xFFFF else f"\\U{code:08x}"  # noqa: PLR2004 - end of the BMP


def _bad_path(message: str) -> BadPushError:
    return BadPushError("path", message)
