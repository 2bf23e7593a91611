# SPDX-License-Identifier: GPL-2.0-only
"""Genuine evidence from tests/vectors, and what an attacker can make of it.

The TPM's key is not ours. So that an attack reaches the check that must stop it, and not only the
signature, `Twin` is genuine evidence whose quotes are signed anew, by a key of the test: the same
in every other byte. Lists are taken apart and replayed record by record, without any code of the
verifier.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache, partial
from pathlib import Path

from evidence_maker import SIZE, Attestation, Key, Rec, pack

from imakexec.evidence import Evidence, QuoteRecord, Snapshot

VECTORS = Path(__file__).parent / "vectors"
NAMES = tuple(sorted(path.name for path in VECTORS.iterdir() if path.is_dir()))

Pcrs = Mapping[str, Mapping[int, bytes]]
Edit = Callable[[list[Rec]], object]
"""Changes a list of records in place."""


@cache
def genuine(name: str) -> Evidence:
    """The evidence in one folder of tests/vectors."""
    return Evidence.load(VECTORS / name)


# Lists.


def split(log: bytes, order: str = "<") -> list[Rec]:
    """The records of a list without records of the legacy template."""
    records, at = [], 0
    while at < len(log):
        pcr, digest, name_len = struct.unpack_from(f"{order}I20sI", log, at)
        name_end = at + 28 + name_len
        [size] = struct.unpack_from(f"{order}I", log, name_end)
        data = log[name_end + 4 : name_end + 4 + size]
        records.append(
            Rec(log[name_end - name_len : name_end], data, not any(digest), pcr, digest or None)
        )
        at = name_end + 4 + size
    return records


def honest(record: Rec) -> Rec:
    """The record with the SHA-1 of its data in its digest column."""
    return replace(record, digest=None)


def field_values(record: Rec) -> list[bytes]:
    values, at = [], 0
    while at < len(record.data):
        [size] = struct.unpack_from("<I", record.data, at)
        values.append(record.data[at + 4 : at + 4 + size])
        at += 4 + size
    return values


def event(record: Rec) -> str:
    return field_values(record)[1].rstrip(b"\0").decode()


def find(records: Sequence[Rec], name: str, number: int = 0) -> int:
    """Where the record of that event name stands; of several, the one of that number."""
    return [at for at, record in enumerate(records) if event(record) == name][number]


def records_of(evidence: Evidence, snapshot: int = -1) -> list[Rec]:
    log = evidence.snapshots[snapshot].log
    assert log is not None
    return split(log)


def naive_pcr10(records: Sequence[Rec], bank: str) -> bytes:
    value = bytes(SIZE[bank])
    for record in records:
        if record.pcr == 10:
            value = record.extend(bank, value)
    return value


# Evidence.


def with_snapshot(evidence: Evidence, snapshot: Snapshot, at: int = -1) -> Evidence:
    """The evidence with another snapshot in the place of one."""
    snapshots = list(evidence.snapshots)
    snapshots[at] = snapshot
    return replace(evidence, snapshots=tuple(snapshots))


def with_list(evidence: Evidence, content: bytes | Sequence[Rec], at: int = -1) -> Evidence:
    """The evidence with another list in one snapshot, quotes and all else as they were."""
    log = content if isinstance(content, bytes) else pack(content)
    return with_snapshot(evidence, replace(evidence.snapshots[at], log=log), at)


def edited(evidence: Evidence, edit: Edit, at: int = -1) -> Evidence:
    """The evidence with the list of one snapshot changed."""
    records = records_of(evidence, at)
    edit(records)
    return with_list(evidence, records, at)


def first_sight(evidence: Evidence) -> Evidence:
    """Without all that was seen before: a verifier that meets the machine for the first time."""
    return replace(evidence, snapshots=evidence.snapshots[-1:])


def with_quotes(
    evidence: Evidence, change: Callable[[QuoteRecord], QuoteRecord], at: int | None = None
) -> Evidence:
    """The evidence with every quote changed, or both quotes of one snapshot."""
    chosen = evidence.snapshots if at is None else (evidence.snapshots[at],)
    return replace(
        evidence,
        snapshots=tuple(
            replace(
                snapshot,
                before=change(snapshot.before),
                after=None if snapshot.after is None else change(snapshot.after),
            )
            if snapshot in chosen
            else snapshot
            for snapshot in evidence.snapshots
        ),
    )


def with_last_quote(evidence: Evidence, change: Callable[[QuoteRecord], QuoteRecord]) -> Evidence:
    last = evidence.snapshots[-1]
    assert last.after is not None
    return with_snapshot(evidence, replace(last, after=change(last.after)))


# Quotes.


def unpack(attest: bytes) -> Attestation:
    """Take a TPMS_ATTEST apart; see `Attestation.pack`."""
    magic, kind = struct.unpack_from(">IH", attest)
    at = 6
    sized = []
    for _ in range(2):
        [size] = struct.unpack_from(">H", attest, at)
        sized.append(attest[at + 2 : at + 2 + size])
        at += 2 + size
    clock, reset, restart, safe, firmware, count = struct.unpack_from(">QIIBQI", attest, at)
    at += 29
    selections = []
    for _ in range(count):
        alg, size = struct.unpack_from(">HB", attest, at)
        selections.append((alg, attest[at + 3 : at + 3 + size]))
        at += 3 + size
    [size] = struct.unpack_from(">H", attest, at)
    return Attestation(
        signer=sized[0],
        nonce=sized[1],
        clock=clock,
        reset=reset,
        restart=restart,
        safe=safe,
        firmware=firmware,
        selections=tuple(selections),
        pcr_digest=attest[at + 2 : at + 2 + size],
        magic=magic,
        kind=kind,
    )


def digest_of(pcrs: Pcrs) -> bytes:
    """The pcrDigest of all values that are given, bank by bank, by index."""
    values = (values[index] for values in pcrs.values() for index in sorted(values))
    return hashlib.sha256(b"".join(values)).digest()


@dataclass(frozen=True)
class Twin:
    """Genuine evidence, signed anew by a key of the test.

    Args:
        evidence: it.
        key: signs its quotes.
    """

    evidence: Evidence
    key: Key = field(default_factory=Key)

    @classmethod
    def of(cls, name: str, key: Key | None = None) -> Twin:
        """The twin of a vector."""
        key = key or Key()
        evidence = replace(genuine(name), ak_public=key.public, ak_pem=key.pem)
        return cls(evidence, key).falsified()

    @property
    def records(self) -> list[Rec]:
        """The list of the last snapshot."""
        return records_of(self.evidence)

    def first_sight(self) -> Twin:
        """Without all that was seen before."""
        return replace(self, evidence=first_sight(self.evidence))

    def sign(self, attestation: Attestation, pcrs: Pcrs, nonce: bytes | None = None) -> QuoteRecord:
        """Sign what need not be true.

        Args:
            nonce: what was asked for, if that is not what is signed.
        """
        attestation = replace(attestation, signer=self.key.qualified_name)
        attest = attestation.pack()
        asked = attestation.nonce if nonce is None else nonce
        return QuoteRecord(attest, self.key.sign(attest), asked, pcrs)

    def falsified(
        self,
        change: Callable[[Attestation], Attestation] = lambda attestation: attestation,
        at: int | None = None,
    ) -> Twin:
        """With every quote changed before it is signed, or both quotes of one snapshot."""

        def resign(record: QuoteRecord) -> QuoteRecord:
            attestation = change(unpack(record.attest))
            return self.sign(attestation, record.pcrs, attestation.nonce)

        return replace(self, evidence=with_quotes(self.evidence, resign, at))

    def last_falsified(self, change: Callable[[Attestation], Attestation]) -> Twin:
        """With the last quote changed before it is signed."""

        def resign(record: QuoteRecord) -> QuoteRecord:
            return self.sign(change(unpack(record.attest)), record.pcrs)

        return replace(self, evidence=with_last_quote(self.evidence, resign))

    def with_pcrs(self, change: Callable[[Pcrs], Pcrs], at: int | None = None) -> Twin:
        """With other PCR values, quoted and signed."""
        return replace(self, evidence=with_quotes(self.evidence, self._requote(change), at))

    def last_with_pcrs(self, change: Callable[[Pcrs], Pcrs]) -> Twin:
        """With other PCR values in the last quote alone."""
        return replace(self, evidence=with_last_quote(self.evidence, self._requote(change)))

    def _requote(self, change: Callable[[Pcrs], Pcrs]) -> Callable[[QuoteRecord], QuoteRecord]:
        def requote(record: QuoteRecord) -> QuoteRecord:
            pcrs = change(record.pcrs)
            attestation = replace(unpack(record.attest), pcr_digest=digest_of(pcrs))
            return self.sign(attestation, pcrs)

        return requote

    def measured(self, *records: Rec) -> Twin:
        """With further records at the end of the last list, extended before both its quotes."""
        return self.lived([*self.records, *records])

    def lived(self, records: Sequence[Rec]) -> Twin:
        """As if the kernel had measured these records, and root extended the PCR with no other.

        The last snapshot alone is changed: history may contradict it.
        """
        listed = replace(self, evidence=with_list(self.evidence, records))
        return listed.with_pcrs(partial(with_pcr10, records=records), at=-1)

    def lived_from_the_start(self, edit: Edit) -> Twin:
        """The same with every list changed alike, and every quote over what its own list gives."""
        twin = self
        for at in range(len(self.evidence.snapshots)):
            records = records_of(self.evidence, at)
            edit(records)
            listed = replace(twin, evidence=with_list(twin.evidence, records, at))
            twin = listed.with_pcrs(partial(with_pcr10, records=records), at=at)
        return twin


def with_pcr10(pcrs: Pcrs, records: Sequence[Rec]) -> Pcrs:
    """PCR 10 of every bank as the records give it."""
    return {bank: {**values, 10: naive_pcr10(records, bank)} for bank, values in pcrs.items()}


def extended(pcrs: Pcrs, record: Rec, banks: Sequence[str] | None = None) -> Pcrs:
    """PCR 10 extended with one more record, in every bank or in some."""
    return {
        bank: {**values, 10: record.extend(bank, values[10])}
        if banks is None or bank in banks
        else values
        for bank, values in pcrs.items()
    }
