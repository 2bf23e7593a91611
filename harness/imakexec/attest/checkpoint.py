# SPDX-License-Identifier: GPL-2.0-only
"""What a judgement leaves for the next one: how far a list was proven, at which state of the TPM.

With it a later run proves continuity: the list must begin with what was proven before, as long as
the TPM was not reset. After a loss at a kexec it says how much of that is left, although nothing
replays any more. And after such a loss it can carry an anchor: a value that PCR 10 was seen to have
after some record, from which replay begins anew (`Anchor`).

A checkpoint is the verifier's own: whoever can write it decides what the verifier believes.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import stat
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING

from imakexec.attest.log import DIGEST_SIZES, ByteOrder, Layout, MeasurementLog
from imakexec.attest.plain import plain
from imakexec.attest.replay import IMA_PCR
from imakexec.attest.structures import ClockInfo
from imakexec.errors import InfraError, UserError
from imakexec.strict_json import SHA256_HEX, JsonFault, Value, parse_json

if TYPE_CHECKING:
    from imakexec.attest.quote import Quote

SCHEMA = "imakexec-checkpoint/1"

_MOST_RUNGS = 1024
_SIZE_LIMIT = 1 << 20
# Bytes of a list in memory at once.
_PIECE = 1 << 20


@dataclass(frozen=True)
class Anchor:
    """Where replay begins anew after a loss.

    Args:
        records: how many the list had when the value was quoted.
        pcrs: bank to what PCR 10 held after them.
        proven: how many of them, from the first, were proven before the loss. Of the others, and of
            what was lost among them, nothing is known.
    """

    records: int
    pcrs: Mapping[str, bytes]
    proven: int


@dataclass(frozen=True)
class Rung:
    """SHA-256 of the first so many records of a list, as they lie in it."""

    records: int
    sha256: bytes


@dataclass(frozen=True)
class Checkpoint:
    """A list that was proven, and by whom.

    Args:
        key: SHA-256 of the SubjectPublicKeyInfo of the key that signed.
        clock_info: the TPM's clock and counters at the quote.
        layout: of the list.
        pcrs: bank to what PCR 10 held after all records.
        ladder: hashes of more and more of its records, the last one of all: of a list that lost
            its end it tells how much is left.
        anchor: where its replay began; None at the first record.
    """

    key: bytes
    clock_info: ClockInfo
    layout: Layout
    pcrs: Mapping[str, bytes]
    ladder: tuple[Rung, ...]
    anchor: Anchor | None = None

    @classmethod
    def of(
        cls, log: MeasurementLog, quote: Quote, *, key: bytes, anchor: Anchor | None
    ) -> Checkpoint:
        """The checkpoint after a judgement.

        Args:
            log: the list; all its records are in what was quoted.
            quote: the last one.
            key: fingerprint of the key that signed it.
            anchor: where replay began, or is to begin next time.

        Raises:
            ValueError: nobody has signed the values, or the list is empty.
        """
        if quote.clock_info is None or not len(log):
            raise ValueError("a quote of a list of records expected")
        counts = _rung_counts(len(log), anchor)
        hashed = _prefix_hashes(log, counts)
        rungs = tuple(Rung(*pair) for pair in zip(counts, hashed, strict=True))
        return cls(key, quote.clock_info, log.layout, quote.pcr(IMA_PCR), rungs, anchor)

    @classmethod
    def load(cls, path: Path) -> Checkpoint | None:
        """Read a file; None if there is none yet.

        Raises:
            UserError: it cannot be read, or is no checkpoint.
        """
        try:
            with path.open("rb") as file:
                content = file.read(_SIZE_LIMIT + 1)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise UserError(
                f"the checkpoint cannot be read: {error.strerror}",
                where=str(path),
                remedy="name a file that this user may read and write",
            ) from error
        try:
            if len(content) > _SIZE_LIMIT:
                raise JsonFault(f"longer than {_SIZE_LIMIT} bytes", file=str(path))
            return _checkpoint(parse_json(content, str(path)))
        except JsonFault as fault:
            raise UserError(
                f"no checkpoint: {fault.what}",
                where=f"{path}, field {fault.field}" if fault.field else str(path),
                remedy="name a checkpoint that imakexec has written, or a new file to begin one",
            ) from fault

    def save(self, path: Path) -> None:
        """Write it to a file in one step: there is the old one or the new one, nothing between.

        Raises:
            UserError: the file cannot be written.
            InfraError: its disk is full.
        """
        try:
            place = Path(os.path.realpath(path))
            # Of a name that nobody can have put a link at.
            descriptor, name = tempfile.mkstemp(dir=place.parent, prefix=".checkpoint-")
            draft = Path(name)
            try:
                with os.fdopen(descriptor, "w", encoding="ascii") as file:
                    if place.exists():
                        os.fchmod(descriptor, stat.S_IMODE(place.stat().st_mode))
                    json.dump(self.to_json(), file, indent=1)
                    file.write("\n")
                    file.flush()
                    os.fsync(file.fileno())
                draft.replace(place)
            except BaseException:
                draft.unlink(missing_ok=True)
                raise
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                raise InfraError(
                    f"the checkpoint cannot be written: {error.strerror}",
                    where=str(path),
                    remedy="make room on that file system; what was there is still there",
                ) from error
            raise UserError(
                f"the checkpoint cannot be written: {error.strerror}",
                where=str(path),
                remedy="name a file in a folder that exists and can be written",
            ) from error

    def to_json(self) -> dict[str, object]:
        """As plain JSON values, bytes in hexadecimal; keys are stable per schema."""
        clock = self.clock_info
        return {
            "schema": SCHEMA,
            "key": self.key.hex(),
            "reset_count": clock.reset_count,
            "restart_count": clock.restart_count,
            "clock_ms": clock.clock,
            "byteorder": self.layout.byteorder.value,
            "bank": self.layout.bank,
            "pcrs": plain(self.pcrs),
            "ladder": plain(self.ladder),
            "anchor": plain(self.anchor),
        }

    @property
    def records(self) -> int:
        """How many records it vouches for."""
        return self.ladder[-1].records

    def survival(self, log: MeasurementLog) -> Survival:
        """How many of its records a list begins with; of another layout, with none."""
        if log.layout != self.layout:
            return Survival(0, self.ladder[0].records)
        possible = [rung for rung in self.ladder if rung.records <= len(log)]
        hashed = _prefix_hashes(log, [rung.records for rung in possible])
        kept = 0
        for rung, sha256 in zip(possible, hashed, strict=True):
            if sha256 != rung.sha256:
                return Survival(kept, rung.records)
            kept = rung.records
        if len(possible) == len(self.ladder):
            return Survival(kept, None)
        return Survival(kept, self.ladder[len(possible)].records)


@dataclass(frozen=True)
class Survival:
    """What is left of a list, as far as the rungs of a checkpoint tell.

    Args:
        at_least: so many leading records are the same.
        below: and fewer than so many; None if all are.
    """

    at_least: int
    below: int | None

    @property
    def is_whole(self) -> bool:
        """Whether the list still begins with all of them."""
        return self.below is None

    def can_end_at(self, records: int) -> bool:
        """Whether the part that is left may have exactly so many records."""
        return self.below is not None and self.at_least <= records < self.below


class ContinuityState(StrEnum):
    """How a judged list relates to a checkpoint."""

    CONTINUES = "continues"
    """It begins with all that the checkpoint vouches for."""
    LOSS = "loss"
    """A kexec has cut it within that."""
    CONTRADICTED = "contradicted"
    """It does not, and nothing explains why."""
    NEW_POWER_CYCLE = "new_power_cycle"
    """The TPM was reset since: another list."""


@dataclass(frozen=True)
class Continuity:
    """What a checkpoint shows about a judged list.

    Args:
        state: in one word.
        checkpoint_records: how many it vouches for.
        surviving: the list begins with at least so many of them.
        surviving_below: and with fewer than so many; None if with all.
        proven: of these, so many were proven without a gap before them.
        anchor: where replay began; None at the first record.
    """

    state: ContinuityState
    checkpoint_records: int
    surviving: int
    surviving_below: int | None
    proven: int
    anchor: Anchor | None


def _rung_counts(records: int, anchor: Anchor | None) -> list[int]:
    """Every count if they are few, else as many as there may be, equally far apart."""
    step = -(-records // _MOST_RUNGS)
    counts = set(range(records, 0, -step))
    if anchor is not None:
        counts.add(anchor.records)
    return sorted(counts)


def _prefix_hashes(log: MeasurementLog, counts: Sequence[int]) -> Iterator[bytes]:
    """SHA-256 of the first so many records, for each count, ascending."""
    running, at = hashlib.sha256(), 0
    for count in counts:
        end = log.offset(count)
        for start in range(at, end, _PIECE):
            running.update(log.data[start : min(start + _PIECE, end)])
        at = end
        yield running.copy().digest()


def _checkpoint(at: Value) -> Checkpoint:
    keys = ("schema", "key", "reset_count", "restart_count", "clock_ms", "byteorder", "bank")
    schema, key, reset, restart, clock, order, bank, pcrs, ladder, anchor = at.members(
        *keys, "pcrs", "ladder", "anchor"
    )
    if schema.string() != SCHEMA:
        raise schema.wrong(f"schema {SCHEMA!r} expected")
    if order.string() not in set(ByteOrder):
        raise order.wrong("little or big expected")
    if bank.string() not in DIGEST_SIZES:
        raise bank.wrong(f"one of {', '.join(DIGEST_SIZES)} expected")
    checkpoint = Checkpoint(
        key=_sha256(key),
        clock_info=ClockInfo(clock.natural(), reset.natural(), restart.natural(), safe=True),
        layout=Layout(ByteOrder(order.string()), bank.string()),
        pcrs=_values(pcrs),
        ladder=tuple(map(_rung, ladder.elements())),
        anchor=anchor.optional(_anchor),
    )
    counts = [rung.records for rung in checkpoint.ladder]
    if not counts or counts != sorted(set(counts)) or not counts[0]:
        raise ladder.wrong("rungs of more and more records expected")
    place = checkpoint.anchor
    if place and (place.records not in counts or not place.proven <= place.records):
        raise anchor.wrong("an anchor at one of the rungs, behind what was proven, expected")
    if place and place.pcrs.keys() != checkpoint.pcrs.keys():
        raise anchor.wrong("an anchor in the same banks expected")
    return checkpoint


def _anchor(at: Value) -> Anchor:
    records, pcrs, proven = at.members("records", "pcrs", "proven")
    return Anchor(records.natural(), _values(pcrs), proven.natural())


def _rung(at: Value) -> Rung:
    records, sha256 = at.members("records", "sha256")
    return Rung(records.natural(), _sha256(sha256))


def _sha256(at: Value) -> bytes:
    return bytes.fromhex(at.matching(SHA256_HEX, "64 lower-case hex digits"))


def _values(at: Value) -> dict[str, bytes]:
    """The value of PCR 10 in each bank."""
    values = {item.name: item for item in at.items()}
    for bank, item in values.items():
        if len(item.digits()) != DIGEST_SIZES.get(bank):
            raise item.wrong("the value of a PCR of a bank expected")
    if not values:
        raise at.wrong("the values of one bank or more expected")
    return {bank: item.digits() for bank, item in values.items()}
