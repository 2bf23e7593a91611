# SPDX-License-Identifier: GPL-2.0-only
"""What PCR 10 must hold in each bank if a list is complete, by the kernel's own rule.

Each record extends PCR 10 of each bank with H_bank(template data), a violation with 0xff bytes:
PCR = H_bank(PCR || value), from zero (kernel: security/integrity/ima/ima_queue.c,
ima_add_template_entry(), since 5.8; TPM 2.0 part 1, "Platform Configuration Registers").
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Protocol

from imakexec.attest.log import VIOLATION_DIGEST, MeasurementLog

IMA_PCR = 10


class _Hash(Protocol):
    def digest(self) -> bytes: ...


HASHES: Mapping[str, Callable[[bytes], _Hash]] = MappingProxyType(
    {
        "sha1": hashlib.sha1,
        "sha256": hashlib.sha256,
        "sha384": hashlib.sha384,
        "sha512": hashlib.sha512,
    }
)


@dataclass(frozen=True, slots=True)
class Replay:
    """The outcome of one pass over a list.

    Args:
        final: bank to the value of PCR 10 after all records.
        reached: bank to each wanted value that was met, and after how many records.
        violations: the indices of the violation records.
        contradiction: the first record whose digest column is not SHA1(template data), or None.
        uncovered: the first record that names a PCR other than 10, or None: no replay of PCR 10
            says anything about it.
    """

    final: Mapping[str, bytes]
    reached: Mapping[str, Mapping[bytes, int]]
    violations: Sequence[int]
    contradiction: int | None
    uncovered: int | None

    def records_at(self, bank: str, value: bytes) -> int | None:
        """After how many records the bank holds `value`; None if it never does."""
        return self.reached[bank].get(value)

    def matched(self, values: Mapping[str, bytes]) -> int | None:
        """After how many records all given banks hold their values at once; None if never.

        One bank alone proves nothing: root can extend one bank behind the kernel's back.
        """
        counts = {self.records_at(bank, value) for bank, value in values.items()}
        return counts.pop() if len(counts) == 1 else None


def replay(
    log: MeasurementLog, banks: Sequence[str], wanted: Mapping[str, Collection[bytes]]
) -> Replay:
    """Replay a list in all banks in one pass.

    Args:
        log: the list.
        banks: the banks to compute, of `HASHES`.
        wanted: for each bank the quoted values to look out for.
    """
    runs = [_Bank(bank, wanted[bank]) for bank in banks]
    violations: list[int] = []
    contradiction: int | None = None
    uncovered: int | None = None
    sha1 = hashlib.sha1
    for index, (pcr, digest, hashed) in enumerate(log.extends()):
        if digest == VIOLATION_DIGEST:
            violations.append(index)
        elif contradiction is None and sha1(hashed).digest() != digest:
            contradiction = index
        if pcr == IMA_PCR:
            for run in runs:
                run.extend(index, None if digest == VIOLATION_DIGEST else hashed)
        elif uncovered is None:
            uncovered = index
    return Replay(
        final={run.name: run.value for run in runs},
        reached={run.name: run.reached for run in runs},
        violations=violations,
        contradiction=contradiction,
        uncovered=uncovered,
    )


class _Bank:
    """PCR 10 of one bank while records are replayed."""

    __slots__ = ("_hash", "_violation", "_wanted", "name", "reached", "value")

    def __init__(self, name: str, wanted: Collection[bytes]) -> None:
        self.name = name
        self._hash = HASHES[name]
        self.value = bytes(len(self._hash(b"").digest()))
        self._violation = b"\xff" * len(self.value)
        self._wanted = frozenset(wanted)
        self.reached: dict[bytes, int] = {}

    def extend(self, index: int, hashed: bytes | None) -> None:
        """Extend by the record at `index`; None stands for a violation."""
        value = self._violation if hashed is None else self._hash(hashed).digest()
        self.value = self._hash(self.value + value).digest()
        if self.value in self._wanted:
            self.reached.setdefault(self.value, index + 1)
