# SPDX-License-Identifier: GPL-2.0-only
"""What is done to a guest, in steps that the main job and the tests share.

Each step takes a `Session`, does one thing, and records what is evidence. None of them judges:
that is the verifier's work, later, from the evidence alone.
"""

from __future__ import annotations

import secrets
import shlex
import time
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from errno import ENOENT
from pathlib import Path

from imakexec.deadline import Deadline
from imakexec.errors import GuestFailure
from imakexec.evidence import Boot, BootKind, QuoteRecord, Snapshot
from imakexec.machine.complaint import complaint_lines
from imakexec.machine.epoch import Phase
from imakexec.machine.guest import SHELL_PARAMETER, TOKEN_PARAMETER, BootInfo, GuestOSError
from imakexec.machine.watch import Expected
from imakexec.scenario.session import Session, step

NEXT_KERNEL = "/boot/next/kernel"
NEXT_INITRD = "/boot/next/initrd"
MEASUREMENTS = "/sys/kernel/security/ima/binary_runtime_measurements"
_COUNT = "/sys/kernel/security/ima/runtime_measurements_count"
_EXECUTE = ("kexec", "-s", "-e")
_STARTED = 3.0  # times as long as a whole boot: more than the purgatory takes
_LOOKS = 5
_LOOK_SECONDS = 0.1
_SLOW_LIST = 50_000  # records, which take as long to read as a boot does


class Load(StrEnum):
    """How an image is loaded, and as what."""

    FILE = "kexec_file_load"
    """By kexec_file_load(2), which hands the measurement list over."""
    LEGACY = "kexec_load"
    """By kexec_load(2), which does not."""
    CRASH = "crash kernel"
    """By kexec_file_load(2), for the next panic; it replaces nothing that waits for execution."""


_LOAD_OPTIONS: Mapping[Load, tuple[str, str]] = {
    Load.FILE: ("-s", "-l"),
    Load.LEGACY: ("-c", "-l"),
    Load.CRASH: ("-s", "-p"),
}


def new_token() -> str:
    """A random word for a kernel command line: 64 bits, hexadecimal."""
    return secrets.token_hex(8)


@dataclass(frozen=True)
class LoadedKernel:
    """A kernel that waits for its execution.

    Attributes:
        cmdline: its command line.
        token: the random word on it.
        complaints: what the loading kernel had said against a hand-over by then; empty is good.
    """

    cmdline: str
    token: str
    complaints: tuple[str, ...]


@step("boot")
def boot(session: Session) -> BootInfo:
    """Wait for the first kernel, make the attestation key and find the allocated banks.

    A machine without a TPM has neither.

    Raises:
        GuestFailure: the kernel did not come up, or its TPM does not work.
        InfraError: the host failed.
    """
    started = time.monotonic()
    token = session.machine.epochs.current.token or ""
    info = session.guest.wait_for_agent(session.first_boot_budget(), token=token)
    session.boot_seconds = time.monotonic() - started
    _record_boot(session, info)
    if not session.has_tpm:
        return info

    from imakexec.machine.tpm import Tpm  # noqa: PLC0415  # slow, and the guest booted meanwhile

    session.tpm = Tpm(session.guest)
    session.banks = session.tpm.allocated_banks(session.budget())
    session.evidence.set_required_banks(session.banks)
    session.ak = session.tpm.create_ak(session.budget())
    session.evidence.set_ak(session.ak.public, session.ak.pem)
    return info


def take_snapshot(
    session: Session, name: str, *, quote_after: bool = False, set_aside: bytes = b""
) -> bytes:
    """Quote PCR 0 to 10, read the measurement list, and quote once more if asked to.

    Args:
        name: what the snapshot is called in the evidence.
        quote_after: whether a second quote follows, which covers a list that grew meanwhile.
        set_aside: records that the kernel had before those of its list and has staged or deleted.

    Returns:
        The binary measurement list, with what was set aside.
    """
    with session.step(f"snapshot {name}"):
        before = _quote(session)
        log = set_aside + read_list(session)
        after = _quote(session) if quote_after else None
    epoch = session.machine.epochs.current.number
    session.evidence.add_snapshot(Snapshot(name, epoch, before, log, after))
    return log


def read_list(session: Session) -> bytes:
    """The binary measurement list, without any quote beside it."""
    return session.guest.read_file(MEASUREMENTS, reading_budget(session))


def reading_budget(session: Session) -> Deadline:
    """A deadline for reading the running kernel's list, in any form.

    Every read(2) walks from its start to where the last one has stopped (ima_measurements_start,
    security/integrity/ima/ima_fs.c), so that it takes the time of a square.
    """
    return session.budget(1 + (_records(session) / _SLOW_LIST) ** 2)


def _records(session: Session) -> int:
    """How many records the running kernel's list has; none without IMA."""
    try:
        return int(session.guest.read_file(_COUNT, session.budget()))
    except GuestOSError as error:
        if error.errno != ENOENT:
            raise
        return 0


@step("load")
def kexec_load(
    session: Session,
    *,
    how: Load = Load.FILE,
    append: str = "",
    without: str = "",
    chain: bool = False,
    shell: bool = False,
) -> LoadedKernel:
    """Load the next kernel, and look at what the kernel says about it.

    The load succeeds even when IMA cannot hand its list over, so the kernel's own messages count
    as much as the exit status.

    Args:
        how: by which system call, and for what.
        append: further words of the next kernel's command line.
        without: a word of the run's command line that the next kernel does not get.
        chain: give the next kernel what it needs to execute a kexec of its own.
        shell: have the next kernel offer a shell.

    Raises:
        GuestFailure: the kernel refused the image.
    """
    token = new_token()
    common = [word for word in session.cmdline.split() if word != without]
    words = [*common, append, f"{TOKEN_PARAMETER}={token}"]
    if shell:
        words.append(f"{SHELL_PARAMETER}={session.machine.config.arch.shell_console}")
    cmdline = " ".join(word for word in words if word)
    initrd = _initrd_for_chain(session) if chain else NEXT_INITRD
    session.guest.run(
        [
            "kexec",
            *_LOAD_OPTIONS[how],
            NEXT_KERNEL,
            f"--initrd={initrd}",
            f"--command-line={cmdline}",
        ],
        session.budget(2),
    )
    if how is not Load.CRASH:
        session.machine.epochs.loaded()
    return LoadedKernel(cmdline, token, complaint_lines(kernel_log(session)))


def put_next_kernel(session: Session, image: Path) -> None:
    """Have the next load take another boot image than the one that was packed.

    What the guest hands on to a kernel that executes a kexec of its own is then that image, too.
    """
    session.guest.write_file(NEXT_KERNEL, image.read_bytes(), session.budget())


@step("load that is refused")
def kexec_load_refused(
    session: Session,
    *,
    says: str = "kexec_file_load",
    image: str = NEXT_KERNEL,
    initrd: str = NEXT_INITRD,
    cmdline: str = "x",
) -> None:
    """Try a load by kexec_file_load(2) that must be refused; what waits goes on waiting.

    Args:
        says: what kexec-tools must say. They name the system call if it was the kernel that
            refused; what they take for no kernel themselves it never sees.
        image: the boot image, in the guest.
        initrd: the initramfs, in the guest.
        cmdline: the command line of the next kernel.

    Raises:
        GuestFailure: it was not, or for another reason.
    """
    command = ["kexec", "-s", "-l", image, f"--initrd={initrd}", f"--command-line={cmdline}"]
    result = session.guest.run(command, session.budget(2), check=False)
    if result.code == 0 or says not in result.text:
        raise GuestFailure(
            f"{says!r} was due of a load of {image}: exit status {result.code}, {result.text!r}",
            where=str(session.machine.console.path),
            remedy="see kexec_file_load() of the kernel under test",
        )


@step("unload")
def kexec_unload(session: Session, how: Load = Load.FILE) -> None:
    """Drop the image that waits for its execution, or the crash kernel's; there need not be one.

    Raises:
        GuestFailure: the kernel refused.
    """
    options = ["-c"] if how is Load.LEGACY else ["-s"]
    if how is Load.CRASH:
        options.append("-p")
    session.guest.run(["kexec", *options, "-u"], session.budget())
    if how is not Load.CRASH and session.machine.epochs.phase is Phase.LOADED:
        session.machine.epochs.unloaded()


@step("execute")
def kexec_execute(
    session: Session, loaded: LoadedKernel, *, banner: str = "", meanwhile: str = ""
) -> None:
    """Execute the loaded kernel and wait for it, proven by banner, boot_id and token.

    Args:
        banner: the "Linux version ..." line of the kernel that was loaded, "" if not known.
        meanwhile: a shell script that starts what goes on while kexec executes.

    Raises:
        GuestFailure: it did not come up, or another kernel did.
    """
    command = [*_EXECUTE]
    if meanwhile:
        command = ["sh", "-c", f"{meanwhile}\nexec {shlex.join(command)}"]
    deadline = session.boot_budget(2, records=_records(session))
    session.machine.epochs.executing(loaded.token)
    info = session.guest.replace_kernel(command, deadline, token=loaded.token)
    session.machine.wait_for_kernel(session.budget())
    if banner and info.banner != banner:
        raise GuestFailure(
            f"kexec started {info.banner!r}, loaded was {banner!r}",
            where=str(session.machine.console.path),
            remedy="another image than the loaded one was executed",
        )
    _record_boot(session, info)


@step("execute that is refused")
def kexec_execute_refused(session: Session, loaded: LoadedKernel) -> None:
    """Execute the loaded kernel where the purgatory must loop for ever instead of starting it.

    The machine is of no use afterwards.

    Raises:
        GuestFailure: a kernel was started, or the jump was not even made.
    """
    machine = session.machine
    booted = machine.epochs.current.number
    machine.epochs.executing(loaded.token)
    try:
        session.guest.replace_kernel(
            _EXECUTE, Deadline.after(_STARTED * session.boot_seconds), token=loaded.token
        )
        what = "the purgatory has started what was changed after the load"
    except GuestFailure as failure:
        if _is_stuck_after_jump(session) and machine.epochs.current.number == booted:
            return
        what = failure.what
    raise GuestFailure(
        what,
        where=str(machine.console.path),
        remedy="see which segments kexec_calculate_store_digests() leaves out",
    )


def _is_stuck_after_jump(session: Session) -> bool:
    """Whether the CPU has left the kernel, and does nothing at all: a boot that is slow would."""
    machine = session.machine
    if "Starting new kernel" not in machine.console.path.read_text(errors="replace"):
        return False
    looks = []
    for _ in range(_LOOKS):
        looks.append(machine.registers())
        time.sleep(_LOOK_SECONDS)
    return len(set(looks)) == 1


@step("panic")
def crash(session: Session, loaded: LoadedKernel) -> None:
    """Make the kernel panic, and wait for the crash kernel that was loaded.

    Raises:
        GuestFailure: it did not come up.
    """
    session.machine.epochs.loaded()
    session.machine.epochs.executing(loaded.token)
    deadline = session.boot_budget(2, records=_records(session))
    with session.machine.watch.expect(Expected.PANIC):
        info = session.guest.replace_kernel(
            ["sh", "-c", "echo c >/proc/sysrq-trigger"], deadline, token=loaded.token
        )
        session.machine.wait_for_kernel(session.budget())
    _record_boot(session, info)


@step("reset")
def cold_reset(session: Session) -> None:
    """Reset the machine, TPM included, and wait for the same kernel to boot again."""
    session.machine.system_reset(session.budget())
    token = session.machine.epochs.current.token or ""
    info = session.guest.wait_for_agent(session.boot_budget(2), token=token)
    _record_boot(session, info)


@step("end")
def end(session: Session, command: str, how: Expected) -> None:
    """Have a shell command end the machine, and wait until it has.

    Raises:
        GuestFailure: it did not, or ended in another way.
    """
    script = f"(busybox sleep 0.5; {command}) &"
    watch = session.machine.watch
    # QEMU exits with any of them (see `-no-reboot`).
    with watch.expect(how) as expected, watch.expect(Expected.POWER_OFF):
        session.guest.run(["sh", "-c", script], session.budget())
        expected.wait(session.budget())


def kernel_log(session: Session) -> tuple[str, ...]:
    """The kernel's own log, line by line.

    It is read through the guest, not from the console: what a system call has printed is there
    when the call returns, while the serial line may still be sending it.
    """
    text = session.guest.run(["dmesg"], session.budget()).stdout.decode(errors="replace")
    return tuple(text.splitlines())


def _initrd_for_chain(session: Session) -> str:
    path = "/run/initrd"
    session.guest.run(["sh", "-c", f"next-initrd >{shlex.quote(path)}"], session.budget())
    return path


def _quote(session: Session) -> QuoteRecord:
    nonce = secrets.token_bytes(32)
    quote = session.tpm.quote(session.ak, nonce, session.budget(), banks=session.banks)
    return QuoteRecord(quote.attest, quote.signature, quote.nonce, quote.pcrs)


def _record_boot(session: Session, info: BootInfo) -> None:
    """Have the epoch confirmed by who answers from the guest, and put it into the evidence."""
    epoch = session.machine.epochs.identify(boot_id=info.boot_id, token=info.token or None)
    session.evidence.add_boot(
        Boot(
            epoch=epoch.number,
            token=info.token,
            boot_id=info.boot_id,
            banner=info.banner,
            release=info.release,
            cmdline=info.cmdline,
            transition=BootKind(epoch.transition.value),
        )
    )
