# SPDX-License-Identifier: GPL-2.0-only
"""A judgement, figures, or an error, for machines."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from imakexec.errors import ImaKexecError, InfraError, UserError
from imakexec.evidence import lies_in

if TYPE_CHECKING:
    from imakexec.attest import Judgement

ERROR_SCHEMA = "imakexec-error/1"


class ResultFile:
    """The file that a command writes its result to; it never contradicts the exit code.

    Args:
        path: where the result is to go; None for nowhere.
        evidence: a folder that it must not lie in: it would be no part of that evidence, or
            replace one.
        inputs: files that it must not replace.
        option: which names the file on the command line.
    """

    def __init__(
        self,
        path: Path | None,
        *,
        evidence: Path | None = None,
        inputs: Sequence[Path] = (),
        option: str = "--json",
    ) -> None:
        self._path = path
        self._evidence = evidence
        self._inputs = inputs
        self._option = option
        self._claimed = False

    def claim(self) -> None:
        """Take an old result away, and refuse before the work what could not be written after it.

        Raises:
            UserError: the file cannot be opened for writing, would lie in the evidence, or is one
                of the inputs.
            InfraError: its disk is full.
        """
        if self._path is None:
            return
        if self._evidence is not None:
            _require_outside(self._path, self._evidence)
        _require_other(self._path, self._inputs, self._option)
        _empty(self._path, self._option)
        self._claimed = True

    def write(self, document: Mapping[str, object]) -> None:
        """Write one JSON object.

        Raises:
            UserError: the file cannot be written.
            InfraError: its disk is full.
        """
        self.write_text(json.dumps(document, indent=2) + "\n")

    def write_text(self, text: str) -> None:
        """Write a text.

        Raises:
            UserError: the file cannot be written.
            InfraError: its disk is full.
        """
        if self._path is None:
            return
        try:
            self._path.write_text(text, encoding="utf-8")
        except OSError as error:
            raise _unwritable(self._path, error, self._option) from error

    def write_error(self, error: ImaKexecError) -> None:
        """Say that there is no result, and why; touches no file that was refused.

        Raises:
            UserError: the file cannot be written.
            InfraError: its disk is full.
        """
        if self._claimed:
            self.write(error_document(error))


def judgement_document(
    judgement: Judgement, *, folder: Path, complaints: Sequence[str] | None = None
) -> dict[str, object]:
    """The judgement, where its evidence lies, and what the kernels said against the hand-over.

    Args:
        complaints: None where nobody has listened to the kernels.
    """
    document: dict[str, object] = {**judgement.to_json(), "evidence": str(folder)}
    if complaints is not None:
        document["kernel_complaints"] = list(complaints)
    return document


def error_document(error: ImaKexecError) -> dict[str, object]:
    """What stands in the place of a result that there is not."""
    said = {"what": error.what, "where": error.where, "remedy": error.remedy}
    return {"schema": ERROR_SCHEMA, "exit_code": error.exit_code, "error": said}


def _require_outside(path: Path, evidence: Path) -> None:
    if lies_in(path, evidence):
        raise UserError(
            "the result would lie in the evidence folder",
            where=f"--json {path}",
            remedy="name a file outside of it: evidence is never changed",
        )


def _require_other(path: Path, inputs: Sequence[Path], option: str) -> None:
    if any(_is_same(path, item) for item in inputs):
        raise UserError(
            "the result would replace a file that is to be read",
            where=f"{option} {path}",
            remedy="name another file",
        )


def _is_same(path: Path, other: Path) -> bool:
    """Whether both are one file, or will be."""
    try:
        return path.samefile(other)
    except OSError:  # one of them is not there yet, or leads nowhere
        return os.path.realpath(path) == os.path.realpath(other)


def _empty(path: Path, option: str) -> None:
    """Empty an old file; leaves no new one behind."""
    try:
        if path.is_fifo() or path.is_char_device():
            return  # opening one of these is an act of its own
        is_new = not path.exists()
        path.open("wb").close()
    except OSError as error:
        raise _unwritable(path, error, option) from error
    if is_new:
        path.unlink()


def _unwritable(path: Path, error: OSError, option: str) -> ImaKexecError:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return InfraError.refused("the result cannot be written", error, path)
    return UserError(
        f"the result cannot be written: {error.strerror}",
        where=f"{option} {path}",
        remedy="name a file in a folder that exists and can be written",
    )
