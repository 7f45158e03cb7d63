"""AWS keys and region, from where the AWS tools keep them, and requests for Managed Prometheus signed with them.

Owns the order of the places and the words when there are no keys. The signature is `sigv4`'s.
"""

import configparser
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path

from bridge.config.remote_write import SigV4
from bridge.delivery.auth import Outgoing, checked
from bridge.delivery.secret_file import SignInError, read_secret
from bridge.delivery.sigv4 import Keys, Scope, sign

SERVICE = "aps"
_SIGNED = ("content-type", "content-encoding")
_NO_KEYS = (
    "sigv4: no keys; want access_key and secret_key, a profile, AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or the"
    " default profile. Roles of instances are not supported. Nothing was sent"
)


class Aws:
    """Signs requests for Amazon Managed Service for Prometheus."""

    def __init__(self, settings: SigV4, environ: Mapping[str, str], now_s: Callable[[], float]) -> None:
        """`now_s` is seconds since the epoch."""
        self._settings = settings
        self._environ = environ
        self._now_s = now_s

    async def headers(self, request: Outgoing) -> Mapping[str, str]:
        """Return the signature's headers, with keys as they are now."""
        keys, scope = self._keys(), Scope(self._region(), SERVICE)
        headers = [(name, value) for name, value in request.headers.items() if name.lower() in _SIGNED]
        at = datetime.fromtimestamp(self._now_s(), UTC)
        added = sign(request.method, request.url, headers, request.body, keys=keys, scope=scope, at=at)
        return {name: checked(value, "sigv4: the keys") for name, value in added.items()}

    def refused(self, headers: Mapping[str, str]) -> bool:  # noqa: ARG002 - the interface's
        """Every request has a new signature already; AWS answers 403 to a wrong one."""
        return False

    def _keys(self) -> Keys:
        """Return the keys: given ones, those of a named profile, of the environment, of the default profile."""
        settings, environ = self._settings, self._environ
        if settings.access_key and settings.secret_key:
            return Keys(settings.access_key, settings.secret_key.get_secret_value())
        access_key, secret_key = environ.get("AWS_ACCESS_KEY_ID", ""), environ.get("AWS_SECRET_ACCESS_KEY", "")
        if not settings.profile and access_key and secret_key:
            return Keys(access_key, secret_key, environ.get("AWS_SESSION_TOKEN", ""))
        path = self._file("AWS_SHARED_CREDENTIALS_FILE", "credentials")
        if not settings.profile and not path.exists():
            raise SignInError(_NO_KEYS)
        found = _section(path, self._profile)
        if not found.get("aws_access_key_id") or not found.get("aws_secret_access_key"):
            raise SignInError(f"sigv4: profile {self._profile} has no keys in {path}; nothing was sent")
        return Keys(found["aws_access_key_id"], found["aws_secret_access_key"], found.get("aws_session_token", ""))

    def _region(self) -> str:
        environ = self._environ
        region = self._settings.region or environ.get("AWS_REGION") or environ.get("AWS_DEFAULT_REGION")
        if region:
            return region
        path = self._file("AWS_CONFIG_FILE", "config")
        # There, and only there, every profile but the default one is called "profile NAME".
        profile = self._profile if self._profile == "default" else f"profile {self._profile}"
        region = _section(path, profile).get("region") if path.exists() else None
        if not region:
            raise SignInError("sigv4: no region; set it, or AWS_REGION, or the profile's. Nothing was sent")
        return region

    @property
    def _profile(self) -> str:
        return self._settings.profile or self._environ.get("AWS_PROFILE") or "default"

    def _file(self, variable: str, name: str) -> Path:
        return Path(self._environ.get(variable) or Path(self._environ.get("HOME", "~")).expanduser() / ".aws" / name)


def _section(path: Path, name: str) -> Mapping[str, str]:
    parser = configparser.ConfigParser(interpolation=None, strict=False, default_section="")
    try:
        parser.read_string(read_secret(path, "sigv4"))
    except configparser.Error:
        raise SignInError(f"sigv4: {path} is not an AWS file; nothing was sent") from None
    return dict(parser[name]) if parser.has_section(name) else {}
