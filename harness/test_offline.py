# SPDX-License-Identifier: GPL-2.0-only
"""The evidence folder of a run is judged the same on another computer, and by the command."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

from conftest import Lab
from imakexec import scenario
from imakexec.attest import judge_folder
from imakexec.kernel.build import KernelRequest


def test_a_copied_folder_gives_the_same_judgement(
    lab: Lab, patched: KernelRequest, tmp_path: Path
) -> None:
    with lab.session(patched) as session:
        scenario.boot(session)
        loaded = scenario.kexec_load(session)
        scenario.generate_activity(session, 3)
        scenario.take_snapshot(session, "before-execute")
        scenario.kexec_execute(session, loaded)
        scenario.take_snapshot(session, "after", quote_after=True)
    run = lab.judge()
    elsewhere = tmp_path / "elsewhere"
    shutil.copytree(run.folder, elsewhere)
    shutil.rmtree(run.folder)

    assert judge_folder(elsewhere).to_json() == run.judgement.to_json()
    assert {"console.log", "qemu.cmd", "swtpm.cmd", "swtpm.log", "kernel.config"} <= set(
        run.evidence.files
    )

    # No TPM library, no QEMU library: what `imakexec verify` may not need on that computer.
    banned = "import sys; sys.modules.update({'tpm2_pytss': None, 'qemu': None, 'pexpect': None})"
    command = f"{banned}; from imakexec.cli import main; main()"
    said = tmp_path / "judgement.json"
    verified = subprocess.run(
        [sys.executable, "-c", command, "verify", str(elsewhere), "--json", str(said)],
        capture_output=True,
        check=False,
        timeout=60,
        env={"PATH": "/nonexistent"},
    )
    assert verified.returncode == 0, verified.stderr
    assert json.loads(said.read_text())["verdict"] == "IN_SYNC"
