# SPDX-License-Identifier: GPL-2.0-only
"""x86_64: QEMU's q35 with SeaBIOS, the way a PC with a TPM 2.0 boots.

SeaBIOS measures itself into PCR 0 and hands the kernel an ACPI TPM2 table; microvm has no such
table, and qboot leaves PCR 0 to 7 zero.
"""

from __future__ import annotations

import struct
from pathlib import Path
from types import MappingProxyType

from imakexec.arch.model import Arch, HandoverPlace, KexecObjects, LateRefusal, Uefi

# Documentation/ABI/testing/sysfs-kernel-boot_params; SETUP_IMA is 8 and struct ima_setup_data has
# a physical address and a size (arch/x86/include/uapi/asm/bootparam.h).
_SETUP_DATA = "/sys/kernel/boot_params/setup_data"
_IMA_SETUP_DATA = struct.Struct("<QQ")
_FIND_SETUP_IMA = f"""
for node in {_SETUP_DATA}/*; do
    if [ -f "$node/type" ] && read -r type <"$node/type" && [ "$type" = 0x8 ]; then
        exec cat "$node/data"
    fi
done
"""


def parse_setup_ima(data: bytes) -> tuple[int, int]:
    """Physical address and size in bytes of the buffer that a SETUP_IMA node describes.

    Raises:
        ValueError: the data of such a node has another length.
    """
    if len(data) != _IMA_SETUP_DATA.size:
        raise ValueError(f"{len(data)} bytes of SETUP_IMA, expected {_IMA_SETUP_DATA.size}")
    address, size = _IMA_SETUP_DATA.unpack(data)
    return address, size


_KEXEC_OBJECTS = (
    ("KEXEC_CORE", "arch/x86/kernel/crash.o"),
    ("KEXEC_FILE", "arch/x86/kernel/kexec-bzimage64.o"),
    # Takes over what the previous kernel handed on.
    ("X86", "arch/x86/kernel/setup.o"),
)

X86_64 = Arch(
    name="x86_64",
    uname="x86_64",
    qemu="qemu-system-x86_64",
    machine=("-M", "q35"),
    uefi=Uefi(Path("/usr/share/ovmf/OVMF.fd"), package="ovmf"),
    tpm_device="tpm-tis",
    console="ttyS0",
    shell_console="ttyS1",
    shell_device=("-serial", "chardev:shell"),
    host_packages=(),
    cross_compile="",
    kernel_arch="x86_64",
    kernel_target="bzImage",
    kernel_image="arch/x86/boot/bzImage",
    debian_arch="amd64",
    fragment="Kconfig.x86_64.fragment",
    cmdline_size=2048,  # COMMAND_LINE_SIZE, arch/x86/include/asm/setup.h
    image_magic=(0x202, b"HdrS"),  # Documentation/x86/boot.rst, "The Real-Mode Kernel Header"
    # udelay() counts the TSC, by a number for each CPU. That of the first is the frequency. That of
    # the others is tried (calibrate_delay(), init/calibrate.c), and wrong by any factor if the host
    # has other things to do: delays of a hundredth were seen. This is for 2.5 GHz and HZ=250.
    true_delays="lpj=10000000",
    nmi_panics="unknown_nmi_panic",
    handover=HandoverPlace(False, _SETUP_DATA, _FIND_SETUP_IMA, parse_setup_ima),
    # Its command line is too long for it (bzImage64_load, arch/x86/kernel/kexec-bzimage64.c).
    late_refusal=LateRefusal("/boot/next/kernel", "x" * 2100, says="Kernel command line too long"),
    lacks=MappingProxyType({}),
    kexec=KexecObjects(
        "x86_64", (("KEXEC_CORE", "arch/x86/kernel/machine_kexec_64.o"), *_KEXEC_OBJECTS)
    ),
    kexec_32bit=KexecObjects(
        "i386", (("KEXEC_CORE", "arch/x86/kernel/machine_kexec_32.o"), *_KEXEC_OBJECTS)
    ),
)
