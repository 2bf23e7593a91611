# SPDX-License-Identifier: GPL-2.0-only
"""x86_64: QEMU's q35 with SeaBIOS, the way a PC with a TPM 2.0 boots.

SeaBIOS measures itself into PCR 0 and hands the kernel an ACPI TPM2 table; microvm has no such
table, and qboot leaves PCR 0 to 7 zero.
"""

from __future__ import annotations

from imakexec.arch.model import Arch

X86_64 = Arch(
    name="x86_64",
    qemu="qemu-system-x86_64",
    machine=("-M", "q35"),
    tpm_device="tpm-tis",
    console="ttyS0",
    shell_console="ttyS1",
    kernel_arch="x86_64",
    kernel_target="bzImage",
    kernel_image="arch/x86/boot/bzImage",
    debian_arch="amd64",
    fragment="Kconfig.x86_64.fragment",
    cmdline_size=2048,  # COMMAND_LINE_SIZE, arch/x86/include/asm/setup.h
    image_magic=(0x202, b"HdrS"),  # Documentation/x86/boot.rst, "The Real-Mode Kernel Header"
)
