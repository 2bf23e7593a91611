# SPDX-License-Identifier: GPL-2.0-only
"""arm64: QEMU's virt board without firmware, described by a device tree.

The GIC is of version 2 because a second kernel dies in the set-up of version 3: QEMU 7.2 raises an
undefined instruction when the redistributors are started once more. The tree has no seeds, because
a kernel without address space randomisation leaves its kaslr-seed as it is, and kexec-tools refuse
to hand on one that was not wiped (setup_2nd_dtb, kexec/arch/arm64/kexec-arm64.c of 2.0.25).

Nothing measures before the kernel, so PCR 0 to 9 are zero, and the kernel starts the TPM: every
cold boot says "A TPM error (256) occurred attempting the self test" and "starting up the TPM
manually".
"""

from __future__ import annotations

from pathlib import Path
from types import MappingProxyType

from imakexec.arch.model import Arch, Feature, HandoverPlace, KexecObjects, LateRefusal, Uefi

# drivers/of/kexec.c, setup_ima_buffer: the property has a physical address and a size, in as many
# cells of 32 bits, big-endian, as the root says that /chosen has.
_DEVICE_TREE = "/proc/device-tree"
_PROPERTY = f"{_DEVICE_TREE}/chosen/linux,ima-kexec-buffer"
_READ_PROPERTY = f"""
if [ -f {_PROPERTY} ]; then
    cd {_DEVICE_TREE}
    cat '#address-cells' '#size-cells' {_PROPERTY}
fi
"""
_CELL = 4

# struct arm64_image_header (arch/arm64/include/asm/image.h) has 64 bytes, with image_size at 16.
_WITHOUT_SIZE = """
kernel=/boot/next/kernel
{
    head -c 16 $kernel
    head -c 8 /dev/zero
    tail -c +25 $kernel | head -c 40
} >/run/no-size
"""


def parse_ima_property(data: bytes) -> tuple[int, int]:
    """Physical address and size in bytes of the buffer that the device tree describes.

    Args:
        data: #address-cells and #size-cells of the root and the property, one after the other.

    Raises:
        ValueError: the property has another length than the cells say.
    """
    address_end = 2 * _CELL + int.from_bytes(data[:_CELL], "big") * _CELL
    end = address_end + int.from_bytes(data[_CELL : 2 * _CELL], "big") * _CELL
    if not 2 * _CELL < address_end < end == len(data):
        raise ValueError(f"{len(data)} bytes of cell sizes and property: {data.hex()}")
    address, size = data[2 * _CELL : address_end], data[address_end:]
    return int.from_bytes(address, "big"), int.from_bytes(size, "big")


ARM64 = Arch(
    name="arm64",
    uname="aarch64",
    qemu="qemu-system-aarch64",
    machine=("-M", "virt,gic-version=2,dtb-randomness=off", "-cpu", "cortex-a57"),
    # The firmware hides the device tree behind ACPI tables.
    uefi=Uefi(
        Path("/usr/share/qemu-efi-aarch64/QEMU_EFI.fd"),
        package="qemu-efi-aarch64",
        symbols=("CONFIG_EFI=y", "CONFIG_ACPI=y"),
    ),
    tpm_device="tpm-tis-device",
    console="ttyAMA0",
    # The board has a single serial port. Port 0 of the virtio-serial device is a console's.
    shell_console="hvc0",
    shell_device=("-device", "virtconsole,chardev=shell"),
    host_packages=("qemu-system-arm", "gcc-aarch64-linux-gnu", "libc6-dev-arm64-cross"),
    cross_compile="aarch64-linux-gnu-",
    kernel_arch="arm64",
    kernel_target="Image",  # what kexec_file_load takes; it does not unpack an Image.gz
    kernel_image="arch/arm64/boot/Image",
    debian_arch="arm64",
    fragment="Kconfig.arm64.fragment",
    cmdline_size=2048,  # COMMAND_LINE_SIZE, arch/arm64/include/uapi/asm/setup.h
    image_magic=(56, b"ARM\x64"),  # Documentation/arm64/booting.rst, "Call the kernel image"
    nmi_panics="",
    true_delays="",  # they are looked up in a timer
    handover=HandoverPlace(True, _PROPERTY, _READ_PROPERTY, parse_ima_property),
    # Its header says no size (image_load, arch/arm64/kernel/kexec_image.c); a command line has no
    # limit there.
    late_refusal=LateRefusal("/run/no-size", "x", _WITHOUT_SIZE),
    lacks=MappingProxyType(
        {Feature.VERIFYING_PURGATORY: "kexec_file_load jumps to the next kernel without purgatory"}
    ),
    kexec=KexecObjects(
        "arm64",
        (
            ("KEXEC_CORE", "arch/arm64/kernel/machine_kexec.o"),
            ("KEXEC_FILE", "arch/arm64/kernel/machine_kexec_file.o"),
            ("KEXEC_FILE", "arch/arm64/kernel/kexec_image.o"),
            # Hands the list on, and takes it over.
            ("KEXEC_FILE", "drivers/of/kexec.o"),
        ),
    ),
    kexec_32bit=None,
)
