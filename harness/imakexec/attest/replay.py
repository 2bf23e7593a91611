# SPDX-License-Identifier: GPL-2.0-only
"""What the PCRs must hold in each bank if a list is complete, by the kernel's own rule.

Each record extends its PCR, 10 unless the policy says otherwise, of each bank with H_bank(template
data), a violation with 0xff bytes: PCR = H_bank(PCR || value) (kernel: ima_queue.c in
security/integrity/ima, ima_add_template_entry(), since 5.8; TPM 2.0 part 1, "Platform Configuration
Registers"). All begin at zero but for PCR 17 to 22, which begin at 0xff bytes (TCG PC Client
Platform TPM Profile, "PCR attributes").

Kernels before 5.8 extend every bank with SHA1(template data), or a violation's 20 bytes 0xff, and
zero bytes up to the bank's size. Later ones still do where they lack the bank's hash (ima_crypto.c,
ima_calc_field_array_hash()): such a bank is called padded here.
"""

from __future__ import annotations

import hashlib
from array import array
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from types import MappingProxyType
from typing import Protocol, Self

from imakexec.attest.forked import share
from imakexec.attest.log import DIGEST_SIZES, Batch, MeasurementLog

IMA_PCR = 10
_ONES_AT_RESET = range(17, 23)
# To copy the process takes as long as about so many records.
_WORTH_A_PROCESS = 10_000
# How long a record takes, as multiples.
_COSTS: Mapping[str, float] = MappingProxyType(
    {"sha1": 1.0, "sha256": 1.0, "sha384": 1.5, "sha512": 1.5}
)


class Hash(Protocol):
    """A hash function that takes its input in parts, as those of `hashlib` do."""

    def update(self, data: bytes, /) -> None:
        """Take more of the input."""

    def digest(self) -> bytes:
        """The hash of all of it so far."""

    def copy(self) -> Self:
        """Another one that goes on from here."""


HASHES: Mapping[str, Callable[[bytes], Hash]] = MappingProxyType(
    {
        "sha1": hashlib.sha1,
        "sha256": hashlib.sha256,
        "sha384": hashlib.sha384,
        "sha512": hashlib.sha512,
    }
)
# To copy one takes less time than to look up its function anew, which OpenSSL 3 does each time.
_EMPTY: Mapping[str, Hash] = MappingProxyType({bank: new(b"") for bank, new in HASHES.items()})


@dataclass(frozen=True, slots=True)
class Start:
    """Where a replay begins that does not begin with the first record.

    Args:
        records: how many come before it.
        values: bank to the value of PCR 10 after them.
    """

    records: int
    values: Mapping[str, bytes]


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


def replay(
    log: MeasurementLog,
    banks: Sequence[str],
    wanted: Mapping[str, Collection[bytes]],
    *,
    start: Start | None = None,
    padded: Collection[str] = frozenset(),
    processes: int = 1,
) -> Replay:
    """Replay a list in all banks in one pass.

    Args:
        log: the list.
        banks: the banks to compute, of `HASHES`.
        wanted: for each bank the quoted values to look out for.
        start: where PCR 10 begins; None for zero before the first record. A wanted value counts as
            reached from there on, and if it is the start value, there. The records before are held
            against their digests, and extend other PCRs, as all are.
        padded: the banks that the kernel has extended with padded SHA-1. If the digest column is
            of such a bank, it holds the same.
        processes: at most so many share the banks of a list that is long enough to gain by it.
            More than 1 only in a process without threads.

    Raises:
        ValueError: `start` is not in the list, or lacks the value of a bank.
        InfraError: a process that shared the work failed.
    """
    if start is not None:
        _check_start(start, banks, len(log))
    hands = min(processes, len(banks), 1 + len(log) // _WORTH_A_PROCESS)
    groups = _deal(banks, max(1, hands), log.layout.bank)
    passes = [_Pass(log, group, wanted, start=start, padded=padded) for group in groups]
    # The first one holds the records against their digests: it has the bank of these.
    first = partial(passes[0].run, checks=True)
    found = share([first, *(partial(item.run, checks=False) for item in passes[1:])])
    at_end = {bank: values for part in found for bank, values in part.pcrs.items()}
    reached = {bank: values for part in found for bank, values in part.reached.items()}
    return Replay(
        final={bank: at_end[bank][IMA_PCR] for bank in banks},
        reached={bank: reached[bank] for bank in banks},
        violations=found[0].violations,
        contradiction=found[0].contradiction,
        uncovered=found[0].uncovered,
        pcrs={pcr: {bank: at_end[bank][pcr] for bank in banks} for pcr in found[0].named},
    )


def _check_start(start: Start, banks: Sequence[str], records: int) -> None:
    if not 0 <= start.records <= records:
        raise ValueError(f"the start is after {start.records} of {records} records")
    for bank in banks:
        if len(start.values.get(bank, b"")) != DIGEST_SIZES[bank]:
            raise ValueError(f"the start has no value of {DIGEST_SIZES[bank]} bytes for {bank}")


def _deal(banks: Sequence[str], hands: int, column: str) -> list[list[str]]:
    """Groups of banks that take about as long, the one with the column's bank first."""
    groups: list[list[str]] = [[] for _ in range(hands)]
    for bank in sorted(banks, key=lambda bank: (bank != column, -_COSTS[bank])):
        min(groups, key=lambda group: sum(map(_COSTS.__getitem__, group))).append(bank)
    return groups


@dataclass(frozen=True)
class _Found:
    """What one pass over a list gives for some banks.

    Args:
        pcrs: bank to PCR to its value, PCR 10 in any case.
        reached: as in `Replay`.
        named: the PCRs that a record names, ascending.
        violations: as in `Replay`.
        contradiction: as in `Replay`, if it was looked for.
        uncovered: as in `Replay`.
    """

    pcrs: Mapping[str, Mapping[int, bytes]]
    reached: Mapping[str, Mapping[bytes, int]]
    named: Sequence[int]
    violations: Sequence[int]
    contradiction: int | None
    uncovered: int | None


class _Pass:
    """One pass over a list in some banks, batch by batch: short loops with one task are fast."""

    def __init__(
        self,
        log: MeasurementLog,
        banks: Sequence[str],
        wanted: Mapping[str, Collection[bytes]],
        *,
        start: Start | None,
        padded: Collection[str],
    ) -> None:
        self._log = log
        self._start = 0 if start is None else start.records
        self._padded = padded
        self._banks = [_Bank(bank, wanted[bank], start) for bank in banks]
        self._violations = array("Q")
        self._contradiction: int | None = None
        self._uncovered: int | None = None
        self._named: set[int] = set()

    def run(self, *, checks: bool) -> _Found:
        """Go through the list.

        Args:
            checks: whether to hold the records against their digests.
        """
        for batch in self._batches():
            self._take(batch, checks=checks and self._contradiction is None)
        return _Found(
            pcrs={bank.name: bank.pcrs for bank in self._banks},
            reached={bank.name: bank.reached for bank in self._banks},
            named=sorted(self._named),
            violations=self._violations,
            contradiction=self._contradiction,
            uncovered=self._uncovered,
        )

    def _batches(self) -> Iterator[Batch]:
        """All records; none before the start is in one batch with one after it."""
        for batch in self._log.batches():
            before = self._start - batch.index
            if 0 < before < len(batch):
                yield batch.part(slice(before))
                yield batch.part(slice(before, None))
            else:
                yield batch

    def _take(self, batch: Batch, *, checks: bool) -> None:
        zero = bytes(DIGEST_SIZES[self._log.layout.bank])
        violations: list[int] = []
        if zero in batch.digests:
            violations = [at for at, digest in enumerate(batch.digests) if digest == zero]
            self._violations.extend(batch.index + at for at in violations)
        self._named.update(batch.pcrs)
        ours = batch.pcrs.count(IMA_PCR) == len(batch)
        if not ours and self._uncovered is None:
            others = (at for at, pcr in enumerate(batch.pcrs) if pcr != IMA_PCR)
            self._uncovered = batch.index + next(others)
        measured = _Measured(batch.hashed, self._padded)
        if checks:
            self._check(batch, measured)
        early = batch.index < self._start
        for bank in self._banks:
            if not ours:
                extensions = measured.extensions(bank.name, violations)
                bank.extend_each(batch, extensions, ours=not early)
            elif not early:
                bank.extend(batch.index, measured.extensions(bank.name, violations))

    def _check(self, batch: Batch, measured: _Measured) -> None:
        expected = measured.by(self._log.layout.bank)
        if expected != batch.digests:
            pairs = enumerate(zip(batch.digests, expected, strict=True), batch.index)
            differing = (at for at, (digest, own) in pairs if digest != own and any(digest))
            self._contradiction = next(differing, None)


class _Measured:
    """What some records extend the banks with."""

    def __init__(self, hashed: Sequence[bytes], padded: Collection[str]) -> None:
        self._hashed = hashed
        self._padded = padded
        self._known: dict[str, list[bytes]] = {}

    def by(self, bank: str) -> list[bytes]:
        """Of each record, were it no violation. Not to be changed."""
        if bank not in self._known:
            if bank != "sha1" and bank in self._padded:
                size = DIGEST_SIZES[bank]
                self._known[bank] = [digest.ljust(size, b"\0") for digest in self.by("sha1")]
            else:
                self._known[bank] = _digests(self._hashed, _EMPTY[bank].copy)
        return self._known[bank]

    def extensions(self, bank: str, violations: Sequence[int]) -> list[bytes]:
        """Of each record, those that are violations given by their places."""
        extensions = self.by(bank)
        if violations:
            size = DIGEST_SIZES["sha1" if bank in self._padded else bank]
            extensions = extensions.copy()
            for at in violations:
                extensions[at] = (b"\xff" * size).ljust(DIGEST_SIZES[bank], b"\0")
        return extensions


class _Bank:
    """The PCRs of a bank, while they are extended."""

    def __init__(self, name: str, wanted: Collection[bytes], start: Start | None) -> None:
        self.name = name
        self.pcrs = {IMA_PCR: _at_reset(IMA_PCR, name)}
        self.reached: dict[bytes, int] = {}
        self._new_hash = _EMPTY[name].copy
        self._wanted = frozenset(wanted)
        if start is not None:
            value = self.pcrs[IMA_PCR] = start.values[name]
            if value in self._wanted:
                self.reached[value] = start.records

    def extend(self, index: int, extensions: Sequence[bytes]) -> None:
        """Extend PCR 10 with the values of records, the first of which has that index."""
        value, new_hash, values = self.pcrs[IMA_PCR], self._new_hash, list[bytes]()
        for extension in extensions:
            running = new_hash()
            running.update(value + extension)
            value = running.digest()
            values.append(value)
        self.pcrs[IMA_PCR] = value
        if not self._wanted.isdisjoint(values):
            for count, reached in enumerate(values, index + 1):
                if reached in self._wanted:
                    self.reached.setdefault(reached, count)

    def extend_each(self, batch: Batch, extensions: Sequence[bytes], *, ours: bool) -> None:
        """Extend the PCR that each record names; PCR 10 only if it is `ours`."""
        for at, (pcr, extension) in enumerate(zip(batch.pcrs, extensions, strict=True)):
            if pcr != IMA_PCR:
                running = self._new_hash()
                running.update(self.pcrs.setdefault(pcr, _at_reset(pcr, self.name)) + extension)
                self.pcrs[pcr] = running.digest()
            elif ours:
                self.extend(batch.index + at, (extension,))


def _digests(items: Sequence[bytes], new_hash: Callable[[], Hash]) -> list[bytes]:
    digests = []
    for item in items:
        running = new_hash()
        running.update(item)
        digests.append(running.digest())
    return digests


def _at_reset(pcr: int, bank: str) -> bytes:
    """What a PCR holds in a bank after the TPM was switched on."""
    return (b"\xff" if pcr in _ONES_AT_RESET else b"\0") * DIGEST_SIZES[bank]
