# SPDX-License-Identifier: GPL-2.0-only
"""The record that begins each boot and ties the list to what the firmware measured.

Its value is H(PCR 0..7) for SHA-1 and H(PCR 0..9) for every other hash, over the bank of the
same algorithm (kernel: security/integrity/ima/ima_crypto.c, ima_calc_boot_aggregate_tfm()). A
kernel booted by kexec adds its own; as kexec moves no firmware PCR it is normally bit-identical.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

from imakexec.attest.log import MeasurementLog, Record
from imakexec.attest.replay import HASHES

if TYPE_CHECKING:
    from imakexec.attest.quote import Quote

# The second name is that of kernels whose TPM came up after IMA.
BOOT_EVENT = b"boot_aggregate"
"""What the names of both begin with."""
_EVENTS = (BOOT_EVENT, BOOT_EVENT + b"_late")


class BootAggregateState(StrEnum):
    """How a boot_aggregate relates to the quoted PCRs."""

    MATCHES = "matches"
    DIFFERS = "differs"
    ZERO = "zero"
    UNCHECKED = "unchecked"
    """PCR 0-9 of its bank were not quoted, or it names no algorithm that is known."""


@dataclass(frozen=True, slots=True)
class BootAggregate:
    """A boot_aggregate record.

    Args:
        index: of the record.
        algorithm: the hash it names; empty if it names none.
        logged: the value it holds.
        recomputed: the value made from the latest quote; None if its PCRs were not quoted.
        state: the outcome over all quotes given.
    """

    index: int
    algorithm: str
    logged: bytes
    recomputed: bytes | None
    state: BootAggregateState


def find_boot_aggregates(log: MeasurementLog) -> tuple[int, ...]:
    """The indices of all boot_aggregate records, that is, of the boots in the list."""
    return tuple(i for i in log.carrying(BOOT_EVENT) if _is_boot_aggregate(log[i]))


def check_boot_aggregate(log: MeasurementLog, index: int, quotes: Sequence[Quote]) -> BootAggregate:
    """Compare a boot_aggregate with what the given quotes, oldest first, say about PCR 0-9.

    One matching quote is enough: an operating system may extend PCR 8 and 9 later.
    """
    digest = log[index].file_digest
    if digest is None:
        return BootAggregate(index, "", b"", None, BootAggregateState.UNCHECKED)
    made = (_recompute(digest.algorithm, quote) for quote in quotes)
    values = [value for value in made if value is not None]
    if not any(digest.value):
        state = BootAggregateState.ZERO
    elif not values:
        state = BootAggregateState.UNCHECKED
    else:
        matches = digest.value in values
        state = BootAggregateState.MATCHES if matches else BootAggregateState.DIFFERS
    return BootAggregate(
        index, digest.algorithm, digest.value, values[-1] if values else None, state
    )


def _is_boot_aggregate(record: Record) -> bool:
    """A violation proves nothing of what it says, and measured data may have any event name."""
    return record.event in _EVENTS and record.buf is None and not record.is_violation


def _recompute(algorithm: str, quote: Quote) -> bytes | None:
    """The value by what a quote says; None if it does not say all of it."""
    pcrs, firmware = quote.pcrs.get(algorithm, {}), range(8 if algorithm == "sha1" else 10)
    if not all(index in pcrs for index in firmware):
        return None
    return HASHES[algorithm](b"".join(pcrs[index] for index in firmware)).digest()
