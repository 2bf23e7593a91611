# SPDX-License-Identifier: GPL-2.0-only
"""A kernel that was built elsewhere is taken if a guest can run on it, and refused with reasons."""

from __future__ import annotations

import gzip
from pathlib import Path

import pytest

from imakexec.arch import X86_64
from imakexec.deadline import Deadline
from imakexec.errors import UserError
from imakexec.kernel.build import KernelImage, KernelRequest, build_kernel
from imakexec.kernel.cache import Cache
from imakexec.kernel.config import EXTRA_MEMORY
from imakexec.progress import SilentProgress

BANNER = "Linux version 6.9.1-vendor (builder@host) (gcc 12.2.0) #7 SMP"
CONFIG = f"CONFIG_IMA=y\nCONFIG_ACPI=y\nCONFIG_{EXTRA_MEMORY}=16\nCONFIG_EXT4_FS=m\n"


def image_with(path: Path, config: str | None, banner: str = BANNER) -> Path:
    """An uncompressed boot image."""
    inside = b""
    if config is not None:
        inside = b"IKCFG_ST" + gzip.compress(config.encode()) + b"IKCFG_ED"
    path.write_bytes(b"code\0" + banner.encode() + b"\n\0more\0" + inside + b"\0end")
    return path


@pytest.fixture
def project(tmp_path: Path) -> Path:
    folder = tmp_path / "project"
    folder.mkdir()
    (folder / "Kconfig.fragment").write_text("CONFIG_IMA=y\n")
    (folder / X86_64.fragment).write_text("CONFIG_ACPI=y\nCONFIG_CMA_SIZE_MBYTES=0\n")
    return folder


def take(project: Path, image: Path, config: Path | None = None) -> KernelImage:
    return build_kernel(
        KernelRequest(arch=X86_64, image=image, config=config),
        project=project,
        cache=Cache(project.parent / "cache"),
        progress=SilentProgress(),
        deadline=Deadline.after(10),
    )


def test_a_kernel_that_knows_its_configuration(project: Path, tmp_path: Path) -> None:
    kernel = take(project, image_with(tmp_path / "bzImage", CONFIG))
    assert kernel.image == tmp_path / "bzImage"
    assert (kernel.release, kernel.banner) == ("6.9.1-vendor", BANNER)
    assert kernel.extra_memory_kb == 16
    assert kernel.config.read_text() == CONFIG
    assert (kernel.patches, kernel.warnings, kernel.log, kernel.system_map) == ((), (), None, None)
    assert kernel.base == str(kernel.image)


def test_a_configuration_beside_it_counts_more(project: Path, tmp_path: Path) -> None:
    beside = tmp_path / "config"
    beside.write_text("CONFIG_IMA=y\nCONFIG_ACPI=y\n")
    kernel = take(project, image_with(tmp_path / "bzImage", CONFIG), beside)
    assert kernel.extra_memory_kb is None
    assert kernel.config.read_text() == beside.read_text()


def test_all_that_is_missing_is_named(project: Path, tmp_path: Path) -> None:
    image = image_with(tmp_path / "bzImage", "CONFIG_IMA=m\n# CONFIG_ACPI is not set\n")
    with pytest.raises(UserError, match="lacks 2 of the options") as caught:
        take(project, image)
    assert caught.value.where == str(image)
    assert "CONFIG_IMA: m, wanted y" in caught.value.tail
    assert "CONFIG_ACPI: n, wanted y" in caught.value.tail
    assert "Kconfig.fragment:1" in caught.value.tail


def test_a_configuration_that_nobody_knows(project: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no CONFIG_IKCONFIG") as caught:
        take(project, image_with(tmp_path / "bzImage", None))
    assert "--config" in caught.value.remedy


def test_a_configuration_that_is_damaged(project: Path, tmp_path: Path) -> None:
    image = image_with(tmp_path / "bzImage", CONFIG)
    content = image.read_bytes()
    at = content.index(b"IKCFG_ST") + 20
    image.write_bytes(content[:at] + b"\xff\xff\xff" + content[at + 3 :])
    with pytest.raises(UserError, match="is damaged"):
        take(project, image)


@pytest.mark.parametrize("missing", ["image", "config"])
def test_a_file_that_is_not_there(project: Path, tmp_path: Path, missing: str) -> None:
    image = tmp_path / "bzImage"
    if missing == "config":
        image_with(image, CONFIG)
    with pytest.raises(UserError, match="cannot be read"):
        take(project, image, tmp_path / "config" if missing == "config" else None)


def test_a_file_that_is_no_kernel(project: Path, tmp_path: Path) -> None:
    image = tmp_path / "picture"
    image.write_bytes(bytes(4096))
    with pytest.raises(UserError, match="not a kernel"):
        take(project, image)
