# SPDX-License-Identifier: GPL-2.0-only
"""Which debug information belongs to a kernel, and what its script is asked."""

from __future__ import annotations

from pathlib import Path

import pytest

from imakexec.errors import InfraError
from imakexec.kernel import decode
from imakexec.kernel.decode import SCRIPT, DebugInfo

BANNER = "Linux version 6.1.0 (a@b) #1"
# Says how it was called, and hands on what it was given.
ECHO = """
echo "$CROSS_COMPILE|$1|$2"
sed 's/func+0x1/func (file.c:7)/'
"""


def build(folder: Path, *, banner: str = BANNER, script: str = ECHO) -> Path:
    """A boot image in the folder of its build."""
    image = folder / "arch/x86/boot/bzImage"
    image.parent.mkdir(parents=True)
    image.write_bytes(b"image")
    (folder / "vmlinux").write_bytes(b"\0" + banner.encode() + b"\n\0")
    (folder / SCRIPT).parent.mkdir()
    (folder / SCRIPT).write_text(script)
    return image


def test_a_boot_image_in_its_build_folder_has_debug_info(tmp_path: Path) -> None:
    found = DebugInfo.beside(build(tmp_path), BANNER, "")
    assert found == DebugInfo(tmp_path / "vmlinux", tmp_path / SCRIPT, "")


def test_the_script_of_a_build_out_of_tree_is_in_the_source(tmp_path: Path) -> None:
    image = build(tmp_path / "out")
    (tmp_path / "tree" / SCRIPT).parent.mkdir(parents=True)
    (tmp_path / "out" / SCRIPT).rename(tmp_path / "tree" / SCRIPT)
    (tmp_path / "out" / "source").symlink_to(tmp_path / "tree")
    found = DebugInfo.beside(image, BANNER, "")
    assert found is not None
    assert found.script.resolve() == tmp_path / "tree" / SCRIPT


def test_the_vmlinux_of_another_build_is_none(tmp_path: Path) -> None:
    assert DebugInfo.beside(build(tmp_path, banner="Linux version 6.2"), BANNER, "") is None


def test_an_image_that_was_copied_has_none(tmp_path: Path) -> None:
    image = tmp_path / "elsewhere" / "bzImage"
    image.parent.mkdir()
    image.write_bytes(b"image")
    assert DebugInfo.beside(image, BANNER, "") is None


def test_a_call_trace_goes_through_the_script(tmp_path: Path) -> None:
    build(tmp_path)
    info = DebugInfo(tmp_path / "vmlinux", tmp_path / SCRIPT, "aarch64-linux-gnu-")
    assert info.decode([" func+0x1", " other+0x2"]).splitlines() == [
        f"aarch64-linux-gnu-|{tmp_path / 'vmlinux'}|auto",
        " func (file.c:7)",
        " other+0x2",
    ]


@pytest.mark.parametrize(
    ("script", "what"), [("exit 3", "exit status 3"), ("sleep 60", "no end after 0 s")]
)
def test_a_script_that_fails_is_no_verdict(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str, what: str
) -> None:
    monkeypatch.setattr(decode, "_SECONDS", 0.2)
    build(tmp_path, script=script)
    with pytest.raises(InfraError, match=what):
        DebugInfo(tmp_path / "vmlinux", tmp_path / SCRIPT, "").decode(["x"])
