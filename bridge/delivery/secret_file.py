"""Secrets as they are now: given in the configuration, or in a file that is read again for every request.

Owns the words for a file that cannot be read. What a secret is used for is `auth`'s and its neighbours'.
"""

from collections.abc import Callable
from pathlib import Path

from pydantic import SecretStr

Source = Callable[[], str]
"""Gives the newest value; raises SignInError when it cannot be had."""


class SignInError(Exception):
    """The request could not be made ready, so it was not sent; the text shows no secret."""


def read_secret(path: Path, key: str) -> str:
    """Return the text of a file without white space around it; `key` is the setting that names the file.

    Read anew each time, as Prometheus does: a file that was replaced counts at once, and no clock is asked.
    """
    try:
        return path.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else "not UTF-8"
        raise SignInError(f"{key}: cannot read {path}: {why}; nothing was sent") from None


def source(value: SecretStr | str | None, path: Path | None, key: str) -> Source:
    """Return where a setting's value comes from; one that is not given is empty."""
    if path is not None:
        return lambda: read_secret(path, f"{key}_file")
    text = value.get_secret_value() if isinstance(value, SecretStr) else value or ""
    return lambda: text
