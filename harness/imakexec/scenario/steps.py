# SPDX-License-Identifier: GPL-2.0-only
"""What is done to a guest, in steps that the main job and the tests share.

Each step takes a `Session`, does one thing, and records what is evidence. None of them judges:
that is the verifier's work, later, from the evidence alone.
"""

from __future__ import annotations

import secrets
import shlex
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from imakexec.deadline import Deadline
from imakexec.errors import GuestFailure
from imakexec.evidence import Boot, BootKind, EvidenceWriter, QuoteRecord, Snapshot
from imakexec.machine.guest import SHELL_PARAMETER, TOKEN_PARAMETER, BootInfo, Guest
from imakexec.machine.qemu import Machine
from imakexec.progress import Progress
from imakexec.scenario.messages import complaints

# The TPM software stack takes long to load, and is wanted only once a guest is up.
if TYPE_CHECKING:
    from imakexec.machine.tpm import AttestationKey, Tpm

NEXT_KERNEL = "/boot/next/kernel"
NEXT_INITRD = "/boot/next/initrd"
MEASUREMENTS = "/sys/kernel/security/ima/binary_runtime_measurements"

# The first boot of a host that nobody has measured yet. Every later budget is a multiple of what
# that boot took, but not less than the floor, which covers a host that suddenly has other work.
_FIRST_BOOT_SECONDS = 90.0
_BUDGET_FLOOR_SECONDS = 20.0
_BUDGET_FACTOR = 15.0

# Programs among the new files of an activity: enough to show that execution is measured too.
_MOST_PROGRAMS = 5

_ACTIVITY = """
set -e
dir=$1 files=$2 programs=$3
mkdir -p "$dir"
i=0
while [ $i -lt $files ]; do
    i=$((i + 1))
    echo "$dir $i" >"$dir/f$i"
    read -r line <"$dir/f$i"
done
i=0
while [ $i -lt $programs ]; do
    i=$((i + 1))
    printf '#!/bin/sh\\nexit 0 # %s %s\\n' "$dir" $i >"$dir/x$i"
    chmod 755 "$dir/x$i"
    "$dir/x$i"
done
"""


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


@dataclass
class Session:
    """One run: a machine, its guest over all kernels, and the evidence that it leaves.

    Attributes:
        machine: started, and stopped by whoever started it.
        evidence: where every step records what it saw.
        progress: where every step is announced.
        cmdline: the command line of every kernel, without its token.
        run: what the evidence says about the run as a whole, for people.
        guest: the way into the guest.
        tpm: the guest's TPM, once it has booted.
        ak: the attestation key, once it has booted.
        banks: the TPM's allocated banks, once it has booted.
        boot_seconds: from power-on to the first agent, which scales all later budgets.
    """

    machine: Machine
    evidence: EvidenceWriter
    progress: Progress
    cmdline: str
    run: Mapping[str, object] = field(default_factory=dict)
    guest: Guest = field(init=False)
    tpm: Tpm = field(init=False)
    ak: AttestationKey = field(init=False)
    banks: tuple[str, ...] = field(init=False, default=())
    boot_seconds: float = field(init=False, default=_FIRST_BOOT_SECONDS / _BUDGET_FACTOR)

    def __post_init__(self) -> None:
        self.guest = Guest(self.machine)

    def budget(self, times: float = 1.0) -> Deadline:
        """A deadline for something that takes about `times` as long as a boot."""
        boot = max(_BUDGET_FLOOR_SECONDS, _BUDGET_FACTOR * self.boot_seconds)
        return Deadline.after(boot * max(1.0, times))


def boot(session: Session) -> None:
    """Wait for the first kernel, make the attestation key and find the allocated banks.

    Raises:
        GuestFailure: the kernel did not come up, or its TPM does not work.
        InfraError: the host failed.
    """
    started = time.monotonic()
    token = session.machine.epochs.current.token or ""
    info = session.guest.wait_for_agent(Deadline.after(_FIRST_BOOT_SECONDS), token=token)
    session.boot_seconds = time.monotonic() - started
    _record_boot(session, info)

    from imakexec.machine.tpm import Tpm  # noqa: PLC0415  # slow, and the guest booted meanwhile

    session.tpm = Tpm(session.guest)
    session.banks = session.tpm.allocated_banks(session.budget())
    session.evidence.set_required_banks(session.banks)
    session.ak = session.tpm.create_ak(session.budget())
    session.evidence.set_ak(session.ak.public, session.ak.pem)


def take_snapshot(session: Session, name: str, *, quote_after: bool = False) -> bytes:
    """Quote PCR 0 to 10, read the measurement list, and quote once more if asked to.

    Args:
        name: what the snapshot is called in the evidence.
        quote_after: whether a second quote follows, which covers a list that grew meanwhile.

    Returns:
        The binary measurement list.
    """
    before = _quote(session)
    log = session.guest.read_file(MEASUREMENTS, session.budget())
    after = _quote(session) if quote_after else None
    epoch = session.machine.epochs.current.number
    session.evidence.add_snapshot(Snapshot(name, epoch, before, log, after))
    return log


def kexec_load(
    session: Session,
    *,
    options: Sequence[str] = (),
    chain: bool = False,
    shell: bool = False,
) -> LoadedKernel:
    """Load the next kernel with kexec_file_load, and look at what the kernel says about it.

    The load succeeds even when IMA cannot hand its list over, so the kernel's own messages count
    as much as the exit status.

    Args:
        options: further options of kexec(8).
        chain: give the next kernel what it needs to execute a kexec of its own.
        shell: have the next kernel offer a shell.

    Raises:
        GuestFailure: the kernel refused the image.
    """
    token = new_token()
    cmdline = f"{session.cmdline} {TOKEN_PARAMETER}={token}"
    if shell:
        cmdline += f" {SHELL_PARAMETER}={session.machine.config.arch.shell_console}"
    initrd = _initrd_for_chain(session) if chain else NEXT_INITRD
    session.guest.run(
        [
            "kexec",
            "-s",
            "-l",
            NEXT_KERNEL,
            f"--initrd={initrd}",
            f"--command-line={cmdline}",
            *options,
        ],
        session.budget(2),
    )
    session.machine.epochs.loaded()
    return LoadedKernel(cmdline, token, complaints(kernel_log(session)))


def generate_activity(session: Session, count: int) -> tuple[str, ...]:
    """Write and read new files and run new programs, so that `count` records are measured.

    Returns:
        The paths, in the order in which they are measured.
    """
    programs = min(_MOST_PROGRAMS, count // 5)
    files = count - programs
    folder = f"/t/{secrets.token_hex(3)}"
    session.guest.run(
        ["sh", "-c", _ACTIVITY, "activity", folder, str(files), str(programs)],
        session.budget(1 + count / 100),
    )
    return tuple(
        [f"{folder}/f{i + 1}" for i in range(files)]
        + [f"{folder}/x{i + 1}" for i in range(programs)]
    )


def kexec_execute(session: Session, loaded: LoadedKernel, *, banner: str = "") -> None:
    """Execute the loaded kernel and wait for it, proven by banner, boot_id and token.

    Args:
        banner: the "Linux version ..." line of the kernel that was loaded, "" if not known.

    Raises:
        GuestFailure: it did not come up, or another kernel did.
    """
    session.machine.epochs.executing(loaded.token)
    info = session.guest.replace_kernel(
        ["kexec", "-s", "-e"], session.budget(2), token=loaded.token
    )
    session.machine.wait_for_kernel(session.budget())
    if banner and info.banner != banner:
        raise GuestFailure(
            f"kexec started {info.banner!r}, loaded was {banner!r}",
            where=str(session.machine.console.path),
            remedy="another image than the loaded one was executed",
        )
    _record_boot(session, info)


def cold_reset(session: Session) -> None:
    """Reset the machine, TPM included, and wait for the same kernel to boot again."""
    session.machine.system_reset(session.budget())
    token = session.machine.epochs.current.token or ""
    info = session.guest.wait_for_agent(session.budget(2), token=token)
    _record_boot(session, info)


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
