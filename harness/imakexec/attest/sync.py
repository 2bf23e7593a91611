# SPDX-License-Identifier: GPL-2.0-only
"""Whether the lists of one power cycle are the ones that its quotes vouch for, and if not, why.

TRUNCATED, OUT_OF_SYNC and most of TAMPERED are the same event to the TPM: no prefix of the list
gives the quoted PCR. What tells them apart is what the list says and what was seen before; none
of that can turn a mismatch into a match.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from imakexec.attest.boot_aggregate import BootAggregateState
from imakexec.attest.power import ListObservation, Observation, PowerCycle
from imakexec.attest.quote import Quote
from imakexec.attest.reasons import Flag, Reason, Verdict
from imakexec.attest.replay import IMA_PCR
from imakexec.attest.timeline import (
    Handover,
    MarkerState,
    Timeline,
    build_timeline,
    carried_records,
)
from imakexec.errors import counted

# Critical data and keys have this one whatever the others have.
_BUFFER = "ima-buf"


@dataclass(frozen=True)
class Finding:
    """What one power cycle comes to.

    Args:
        reason: the reason code, of IN_SYNC if all is well.
        observation: the snapshot whose list decided.
        timeline: of that list.
        what: one sentence.
        proven: how many leading records of the list any quote up to then vouches for.
        first_divergence: the first record that is in doubt, or None.
        flags: what else to know.
    """

    reason: Reason
    observation: ListObservation
    timeline: Timeline
    what: str
    proven: int
    first_divergence: int | None
    flags: frozenset[Flag]

    @property
    def is_match(self) -> bool:
        """Whether the list replays, from its first record or from an anchor."""
        return self.reason.verdict is Verdict.IN_SYNC


class Coverage(StrEnum):
    """How far the quotes of a snapshot vouch for its own list."""

    WHOLE = "whole"
    TAIL = "tail"
    """The last records are not covered."""
    AHEAD = "ahead"
    """The PCR went on after the list was read."""
    NONE = "none"
    DIVERGED = "diverged"
    """Some banks match and others do not, or not at the same record."""
    BACKWARDS = "backwards"
    """The second quote matches earlier in the list than the first, or alone."""


def matched_records(
    observation: ListObservation, quotes: Sequence[Quote]
) -> tuple[int | None, ...]:
    """For each quote: after how many records of the list all banks hold the quoted values."""
    return tuple(observation.replay.matched(quote.pcr(IMA_PCR)) for quote in quotes)


def proven_records(observation: ListObservation, quotes: Sequence[Quote]) -> int:
    """How many leading records of a list any of these quotes, or its anchor, vouches for."""
    counts = matched_records(observation, quotes)
    taken_over = 0 if observation.anchor is None else observation.anchor.records
    return max((count for count in counts if count is not None), default=taken_over)


def judge_cycle(cycle: PowerCycle, past_quotes: Sequence[Quote]) -> Finding | None:
    """Judge the lists of one power cycle.

    Args:
        cycle: the power cycle.
        past_quotes: the quotes of all power cycles before it.

    Returns:
        The finding on the first list that fails, else on the last one; None if it has no list.
    """
    case = _Case(cycle, past_quotes)
    return case.decide() if case.listed else None


class _Case:
    """One power cycle under judgement."""

    def __init__(self, cycle: PowerCycle, past_quotes: Sequence[Quote]) -> None:
        self._cycle = cycle
        self._past_quotes = past_quotes
        self.listed = [item for item in cycle.observations if isinstance(item, ListObservation)]
        self._timelines: dict[ListObservation, Timeline] = {}

    def decide(self) -> Finding:
        for item in self.listed:
            if item.replay.contradiction is not None:
                return self._finding(
                    Reason.TEMPLATE_DIGEST,
                    item,
                    f"Record {item.replay.contradiction} contradicts itself: its digest is not the"
                    f" {item.log.layout.bank} of its template data.",
                    item.replay.contradiction,
                )
        for item in self.listed:
            mismatch = self._mismatch(item)
            if mismatch:
                return mismatch
        last = self.listed[-1]
        return (
            self._rewritten(last)
            or self._unquoted_pcr(last)
            or self._uncovered(last)
            or self._confirm(last)
        )

    def _mismatch(self, item: ListObservation) -> Finding | None:
        """Why no prefix of a list gives its quotes, if that is so."""
        coverage = _coverage(item)
        if coverage is Coverage.DIVERGED:
            return self._finding(
                Reason.BANKS_DIVERGE,
                item,
                "The PCR banks do not agree on the list. They match it after"
                f" {_bank_matches(item)}.",
                self._proven(item),
            )
        if coverage is Coverage.BACKWARDS:
            return self._finding(
                Reason.HISTORY_REWRITTEN,
                item,
                "The quote taken after the list vouches for a state of it that the quote before it"
                " excludes.",
                self._proven(item),
            )
        if coverage is Coverage.NONE:
            return self._stale(item) or self._rewritten(item) or self._lost(item)
        return None

    def _stale(self, item: ListObservation) -> Finding | None:
        """Whether quotes from before a reset vouch for more of a list than those after it.

        Some of it may match both: a machine measures the same files first at every boot.
        """
        proven = self._proven(item)
        past = [count for count in matched_records(item, self._past_quotes) if count is not None]
        if max(past, default=0) <= proven:
            return None
        return self._finding(
            Reason.STALE_LIST,
            item,
            f"The list is one from before a reset: its first {max(past)} records replay to a quote"
            f" of an earlier power cycle, and only {proven} of them to a quote of this one.",
            proven,
        )

    def _rewritten(self, item: ListObservation) -> Finding | None:
        """Whether the list contradicts what was seen before it in the same power cycle."""
        starts = [boot.index for boot in self._timeline(item).boots]
        matches = _coverage(item) is Coverage.WHOLE
        for seen in self._earlier(item):
            common = seen.log.common_records(item.log)
            hops = item.epoch - seen.epoch
            carried = carried_records(starts, hops, len(item.log))
            # A kexec may lose the end of a list; nothing else may, and nothing may change it.
            needed = len(seen.log) if matches or hops == 0 else min(carried, len(seen.log))
            if common < needed:
                return self._finding(
                    Reason.HISTORY_REWRITTEN,
                    item,
                    f"Record {common} is not the one that snapshot {seen.name} holds there, though"
                    " the TPM was not reset in between.",
                    common,
                )
        if matches and None in matched_records(item, self._quotes_until(item)):
            return self._finding(
                Reason.HISTORY_REWRITTEN,
                item,
                "The list matches its own quotes, but not an earlier one of the same power cycle.",
                None,
            )
        return None

    def _lost(self, item: ListObservation) -> Finding:
        proven = self._proven(item)
        handovers = self._timeline(item).handovers
        vouched = self._vouched(item)
        doubtful = [gap for gap in handovers if gap.index >= vouched[gap.index]]
        for handover in doubtful:
            complete = handover.markers is MarkerState.COMPLETE
            if handover.markers is MarkerState.LOAD_ONLY or (
                handover.markers_expected and not complete
            ):
                return self._truncated(item, handover)
        for handover in doubtful:
            if handover.markers is MarkerState.ABSENT:
                return self._finding(
                    Reason.NO_MARKERS,
                    item,
                    f"Records are missing, most likely lost at the kexec before record"
                    f" {handover.index}, by a kernel that writes no markers:"
                    f" {_lost_text(handover)}.",
                    handover.index,
                )
        return self._finding(
            Reason.FOREIGN_EXTEND,
            item,
            "No prefix of the list gives the quoted PCR 10, and no kexec explains it: records were"
            " removed or altered, or PCR 10 was extended behind the kernel's back."
            f"{_hint(self._timeline(item))}",
            proven,
        )

    def _vouched(self, item: ListObservation) -> dict[int, int]:
        """For each boot_aggregate: how many records a quote of its boot or a later one, or an
        anchor, vouches for.

        A quote of before it proves nothing about the hand-over before it: the next kernel measures
        the same first as the one before, so that the beginning of a list that was lost whole gives
        the same values.
        """
        starts = [boot.index for boot in self._timeline(item).boots]
        anchored = 0 if item.anchor is None else item.anchor.records
        counts: dict[int, int] = {}
        for seen in self._until(item):
            matched = (count for count in matched_records(item, seen.quotes) if count is not None)
            counts[seen.epoch] = max(counts.get(seen.epoch, 0), *matched, 0)
        vouched: dict[int, int] = {}
        most = anchored
        for number in reversed(range(len(starts))):
            most = max(most, counts.get(item.epoch - (len(starts) - 1 - number), 0))
            vouched[starts[number]] = most
        return vouched

    def _truncated(self, item: ListObservation, handover: Handover) -> Finding:
        size = handover.segment_size
        return self._finding(
            Reason.SEGMENT_FULL if handover.full else Reason.RECORDS_MISSING,
            item,
            f"The list was cut at the kexec before record {handover.index}, which has no"
            f" kexec_execute: {handover.bytes_used} bytes of"
            f" {'an unknown number' if size is None else size} were used,"
            f" {_explanation(handover)};"
            f" {_lost_text(handover)}.",
            handover.index,
        )

    def _unquoted_pcr(self, last: ListObservation) -> Finding | None:
        uncovered = last.replay.uncovered
        if uncovered is None:
            return None
        return self._finding(
            Reason.UNCOVERED_PCR,
            last,
            f"Record {uncovered} was measured into PCR {last.log[uncovered].pcr}, which no replay"
            " of PCR 10 covers.",
            uncovered,
        )

    def _uncovered(self, last: ListObservation) -> Finding | None:
        coverage = _coverage(last)
        if coverage is Coverage.AHEAD:
            return self._finding(
                Reason.FOREIGN_EXTEND,
                last,
                "The list matches the quote before it, but PCR 10 was extended afterwards, by a"
                " record that came too late for the list or by something that is in none: take the"
                " evidence again first.",
                len(last.log),
            )
        if coverage is Coverage.TAIL:
            proven = self._proven(last)
            return self._stale(last) or self._finding(
                Reason.UNCOVERED_TAIL,
                last,
                f"The last {len(last.log) - proven} of {len(last.log)} records are in no quoted"
                " PCR 10.",
                proven,
                frozenset({Flag.PENDING_TAIL}),
            )
        return None

    def _confirm(self, last: ListObservation) -> Finding:
        """The whole list replays: what is left is what it says of itself."""
        wrong = self._boot_aggregate_fault(last)
        if wrong:
            return self._finding(Reason.BOOT_AGGREGATE, last, *wrong)
        banks = ", ".join(last.replay.final)
        if last.anchor is not None:
            new = len(last.log) - last.anchor.records
            return self._finding(
                Reason.REANCHORED,
                last,
                f"{counted(new, 'record')} after the re-anchoring at record {last.anchor.records}"
                f" replay to the quoted PCR 10 in every bank ({banks}); of those before it, all"
                f" from record {last.anchor.proven} on stay unproven, and what was lost there"
                " unknown.",
                None,
                frozenset({Flag.DEGRADED}),
            )
        kexecs = len(self._timeline(last).boots) - 1
        return self._finding(
            Reason.MATCH,
            last,
            f"All {len(last.log)} records replay to the quoted PCR 10 in every bank"
            f" ({banks}), across {counted(kexecs, 'kexec')}.",
            None,
        )

    def _boot_aggregate_fault(self, last: ListObservation) -> tuple[str, int | None] | None:
        timeline = self._timeline(last)
        boots = len(timeline.boots)
        if self._cycle.first_epoch is not None:
            expected = last.epoch - self._cycle.first_epoch + 1
            # What was lost before an anchor may have been boots.
            if boots > expected or (boots < expected and last.anchor is None):
                return f"The list holds {boots} boot_aggregate records for {expected} boots.", None
        most = self._cycle.most_boots
        if most is not None and boots > most:
            held = counted(boots, "boot_aggregate record")
            return (
                f"The list holds {held}, and since the reset {counted(most, 'boot')} can be.",
                None,
            )
        if not boots:
            return "The list holds no boot_aggregate record.", 0
        newest = timeline.boot_aggregates[-1]
        rooted = "sha1" in last.replay.final or "sha256" in last.replay.final
        if newest.state is BootAggregateState.DIFFERS or (
            newest.state is BootAggregateState.ZERO and rooted
        ):
            return (
                f"The boot_aggregate in record {newest.index} is not the hash of the quoted"
                " firmware PCRs.",
                newest.index,
            )
        return None

    def _finding(
        self,
        reason: Reason,
        item: ListObservation,
        what: str,
        first_divergence: int | None,
        flags: frozenset[Flag] = frozenset(),
    ) -> Finding:
        timeline = self._timeline(item)
        flags |= _marker_flags(timeline) | _boot_aggregate_flags(timeline)
        if item.replay.violations:
            flags |= {Flag.VIOLATIONS}
        if item.log.has_unknown_templates:
            flags |= {Flag.UNKNOWN_TEMPLATE}
        known = {template.name for template in item.log.templates if template.fields is not None}
        if len(known - {_BUFFER}) > 1:
            flags |= {Flag.MIXED_TEMPLATES}
        return Finding(reason, item, timeline, what, self._proven(item), first_divergence, flags)

    def _timeline(self, item: ListObservation) -> Timeline:
        if item not in self._timelines:
            self._timelines[item] = build_timeline(
                item.log,
                violations=item.replay.violations,
                seen=self._until(item),
                earlier=self._earlier(item),
                epoch=item.epoch,
                first_epoch=self._cycle.first_epoch,
            )
        return self._timelines[item]

    def _until(self, item: ListObservation) -> Sequence[Observation]:
        observations = self._cycle.observations
        return observations[: observations.index(item) + 1]

    def _quotes_until(self, item: ListObservation) -> list[Quote]:
        return [quote for seen in self._until(item) for quote in seen.quotes]

    def _earlier(self, item: ListObservation) -> list[ListObservation]:
        return self.listed[: self.listed.index(item)]

    def _proven(self, item: ListObservation) -> int:
        return proven_records(item, self._quotes_of_boots_in(item))

    def _quotes_of_boots_in(self, item: ListObservation) -> list[Quote]:
        """The quotes taken in boots that the list holds, and those of its own snapshot.

        Of a boot that was lost whole a quote may match all the same: the next kernel measures the
        same first.
        """
        boots = len(self._timeline(item).boots)
        return [
            quote
            for seen in self._until(item)
            if seen is item or item.epoch - seen.epoch < boots
            for quote in seen.quotes
        ]


def _coverage(item: ListObservation) -> Coverage:
    counts = matched_records(item, item.quotes)
    for quote, count in zip(item.quotes, counts, strict=True):
        if count is None and _matches_in_some_bank(item, quote):
            return Coverage.DIVERGED
    found = [count for count in counts if count is not None]
    if not found:
        return Coverage.NONE
    if counts[0] is None or found != sorted(found):
        return Coverage.BACKWARDS
    if counts[-1] == len(item.log):
        return Coverage.WHOLE
    return Coverage.AHEAD if found[-1] == len(item.log) else Coverage.TAIL


def _bank_matches(item: ListObservation) -> str:
    """After how many records each bank matches the quote on which they disagree."""
    quote = next(quote for quote in item.quotes if item.replay.matched(quote.pcr(IMA_PCR)) is None)
    counts = {
        bank: item.replay.records_at(bank, value) for bank, value in quote.pcr(IMA_PCR).items()
    }
    return ", ".join(
        f"{'no record' if count is None else counted(count, 'record')} in {bank}"
        for bank, count in counts.items()
    )


def _matches_in_some_bank(item: ListObservation, quote: Quote) -> bool:
    return any(
        item.replay.records_at(bank, value) is not None
        for bank, value in quote.pcr(IMA_PCR).items()
    )


def _marker_flags(timeline: Timeline) -> frozenset[Flag]:
    flags = set()
    if any(not marker.accepted for marker in timeline.markers):
        flags.add(Flag.MARKER_ANOMALY)
    for handover in timeline.handovers:
        if handover.markers is MarkerState.ABSENT and not handover.markers_expected:
            flags.add(Flag.NO_MARKERS)
        elif handover.markers is not MarkerState.COMPLETE:
            flags.add(Flag.MARKER_ANOMALY)
    return frozenset(flags)


def _boot_aggregate_flags(timeline: Timeline) -> frozenset[Flag]:
    states = {aggregate.state for aggregate in timeline.boot_aggregates}
    flags = set()
    if BootAggregateState.ZERO in states:
        flags.add(Flag.NO_HARDWARE_ROOT)
    if states & {BootAggregateState.UNCHECKED, BootAggregateState.DIFFERS}:
        flags.add(Flag.BOOT_AGGREGATE_UNCHECKED)
    return frozenset(flags)


def _hint(timeline: Timeline) -> str:
    """What else it may be where a list does not begin as every list does."""
    if timeline.boots and timeline.boots[0].index == 0:
        return ""
    return (
        " It does not begin with a boot_aggregate: if it was trimmed, the saved records belong"
        " before it."
    )


def _explanation(handover: Handover) -> str:
    """What the use of the segment says about a loss."""
    if handover.full:
        return "too many for one more record"
    if handover.segment_size is not None and handover.bytes_used > handover.segment_size:
        return "more than it holds, so that some were never in it"
    return "which does not explain it"


def _lost_text(handover: Handover) -> str:
    text = "how many records are lost cannot be known"
    if handover.lost is not None:
        text = f"at least {counted(handover.lost, 'record')} known to be lost"
    if handover.uncounted:
        text += f", and its markers claim {handover.uncounted} that do not stand before them"
    return text
