# SPDX-License-Identifier: GPL-2.0-only
"""A kernel that was built elsewhere: what it is, and whether a guest can run on it."""

from __future__ import annotations

import gzip
import hashlib
import zlib
from collections.abc import Iterable, Mapping
from pathlib import Path

from imakexec.errors import UserError
from imakexec.kernel import config
from imakexec.kernel.cache import Cache, write_atomically
from imakexec.kernel.texts import kernel_texts, read_banner

# Around the compressed configuration of a kernel with CONFIG_IKCONFIG (kernel/configs.c).
_BEGIN, _END = b"IKCFG_ST", b"IKCFG_ED"
_RELEASE_WORD = 2  # "Linux version RELEASE ..."


class GivenKernel:
    """A boot image from elsewhere, read.

    Attributes:
        image: the file.
        banner: the "Linux version ..." line with which it announces itself.
        config: its configuration, as text.

    Raises:
        UserError: it is no kernel, or nobody knows its configuration.
        InfraError: the program that uncompresses it is missing.
    """

    def __init__(self, image: Path, config_file: Path | None) -> None:
        self.image = image
        texts = _read(image)
        try:
            self.banner = read_banner(texts)
        except ValueError as error:
            raise UserError(
                f"not a kernel: {error}",
                where=str(image),
                remedy="name a boot image as the kernel's build makes it",
            ) from error
        self.config = _config_of(image, texts, config_file)

    @property
    def release(self) -> str:
        """`uname -r`."""
        return self.banner.split()[_RELEASE_WORD]

    @property
    def key(self) -> str:
        """Of its content."""
        digest = hashlib.sha256(self.image.read_bytes())
        digest.update(self.config.encode())
        return digest.hexdigest()

    def symbols(self) -> Mapping[str, str]:
        """Its configuration, by name."""
        lines = config.parse(self.config.splitlines(), f"configuration of {self.image}")
        return {symbol.name: symbol.value for symbol in lines if symbol.value != "n"}

    def store_config(self, cache: Cache) -> Path:
        """Where its configuration lies as a file."""
        path = cache.root / "given" / self.key / "config"
        if not path.is_file():
            write_atomically(path, self.config)
        return path


def require_symbols(kernel: GivenKernel, wanted: Iterable[config.Wanted]) -> None:
    """Refuse a kernel on which no guest could run.

    A symbol that is a module counts as missing: the guest loads none.

    Raises:
        UserError: names every symbol that the guest needs and the kernel has not.
    """
    actual = kernel.symbols()
    missing = [
        symbol for symbol in wanted if symbol.value == "y" and actual.get(symbol.name, "n") != "y"
    ]
    if missing:
        raise UserError(
            f"this kernel lacks {len(missing)} of the options that a guest needs",
            where=str(kernel.image),
            remedy="build it with them, or give its tree to --kernel-tree",
            tail="\n".join(
                f"CONFIG_{symbol.name}: {actual.get(symbol.name, 'n')}, wanted {symbol.value} "
                f"({symbol.origin})"
                for symbol in missing
            ),
        )


def _read(image: Path) -> bytes:
    try:
        return kernel_texts(image)
    except OSError as error:
        raise UserError(
            f"the kernel cannot be read: {error.strerror}",
            where=f"--kernel {image}",
            remedy="name a boot image as the kernel's build makes it",
        ) from error


def _config_of(image: Path, texts: bytes, config_file: Path | None) -> str:
    if config_file is not None:
        try:
            return config_file.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise UserError(
                f"the configuration cannot be read: {error}",
                where=f"--config {config_file}",
                remedy="name the .config of that kernel",
            ) from error
    start = texts.find(_BEGIN)
    end = texts.find(_END, start)
    if start < 0 or end < 0:
        raise UserError(
            "nobody knows how this kernel is configured: it has no CONFIG_IKCONFIG",
            where=str(image),
            remedy="give its .config as --config FILE",
        )
    try:
        return gzip.decompress(texts[start + len(_BEGIN) : end]).decode()
    except (OSError, EOFError, zlib.error, UnicodeDecodeError) as error:
        raise UserError(
            f"the configuration inside this kernel is damaged: {error}",
            where=str(image),
            remedy="give its .config as --config FILE",
        ) from error
