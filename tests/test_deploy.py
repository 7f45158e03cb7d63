"""What deploy/ offers is checked by the tools that will read it: systemd and Prometheus."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from bridge.app import _STOP_HTTP_S, _STOP_SENDERS_S
from tests.blackbox.servers import needs
from tests.test_docs import README, declared

ROOT = Path(__file__).resolve().parents[1]
UNIT = (ROOT / "deploy" / "pushbridge.service").read_text(encoding="utf-8")
ALERTS = ROOT / "deploy" / "alerts.yml"
RULES = yaml.safe_load(ALERTS.read_text(encoding="utf-8"))["groups"][0]["rules"]
BAR = "\\|"
"""In a table of Markdown."""


def output(*command: str) -> str:
    """What a tool that must succeed says."""
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


@needs("systemd-analyze")
def test_systemd_understands_the_unit(tmp_path: Path) -> None:
    """Every key is known and every value can be read; nothing is ignored with a warning."""
    unit = tmp_path / "pushbridge.service"
    # Where this test has the command; systemd wants one that is there.
    unit.write_text(UNIT.replace("/usr/local/bin/pushbridge", str(Path(sys.executable).with_name("pushbridge"))))
    told = [line for line in output("systemd-analyze", "verify", str(unit)).splitlines() if str(unit) in line]
    assert told == []


def test_the_unit_lets_the_agent_end_in_order() -> None:
    """The unit asks with the signal that the agent listens to, and waits for longer than the agent takes."""
    setting = dict(re.findall(r"^(\w+)=(.*)$", UNIT, re.MULTILINE))
    assert (setting["KillSignal"], setting["ExecReload"]) == ("SIGTERM", "/bin/kill -HUP $MAINPID")
    assert int(setting["TimeoutStopSec"].removesuffix("s")) > max(10, _STOP_HTTP_S + _STOP_SENDERS_S)
    assert setting["Restart"] == "always"


@pytest.mark.real
@needs("promtool")
@pytest.mark.parametrize(
    "command",
    [("check", "rules", "deploy/alerts.yml"), ("test", "rules", "tests/alerts_test.yml")],
    ids=lambda command: command[0],
)
def test_prometheus_understands_the_alerts(command: tuple[str, ...]) -> None:
    """The rules load, and each one fires when it should and not before."""
    assert "SUCCESS" in output("promtool", *command)


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule["alert"])
def test_the_readme_shows_the_alerts(rule: dict[str, str]) -> None:
    """The table in README has each expression as it is in the file."""
    assert f"| `{rule['expr'].replace('|', BAR)}` |" in README


@pytest.mark.parametrize("name", sorted(set(re.findall(r"pushbridge_[a-z_]+", ALERTS.read_text(encoding="utf-8")))))
def test_every_metric_of_the_alerts_exists(name: str) -> None:
    """An alert on a metric that is declared nowhere would be silent for ever."""
    assert declared(name)
