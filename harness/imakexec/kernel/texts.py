# SPDX-License-Identifier: GPL-2.0-only
"""What is written in a boot image: the kernel's texts, from which its features can be told.

An arm64 Image is the kernel itself. A bzImage holds it compressed, at the place that its header
names (Documentation/arch/x86/boot.rst, payload_offset and payload_length, since protocol 2.08),
mostly followed by its uncompressed size.
"""

from __future__ import annotations

import bz2
import lzma
import re
import shutil
import struct
import subprocess
import zlib
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Protocol

from imakexec.errors import InfraError, UserError

_SETUP_SECTS = 0x1F1
_MAGIC = 0x202
_PAYLOAD = struct.Struct("<II")  # payload_offset, payload_length
_PAYLOAD_AT = 0x248
_SECTOR = 512
_BANNER = re.compile(rb"Linux version [0-9][^\n\0]*(?=\n\0)")


class _Decompressor(Protocol):
    """What undoes one stream, and leaves what follows it."""

    @property
    def eof(self) -> bool:
        """Whether the stream has come to its own end."""

    @property
    def decompress(self) -> Callable[[bytes], bytes]:
        """Takes data, and gives what comes out of it."""


# Magic bytes to what undoes them.
_LIBRARIES: Mapping[bytes, Callable[[], _Decompressor]] = {
    b"\x1f\x8b": partial(zlib.decompressobj, zlib.MAX_WBITS | 16),
    b"BZh": bz2.BZ2Decompressor,
    b"\xfd7zXZ\0": lzma.LZMADecompressor,
    b"\x5d\0\0": lzma.LZMADecompressor,
}
_PROGRAMS: Mapping[bytes, str] = {b"\x28\xb5\x2f\xfd": "zstd", b"\x02\x21\x4c\x18": "lz4"}


def kernel_texts(image: Path) -> bytes:
    """The uncompressed kernel of a boot image.

    Raises:
        UserError: it is compressed in a way that is not known, or damaged.
        InfraError: the program that undoes it is missing.
    """
    content = image.read_bytes()
    if content[_MAGIC : _MAGIC + 4] != b"HdrS":
        return content
    offset, length = _PAYLOAD.unpack_from(content, _PAYLOAD_AT)
    start = (content[_SETUP_SECTS] + 1) * _SECTOR + offset
    payload = content[start : start + length]
    for magic, decompressor in _LIBRARIES.items():
        if payload.startswith(magic):
            return _by_library(image, payload, decompressor())
    for magic, program in _PROGRAMS.items():
        if payload.startswith(magic):
            return _by_program(image, payload, program)
    raise _unreadable(image, f"its payload begins with {payload[:4].hex()}")


def _by_library(image: Path, payload: bytes, stream: _Decompressor) -> bytes:
    try:
        kernel = stream.decompress(payload)
    except (OSError, zlib.error, lzma.LZMAError) as error:
        raise _unreadable(image, str(error)) from error
    if not stream.eof:
        raise _unreadable(image, "its payload ends too early")
    return kernel


def _by_program(image: Path, payload: bytes, program: str) -> bytes:
    if shutil.which(program) is None:
        raise InfraError(
            f"the kernel is compressed with {program}, which is not on this host",
            where=str(image),
            remedy=f"as root: apt-get install {program}",
        )
    # It complains of the size behind the payload when everything before that has come out.
    done = subprocess.run([program, "-dc"], input=payload, capture_output=True, check=False)
    if not done.stdout:
        raise _unreadable(image, done.stderr.decode(errors="replace").strip())
    return done.stdout


def _unreadable(image: Path, why: str) -> UserError:
    return UserError(
        f"the kernel in this boot image cannot be read: {why}",
        where=str(image),
        remedy="name a bzImage or Image as the kernel's build makes it",
    )


def read_banner(vmlinux: bytes) -> str:
    """`linux_banner` (init/version-timestamp.c) out of an uncompressed kernel, without its newline.

    Raises:
        ValueError: there is none.
    """
    match = _BANNER.search(vmlinux)
    if match is None:
        raise ValueError("no banner in this kernel image")
    return match[0].decode()
