"""Regular expressions as Prometheus means them: RE2, anchored at both ends, a dot matches a newline too.

The one place that knows the library; whatever compares label values with patterns does so through here. Pure.
"""

from collections.abc import Callable

import re2


def compile_anchored(pattern: str) -> Callable[[str], bool]:
    """Give a test for whole texts; ValueError names the pattern and RE2's complaint.

    RE2 takes time linear in the text whatever the pattern, so a pattern may come from outside.
    """
    options = re2.Options()
    options.dot_nl = True
    options.log_errors = False
    try:
        # Bytes spare the library the way back from byte offsets to characters, half of a match's time.
        fullmatch = re2.compile(pattern.encode(), options).fullmatch
    except UnicodeEncodeError as error:
        raise ValueError(f"not a regular expression: got {pattern!r}, which is not valid UTF-8") from error
    except re2.error as error:
        complaint = error.args[0]
        words = complaint.decode(errors="replace") if isinstance(complaint, bytes) else str(complaint)
        raise ValueError(f"not a regular expression: got {pattern!r}, RE2 says: {words}") from error
    return lambda text: fullmatch(text.encode()) is not None
