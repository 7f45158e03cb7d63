"""What a redirect of a POST means: where the same request goes next, or why it ends there.

Pure. Sending again is `session`'s.
"""

from urllib.parse import urljoin, urlsplit

from bridge.config.units import http_url, shown_url

MAX_REDIRECTS = 10
REDIRECTS = frozenset({301, 302, 303, 307, 308})
_SAME_REQUEST = {307, 308}
_PORTS = {"http": 80, "https": 443}


class RedirectError(Exception):
    """A redirect that is not followed; the text says where to and why."""

    def __init__(self, status: int, location: str, why: str) -> None:
        """Keep the status; `location` is shown without what may be secret."""
        super().__init__(f"redirected to {shown_url(location) or 'nowhere'}; {why}")
        self.status = status


def next_url(status: int, location: str, url: str, *, private: bool) -> str:
    """Return where the request goes next; raises RedirectError.

    `private` says that it carries a sign-in or headers of the user's, which no other host may see.
    """
    if not location:
        raise RedirectError(status, "", "not followed, for the answer does not say where to")
    if status not in _SAME_REQUEST:
        raise RedirectError(
            status, location, "not followed, for it asks for another request than the POST; set url to where it leads"
        )
    try:
        target = http_url(urljoin(url, location))
    except ValueError:
        raise RedirectError(status, location, "which is not an http(s) URL") from None
    if private and not _same_server(url, target):
        raise RedirectError(
            status, target, "not followed, for another server must not see sign-in and headers; set url to it if it may"
        )
    return target


def _same_server(url: str, target: str) -> bool:
    """Tell whether two URLs are of one server; from http to https is a step up that keeps its name."""
    before, after = urlsplit(url), urlsplit(target)
    if before.hostname != after.hostname:
        return False
    if (before.scheme, after.scheme) == ("http", "https"):
        return True
    ports = [parts.port or _PORTS[parts.scheme] for parts in (before, after)]
    return before.scheme == after.scheme and ports[0] == ports[1]
