# SPDX-License-Identifier: GPL-2.0-only
"""What differs between the architectures a guest can have."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Arch:
    """One architecture, as data: nothing else in the project compares architecture names.

    Attributes:
        name: `uname -m` in the guest.
        qemu: the emulator's program name.
        machine: QEMU arguments that choose the board.
        tpm_device: QEMU's device model of the TPM.
        console: the kernel's name of the first serial port, the evidence console.
        shell_console: the kernel's name of the second, for an interactive shell.
        kernel_arch: the kernel build's `ARCH`.
        kernel_target: the kernel build's make target.
        kernel_image: the bootable image, relative to the build folder.
        debian_arch: the Debian name of the architecture.
        fragment: the Kconfig fragment of this architecture, in the project's top folder.
        cmdline_size: bytes that the kernel has for its command line, final NUL included.
        image_magic: what a boot image holds at which offset.
    """

    name: str
    qemu: str
    machine: tuple[str, ...]
    tpm_device: str
    console: str
    shell_console: str
    kernel_arch: str
    kernel_target: str
    kernel_image: str
    debian_arch: str
    fragment: str
    cmdline_size: int
    image_magic: tuple[int, bytes]

    def is_boot_image(self, path: Path) -> bool:
        """Whether a file looks like a kernel that boots on this architecture.

        Raises:
            OSError: it cannot be read.
        """
        offset, magic = self.image_magic
        with path.open("rb") as image:
            image.seek(offset)
            return image.read(len(magic)) == magic
