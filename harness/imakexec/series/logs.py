# SPDX-License-Identifier: GPL-2.0-only
"""Where a check or the mutations of the series leave what their tools said."""

from __future__ import annotations

import secrets
import shutil
import time
from pathlib import Path

from imakexec.errors import UserError
from imakexec.kernel.cache import Cache, explained

_KEPT_LOGS = 10


def new_log_folder(cache: Cache) -> Path:
    """A name for the logs of one run, below the user's cache; only the last few are kept."""
    logs = cache.root / "series"
    with explained(cache.root):
        logs.mkdir(parents=True, exist_ok=True)
        for old in sorted(logs.iterdir())[:-_KEPT_LOGS]:
            shutil.rmtree(old, ignore_errors=True)
    return logs / f"{time.strftime('%Y%m%d-%H%M%S')}-{secrets.token_hex(2)}"


def make_log_folder(logs: Path) -> None:
    """Make the folder, unless it is there and empty.

    Raises:
        UserError: it is in use, or no folder.
        InfraError: the disk is full, or the folder cannot be written.
    """
    if logs.exists() and (not logs.is_dir() or any(logs.iterdir())):
        raise UserError(
            "the log folder exists already and is not an empty folder",
            where=f"--logs {logs}",
            remedy="name another folder, or remove this one",
        )
    with explained(logs):
        logs.mkdir(parents=True, exist_ok=True)
