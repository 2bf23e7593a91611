# SPDX-License-Identifier: GPL-2.0-only
"""What must hold in every situation, whatever was done; pure.

A scenario's own demands are claims beside these. Both end as findings: what a run has shown to be
wrong, under the name of the demand that it breaks.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from itertools import pairwise

from imakexec.attest import Judgement, MeasurementLog, Reason, Verdict, replay
from imakexec.attest.boot_aggregate import BootAggregateState, find_boot_aggregates
from imakexec.attest.crosscheck import check_ascii, check_binary
from imakexec.attest.replay import IMA_PCR
from imakexec.errors import printable
from imakexec.evidence import Snapshot
from imakexec.machine.complaint import find_complaints
from imakexec.suite.readings import Reading
from imakexec.suite.result import Complaint

# A boot may take this much longer than the first one did, and each record that it restores.
_SLOWER = 5.0
_SLOWER_SECONDS = 10.0
_RECORD_SECONDS = 0.0005
# A guest may complain for ever, and every report has each complaint.
_MOST_SAID = 500


class Oracle(StrEnum):
    """The demands that are made of every run."""

    REPLAY = "O1 replay"
    """The whole list replays to the quoted PCR after its last record, in every bank."""
    PREFIX = "O2 prefix"
    """The next kernel's list begins with the last one of the kernel before, byte for byte."""
    BOOTS = "O3 boot_aggregate"
    """One more boot_aggregate per hop, with the value that PCR 0-9 give."""
    COUNT = "O4 count"
    """runtime_measurements_count, the ASCII list and those per bank agree with the binary one."""
    VIOLATIONS = "O5 violations"
    """As many records with a zero digest as the kernel counts violations."""
    MESSAGES = "O6 messages"
    """No kernel has said what no healthy one says."""
    COUNTER = "O7 update counter"
    """The TPM was extended once for each record and bank."""
    TIME = "O8 time"
    """The next kernel reaches user space about as fast as the first one."""
    LEAKS = "no leaks"
    """A kernel that looks for memory which it has lost finds none."""
    ALIVE = "alive"
    """Every kernel does what it is asked, and none dies of it."""


@dataclass(frozen=True)
class Finding:
    """A demand that a run does not meet.

    Attributes:
        demand: an `Oracle`, or the name of a scenario's claim.
        what: what was seen instead.
    """

    demand: str
    what: str

    def __str__(self) -> str:
        return f"{self.demand}: {self.what}"


@dataclass(frozen=True)
class Hop:
    """How long the kernel after a kexec took.

    Attributes:
        epoch: its boot epoch.
        seconds: from its own start to the agent, on its own clock.
        records: in the list that it restored, at most.
    """

    epoch: int
    seconds: float
    records: int


@dataclass(frozen=True)
class Padded:
    """Banks whose hash a kernel lacks: it extends SHA-1 digests, padded with zero bytes, into them.

    Attributes:
        banks: their names.
        since: the first boot of such a kernel.
    """

    banks: frozenset[str]
    since: int = 0

    def of(self, epoch: int) -> frozenset[str]:
        """The banks that the kernel of a boot pads."""
        return self.banks if epoch >= self.since else frozenset()


NOT_PADDED = Padded(frozenset())
"""The kernels have all hashes."""


def replay_findings(judgement: Judgement) -> Iterator[Finding]:
    """O1."""
    if judgement.verdict is not Verdict.IN_SYNC:
        yield Finding(
            Oracle.REPLAY, f"{judgement.verdict} ({judgement.reason}): {judgement.sentence}"
        )


def padded_replay_findings(
    judgement: Judgement, last: Snapshot, padded: Padded
) -> Iterator[Finding]:
    """O1 where some banks are padded, of which evidence can say nothing.

    A bank that was padded from the start replays as such. One that was not must match no more,
    whichever way it is replayed: not even a list that ends at the kexec.
    """
    if judgement.reason is not Reason.BANKS_DIVERGE:
        yield Finding(Oracle.REPLAY, f"{judgement.reason}: banks without a hash cannot match")
    assert last.log is not None
    log = MeasurementLog.parse(last.log)
    quoted = {bank: values[IMA_PCR] for bank, values in last.quotes[-1].pcrs.items()}
    wanted = {bank: {value} for bank, value in quoted.items()}
    ways = [padded.banks] if padded.since == 0 else [padded.banks, frozenset()]
    for way in ways:
        found = replay(log, tuple(quoted), wanted, padded=way)
        for bank, value in quoted.items():
            due = None if bank in padded.banks and padded.since else len(log)
            matched = found.records_at(bank, value)
            if matched != due:
                yield Finding(
                    Oracle.REPLAY, f"{bank} matches after {matched} records, {due} were due"
                )


def prefix_findings(readings: Sequence[Reading]) -> Iterator[Finding]:
    """O2."""
    for earlier, later in pairwise(readings):
        if later.log.startswith(earlier.log):
            continue
        kept = MeasurementLog.parse(earlier.log).common_records(MeasurementLog.parse(later.log))
        yield Finding(
            Oracle.PREFIX,
            f"the list of {later.snapshot} keeps {kept} of the {earlier.count} records of "
            f"{earlier.snapshot}",
        )


def boot_findings(
    judgement: Judgement,
    readings: Sequence[Reading],
    starts: frozenset[int],
    zero: frozenset[int] = frozenset(),
) -> Iterator[Finding]:
    """O3.

    Args:
        starts: the boots with which a list starts, 0 among them.
        zero: the boots whose kernel finds no bank for its boot_aggregate, and leaves it zero.
    """
    for reading in readings:
        found = len(find_boot_aggregates(MeasurementLog.parse(reading.log)))
        if found != 1 + reading.epoch - max(at for at in starts if at <= reading.epoch):
            yield Finding(
                Oracle.BOOTS,
                f"{found} boot_aggregate records in {reading.snapshot}, boot {reading.epoch}",
            )
    aggregates = judgement.timeline.boot_aggregates if judgement.timeline else ()
    for boot, aggregate in enumerate(aggregates):
        due = BootAggregateState.ZERO if boot in zero else BootAggregateState.MATCHES
        if aggregate.state is not due:
            yield Finding(Oracle.BOOTS, f"boot_aggregate {aggregate.index} {aggregate.state}")


def count_findings(readings: Sequence[Reading], padded: Padded) -> Iterator[Finding]:
    """O4."""
    for reading in readings:
        if not reading.own:
            yield from _empty_list_findings(reading)
            continue
        log = MeasurementLog.parse(reading.own)
        if reading.count != len(log):
            yield Finding(
                Oracle.COUNT,
                f"the kernel counts {reading.count} records in {reading.snapshot}, its list has "
                f"{len(log)}",
            )
        for name, content in reading.lists.items():
            banks = padded.of(reading.epoch)
            yield from _list_findings(reading.snapshot, log, name, content, banks)


def _empty_list_findings(reading: Reading) -> Iterator[Finding]:
    """Of a kernel whose records are all staged or deleted."""
    full = [name for name, content in reading.lists.items() if content]
    if reading.count or full:
        yield Finding(
            Oracle.COUNT,
            f"the kernel counts {reading.count} records in {reading.snapshot}, its list has none "
            f"and {', '.join(full) or 'no other'} has some",
        )


def _list_findings(
    snapshot: str, log: MeasurementLog, name: str, content: bytes, padded: frozenset[str]
) -> Iterator[Finding]:
    if name.startswith("ascii"):
        check = check_ascii(log, content, padded=padded)
    else:
        check = check_binary(log, MeasurementLog.parse(content), padded=padded)
    if not check.agrees:
        wrong = f"record {check.compared} differs in {check.field}: {check.difference}"
    elif check.missing or check.further:
        wrong = f"{check.missing} records missing, {check.further} more"
    else:
        return
    yield Finding(Oracle.COUNT, f"{name} in {snapshot}: {wrong}")


def violation_findings(readings: Sequence[Reading]) -> Iterator[Finding]:
    """O5."""
    for reading in readings:
        zero = sum(record.is_violation for record in MeasurementLog.parse(reading.log))
        if zero != reading.violations:
            yield Finding(
                Oracle.VIOLATIONS,
                f"the kernel counts {reading.violations} violations in {reading.snapshot}, its "
                f"list has {zero}",
            )


def find_said(console: str, allowed: Mapping[str, str]) -> Iterator[Complaint]:
    """What kernels have said that no healthy one says: the first 500 that are allowed, and others.

    Args:
        console: of all boots.
        allowed: what the first line of a complaint may hold here, with the reason.
    """
    # Behind the time of the host, see ConsoleLine. A console can have millions of lines.
    found_lines = re.finditer("[^\n]+", console)
    lines = (found[0].lstrip().partition(" ")[2] for found in found_lines)
    room = {True: _MOST_SAID, False: _MOST_SAID}
    for found in find_complaints(lines):
        because = next((allowed[text] for text in allowed if text in found.first), "")
        if room[bool(because)]:
            room[bool(because)] -= 1
            yield Complaint(
                name=found.pattern.name,
                boot=found.boot,
                line=printable(found.first),
                fingerprint=found.fingerprint,
                because=because,
            )


def message_findings(said: Iterable[Complaint]) -> Iterator[Finding]:
    """O6."""
    for complaint in said:
        if not complaint.because:
            where = f" [{complaint.fingerprint}]" if complaint.fingerprint else ""
            yield Finding(Oracle.MESSAGES, f"{complaint.line}{where}")


def counter_findings(readings: Sequence[Reading], per_record: int) -> Iterator[Finding]:
    """O7.

    Args:
        per_record: by how much an extend of all banks moves the counter.
    """
    if not readings:
        return
    first, last = readings[0], readings[-1]
    counted = last.update_counter - first.update_counter
    records = len(MeasurementLog.parse(last.log)) - len(MeasurementLog.parse(first.log))
    if counted != per_record * records:
        yield Finding(
            Oracle.COUNTER,
            f"from {first.snapshot} to {last.snapshot} the list has grown by {records} records, "
            f"the TPM counts {counted / per_record:g}",
        )


def leak_findings(when: str, report: str) -> Iterator[Finding]:
    """That of kmemleak.

    Args:
        when: the scan was made.
        report: the file that it reports in.
    """
    # An object begins with its address and is described in lines that are indented.
    for line in report.splitlines():
        if line.startswith("unreferenced object"):
            yield Finding(Oracle.LEAKS, f"{when}: {line}")


def time_findings(first: float, hops: Sequence[Hop]) -> Iterator[Finding]:
    """O8.

    Args:
        first: seconds that the first kernel took, on its own clock.
    """
    for hop in hops:
        allowed = _SLOWER * first + _SLOWER_SECONDS + _RECORD_SECONDS * hop.records
        if hop.seconds > allowed:
            yield Finding(
                Oracle.TIME,
                f"boot {hop.epoch} took {hop.seconds:.1f} s to user space, {allowed:.1f} s are "
                "allowed",
            )
