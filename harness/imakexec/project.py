# SPDX-License-Identifier: GPL-2.0-only
"""Where the patches, the fragments and the images are."""

from __future__ import annotations

from pathlib import Path

from imakexec.errors import UserError


def find_project() -> Path:
    """The checkout that this package was installed from.

    Raises:
        UserError: the package was installed without its checkout.
    """
    project = Path(__file__).resolve().parents[2]
    if not (project / "Kconfig.fragment").is_file():
        raise UserError(
            "the patches and images of the project are not beside the installed package",
            where=str(project),
            remedy="use ./run_qemu.sh of a checkout, which installs it in place",
        )
    return project


def boots_machines(path: Path) -> bool:
    """Whether the tests of a file or of a folder are those that boot machines."""
    return (path if path.is_dir() else path.parent).resolve() == find_project() / "harness"
