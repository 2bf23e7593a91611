# SPDX-License-Identifier: GPL-2.0-only
"""A kernel that reports its own mistakes has none to report: locking, RCU, memory, leaks."""

from __future__ import annotations

import pytest

from conftest import Lab
from imakexec import scenario
from imakexec.attest import Verdict
from imakexec.kernel.build import KernelRequest
from imakexec.scenario import Load, Session

pytestmark = pytest.mark.nightly

CPUS = 2
CRASH_MEMORY = "crashkernel=160M"
GUEST_MIB = 1024
"""KASAN takes an eighth of the memory, and the crash kernel its share."""

# An object is reported when it is older than five seconds (MSECS_MIN_AGE, mm/kmemleak.c), and when
# a second scan finds it as the first one did (update_checksum).
_SCAN = """
set -e
busybox sleep 6
echo scan >/sys/kernel/debug/kmemleak
echo scan >/sys/kernel/debug/kmemleak
cat /sys/kernel/debug/kmemleak
"""


def forget_leaks(session: Session) -> None:
    """Let kmemleak report only what is lost from now on."""
    script = "mount -t debugfs debugfs /sys/kernel/debug && echo clear >/sys/kernel/debug/kmemleak"
    session.guest.run(["sh", "-c", script], session.budget())


def leaks(session: Session) -> str:
    """What kmemleak has found since."""
    return session.guest.run(["sh", "-c", _SCAN], session.budget(2)).text


def test_loads_leave_no_leak_and_no_report(lab: Lab, debug: KernelRequest) -> None:
    with lab.session(debug, cmdline=CRASH_MEMORY, memory_mib=GUEST_MIB) as session:
        scenario.boot(session)
        forget_leaks(session)
        for _ in range(2):
            scenario.kexec_load(session)
            scenario.kexec_load(session, how=Load.CRASH)
            scenario.generate_activity(session, 40)
            scenario.kexec_load(session)
            scenario.kexec_unload(session)
            scenario.kexec_load(session, how=Load.LEGACY)
            scenario.kexec_unload(session, Load.CRASH)
        scenario.kexec_unload(session)
        found = leaks(session)
        said = scenario.complaints(scenario.kernel_log(session))

    assert found == ""
    assert said == ()


def test_a_storm_during_execute_breaks_no_rule(lab: Lab, debug: KernelRequest) -> None:
    with lab.session(debug, cpus=CPUS, memory_mib=GUEST_MIB, cmdline="page_poison=1") as session:
        scenario.boot(session)
        scenario.kexec_load(session)
        loaded = scenario.kexec_load(session)
        scenario.kexec_execute(session, loaded, meanwhile=scenario.storm(CPUS))
        scenario.take_snapshot(session, "after", quote_after=True)
        said = scenario.complaints(scenario.kernel_log(session))
    run = lab.judge()

    console = (run.folder / "console.log").read_text()
    assert scenario.complaints(console.splitlines()) == ()
    assert said == ()
    assert run.judgement.verdict is Verdict.IN_SYNC, run.judgement.sentence
