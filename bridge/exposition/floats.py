"""How floats are spelled: Go's shortest form, and the form that Prometheus stores in bucket labels.

Owns formatting only; reading sample values belongs to the parsers.
"""

import math
import re
from decimal import Decimal
from typing import Final

_FIXED_EXPONENTS: Final = range(-4, 6)
"""Decimal exponents that Go's shortest `g` form writes without an `e`."""

_DECIMAL: Final = re.compile(r"[+-]?(?:(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?|(?i:inf(?:inity)?))|(?i:nan)")


def format_go_float(value: float) -> str:
    """Spell `value` as Go's strconv.FormatFloat(value, 'g', -1, 64), which is also fmt's %v.

    The shortest digits that read back as the same float, with an exponent of at least two digits below
    1e-4 and from 1e+06 (`1`, `0.5`, `1e+06`, `1.5838723477166057e+09`, `+Inf`, `-Inf`, `NaN`).
    """
    if math.isnan(value):
        return "NaN"
    if math.isinf(value):
        return "+Inf" if value > 0 else "-Inf"
    sign = "-" if math.copysign(1, value) < 0 else ""
    if value == 0:
        return sign + "0"
    # Python's repr gives the same shortest digits as Go; only the layout differs.
    shortest = Decimal(repr(abs(value))).as_tuple()
    digits = "".join(map(str, shortest.digits))
    exponent = len(digits) - 1 + int(shortest.exponent)
    digits = digits.rstrip("0")
    if exponent not in _FIXED_EXPONENTS:
        fraction = f".{digits[1:]}" if digits[1:] else ""
        return f"{sign}{digits[0]}{fraction}e{exponent:+03d}"
    if exponent < 0:
        return f"{sign}0.{'0' * (-exponent - 1)}{digits}"
    whole = digits[: exponent + 1].ljust(exponent + 1, "0")
    fraction = f".{digits[exponent + 1 :]}" if digits[exponent + 1 :] else ""
    return f"{sign}{whole}{fraction}"


def canonical_bucket_label(text: str) -> str:
    """Give the form in which Prometheus 3 stores an `le` or `quantile` label value (OpenMetrics floats).

    `1` becomes `1.0`, `1e6` becomes `1e+06`, `Inf` becomes `+Inf`. A text that is not a finite decimal,
    infinity or NaN, or is out of a float's range, stays as it is, as in Prometheus.
    """
    if not _DECIMAL.fullmatch(text):
        return text
    value = float(text)
    if math.isinf(value) and "n" not in text.lower():
        return text
    if value == 0:
        return "0.0"
    spelled = format_go_float(value)
    return spelled if math.isnan(value) or math.isinf(value) or "e" in spelled or "." in spelled else spelled + ".0"
