# SPDX-License-Identifier: GPL-2.0-only
"""A judgement, or figures, for machines."""

from __future__ import annotations

import errno
import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from imakexec.errors import ImaKexecError, InfraError, UserError

if TYPE_CHECKING:
    from imakexec.attest import Judgement


def require_writable(path: Path | None) -> None:
    """Refuse before a run what could not be written after it.

    Args:
        path: where the result is to go; None asks nothing.

    Raises:
        UserError: the file cannot be opened for writing.
        InfraError: its disk is full.
    """
    if path is None or path.is_fifo() or path.is_char_device():
        return  # opening one of these is an act of its own
    is_new = not path.exists()
    try:
        path.open("ab").close()
    except OSError as error:
        raise _unwritable(path, error) from error
    if is_new:
        path.unlink()


def write_json(path: Path, judgement: Judgement, *, folder: Path) -> None:
    """Write the judgement and where its evidence lies as one JSON object.

    Raises:
        UserError: the file cannot be written.
        InfraError: its disk is full.
    """
    write_document(path, {**judgement.to_json(), "evidence": str(folder)})


def write_document(path: Path, document: Mapping[str, object]) -> None:
    """Write one JSON object.

    Raises:
        UserError: the file cannot be written.
        InfraError: its disk is full.
    """
    try:
        path.write_text(json.dumps(document, indent=2) + "\n")
    except OSError as error:
        raise _unwritable(path, error) from error


def _unwritable(path: Path, error: OSError) -> ImaKexecError:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return InfraError.refused("the result cannot be written", error, path)
    return UserError(
        f"the result cannot be written: {error.strerror}",
        where=f"--json {path}",
        remedy="name a file in a folder that exists and can be written",
    )
