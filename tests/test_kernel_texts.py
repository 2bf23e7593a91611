# SPDX-License-Identifier: GPL-2.0-only
"""The kernel in a boot image is found, however it is compressed."""

from __future__ import annotations

import bz2
import gzip
import lzma
import shutil
import struct
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from imakexec.errors import InfraError, UserError
from imakexec.kernel.texts import kernel_texts, read_banner

KERNEL = b"kexec_execute\0" + bytes(range(256)) * 64


def by_program(program: str) -> Callable[[bytes], bytes]:
    def compress(data: bytes) -> bytes:
        if shutil.which(program) is None:
            pytest.skip(f"there is no {program} on this host")
        options = ["-l"] if program == "lz4" else []
        return subprocess.run(
            [program, *options, "-c"], input=data, capture_output=True, check=True
        ).stdout

    return compress


def bzimage(payload: bytes, *, setup_sects: int = 3, offset: int = 64) -> bytes:
    """A file that has the fields of the boot protocol which lead to the payload."""
    image = bytearray((setup_sects + 1) * 512 + offset)
    image[0x1F1] = setup_sects
    image[0x202:0x206] = b"HdrS"
    struct.pack_into("<II", image, 0x248, offset, len(payload))
    return bytes(image) + payload + bytes(512)


COMPRESSIONS: dict[str, Callable[[bytes], bytes]] = {
    "gzip": gzip.compress,
    "bzip2": bz2.compress,
    "xz": lzma.compress,
    "lzma": lambda data: lzma.compress(data, format=lzma.FORMAT_ALONE),
    "zstd": by_program("zstd"),
    "lz4": by_program("lz4"),
}


@pytest.mark.parametrize("name", COMPRESSIONS)
@pytest.mark.parametrize("with_size", [False, True])
def test_a_bzimage(tmp_path: Path, name: str, with_size: bool) -> None:
    size = struct.pack("<I", len(KERNEL)) if with_size else b""
    path = tmp_path / "bzImage"
    path.write_bytes(bzimage(COMPRESSIONS[name](KERNEL) + size))
    assert kernel_texts(path) == KERNEL


def test_an_uncompressed_image(tmp_path: Path) -> None:
    path = tmp_path / "Image"
    path.write_bytes(KERNEL)
    assert kernel_texts(path) == KERNEL


@pytest.mark.parametrize("payload", [b"????" + KERNEL, gzip.compress(KERNEL)[:40], b"\x1f\x8b\0\0"])
def test_a_bzimage_that_cannot_be_read(tmp_path: Path, payload: bytes) -> None:
    path = tmp_path / "bzImage"
    path.write_bytes(bzimage(payload))
    with pytest.raises(UserError, match="cannot be read") as caught:
        kernel_texts(path)
    assert caught.value.where == str(path)


def test_a_program_that_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    path = tmp_path / "bzImage"
    path.write_bytes(bzimage(b"\x28\xb5\x2f\xfd" + KERNEL))
    with pytest.raises(InfraError, match="zstd, which is not on this host") as caught:
        kernel_texts(path)
    assert "apt-get install zstd" in caught.value.remedy


def test_the_banner_is_found_among_format_strings() -> None:
    banner = "Linux version 6.1.192 (imakexec@imakexec) (gcc 12.2.0, GNU ld 2.40) #1 SMP"
    text = f"%s version %s (x)\n\0Linux version %s\n\0{banner}\n\0"
    assert read_banner(text.encode()) == banner
    with pytest.raises(ValueError, match="no banner"):
        read_banner(b"nothing")
