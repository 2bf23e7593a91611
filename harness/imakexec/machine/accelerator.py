# SPDX-License-Identifier: GPL-2.0-only
"""Which accelerator runs a guest on this host, proven by a guest that ran.

A `/dev/kvm` that opens proves nothing. On a host with the module kvm_pvm, QEMU 7.2 starts, the
guest's SeaBIOS runs, and even a boot sector that switches to 64-bit mode prints its line; the
real kernel then hangs for ever before its first console byte, with a CPU at 100 %. So the probe
boots the kernel that is to be tested, and asks for its banner.

A kernel that prints nothing anywhere must not condemn KVM: a silent probe is repeated under TCG,
and only where that one speaks does KVM count as broken. Such an answer is remembered until the
host boots again or QEMU or the KVM modules change.
"""

from __future__ import annotations

import json
import os
import platform
import secrets
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from imakexec import options, process
from imakexec.arch import Arch
from imakexec.deadline import Deadline
from imakexec.errors import InfraError, UserError
from imakexec.machine.complaint import find_banner

PROBE_SECONDS = 3.0
"""How long a guest may take to its banner under KVM; 0.1 to 0.2 s are usual."""

_CONTROL_SECONDS = 20.0
_VERSION_SECONDS = 20.0
_DEVICE = Path("/dev/kvm")


# It lies where the command line has it without what the probe needs.
Accelerator = options.Accelerator


@dataclass(frozen=True)
class AcceleratorChoice:
    """What to use and why.

    Attributes:
        accelerator: the choice.
        reason: one sentence for the reader.
        forced: whether the user chose.
    """

    accelerator: Accelerator
    reason: str
    forced: bool


@dataclass(frozen=True)
class KvmAnswer:
    """Whether KVM works, in one sentence; `lasting` if the sentence may be remembered."""

    works: bool
    reason: str
    lasting: bool


def probe_accelerator(
    arch: Arch,
    *,
    forced: Accelerator | None,
    memory: Path,
    kernel: Path | None,
) -> AcceleratorChoice:
    """Choose the accelerator for guests of `arch`.

    Args:
        forced: the user's choice; TCG is taken at once, KVM must prove itself.
        memory: folder in which the answer is remembered.
        kernel: the image to prove KVM with; without one only what is remembered counts.

    Raises:
        UserError: KVM is forced for another architecture than the host's.
        InfraError: KVM is forced and does not work, or QEMU is missing.
    """
    if forced is Accelerator.TCG:
        return AcceleratorChoice(Accelerator.TCG, "TCG: as asked", forced=True)
    if (host := platform.machine()) != arch.uname:
        reason = f"KVM: the host is {host}, the guest {arch.uname}"
        if forced is Accelerator.KVM:
            raise UserError(reason, where="--accel kvm", remedy="leave --accel out")
        return AcceleratorChoice(Accelerator.TCG, reason, forced=False)
    answer = _obstacle(_DEVICE) or _proven(arch, memory, kernel)
    if answer.works:
        return AcceleratorChoice(Accelerator.KVM, answer.reason, forced=forced is not None)
    if forced is Accelerator.KVM:
        raise InfraError(
            answer.reason, where=str(_DEVICE), remedy="leave --accel out, or repair it"
        )
    return AcceleratorChoice(Accelerator.TCG, answer.reason, forced=False)


def _obstacle(device: Path) -> KvmAnswer | None:
    """Why KVM cannot even be tried. It is seen anew each time: the user can remove it."""
    try:
        os.close(os.open(device, os.O_RDWR | os.O_CLOEXEC))
    except FileNotFoundError:
        return KvmAnswer(False, f"KVM: {device} is missing", lasting=False)
    except PermissionError:
        reason = f"KVM: no permission on {device}: add yourself to group kvm"
        return KvmAnswer(False, reason, lasting=False)
    except OSError as error:
        return KvmAnswer(False, f"KVM: {device} does not open: {error.strerror}", lasting=False)
    return None


def _proven(arch: Arch, memory: Path, kernel: Path | None) -> KvmAnswer:
    key = _host_key(arch)
    note = memory / f"kvm-{arch.name}.json"
    remembered = recall(note, key)
    if remembered is not None:
        return remembered
    if kernel is None:
        return KvmAnswer(False, "KVM opens, but no kernel is built yet to try it", lasting=False)
    answer = judge_kvm(lambda accelerator, seconds: probe(arch, kernel, accelerator, seconds))
    if answer.lasting:
        remember(note, key, answer)
    return answer


def judge_kvm(probe: Callable[[Accelerator, float], str]) -> KvmAnswer:
    """Whether KVM works, from probe guests.

    Args:
        probe: what went wrong with a guest under that accelerator within so many seconds;
            empty if it showed its banner.
    """
    trouble = probe(Accelerator.KVM, PROBE_SECONDS)
    if not trouble:
        return KvmAnswer(True, "KVM: a guest has run under it", lasting=True)
    reason = f"KVM opened but the probe guest {trouble}"
    if not probe(Accelerator.TCG, _CONTROL_SECONDS):
        return KvmAnswer(False, reason, lasting=True)
    reason += "; it does not run under TCG either, so the kernel may be at fault"
    return KvmAnswer(False, reason, lasting=False)


def probe_argv(arch: Arch, kernel: Path, accelerator: Accelerator) -> tuple[str, ...]:
    """The command line of a probe guest; its console is QEMU's standard output."""
    # fmt: off
    return (
        arch.qemu, *arch.machine, "-accel", accelerator.value, "-m", "256",
        "-nodefaults", "-no-user-config", "-display", "none", "-no-reboot",
        "-serial", "stdio",
        "-kernel", str(kernel), "-append", f"console={arch.console} panic=-1",
    )
    # fmt: on


def probe(arch: Arch, kernel: Path, accelerator: Accelerator, seconds: float) -> str:
    """What went wrong with a probe guest, in a few words; empty if it showed its banner."""
    lines: list[str] = []

    def take(line: str) -> None:
        lines.append(line)
        if find_banner(line) is not None:
            raise _BannerSeen

    argv = probe_argv(arch, kernel, accelerator)
    deadline = Deadline.after(seconds)
    try:
        ended = process.run(argv, deadline=deadline, on_line=take, check=False)
    except _BannerSeen:
        return ""
    except InfraError:
        if not deadline.expired:
            raise
        return f"printed {'no banner' if lines else 'nothing'} within {seconds:.0f} s"
    last = lines[-1] if lines else "no message"
    return f"ended with status {ended.returncode}: {last}"


class _BannerSeen(Exception):
    """Leaves `process.run`, which then ends the guest."""


def _host_key(arch: Arch) -> Mapping[str, str]:
    """What the answer depends on."""
    version = process.run([arch.qemu, "--version"], deadline=Deadline.after(_VERSION_SECONDS))
    modules = sorted(path.name for path in Path("/sys/module").glob("kvm*"))
    return {
        "boot_id": Path("/proc/sys/kernel/random/boot_id").read_text().strip(),
        "qemu": version.output.splitlines()[0],
        "modules": " ".join(modules),
    }


def recall(note: Path, key: Mapping[str, str]) -> KvmAnswer | None:
    """The answer remembered under this key; None if there is none, or none that is readable."""
    try:
        content = json.loads(note.read_text())
        if content["key"] != dict(key):
            return None
        return KvmAnswer(bool(content["works"]), str(content["reason"]), lasting=True)
    except (OSError, ValueError, KeyError, TypeError):
        return None


def remember(note: Path, key: Mapping[str, str], answer: KvmAnswer) -> None:
    """Write the answer down, all at once.

    Raises:
        InfraError: the file system refuses.
    """
    content = json.dumps({"key": dict(key), "works": answer.works, "reason": answer.reason})
    draft = note.with_name(f".{note.name}.{secrets.token_hex(4)}")
    process.remove_at_death(draft)
    try:
        note.parent.mkdir(parents=True, exist_ok=True)
        draft.write_text(content + "\n")
        draft.replace(note)
    except OSError as error:
        raise InfraError.refused("the answer about KVM cannot be kept", error, note) from error
    finally:
        draft.unlink(missing_ok=True)
