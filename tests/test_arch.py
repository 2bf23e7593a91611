# SPDX-License-Identifier: GPL-2.0-only
"""What differs between the architectures is data, and the data is right."""

from __future__ import annotations

import subprocess
from dataclasses import fields
from pathlib import Path

import pytest

from imakexec.arch import ARCHES, ARM64, X86_64, Arch, Feature
from imakexec.arch.arm64 import parse_ima_property
from imakexec.arch.x86_64 import parse_setup_ima

ALL = pytest.mark.parametrize("arch", ARCHES.values(), ids=ARCHES.keys())

# #address-cells and #size-cells, as /proc/device-tree has them.
TWO_CELLS_EACH = bytes.fromhex("00000002 00000002")
ONE_CELL_EACH = bytes.fromhex("00000001 00000001")


def test_they_are_found_under_their_own_names() -> None:
    assert all(name == arch.name for name, arch in ARCHES.items())


def test_no_two_are_confused() -> None:
    for name in ("name", "uname", "qemu", "kernel_arch", "debian_arch", "fragment", "image_magic"):
        assert name in {field.name for field in fields(Arch)}
        assert len({getattr(arch, name) for arch in ARCHES.values()}) == len(ARCHES)


@ALL
def test_a_boot_image_is_known_by_its_magic(arch: Arch, tmp_path: Path) -> None:
    offset, magic = arch.image_magic
    image = tmp_path / "image"
    image.write_bytes(bytes(offset) + magic + bytes(100))
    assert [other for other in ARCHES.values() if other.is_boot_image(image)] == [arch]
    image.write_bytes(bytes(offset) + magic[:-1])
    assert not arch.is_boot_image(image)


@ALL
def test_scripts_for_the_guest_are_shell_scripts(arch: Arch) -> None:
    for script in (arch.handover.script, arch.late_refusal.prepare):
        subprocess.run(["sh", "-n", "-c", script], check=True)


@ALL
def test_what_is_missing_has_a_feature_s_name_and_a_reason(arch: Arch) -> None:
    assert all(feature in Feature and reason for feature, reason in arch.lacks.items())


def test_what_only_some_guests_need_is_asked_for_by_name() -> None:
    assert "run_qemu.sh" in X86_64.set_up
    assert ARM64.set_up == (
        "as root: apt-get install --no-install-recommends "
        "qemu-system-arm gcc-aarch64-linux-gnu libc6-dev-arm64-cross"
    )


def test_the_compiler_is_the_architecture_s() -> None:
    assert (X86_64.compiler, ARM64.compiler) == ("gcc", "aarch64-linux-gnu-gcc")


def test_what_nobody_else_needs_is_not_asked_of_everybody(pytestconfig: pytest.Config) -> None:
    everybody = (pytestconfig.rootpath / "harness/host-packages.txt").read_text().split()
    for arch in ARCHES.values():
        assert not set(arch.host_packages) & set(everybody)


# Where the list is.


def test_a_setup_ima_node() -> None:
    data = bytes.fromhex("90800900 00000000 00b00000 00000000")
    assert parse_setup_ima(data) == (0x98090, 0xB000)


@pytest.mark.parametrize("length", [8, 15, 17, 32])
def test_a_setup_ima_node_of_another_length(length: int) -> None:
    with pytest.raises(ValueError, match=f"{length} bytes of SETUP_IMA, expected 16"):
        parse_setup_ima(bytes(length))


@pytest.mark.parametrize(
    ("cells", "value", "place"),
    [
        (TWO_CELLS_EACH, "00000000 5fe4f000 00000000 0000b000", (0x5FE4F000, 0xB000)),
        (TWO_CELLS_EACH, "00000008 00000000 00000001 00000000", (0x8_0000_0000, 1 << 32)),
        (ONE_CELL_EACH, "5fe4f000 0000b000", (0x5FE4F000, 0xB000)),
        (bytes.fromhex("00000002 00000001"), "00000001 00000000 00001000", (1 << 32, 0x1000)),
    ],
)
def test_a_property_of_the_device_tree(cells: bytes, value: str, place: tuple[int, int]) -> None:
    assert parse_ima_property(cells + bytes.fromhex(value)) == place


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\0\0\0",
        TWO_CELLS_EACH,
        TWO_CELLS_EACH + bytes(12),
        TWO_CELLS_EACH + bytes(20),
        ONE_CELL_EACH + bytes(16),
        bytes(8),
        bytes.fromhex("00000000 00000002") + bytes(8),
        bytes.fromhex("00000002 00000000") + bytes(8),
    ],
)
def test_a_property_that_does_not_fit_its_cells(data: bytes) -> None:
    with pytest.raises(ValueError, match="bytes of cell sizes and property"):
        parse_ima_property(data)
