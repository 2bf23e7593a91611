# SPDX-License-Identifier: GPL-2.0-only
"""A fault of the guest is the guest's, a fault of the host is the host's, and each says so once."""

from __future__ import annotations

import os
import signal
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from conftest import Lab, World
from imakexec import job, process, scenario
from imakexec.attest import Verdict
from imakexec.deadline import Deadline
from imakexec.errors import GuestFailure, ImaKexecError, InfraError
from imakexec.kernel.build import KernelRequest
from imakexec.machine.watch import Cause
from imakexec.scenario import Session

NO_INIT = "rdinit=/none"
"""Makes a kernel panic when it has booted."""
NO_AGENT = "rdinit=/bin/sh"
"""Makes a guest that lives and never says hello."""
NOTHING_BUT_NOISE = "rdinit=/bin/busybox -- yes"
"""Makes a guest that writes to its console for ever, and does nothing else."""
NO_TPM = "initcall_blacklist=init_tis"
"""Keeps the kernel from finding its TPM."""

HOGS = 6
BUSY_SCRIPT = """
i=0
while [ $i -lt 60000 ]; do i=$((i + 1)); done
echo '<3>tpm tpm0: Operation Timed out' >/dev/kmsg
sleep 1
false
"""
"""What a kernel says that gives up its TPM, and a command that fails of it.

The guest has work to do until then: a thread that only wakes up now and then waits for no CPU.
"""

HANG_SECONDS = 4.0
"""How long a guest that does not answer is waited for here; it boots in less."""


@pytest.fixture(autouse=True)
def _in_a_world(world: World, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Runs in this process belong to the test's own world, and leave nothing in it."""
    process.run(["true"], deadline=Deadline.after(10))  # our guardian belongs to all the tests
    monkeypatch.setenv("TMPDIR", str(world.scratch))
    monkeypatch.setattr(tempfile, "tempdir", None)
    yield
    world.assert_nothing_is_left()


@contextmanager
def failure(kind: type[ImaKexecError], what: str, *, within: float) -> Iterator[None]:
    """The block fails in time with one message of that kind that says what, where and what to do.

    Every test here has a guest, so the message also has the tail of its console.
    """
    started = time.monotonic()
    with pytest.raises(kind, match=what) as caught:
        yield
    assert time.monotonic() - started < within
    assert type(caught.value).exit_code == kind.exit_code
    assert Path(caught.value.where).is_file()
    assert caught.value.remedy
    assert "] " in caught.value.tail, "no line of a kernel's console"


def greet(session: Session, seconds: float = 30) -> None:
    """Wait for the guest's agent."""
    token = session.machine.epochs.current.token or ""
    session.guest.wait_for_agent(Deadline.after(seconds), token=token)


def shell(session: Session, script: str, seconds: float = 10) -> None:
    """Run a script in the guest."""
    session.guest.run(["sh", "-c", script], Deadline.after(seconds))


def outlive(session: Session, script: str) -> None:
    """Boot and run a script that takes longer than the machine will live."""
    greet(session)
    shell(session, script, seconds=30)


# What the guest does.


def test_a_kernel_that_panics(lab: Lab, patched: KernelRequest) -> None:
    with (
        failure(GuestFailure, r"Kernel panic - not syncing.*\(boot 0, running\)", within=30),
        lab.session(patched, cmdline=NO_INIT) as session,
    ):
        greet(session)


def test_a_panic_is_reported_though_the_last_of_its_evidence_cannot_be_written(
    lab: Lab, patched: KernelRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise InfraError("the disk is full")

    monkeypatch.setattr(job, "_add_files", refuse)
    with (
        failure(GuestFailure, "Kernel panic - not syncing", within=30),
        lab.session(patched, cmdline=NO_INIT) as session,
    ):
        greet(session)


def test_a_guest_that_never_says_hello(lab: Lab, patched: KernelRequest) -> None:
    with (
        failure(GuestFailure, "the guest hung: 4.0 s passed waiting for.* hello", within=20),
        lab.session(patched, cmdline=NO_AGENT) as session,
    ):
        greet(session, HANG_SECONDS)


def test_a_command_that_never_ends(lab: Lab, patched: KernelRequest) -> None:
    with (
        lab.session(patched) as session,
        failure(GuestFailure, "no end after 2 s in the guest: sh -c 'echo before", within=30),
    ):
        greet(session)
        shell(session, "echo before; sleep 1000", seconds=2)


@pytest.mark.parametrize(
    ("command", "what"),
    [
        ("reboot -f", "the guest reset without a kexec"),
        ("poweroff -f", "the guest powered off by itself"),
        ("kexec -s -e", "a command ended with exit status .* in the guest: sh -c 'kexec -s -e'"),
    ],
)
def test_a_guest_that_does_what_nobody_asked_for(
    lab: Lab, patched: KernelRequest, command: str, what: str
) -> None:
    with lab.session(patched) as session, failure(GuestFailure, what, within=30):
        greet(session)
        shell(session, command)


def test_a_second_kernel_that_panics(lab: Lab, patched: KernelRequest) -> None:
    with (
        lab.session(patched) as session,
        failure(GuestFailure, r"Kernel panic - not syncing.*\(boot 1, running\)", within=60),
    ):
        scenario.boot(session)
        session.cmdline += f" {NO_INIT}"
        scenario.kexec_execute(session, scenario.kexec_load(session))


def test_a_kernel_that_was_unloaded_before_its_execution(lab: Lab, patched: KernelRequest) -> None:
    with (
        lab.session(patched) as session,
        failure(GuestFailure, "kexec -s -e", within=60),
    ):
        scenario.boot(session)
        loaded = scenario.kexec_load(session)
        shell(session, "kexec -s -u")
        scenario.kexec_execute(session, loaded)


def test_a_guest_without_a_tpm(lab: Lab, patched: KernelRequest) -> None:
    with (
        failure(GuestFailure, "the guest has no TPM: /dev/tpmrm0", within=30),
        lab.session(patched, cmdline=NO_TPM) as session,
    ):
        scenario.boot(session)


# What the host does.


def qemu(session: Session) -> int:
    """QEMU's process."""
    return session.machine.pid


def swtpm(session: Session) -> int:
    """The TPM's process."""
    assert session.machine.swtpm is not None
    return session.machine.swtpm.process.pid


@pytest.mark.parametrize("victim", [qemu, swtpm])
@pytest.mark.parametrize("delay", [0.05, 2.5])
def test_a_process_of_the_machine_that_is_killed(
    lab: Lab, patched: KernelRequest, victim: Callable[[Session], int], delay: float
) -> None:
    what = f"(?i){victim.__name__} was killed by SIGKILL"
    with lab.session(patched) as session:
        threading.Timer(delay, os.kill, [victim(session), signal.SIGKILL]).start()
        with pytest.raises(InfraError, match=what) as caught:
            outlive(session, "sleep 30")
    assert "nothing is known about the kernel" in caught.value.remedy
    assert Path(caught.value.where).is_file()


@pytest.mark.parametrize("victim", [qemu, swtpm])
def test_a_process_of_the_machine_that_is_stopped(
    lab: Lab, patched: KernelRequest, victim: Callable[[Session], int]
) -> None:
    what = f"(?i){victim.__name__} .* is stopped"
    with lab.session(patched) as session:
        greet(session)
        os.kill(victim(session), signal.SIGSTOP)
        with failure(InfraError, what, within=8):
            session.guest.tpm(_GET_RANDOM, Deadline.after(1))


# TPM2_Quote (TPM 2.0 Library, part 2, 6.5.2), where a command has its code.
_QUOTE = bytes.fromhex("00000158")


def while_it_quotes(
    session: Session, monkeypatch: pytest.MonkeyPatch, *signals: signal.Signals
) -> None:
    """Have swtpm take a TPM2_Quote and not answer it: stopped, and then sent these signals."""
    transmit = session.guest.tpm

    def tpm(command: bytes, deadline: Deadline) -> bytes:
        if command[6:10] == _QUOTE:
            os.kill(swtpm(session), signal.SIGSTOP)
            for number in signals:
                threading.Timer(0.3, os.kill, [swtpm(session), number]).start()
        return transmit(command, deadline)

    monkeypatch.setattr(session.guest, "tpm", tpm)


def test_a_tpm_that_is_killed_in_the_middle_of_a_quote(
    lab: Lab, patched: KernelRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    with lab.session(patched) as session:
        scenario.boot(session)
        while_it_quotes(session, monkeypatch, signal.SIGKILL)
        with failure(InfraError, "swtpm was killed by SIGKILL", within=5):
            scenario.take_snapshot(session, "boot")


@pytest.mark.nightly
def test_a_tpm_that_is_stopped_in_the_middle_of_a_quote(
    lab: Lab, patched: KernelRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    with lab.session(patched) as session:
        scenario.boot(session)
        while_it_quotes(session, monkeypatch)
        with failure(InfraError, "swtpm .* is stopped", within=60):
            scenario.take_snapshot(session, "boot")


PHASES = ("boot", "load", "execute", "quote")


@pytest.mark.nightly
@pytest.mark.parametrize("victim", [qemu, swtpm])
@pytest.mark.parametrize("phase", PHASES)
def test_a_process_that_is_stopped_in_a_phase(
    lab: Lab, patched: KernelRequest, victim: Callable[[Session], int], phase: str
) -> None:
    stopped = 0.0

    def go_through(session: Session) -> None:
        nonlocal stopped
        loaded: list[scenario.LoadedKernel] = []
        steps: dict[str, Callable[[], object]] = {
            "boot": lambda: scenario.boot(session),
            "load": lambda: loaded.append(scenario.kexec_load(session)),
            "execute": lambda: scenario.kexec_execute(session, *loaded),
            "quote": lambda: scenario.take_snapshot(session, "after"),
        }
        for name in PHASES:
            if name == phase:
                stopped = time.monotonic()
                os.kill(victim(session), signal.SIGSTOP)
            steps[name]()

    what = f"(?i){victim.__name__} .* is stopped"
    with lab.session(patched) as session, pytest.raises(InfraError, match=what):
        go_through(session)
    assert 0 < time.monotonic() - stopped < LATEST_SECONDS


LATEST_SECONDS = 100.0
"""For the first boot 90 s are allowed, and all else takes less."""


# What the guest writes to its console.


def rest_of_the_job(session: Session, between: str = "") -> None:
    """Load, measure, execute, and take the snapshots that the verifier needs.

    Args:
        between: a shell script to run between load and execute.
    """
    loaded = scenario.kexec_load(session)
    if between:
        shell(session, between)
    scenario.generate_activity(session, 5)
    scenario.take_snapshot(session, "before-execute")
    scenario.kexec_execute(session, loaded)
    scenario.take_snapshot(session, "after", quote_after=True)


def test_garbage_on_the_console_changes_no_verdict(lab: Lab, patched: KernelRequest) -> None:
    with lab.session(patched) as session:
        scenario.boot(session)
        scenario.take_snapshot(session, "boot")
        shell(session, "head -c 65536 /dev/urandom >/dev/ttyS0")
        rest_of_the_job(session)
        shell(session, "head -c 65536 /dev/urandom >/dev/ttyS0")
    run = lab.judge()
    assert run.judgement.verdict is Verdict.IN_SYNC
    text = (run.folder / "console.log").read_text(encoding="utf-8")
    assert "\\x00" in text, "no garbage has come"
    assert text.splitlines() == text.split("\n")[:-1]


def test_a_console_that_is_never_silent_changes_no_verdict(
    lab: Lab, patched: KernelRequest
) -> None:
    with lab.session(patched) as session:
        scenario.boot(session)
        scenario.take_snapshot(session, "boot")
        rest_of_the_job(session, "yes 'this is no silence' </dev/null >/dev/ttyS0 2>&1 &")
    run = lab.judge()
    assert run.judgement.verdict is Verdict.IN_SYNC
    assert (run.folder / "console.log").read_text().count("this is no silence") > 1000


@pytest.mark.nightly  # it is asked what it does, and its console is never silent
def test_a_guest_that_does_nothing_but_write_is_late(lab: Lab, patched: KernelRequest) -> None:
    what = "the guest hung: 4.0 s passed waiting for.* hello"
    with (
        pytest.raises(GuestFailure, match=what) as caught,
        lab.session(patched, cmdline=NOTHING_BUT_NOISE) as session,
    ):
        greet(session, HANG_SECONDS)
    assert caught.value.ending == Cause.OUT_OF_TIME
    assert "imakexec.token=" in caught.value.tail.splitlines()[-1]


@pytest.mark.nightly
def test_a_flooded_console_changes_no_verdict(lab: Lab, patched: KernelRequest) -> None:
    with lab.session(patched) as session:
        scenario.boot(session)
        scenario.take_snapshot(session, "boot")
        flood = "yes 'a line that says nothing at all, again and again and again'"
        shell(session, f"{flood} | head -c 104857600 >/dev/ttyS0", seconds=900)
        rest_of_the_job(session)
    run = lab.judge()
    assert run.judgement.verdict is Verdict.IN_SYNC
    assert (run.folder / "console.log").stat().st_size < 40 << 20
    assert "lines are left out here" in (run.folder / "console.log").read_text()


# What clocks do.


@pytest.mark.parametrize("date", ["1990-01-01 00:00:00", "2037-12-31 23:59:00"])
def test_a_guest_whose_clock_is_set(lab: Lab, patched: KernelRequest, date: str) -> None:
    with lab.session(patched) as session:
        scenario.boot(session)
        scenario.take_snapshot(session, "boot")
        set_clock = f"busybox date -s '{date}' && busybox date +%Y | grep -qx {date[:4]}"
        rest_of_the_job(session, set_clock)
    assert lab.judge().judgement.verdict is Verdict.IN_SYNC


# What the host's load does.


@contextmanager
def busy_cpu(pid: int) -> Iterator[None]:
    """Have a process share one CPU with others that never rest."""
    cpu = min(os.sched_getaffinity(0))
    for thread in Path(f"/proc/{pid}/task").iterdir():
        os.sched_setaffinity(int(thread.name), {cpu})
    hogs = [
        subprocess.Popen(["taskset", "-c", str(cpu), "sh", "-c", "while :; do :; done"])
        for _ in range(HOGS)
    ]
    try:
        yield
    finally:
        for hog in hogs:
            hog.kill()
            hog.wait()


def test_a_tpm_that_is_late_because_the_host_is_busy(lab: Lab, patched: KernelRequest) -> None:
    what = "this host has kept QEMU or swtpm waiting.*Operation Timed out.*then: a command ended"
    with lab.session(patched) as session:
        scenario.boot(session)
        with busy_cpu(qemu(session)), pytest.raises(InfraError, match=what) as caught:
            shell(session, BUSY_SCRIPT, seconds=60)
    assert caught.value.ending == Cause.KEPT_WAITING


# TPM2_GetRandom(8): tag, size, command code, count (TPM 2.0 Library, part 3, 16.1).
_GET_RANDOM = bytes.fromhex("8001 0000000c 0000017b 0008")
