# SPDX-License-Identifier: GPL-2.0-only
"""The variables that the kernel's make knows reach it, and tell one kernel from another."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest

from imakexec.arch import X86_64
from imakexec.deadline import Deadline
from imakexec.errors import InfraError
from imakexec.kernel import build
from imakexec.kernel.toolchain import Toolchain


@pytest.mark.parametrize(
    ("environment", "compiler", "linker"),
    [
        ({}, "arm-gcc", "arm-ld"),
        ({"CROSS_COMPILE": "other-"}, "other-gcc", "other-ld"),
        ({"CROSS_COMPILE": ""}, "gcc", "ld"),
        ({"LLVM": "1"}, "clang", "ld.lld"),
        ({"LLVM": "-15"}, "clang-15", "ld.lld-15"),
        ({"LLVM": "/llvm/bin/"}, "/llvm/bin/clang", "/llvm/bin/ld.lld"),
        ({"LLVM": "0"}, "arm-gcc", "arm-ld"),
        ({"LLVM": ""}, "arm-gcc", "arm-ld"),
    ],
)
def test_the_tools_are_those_that_the_kernels_make_would_take(
    environment: Mapping[str, str], compiler: str, linker: str
) -> None:
    chain = Toolchain.of("arm-", environment)
    assert (chain.compiler, chain.linker) == (compiler, linker)
    assert f"CC=ccache {compiler}" in chain.make_variables


def test_make_is_told() -> None:
    chain = Toolchain.of("", {"LLVM": "-15", "KCFLAGS": " -Og -g "})
    assert chain.make_variables == (
        "CROSS_COMPILE=",
        "CC=ccache clang-15",
        "HOSTCC=ccache clang-15",
        "LLVM=-15",
        "KCFLAGS=-Og -g",
    )
    assert Toolchain.of("").folder != chain.folder
    assert Toolchain.of("").make_variables == (
        "CROSS_COMPILE=",
        "CC=ccache gcc",
        "HOSTCC=ccache gcc",
    )


@pytest.fixture
def tools(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("gcc", "ld", "clang", "ld.lld"):
        (tmp_path / name).write_text(f"#!/bin/sh\necho {name} 1.2\n")
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    return tmp_path


@pytest.mark.usefixtures("tools")
def test_what_compiles_is_part_of_what_a_kernel_is_known_by(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def versions() -> str:
        return build.compiler_versions(X86_64, Deadline.after(30))

    assert versions() == "gcc 1.2\nld 1.2"
    monkeypatch.setenv("KCFLAGS", "-Og")
    assert versions() == "gcc 1.2\nld 1.2\nKCFLAGS -Og"
    monkeypatch.setenv("LLVM", "1")
    assert versions() == "clang 1.2\nld.lld 1.2\nKCFLAGS -Og"


def test_a_missing_compiler_is_asked_for(tools: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tools / "clang").unlink()
    monkeypatch.setenv("PATH", str(tools))
    monkeypatch.setenv("LLVM", "1")
    with pytest.raises(InfraError, match="there is no clang") as error:
        build.compiler_versions(X86_64, Deadline.after(30))
    assert "apt-get install clang lld llvm" in error.value.remedy
