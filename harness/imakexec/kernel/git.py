# SPDX-License-Identifier: GPL-2.0-only
"""git as a plain tool, blind to the user's settings and to repositories around our folders."""

from __future__ import annotations

import os
from pathlib import Path


def environment(folder: Path) -> dict[str, str]:
    """The environment in which git, run in `folder`, sees no repository above it.

    Without the ceiling, a home directory that is itself a repository would make `git apply` skip
    every file in silence; without the rest, the user's GIT_DIR or apply.whitespace would count.
    """
    return {
        "PATH": os.environ.get("PATH", os.defpath),
        "LC_ALL": "C",
        "GIT_CEILING_DIRECTORIES": str(folder.resolve().parent),
        "GIT_CONFIG_GLOBAL": os.devnull,
        "GIT_CONFIG_NOSYSTEM": "1",
        "GIT_OPTIONAL_LOCKS": "0",
    }
