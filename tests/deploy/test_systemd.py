"""The unit for servers without containers, as systemd itself reads it."""

from __future__ import annotations

import configparser
import re
import subprocess
import sys
from pathlib import Path

from downloadd.cli import EXIT_WRONG_SETTING
from downloadd.cli.serve import STOP_SECONDS
from tests.deploy.compose import ROOT
from tests.tools import require_tool

UNIT = ROOT / "deploy/systemd/downloadd.service"


def test_systemd_takes_it_and_finds_little_that_it_may_do(tmp_path: Path) -> None:
    """No line that it does not know; and of its 10 points of exposure, at most 2."""
    tool = require_tool("systemd-analyze")
    unit = tmp_path / UNIT.name
    program = "/opt/downloadd/bin/downloadd"
    text = UNIT.read_text("utf-8")
    assert program in text
    unit.write_text(text.replace(program, sys.executable), "utf-8")
    for command in (
        ["verify", "--man=no", str(unit)],
        ["security", "--offline=true", "--threshold=20", str(unit)],
    ):
        done = subprocess.run(
            [tool, *command], capture_output=True, text=True, check=False, timeout=60
        )
        ours = [line for line in done.stderr.splitlines() if UNIT.name in line]
        assert (done.returncode, ours) == (0, []), done.stdout + done.stderr


def test_what_it_says_is_what_the_server_does() -> None:
    parser = configparser.ConfigParser(strict=False, interpolation=None)
    parser.optionxform = str  # type: ignore[assignment,method-assign]
    parser.read(UNIT)
    service = parser["Service"]
    assert float(service["TimeoutStopSec"]) > STOP_SECONDS + 3
    assert service["RestartPreventExitStatus"] == str(EXIT_WRONG_SETTING)
    assert service["KillMode"] == "mixed"
    assert re.search(r" serve --config /etc/downloadd/config.toml\Z", service["ExecStart"])
