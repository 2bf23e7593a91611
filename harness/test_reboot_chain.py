# SPDX-License-Identifier: GPL-2.0-only
"""What happens between two notifiers of the reboot chain.

A probe (harness/probe/reboot-chain.patch) has notifiers before and behind IMA's: they measure, make
allocations fail in between, and walk the chain a second time.
"""

from __future__ import annotations

import errno
import re
from dataclasses import dataclass

import pytest

from conftest import FAIL_ALLOCATIONS, Lab, Run, allow, positions
from imakexec import scenario
from imakexec.attest import Verdict
from imakexec.kernel.build import KernelRequest
from imakexec.scenario import Session


@dataclass(frozen=True)
class Probed:
    """What came out of one kexec with the probe.

    Attributes:
        said: what the probe said of the events that it measured, by event.
        console: all that the kernels said.
    """

    run: Run
    said: dict[str, int]
    console: str


def execute(lab: Lab, probed: KernelRequest, *preparations: str) -> Probed:
    """Load, prepare, execute."""
    with lab.session(probed) as session:
        scenario.boot(session)
        loaded = scenario.kexec_load(session)
        scenario.generate_activity(session, 10)
        for script in preparations:
            run_script(session, script)
        scenario.take_snapshot(session, "before-execute")
        scenario.kexec_execute(session, loaded)
        scenario.take_snapshot(session, "after", quote_after=True)
    console = (lab.folder / "console.log").read_text()
    said = re.findall(r"imakexec probe: (\w+): (-?\d+)", console)
    return Probed(lab.judge(), {event: int(value) for event, value in said}, console)


def run_script(session: Session, script: str) -> None:
    """Run a shell script in the guest."""
    session.guest.run(["sh", "-c", script], session.budget())


def test_ima_comes_last_and_lets_the_chain_go_on(lab: Lab, probed: KernelRequest) -> None:
    out = execute(lab, probed)

    # Refused before anything else is looked at: also what would be a duplicate.
    refused = -errno.ENODEV
    assert out.said == {"first": 0, "late": refused, "first_again": refused}
    assert "imakexec probe: the chain goes on" in out.console
    names = out.run.names("after")
    [first] = positions(names, "probe_first", count=1)
    [marker] = positions(names, "kexec_execute", count=1)
    assert first < marker == positions(names, "boot_aggregate")[1] - 1
    assert "probe_late" not in names
    assert out.console.count('cause=measurements_suspended comm="kexec" name="probe_late"') == 1
    assert out.run.judgement.verdict is Verdict.IN_SYNC, out.run.judgement.sentence


def test_no_allocation_is_needed_for_the_copy(lab: Lab, probed: KernelRequest) -> None:
    """Without memory the event is lost, and neither the list nor the reboot."""
    out = execute(lab, probed, FAIL_ALLOCATIONS, allow("fail"))

    assert "FAULT_INJECTION: forcing a failure" in out.console, "nothing failed"
    assert "imakexec probe: the chain goes on" in out.console
    names = out.run.names("after")
    assert "kexec_execute" not in names
    assert out.run.raw_log("after").startswith(out.run.raw_log("before-execute"))
    assert "probe_first" in names
    assert out.run.judgement.verdict is Verdict.IN_SYNC, out.run.judgement.sentence


@pytest.mark.parametrize("what", ["power-off", "kexec"])
def test_a_second_walk_of_the_chain_changes_nothing(
    lab: Lab, probed: KernelRequest, what: str
) -> None:
    out = execute(lab, probed, allow("walk"))

    assert f"imakexec probe: walked as a {what}" in out.console
    names = out.run.names("after")
    assert positions(names, "kexec_execute") == [positions(names, "boot_aggregate")[1] - 1]
    assert out.console.count("Kexec segment is not mapped") == 1, "once for the second kexec"
    assert out.said["late"] == -errno.ENODEV
    assert out.run.judgement.verdict is Verdict.IN_SYNC, out.run.judgement.sentence
