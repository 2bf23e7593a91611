# SPDX-License-Identifier: GPL-2.0-only
"""What differs between the architectures a guest can have."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path


class Feature(StrEnum):
    """What not every architecture has."""

    VERIFYING_PURGATORY = "a purgatory that checks the segments before the next kernel starts"


@dataclass(frozen=True)
class KexecObjects:
    """What a kexec goes through in the kernel's architecture code.

    Attributes:
        kernel_arch: the kernel build's `ARCH`.
        objects: object files, each after the configuration symbol that has it built.
    """

    kernel_arch: str
    objects: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Uefi:
    """The UEFI firmware of a board, where the default is another or none.

    Attributes:
        image: code and variables in one file, as QEMU's `-bios` takes it.
        package: the Debian package that it is from.
        symbols: what a kernel needs to boot from it on top of the fragments.
    """

    image: Path
    package: str
    symbols: tuple[str, ...] = ()


@dataclass(frozen=True)
class HandoverPlace:
    """Where a kernel that was started by kexec shows which memory holds the list for it.

    Attributes:
        in_device_tree: whether it is a property of the device tree, which the kernel removes once
            it has restored the list; a kernel without a device tree then finds no list.
        path: in the guest, for messages.
        script: a shell script for the guest that writes what `parse` reads, or nothing if the
            kernel was handed no list.
        parse: physical address and size in bytes from what the script wrote; raises ValueError if
            it is something else.
    """

    in_device_tree: bool
    path: str
    script: str
    parse: Callable[[bytes], tuple[int, int]]


@dataclass(frozen=True)
class LateRefusal:
    """A load that kexec_file_load refuses after IMA has added its segment to the image.

    Attributes:
        image: the boot image, in the guest.
        cmdline: the command line of the next kernel.
        prepare: a shell script for the guest that makes the image; empty if it is there.
        says: what the kernel says; empty if it is silent.
    """

    image: str
    cmdline: str
    prepare: str = ""
    says: str = ""


@dataclass(frozen=True)
class Arch:
    """One architecture, as data: nothing else in the project compares architecture names.

    Attributes:
        name: what the project calls it.
        uname: `uname -m` in the guest, and on a host whose KVM can run it.
        qemu: the emulator's program name.
        machine: QEMU arguments that choose the board.
        uefi: firmware that the board can have.
        tpm_device: QEMU's device model of the TPM.
        console: the kernel's name of the first serial port, the evidence console.
        shell_console: the kernel's name of the console for an interactive shell.
        shell_device: QEMU arguments that make that console of the character device "shell".
        host_packages: the Debian packages that a host needs for its guests beside those of
            `harness/host-packages.txt`.
        cross_compile: what the names of its compiler and binutils begin with; empty for the host's
            own.
        kernel_arch: the kernel build's `ARCH`.
        kernel_target: the kernel build's make target.
        kernel_image: the bootable image, relative to the build folder.
        debian_arch: the Debian name of the architecture.
        fragment: the Kconfig fragment of this architecture, in the project's top folder.
        cmdline_size: bytes that the kernel has for its command line, final NUL included.
        image_magic: what a boot image holds at which offset.
        true_delays: kernel parameters with which delays have about the length that is asked for, on
            every CPU.
        nmi_panics: the kernel parameter with which a non-maskable interrupt that nobody expects
            shows where the CPU is, and ends the kernel; empty if there are none.
        handover: where the list is that a kernel was handed.
        late_refusal: how a load fails late.
        lacks: what it has not of the features that others have, each with the reason.
        kexec: its own part in a kexec.
        kexec_32bit: the same of its 32-bit sibling; None if there is none.
    """

    name: str
    uname: str
    qemu: str
    machine: tuple[str, ...]
    uefi: Uefi
    tpm_device: str
    console: str
    shell_console: str
    shell_device: tuple[str, ...]
    host_packages: tuple[str, ...]
    cross_compile: str
    kernel_arch: str
    kernel_target: str
    kernel_image: str
    debian_arch: str
    fragment: str
    cmdline_size: int
    image_magic: tuple[int, bytes]
    true_delays: str
    nmi_panics: str
    handover: HandoverPlace
    late_refusal: LateRefusal
    lacks: Mapping[Feature, str]
    kexec: KexecObjects
    kexec_32bit: KexecObjects | None

    @property
    def compiler(self) -> str:
        """The program that compiles for its guests."""
        return f"{self.cross_compile}gcc"

    @property
    def set_up(self) -> str:
        """What to do on a host that lacks a program which its guests need."""
        if not self.host_packages:
            return "./run_qemu.sh installs it; ./run_qemu.sh doctor names all that is missing"
        packages = " ".join(self.host_packages)
        return f"as root: apt-get install --no-install-recommends {packages}"

    def is_boot_image(self, path: Path) -> bool:
        """Whether a file looks like a kernel that boots on this architecture.

        Raises:
            OSError: it cannot be read.
        """
        offset, magic = self.image_magic
        with path.open("rb") as image:
            image.seek(offset)
            return image.read(len(magic)) == magic
