# SPDX-License-Identifier: GPL-2.0-only
"""A second opinion on measurement lists: `evmctl ima_measurement` of ima-evm-utils.

It replays a list in the SHA-1 and SHA-256 banks and compares the outcome with PCR values from
files. It sees no quote, no key and no kexec, and it accepts some lists that are wrong. So it never
decides anything here: tests hold it against the verifier, and a benchmark runs beside it.

What is said here of its behaviour was seen of version 1.4.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from types import MappingProxyType

from imakexec import process
from imakexec.deadline import Deadline
from imakexec.errors import InfraError

EVMCTL = "evmctl"

BANKS = ("sha1", "sha256")
"""All banks that it replays, in the order in which it compares them."""

_PCRS = range(24)
_PCR_SIZES: Mapping[str, int] = MappingProxyType({"sha1": 20, "sha256": 32})
_MATCHED = "Matched per TPM bank calculated digest(s)."
_FAULTS = frozenset(
    {
        "Failed to match per TPM bank or SHA1 padded TPM digest(s).",
        "Failed to verify template data digest.",
    }
)


class Answer(StrEnum):
    """What it made of a list."""

    ACCEPTED = "accepted"
    REJECTED = "rejected"
    """It read the list: a record contradicts itself, or they do not lead to the PCR values."""
    REFUSED = "refused"
    """It compared nothing: it cannot read the list or the PCR values, or it crashed."""


@dataclass(frozen=True)
class Opinion:
    """One answer with its grounds.

    Args:
        answer: the answer.
        returncode: exit status; negative for a signal.
        words: what it printed, standard output and standard error together.
    """

    answer: Answer
    returncode: int
    words: str

    @property
    def accepts(self) -> bool:
        """Whether it found nothing wrong."""
        return self.answer is Answer.ACCEPTED

    def __str__(self) -> str:
        return f"{EVMCTL}: {self.answer}, exit status {self.returncode}: {self.words.strip()}"


def require_evmctl() -> str:
    """Where the program is.

    Raises:
        InfraError: it is not installed.
    """
    found = shutil.which(EVMCTL)
    if found is None:
        raise InfraError(
            f"{EVMCTL}, the second opinion on measurement lists, is not in PATH",
            where=os.environ.get("PATH", ""),
            remedy="install the package ima-evm-utils (apt-get install ima-evm-utils)",
        )
    return found


def pcr_file(bank: str, values: Mapping[int, bytes]) -> str:
    """The text of the file with the PCR values of a bank: 24 lines like `PCR-00: 0A FF ...`.

    Args:
        bank: of `BANKS`.
        values: PCR index to value; the others are written as zero. That does no harm: it compares
            only PCRs that a record of the list extends.

    Raises:
        ValueError: there is no such bank or PCR, or a value is not as long as the bank's digests.
    """
    if bank not in BANKS:
        raise ValueError(f"bank {bank!r}: {EVMCTL} replays {' and '.join(BANKS)}")
    size = _PCR_SIZES[bank]
    for index, value in values.items():
        if index not in _PCRS or len(value) != size:
            raise ValueError(
                f"PCR {index} of bank {bank} with {len(value)} bytes: 0 to 23, {size} bytes"
            )
    lines = (f"PCR-{index:02d}: {_spaced(values.get(index, bytes(size)))}\n" for index in _PCRS)
    return "".join(lines)


def write_pcr_files(folder: Path, pcrs: Mapping[str, Mapping[int, bytes]]) -> dict[str, Path]:
    """Write the file of each bank that it replays; the other banks have none.

    Args:
        folder: where; the files are called `sha1.pcrs` and `sha256.pcrs`.
        pcrs: bank to PCR index to value.

    Returns:
        Bank to file.

    Raises:
        ValueError: as `pcr_file`.
    """
    files = {bank: folder / f"{bank}.pcrs" for bank in BANKS if bank in pcrs}
    for bank, path in files.items():
        path.write_text(pcr_file(bank, pcrs[bank]), encoding="ascii")
    return files


def evmctl_command(
    log: Path,
    pcr_files: Mapping[str, Path],
    *,
    verify_bank: str | None = None,
    ignore_violations: bool = False,
) -> tuple[str, ...]:
    """The command line that judges a binary list.

    Args:
        log: the list, with SHA-1 in its digest column, in the byte order of this computer.
        pcr_files: bank to a file as `pcr_file` makes it, at least one.
        verify_bank: the one bank to compare. Without it all are, but the last one decides alone.
        ignore_violations: replay a violation as the kernel extends it, not as a zero digest.

    Raises:
        ValueError: no PCR file is given: it would compare nothing and exit with 0.
    """
    if not pcr_files:
        raise ValueError(f"{EVMCTL} needs the PCR values of {' or '.join(BANKS)}")
    options = [word for bank, path in pcr_files.items() for word in ("--pcrs", f"{bank},{path}")]
    if verify_bank is not None:
        # In two words, 1.4 takes the bank for the list.
        options.append(f"--verify-bank={verify_bank}")
    if ignore_violations:
        options.append("--ignore-violations")
    return (EVMCTL, "ima_measurement", *options, str(log))


def ask_evmctl(command: Sequence[str], deadline: Deadline) -> Opinion:
    """Run what `evmctl_command` made.

    Raises:
        InfraError: it is not installed, or it had not ended at the deadline.
    """
    require_evmctl()
    done = process.run(command, deadline=deadline, env={**os.environ, "LC_ALL": "C"}, check=False)
    return Opinion(_answer(done.returncode, done.output), done.returncode, done.output)


def second_opinion(
    log: bytes,
    pcrs: Mapping[str, Mapping[int, bytes]],
    deadline: Deadline,
    *,
    verify_bank: str | None = None,
    ignore_violations: bool = False,
) -> Opinion:
    """Ask it about a list that is in memory; the parameters are those of `evmctl_command`.

    Args:
        pcrs: bank to PCR index to value; banks that it does not replay are left out.

    Raises:
        InfraError: as `ask_evmctl`.
        ValueError: as `pcr_file` and `evmctl_command`.
    """
    with tempfile.TemporaryDirectory(prefix="imakexec-oracle-") as name:
        folder = Path(name)
        path = folder / "list"
        path.write_bytes(log)
        command = evmctl_command(
            path,
            write_pcr_files(folder, pcrs),
            verify_bank=verify_bank,
            ignore_violations=ignore_violations,
        )
        return ask_evmctl(command, deadline)


def _answer(returncode: int, words: str) -> Answer:
    """Exit status 0 alone is no acceptance: without PCR values it compares nothing and ends so."""
    lines = words.splitlines()
    if returncode == 0 and _MATCHED in lines:
        return Answer.ACCEPTED
    return Answer.REJECTED if returncode > 0 and _FAULTS & set(lines) else Answer.REFUSED


def _spaced(value: bytes) -> str:
    return value.hex(" ").upper()
