# SPDX-License-Identifier: GPL-2.0-only
"""However a kernel fails, the failure has its name, and what can be known of it was asked for.

LKDTM, the kernel's own tester of crashes, is made to do each of them.
"""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from conftest import ENOUGH_KB, PAGE, Kernels, Lab, change_every_copy
from imakexec import scenario
from imakexec.arch import Feature
from imakexec.deadline import Deadline
from imakexec.errors import GuestFailure, ImaKexecError
from imakexec.kernel.build import DEBUG_INFO, KernelRequest
from imakexec.machine.complaint import read_complaints
from imakexec.machine.watch import Cause
from imakexec.scenario import Session

LKDTM = (
    *("CONFIG_DEBUG_KERNEL=y", "CONFIG_DEBUG_FS=y", "CONFIG_RUNTIME_TESTING_MENU=y"),
    "CONFIG_LKDTM=y",
)
CRASHPOINT = "/sys/kernel/debug/provoke-crash/DIRECT"
HANG_SECONDS = 4.0
"""How long a guest that does not answer is waited for here; it boots in less."""


@pytest.fixture
def crashing(kernels: Kernels) -> KernelRequest:
    """The whole series, with LKDTM."""
    return kernels.series(extra_memory_kb=ENOUGH_KB, symbols=LKDTM)


def crash(session: Session, how: str, seconds: float = HANG_SECONDS) -> None:
    """Boot, and have the kernel do it."""
    scenario.boot(session)
    script = f"busybox mount -t debugfs debugfs /sys/kernel/debug; echo {how} >{CRASHPOINT}"
    session.guest.run(["sh", "-c", script], Deadline.after(seconds))


def failure_of(lab: Lab, kernel: KernelRequest, how: str) -> ImaKexecError:
    """What a kernel that does it is reported as."""
    with pytest.raises(GuestFailure) as caught, lab.session(kernel) as session:
        crash(session, how)
    assert "] " in caught.value.tail, "no line of a kernel's console"
    assert "diagnosis, in" in caught.value.__notes__[0]
    return caught.value


def functions(console: Path) -> set[str]:
    """The innermost functions of all complaints in a console."""
    return {complaint.fingerprint.partition(":")[0] for complaint in read_complaints(console)}


@pytest.mark.parametrize("how", ["PANIC", "BUG", "EXCEPTION"])
def test_a_kernel_that_dies(lab: Lab, crashing: KernelRequest, how: str) -> None:
    failure = failure_of(lab, crashing, how)
    assert failure.ending in (Cause.PANIC, Cause.OOPS)
    assert f"lkdtm_{how}" in functions(lab.folder / "console.log")


def test_a_warning_ends_nothing_and_is_known(lab: Lab, crashing: KernelRequest) -> None:
    with lab.session(crashing) as session:
        crash(session, "WARNING")
    assert functions(lab.folder / "console.log") == {"lkdtm_WARNING"}
    events = (lab.folder / "events.jsonl").read_text().splitlines()
    complaints = [event for event in map(json.loads, events) if event["event"] == "complaint"]
    assert [complaint["name"] for complaint in complaints] == ["warning"]


@pytest.mark.nightly
def test_call_traces_lead_to_lines_of_the_source(lab: Lab, kernels: Kernels) -> None:
    kernel = kernels.series(extra_memory_kb=ENOUGH_KB, symbols=(*LKDTM, *DEBUG_INFO))
    failure_of(lab, kernel, "BUG")
    decoded = (lab.folder / "call-traces.txt").read_text()
    assert re.search(r"lkdtm_BUG \(.*drivers/misc/lkdtm/bugs\.c:\d+", decoded), decoded


def test_a_cpu_that_handles_no_interrupts(lab: Lab, crashing: KernelRequest) -> None:
    """Neither the agent nor sysrq answer: QEMU and a non-maskable interrupt say where it is."""
    failure = failure_of(lab, crashing, "HARDLOCKUP")
    assert failure.ending == Cause.OUT_OF_TIME
    told = lab.folder / "diagnosis"
    summary = (told / "summary.txt").read_text()
    assert "no answer: no CPU handles interrupts" in summary
    assert "(lkdtm_HARDLOCKUP+" in summary
    if crashing.arch.nmi_panics:
        assert functions(told / "console.log") == {"lkdtm_HARDLOCKUP"}
    # What it said when it was asked is no part of the run.
    assert read_complaints(lab.folder / "console.log") == []


@pytest.mark.parametrize(
    ("how", "answers"),
    [
        ("SOFTLOCKUP", "sysrq l"),
        ("HUNG_TASK", "sysrq w"),
    ],
)
def test_a_kernel_that_hangs_and_handles_interrupts(
    lab: Lab, crashing: KernelRequest, how: str, answers: str
) -> None:
    failure = failure_of(lab, crashing, how)
    assert failure.ending == Cause.OUT_OF_TIME
    told = lab.folder / "diagnosis"
    assert f"lkdtm_{how}" in (told / "console.log").read_text()
    summary = (told / "summary.txt").read_text().splitlines()
    [answer] = [line for line in summary if line.startswith(answers)]
    assert int(answer.rpartition(": ")[2].removesuffix(" lines")) > 5


def test_a_next_kernel_that_says_nothing_more(lab: Lab, patched: KernelRequest) -> None:
    """It boots, and starts no agent: it is known before the time for a boot is up."""
    with lab.session(patched) as session:
        scenario.boot(session)
        session.cmdline += " rdinit=/bin/sh"
        loaded = scenario.kexec_load(session)
        limit = session.boot_budget(2)
        with pytest.raises(GuestFailure, match="passed in silence") as caught:
            scenario.kexec_execute(session, loaded)
    assert limit.silence < limit.budget
    assert caught.value.ending == Cause.NO_PROGRESS


@pytest.mark.needs(Feature.VERIFYING_PURGATORY)
def test_a_next_kernel_that_never_comes_up(lab: Lab, patched: KernelRequest, ram: Path) -> None:
    """The purgatory loops for ever over an initramfs that was damaged after the load."""
    with lab.session(patched, ram=ram) as session:
        scenario.boot(session)
        loaded = scenario.kexec_load(session)
        initrd = session.guest.read_file(scenario.NEXT_INITRD, session.budget())
        assert change_every_copy(ram, initrd[:PAGE]) > 0
        with pytest.raises(GuestFailure) as caught:
            scenario.kexec_execute(session, loaded)
    assert caught.value.ending == Cause.NO_NEXT_KERNEL
