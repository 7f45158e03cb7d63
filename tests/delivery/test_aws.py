"""Where AWS keys and regions come from: the places of the AWS tools, in their order."""

from pathlib import Path

import pytest

from bridge.config.remote_write import SigV4
from bridge.delivery.auth import Outgoing
from bridge.delivery.aws import Aws
from bridge.delivery.secret_file import SignInError

ENVIRON = {"AWS_ACCESS_KEY_ID": "of-env", "AWS_SECRET_ACCESS_KEY": "s", "AWS_SESSION_TOKEN": "t"}
CREDENTIALS = """\
[default]
aws_access_key_id = of-default
aws_secret_access_key = s%s
[team]
aws_access_key_id=of-team
aws_secret_access_key=s
aws_session_token=of-team-token
[role]
role_arn = arn:aws:iam::1:role/x
"""
CONFIG = "[default]\nregion = us-east-1\n[profile team]\nregion = eu-central-1\n"
REQUEST = Outgoing("POST", "https://h/", {}, b"")


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A home directory with AWS files."""
    directory = tmp_path / ".aws"
    directory.mkdir()
    (directory / "credentials").write_text(CREDENTIALS, encoding="utf-8")
    (directory / "config").write_text(CONFIG, encoding="utf-8")
    return tmp_path


async def who(settings: dict[str, str], environ: dict[str, str]) -> tuple[str, str, str | None]:
    """Return whose key signs, for which region, with which session token."""
    sign_in = Aws(SigV4.model_validate(settings), environ, lambda: 1e9)
    headers = await sign_in.headers(REQUEST)
    key, _, region, *_ = headers["Authorization"].partition("Credential=")[2].split("/")
    return key, region, headers.get("X-Amz-Security-Token")


GIVEN = {"access_key": "given", "secret_key": "s"}


@pytest.mark.parametrize(
    ("settings", "environ", "expected"),
    [
        (GIVEN, ENVIRON, ("given", "us-east-1", None)),
        ({"region": "r"}, {**ENVIRON, "AWS_REGION": "no"}, ("of-env", "r", "t")),
        ({}, {**ENVIRON, "AWS_REGION": "r"}, ("of-env", "r", "t")),
        ({}, {**ENVIRON, "AWS_DEFAULT_REGION": "r"}, ("of-env", "r", "t")),
        ({"profile": "team"}, ENVIRON, ("of-team", "eu-central-1", "of-team-token")),
        ({}, {}, ("of-default", "us-east-1", None)),
        ({}, {"AWS_PROFILE": "team"}, ("of-team", "eu-central-1", "of-team-token")),
    ],
)
async def test_order_of_places(
    home: Path, settings: dict[str, str], environ: dict[str, str], expected: tuple[str, str, str | None]
) -> None:
    """Given keys come before a named profile, that before the environment, and the default profile last."""
    assert await who(settings, {"HOME": str(home), **environ}) == expected


async def test_files_elsewhere_that_change(home: Path) -> None:
    """The variables that name the files count, and new keys in them sign the next request."""
    file = home / "keys"
    environ = {"AWS_SHARED_CREDENTIALS_FILE": str(file), "AWS_REGION": "r"}
    sign_in = Aws(SigV4(), environ, lambda: 1e9)
    for name in ("one", "two"):
        file.write_text(f"[default]\naws_access_key_id={name}\naws_secret_access_key=s\n", encoding="utf-8")
        assert f"Credential={name}/" in (await sign_in.headers(REQUEST))["Authorization"]


@pytest.mark.parametrize(
    ("settings", "environ", "words"),
    [
        ({"profile": "nobody", "region": "r"}, {}, "profile nobody has no keys"),
        ({"profile": "role", "region": "r"}, {}, "profile role has no keys"),
        ({"region": "r"}, {"HOME": "/nowhere"}, "no keys; want access_key"),
        (GIVEN, {"HOME": "/nowhere"}, "no region"),
        ({"profile": "a", "region": "r"}, {"AWS_SHARED_CREDENTIALS_FILE": "/nowhere"}, "cannot read /nowhere"),
    ],
)
async def test_what_is_missing_is_named(
    home: Path, settings: dict[str, str], environ: dict[str, str], words: str
) -> None:
    """Without keys or region nothing is sent, and the words say what to add and where."""
    with pytest.raises(SignInError, match=words):
        await who(settings, {"HOME": str(home), **environ})


async def test_a_file_that_is_not_aws(home: Path) -> None:
    """A credentials file that cannot be read shows none of its lines."""
    (home / ".aws" / "credentials").write_text("marker-secret\n", encoding="utf-8")
    with pytest.raises(SignInError, match="not an AWS file") as caught:
        await who({"region": "r"}, {"HOME": str(home)})
    assert "marker" not in str(caught.value)
