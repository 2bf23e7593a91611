# SPDX-License-Identifier: GPL-2.0-only
"""`--shell` gives a person a terminal in the guest, and the run goes on when it is left."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pexpect
import pytest

from conftest import Lab
from imakexec.kernel.build import KernelRequest

_SECONDS = 60


@pytest.fixture(autouse=True)
def _pseudo_terminals() -> None:
    try:
        for descriptor in os.openpty():
            os.close(descriptor)
    except OSError as error:
        pytest.skip(f"this host gives no pseudo-terminal ({error}): is /dev/pts mounted?")


@pytest.mark.parametrize("where", ["boot", "kexec"])
def test_a_shell_answers_and_can_be_interrupted(
    lab: Lab, patched: KernelRequest, tmp_path: Path, where: str
) -> None:
    command = ["-m", "imakexec", "run", f"--arch={patched.arch.name}", f"--out={lab.folder}"]
    command += ["--shell", where, "--files=3"]
    with (tmp_path / "terminal.log").open("wb") as log:
        terminal = pexpect.spawn(sys.executable, command, timeout=_SECONDS, logfile=log)
        terminal.expect_exact("a shell in the guest")
        terminal.send("\r")
        terminal.expect_exact("# ")
        terminal.send("echo begun $((20 + 3)); sleep 1000\r")
        terminal.expect_exact("begun 23")
        terminal.send("\x03")  # Ctrl-C ends the guest's sleep, not the harness
        terminal.expect_exact("# ")
        terminal.send("echo answer $((40 + 2))\r")
        terminal.expect_exact("answer 42")
        terminal.send("exit\r")
        terminal.expect_exact("IN_SYNC (match)")
        terminal.expect(pexpect.EOF)
        terminal.close()
    assert terminal.exitstatus == 0
