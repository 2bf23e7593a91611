# SPDX-License-Identifier: GPL-2.0-only
"""What the PCRs must hold in each bank if a list is complete, by the kernel's own rule.

Each record extends its PCR, 10 unless the policy says otherwise, of each bank with H_bank(template
data), a violation with 0xff bytes: PCR = H_bank(PCR || value) (kernel: ima_queue.c in
security/integrity/ima, ima_add_template_entry(), since 5.8; TPM 2.0 part 1, "Platform Configuration
Registers"). All begin at zero but for PCR 17 to 22, which begin at 0xff bytes (TCG PC Client
Platform TPM Profile, "PCR attributes").
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Protocol

from imakexec.attest.log import DIGEST_SIZES, MeasurementLog

IMA_PCR = 10
_ONES_AT_RESET = range(17, 23)


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
        contradiction: the first record whose digest column is not the hash of its template data
            by the column's bank, or None.
        uncovered: the first record that names a PCR other than 10, or None: no replay of PCR 10
            says anything about it.
        pcrs: every PCR that a record names, ascending, to its value per bank after all records.
    """

    final: Mapping[str, bytes]
    reached: Mapping[str, Mapping[bytes, int]]
    violations: Sequence[int]
    contradiction: int | None
    uncovered: int | None
    pcrs: Mapping[int, Mapping[str, bytes]]

    def records_at(self, bank: str, value: bytes) -> int | None:
        """After how many records the bank holds `value`; None if it never does."""
        return self.reached[bank].get(value)

    def matched(self, values: Mapping[str, bytes]) -> int | None:
        """After how many records all given banks hold their values at once; None if never.

        One bank alone proves nothing: root can extend one bank behind the kernel's back.
        """
        counts = {self.records_at(bank, value) for bank, value in values.items()}
        return counts.pop() if len(counts) == 1 else None


@dataclass(frozen=True, slots=True)
class Start:
    """Where a replay begins.

    Args:
        records: after so many.
        values: bank to what PCR 10 holds there.
    """

    records: int
    values: Mapping[str, bytes]


def replay(
    log: MeasurementLog,
    banks: Sequence[str],
    wanted: Mapping[str, Collection[bytes]],
    *,
    start: Start | None = None,
    padded: Collection[str] = frozenset(),
) -> Replay:
    """Replay a list in all banks in one pass.

    Args:
        log: the list.
        banks: the banks to compute, of `HASHES`.
        wanted: for each bank the quoted values to look out for.
        start: where PCR 10 begins; None at zero before the first record. Nothing before it counts
            as reached.
        padded: banks that the kernel extends with SHA-1 digests padded with zero bytes: all before
            5.8, later those whose algorithm it does not know.
    """
    makers = [HASHES[bank] for bank in banks]
    sizes = [DIGEST_SIZES[bank] for bank in banks]
    short = [bank in padded for bank in banks]
    reached: list[dict[bytes, int]] = [{} for _ in banks]
    watched = [frozenset(wanted[bank]) for bank in banks]
    violation = [
        (b"\xff" * (DIGEST_SIZES["sha1"] if is_short else size)).ljust(size, b"\0")
        for size, is_short in zip(sizes, short, strict=True)
    ]
    pcrs: dict[int, list[bytes]] = {}
    violations: list[int] = []
    contradiction: int | None = None
    uncovered: int | None = None
    column = log.layout.bank
    column_hash, zero = HASHES[column], bytes(DIGEST_SIZES[column])
    for index, (pcr, digest, hashed) in enumerate(log.extends()):
        if start and index == start.records:
            _begin(start, pcrs, reached, banks)
        if digest == zero:
            violations.append(index)
            extensions = violation
        else:
            logged = column_hash(hashed).digest()
            extensions = [
                HASHES["sha1"](hashed).digest().ljust(size, b"\0")
                if is_short
                else make(hashed).digest()
                for make, size, is_short in zip(makers, sizes, short, strict=True)
            ]
            if logged != digest and contradiction is None:
                contradiction = index
        if pcr != IMA_PCR and uncovered is None:
            uncovered = index
        values = pcrs.get(pcr)
        if values is None:
            values = pcrs[pcr] = [_at_reset(pcr, bank) for bank in banks]
        for at, make in enumerate(makers):
            values[at] = make(values[at] + extensions[at]).digest()
            if values[at] in watched[at] and pcr == IMA_PCR:
                reached[at].setdefault(values[at], index + 1)
    if start and len(log) == start.records:
        _begin(start, pcrs, reached, banks)
    final = pcrs.get(IMA_PCR) or [_at_reset(IMA_PCR, bank) for bank in banks]
    return Replay(
        final=dict(zip(banks, final, strict=True)),
        reached=dict(zip(banks, reached, strict=True)),
        violations=violations,
        contradiction=contradiction,
        uncovered=uncovered,
        pcrs={pcr: dict(zip(banks, values, strict=True)) for pcr, values in sorted(pcrs.items())},
    )


def _begin(
    start: Start,
    pcrs: dict[int, list[bytes]],
    reached: list[dict[bytes, int]],
    banks: Sequence[str],
) -> None:
    """Forget what the records before it gave."""
    pcrs[IMA_PCR] = [start.values[bank] for bank in banks]
    for bank, found in zip(banks, reached, strict=True):
        found.clear()
        found[start.values[bank]] = start.records


def _at_reset(pcr: int, bank: str) -> bytes:
    """What a PCR holds in a bank after the TPM was switched on."""
    return (b"\xff" if pcr in _ONES_AT_RESET else b"\0") * DIGEST_SIZES[bank]
