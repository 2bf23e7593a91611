# SPDX-License-Identifier: GPL-2.0-only
"""What compiles a kernel: the architecture's own tools, or those of the user's environment.

As for the kernel's own make, which takes the same variables:

    LLVM=1, LLVM=-15, LLVM=/usr/lib/llvm-15/bin/   Documentation/kbuild/llvm.rst
    CROSS_COMPILE=aarch64-none-linux-gnu-          the same, and Documentation/kbuild/kbuild.rst
    KCFLAGS=-Og                                    Documentation/kbuild/kbuild.rst

They decide what comes out, and are part of what a kernel is cached by.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Toolchain:
    """Compiler, linker and flags.

    Attributes:
        cross_compile: what the names of GNU tools begin with.
        llvm: LLVM's value; empty for GNU's compiler.
        flags: KCFLAGS.
    """

    cross_compile: str
    llvm: str = ""
    flags: str = ""

    @classmethod
    def of(cls, cross_compile: str, environment: Mapping[str, str] = os.environ) -> Toolchain:
        """The tools that build for an architecture.

        Args:
            cross_compile: the prefix of its own; CROSS_COMPILE of the environment outranks it.
            environment: of the user.
        """
        return cls(
            environment.get("CROSS_COMPILE", cross_compile),
            environment.get("LLVM", "").removeprefix("0"),
            environment.get("KCFLAGS", "").strip(),
        )

    @property
    def compiler(self) -> str:
        """The program that compiles."""
        return self._llvm_tool("clang") if self.llvm else f"{self.cross_compile}gcc"

    @property
    def linker(self) -> str:
        """The program that links."""
        return self._llvm_tool("ld.lld") if self.llvm else f"{self.cross_compile}ld"

    def _llvm_tool(self, name: str) -> str:
        if self.llvm.endswith("/"):
            return f"{self.llvm}{name}"
        return f"{name}{self.llvm}" if self.llvm.startswith("-") else name

    @property
    def make_variables(self) -> tuple[str, ...]:
        """What make is told, with ccache in front of the compilers."""
        host = self._llvm_tool("clang") if self.llvm else "gcc"
        return (
            f"CROSS_COMPILE={self.cross_compile}",
            f"CC=ccache {self.compiler}",
            f"HOSTCC=ccache {host}",
            *([f"LLVM={self.llvm}"] if self.llvm else []),
            *([f"KCFLAGS={self.flags}"] if self.flags else []),
        )

    @property
    def folder(self) -> str:
        """What a build folder's name ends with, so that two compilers do not share one."""
        return "-llvm" if self.llvm else ""

    def set_up(self, own: str) -> str:
        """What to do if a tool is missing.

        Args:
            own: the same for the architecture's own tools.
        """
        return "apt-get install clang lld llvm, or unset LLVM" if self.llvm else own
