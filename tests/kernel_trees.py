# SPDX-License-Identifier: GPL-2.0-only
"""Small kernel-like trees and patches for the tests of the kernel room."""

from __future__ import annotations

import subprocess
from pathlib import Path

MAKEFILE = "# SPDX\nVERSION = 6\nPATCHLEVEL = 1\nSUBLEVEL = 192\nEXTRAVERSION =\nNAME = X\n"


def make_tree(folder: Path) -> Path:
    """A tree with a Makefile, a Kconfig, and two files of nine lines."""
    (folder / "ima").mkdir(parents=True)
    (folder / "Makefile").write_text(MAKEFILE)
    (folder / "Kconfig").write_text("config A\n")
    (folder / ".gitignore").write_text("*.o\n")
    for name in ("log.c", "kexec.c"):
        (folder / "ima" / name).write_text("".join(f"line {n}\n" for n in range(1, 10)))
    return folder


def make_patch(folder: Path, name: str, before: Path, after: Path) -> Path:
    """Write the difference of two trees as git writes it, and add it to the series."""
    folder.mkdir(exist_ok=True)
    diff = subprocess.run(
        ["git", "diff", "--no-index", "--no-prefix", "--no-color", before.name, after.name],
        cwd=before.parent,
        stdout=subprocess.PIPE,
        check=False,
    ).stdout.decode()
    text = diff.replace(f"{before.name}/", "a/").replace(f"{after.name}/", "b/")
    (folder / name).write_text("From: someone\n\nA change.\n---\n" + text)
    with (folder / "series").open("a") as series:
        series.write(f"{name}\n")
    return folder / name
