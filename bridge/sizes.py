"""Sizes as settings spell them: `1GiB`, `64MB`, a plain number of bytes. Nothing else lives here."""

import re

_SIZE = re.compile(r"(\d+)\s*([KMGT]i?B|B)?", re.ASCII)
_UNITS: dict[str | None, int] = {
    f"{prefix}{suffix}": base**power
    for power, prefix in enumerate("KMGT", start=1)
    for suffix, base in (("iB", 1024), ("B", 1000))
}
_FACTORS: dict[str | None, int] = {**_UNITS, None: 1, "B": 1}


def size_text(size_bytes: int) -> str:
    """The shortest way to write a size."""
    rounded = [f"{size_bytes // factor}{unit}" for unit, factor in _UNITS.items() if not size_bytes % factor]
    return min([*rounded, str(size_bytes)], key=len)


def parse_size_bytes(text: object) -> int:
    """Bytes of a size such as `1GiB`, `64MB` or a plain number; ValueError otherwise."""
    if isinstance(text, int) and not isinstance(text, bool):
        return int(text)
    match = _SIZE.fullmatch(text.strip()) if isinstance(text, str) else None
    if match is None:
        msg = f"not a size: got {text!r}, want for example 64MiB, 1GB or a number of bytes"
        raise ValueError(msg)
    return int(match[1]) * _FACTORS[match[2]]
