# SPDX-License-Identifier: GPL-2.0-only
"""Functions and offsets of a call trace as lines of the source, by the kernel's own script."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from imakexec import process
from imakexec.errors import InfraError

SCRIPT = "scripts/decode_stacktrace.sh"
_SECONDS = 60.0
_FROM_IMAGE = 4  # arch/x86/boot/bzImage, and one more for trees that lie deeper


@dataclass(frozen=True)
class DebugInfo:
    """What a call trace of a kernel is decoded with.

    Attributes:
        vmlinux: with DWARF.
        script: `SCRIPT` of the same tree.
        cross_compile: what the names of the binutils begin with.
    """

    vmlinux: Path
    script: Path
    cross_compile: str

    @classmethod
    def beside(cls, image: Path, banner: str, cross_compile: str) -> Self | None:
        """That of a boot image which still lies in the folder that it was built in, if any.

        Args:
            banner: of the kernel in the image: vmlinux must be the same one.
        """
        for folder in image.resolve().parents[:_FROM_IMAGE]:
            vmlinux = folder / "vmlinux"
            # Out of tree, the build has a link to the source.
            scripts = [tree / SCRIPT for tree in (folder, folder / "source")]
            found = [script for script in scripts if script.is_file()]
            if vmlinux.is_file() and found and banner.encode() in vmlinux.read_bytes():
                return cls(vmlinux, found[0], cross_compile)
        return None

    def decode(self, lines: Iterable[str]) -> str:
        """The lines, with a file and a line number behind each function that is known.

        Raises:
            InfraError: the script fails, or takes too long.
        """
        text = "".join(f"{line}\n" for line in lines)
        environment = {**os.environ, "CROSS_COMPILE": self.cross_compile}
        with process.spawn(
            ["bash", str(self.script), str(self.vmlinux), "auto"],
            env=environment,
            stdin=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        ) as child:
            try:
                output, _ = child.communicate(text.encode(), timeout=_SECONDS)
            except subprocess.TimeoutExpired:
                raise InfraError(
                    f"no end after {_SECONDS:.0f} s of decoding a call trace",
                    where=str(self.script),
                    remedy="decode it by hand",
                ) from None
        if child.returncode != 0:
            raise InfraError(
                f"exit status {child.returncode} of decoding a call trace",
                where=str(self.script),
                remedy="decode it by hand: it needs binutils and gawk or mawk",
            )
        return output.decode(errors="replace")
