"""How a check of several keys tells all that it finds, and not only the first.

Owns the form in which faults reach pydantic. Which they are is the settings' business, how a line of text comes of
them that of `file`.
"""

from collections.abc import Iterable

from pydantic import ValidationError
from pydantic_core import InitErrorDetails, PydanticCustomError

KeyPath = tuple[str | int, ...]
"""Where in the configuration: keys, and places in lists."""
Fault = tuple[KeyPath, str]
"""Where below the section that checks, and what was got and wanted."""
FAULT = "fault"
"""Type of these errors, whose words are complete."""


def raise_faults(found: Iterable[Fault]) -> None:
    """Raise one ValidationError for all of these, if there are any.

    pydantic puts the way to the section before each.
    """
    details = [
        InitErrorDetails(type=PydanticCustomError(FAULT, "{words}", {"words": words}), loc=path, input=None)
        for path, words in found
    ]
    if details:
        raise ValidationError.from_exception_data("configuration", details)
