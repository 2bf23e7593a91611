# SPDX-License-Identifier: GPL-2.0-only
"""From evidence to a verdict.

    1  every quote holds: key, signature, nonce, selection, PCR values, counters
                                                              else INVALID_EVIDENCE
    2  every list is well formed                              else MALFORMED
    3  the snapshots fall into power cycles by the TPM's counters; each is judged on its own, and
       the first that fails, else the last, gives the verdict (`sync`)

Markers are read last: they explain a loss and never add trust.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from imakexec.attest.checkpoint import Checkpoint, Continuity
from imakexec.attest.continuity import go_on, replay_from, require_successor
from imakexec.attest.judgement import (
    BankResult,
    Basis,
    ContextRecord,
    Judgement,
    SnapshotResult,
)
from imakexec.attest.log import MeasurementLog
from imakexec.attest.power import (
    ListObservation,
    Observation,
    PowerCycle,
    Transition,
    TransitionKind,
    split_power_cycles,
)
from imakexec.attest.quote import AttestationKey, Quote, check_fresh_nonces, verify_quote
from imakexec.attest.reasons import EXIT_CODES, Flag, Reason, Rejection, Verdict
from imakexec.attest.replay import HASHES, IMA_PCR, Replay, Start
from imakexec.attest.replay import replay as replay_list
from imakexec.attest.selection import Selection
from imakexec.attest.sync import Finding, judge_cycle, matched_records
from imakexec.evidence import (
    Evidence,
    EvidenceFault,
    InvalidEvidence,
    MalformedEvidence,
    Snapshot,
)

__all__ = ["EXIT_CODES", "Flag", "Judgement", "Reason", "Verdict", "judge", "judge_folder"]

_ACTIONS = {
    Verdict.IN_SYNC: "Nothing.",
    Verdict.TRUNCATED: "Boot the machine cold; give the list more room at the next kexec load.",
    Verdict.OUT_OF_SYNC: "Boot the machine cold and investigate.",
    Verdict.TAMPERED: "Investigate; trust nothing that the machine says about itself.",
    Verdict.INVALID_EVIDENCE: "Take the evidence again; investigate if it stays like this.",
    Verdict.MALFORMED: "Take the evidence again.",
}

# Records shown on each side of a divergence, and characters of a name.
_CONTEXT = 3
_NAME_SHOWN = 200

# Where the verdict's own action is not the nearest one.
_ACTION_OF_REASON = {
    Reason.NO_MARKERS: "Boot the machine cold; use a kernel that carries its list across kexec.",
    Reason.REANCHORED: "Boot the machine cold when it can be spared: what was lost stays unknown.",
    Reason.RECORDS_MISSING: "Boot the machine cold and investigate.",
    Reason.UNCOVERED_PCR: "Vouch for the other PCR by other means.",
    Reason.UNCOVERED_TAIL: "Take the evidence again; boot cold and investigate if it stays.",
}


def judge_folder(folder: Path, *, checkpoint: Checkpoint | None = None) -> Judgement:
    """Judge an evidence folder.

    Raises:
        UserError: there is no such folder or no manifest in it, or the checkpoint is of another
            kind of list. Whatever is wrong with the contents is a judgement, not an exception.
    """
    try:
        evidence = Evidence.load(folder)
    except InvalidEvidence as fault:
        return rejected(_as_rejection(Reason.DAMAGED_FILE, fault))
    except MalformedEvidence as fault:
        return rejected(_as_rejection(Reason.MANIFEST, fault))
    return judge(evidence, checkpoint=checkpoint)


def judge(evidence: Evidence, *, checkpoint: Checkpoint | None = None) -> Judgement:
    """Judge evidence; pure, and the same for the same evidence at any time and place.

    Args:
        evidence: of one run.
        checkpoint: what an earlier judgement has left: the evidence must go on from there.
    """
    try:
        if not evidence.complete:
            raise Rejection(
                Reason.INCOMPLETE,
                "the run that took this evidence was stopped before its end",
                where="manifest.json, field complete",
            )
        key = _key(evidence)
        observations = _observe(evidence, key, checkpoint)
        cycles, transitions = split_power_cycles(observations, evidence.boots)
        return conclude(Case(observations, cycles, transitions, key), checkpoint)
    except Rejection as rejection:
        return rejected(rejection)


@dataclass(frozen=True)
class Case:
    """What evidence of any form comes to when its quotes hold and its lists are well formed.

    Args:
        observations: in order, at least one with a list.
        cycles: the same by power cycle.
        transitions: what lies between each two observations.
        key: that has signed the quotes; None for bare PCR values.
    """

    observations: tuple[Observation, ...]
    cycles: tuple[PowerCycle, ...]
    transitions: tuple[Transition, ...] = ()
    key: AttestationKey | None = None


def conclude(case: Case, checkpoint: Checkpoint | None) -> Judgement:
    """The judgement on a case."""
    finding, continuity = _first_failure(case.cycles), None
    if checkpoint is not None:
        finding, continuity = go_on(finding, case.cycles, checkpoint)
    return _judgement(finding, case, continuity)


def _observe(
    evidence: Evidence, key: AttestationKey, checkpoint: Checkpoint | None
) -> tuple[Observation, ...]:
    """Check all quotes, then read all lists.

    Raises:
        Rejection: with a reason of INVALID_EVIDENCE or MALFORMED.
    """
    selection = Selection.of_banks(_banks(evidence))
    _check_end(evidence)
    quotes = [_verified_quotes(snapshot, key, selection) for snapshot in evidence.snapshots]
    every = [quote for group in quotes for quote in group]
    check_fresh_nonces(every)
    if checkpoint is not None:
        require_successor(checkpoint, key, every)
    lists = _Lists(wanted_values(every, checkpoint), checkpoint)
    return tuple(
        lists.observation(snapshot, group)
        for snapshot, group in zip(evidence.snapshots, quotes, strict=True)
    )


def wanted_values(
    quotes: Sequence[Quote], checkpoint: Checkpoint | None
) -> dict[str, frozenset[bytes]]:
    """For each quoted bank the values of PCR 10 that a replay must look out for."""
    before = {} if checkpoint is None else checkpoint.pcrs
    return {
        bank: frozenset(
            {quote.pcrs[bank][IMA_PCR] for quote in quotes} | {before.get(bank, b"")} - {b""}
        )
        for bank in quotes[0].pcrs
    }


def _check_end(evidence: Evidence) -> None:
    """The list of the last boot must be there: without it the one before would be judged."""
    if not evidence.snapshots:
        raise Rejection(Reason.INCOMPLETE, "the evidence holds no snapshot")
    last = evidence.snapshots[-1]
    if last.log is None:
        raise Rejection(
            Reason.INCOMPLETE,
            "the last snapshot holds no measurement list",
            where=f"snapshot {last.name}",
        )
    if evidence.boots and last.epoch < evidence.boots[-1].epoch:
        raise Rejection(
            Reason.INCOMPLETE,
            f"no snapshot was taken in the last boot, epoch {evidence.boots[-1].epoch}",
            where=f"snapshot {last.name}, epoch {last.epoch}",
        )


def _key(evidence: Evidence) -> AttestationKey:
    if evidence.ak_public is None or evidence.ak_pem is None:
        raise Rejection(Reason.INCOMPLETE, "the evidence holds no attestation key")
    return AttestationKey.load(evidence.ak_public, evidence.ak_pem)


def _banks(evidence: Evidence) -> tuple[str, ...]:
    banks = evidence.required_banks
    if not banks:
        raise Rejection(Reason.INCOMPLETE, "the evidence does not say which banks the TPM has")
    for bank in banks:
        if bank not in HASHES or banks.count(bank) != 1:
            raise Rejection(
                Reason.MISSING_BANK,
                f"bank {bank!r} is named twice or is none of {', '.join(HASHES)}",
                where="required_banks",
            )
    return banks


def _verified_quotes(
    snapshot: Snapshot, ak: AttestationKey, selection: Selection
) -> tuple[Quote, ...]:
    quotes = []
    for record, position in zip(snapshot.quotes, ("before", "after"), strict=False):
        try:
            quotes.append(verify_quote(record, ak, selection))
        except Rejection as rejection:
            raise _placed(rejection, f"snapshot {snapshot.name}, quote {position}") from None
    return tuple(quotes)


class _Lists:
    """Reads and replays the lists of one evidence; the same bytes only once.

    A folder may name one file for many snapshots, and that must not cost more than to read it.
    """

    def __init__(
        self, wanted: Mapping[str, frozenset[bytes]], checkpoint: Checkpoint | None
    ) -> None:
        self._wanted = wanted
        self._checkpoint = checkpoint
        self._logs: dict[int, MeasurementLog] = {}
        self._replays: dict[tuple[int, int | None], Replay] = {}

    def observation(self, snapshot: Snapshot, quotes: tuple[Quote, ...]) -> Observation:
        """A snapshot whose quotes hold.

        Raises:
            Rejection: with a reason of MALFORMED.
        """
        content = snapshot.log
        if content is None:
            return Observation(snapshot.name, snapshot.epoch, quotes)
        key = id(content)  # the evidence, which outlives this, holds it
        try:
            if key not in self._logs:
                self._logs[key] = MeasurementLog.parse(content)
        except Rejection as rejection:
            raise _placed(rejection, f"snapshot {snapshot.name}, {rejection.where}") from None
        log = self._logs[key]

        def run(start: Start | None) -> Replay:
            place = (key, None if start is None else start.records)
            if place not in self._replays:
                self._replays[place] = replay_list(
                    log, tuple(self._wanted), self._wanted, start=start
                )
            return self._replays[place]

        outcome, anchor = replay_from(self._checkpoint, log, quotes, run)
        return ListObservation(snapshot.name, snapshot.epoch, quotes, log, outcome, anchor)


def _first_failure(cycles: Sequence[PowerCycle]) -> Finding:
    """The finding on the first power cycle that fails, else on the last one."""
    past_quotes: list[Quote] = []
    finding = None
    for cycle in cycles:
        finding = judge_cycle(cycle, past_quotes)
        if finding and not finding.is_match:
            return finding
        past_quotes.extend(quote for item in cycle.observations for quote in item.quotes)
    assert finding is not None, "the last snapshot has a list: see _check_end"
    return finding


def action_for(reason: Reason) -> str:
    """What the operator should do."""
    return _ACTION_OF_REASON.get(reason, _ACTIONS[reason.verdict])


def _judgement(finding: Finding, case: Case, continuity: Continuity | None) -> Judgement:
    item = finding.observation
    kinds = [transition.kind for transition in case.transitions]
    verdict = finding.reason.verdict
    return Judgement(
        verdict=verdict,
        reason=finding.reason,
        sentence=finding.what,
        action=action_for(finding.reason),
        where=f"snapshot {item.name}",
        snapshot=item.name,
        layout=item.log.layout,
        records=len(item.log),
        first_divergence=finding.first_divergence,
        context=_context(item.log, finding.first_divergence),
        banks=_bank_results(item),
        timeline=finding.timeline,
        snapshots=tuple(_snapshot_result(seen, item) for seen in case.observations),
        transitions=case.transitions,
        kexecs=sum(transition.kexecs for transition in case.transitions),
        cold_boots=kinds.count(TransitionKind.COLD),
        violations=tuple(item.replay.violations),
        continuity=continuity,
        flags=tuple(sorted(finding.flags | _flags(case))),
        basis=Basis(
            item,
            None if case.key is None else case.key.fingerprint,
            _proven(finding, continuity),
        ),
    )


def _flags(case: Case) -> set[Flag]:
    flags = set()
    clocks = [quote.clock_info for seen in case.observations for quote in seen.quotes]
    if any(transition.contradicted for transition in case.transitions):
        flags.add(Flag.CLAIM_CONTRADICTED)
    if any(clock is not None and not clock.safe for clock in clocks):
        flags.add(Flag.CLOCK_UNSAFE)
    if None in clocks:
        flags.add(Flag.UNAUTHENTICATED)
    elif case.key is not None and not case.key.is_known_restricted:
        flags.add(Flag.AK_UNCHECKED)
    return flags


def _proven(finding: Finding, continuity: Continuity | None) -> int:
    """How many leading records of the list were proven at any time, without a gap."""
    anchor = finding.observation.anchor
    if anchor is not None:
        return anchor.proven
    return max(finding.proven, 0 if continuity is None else continuity.proven)


def _context(log: MeasurementLog, divergence: int | None) -> tuple[ContextRecord, ...]:
    """The records around a divergence, which may be the end of the list."""
    if divergence is None:
        return ()
    first = max(0, divergence - _CONTEXT)
    return tuple(
        ContextRecord(
            index=record.index,
            pcr=record.pcr,
            template=record.template.name,
            digest=record.digest,
            name=record.name[:_NAME_SHOWN],
            violation=record.is_violation,
        )
        for record in log[first : divergence + _CONTEXT + 1]
    )


def _bank_results(item: ListObservation) -> tuple[BankResult, ...]:
    """Against the last quote: only it can cover the whole list."""
    quoted = item.quotes[-1].pcr(IMA_PCR)
    return tuple(
        BankResult(bank, expected, quoted[bank], item.replay.records_at(bank, quoted[bank]))
        for bank, expected in item.replay.final.items()
    )


def _snapshot_result(seen: Observation, judged: ListObservation) -> SnapshotResult:
    clock = seen.quotes[-1].clock_info
    result = SnapshotResult(
        name=seen.name,
        epoch=seen.epoch,
        records=None,
        matched_records=(),
        kept=None,
        missing=None,
        reset_count=None if clock is None else clock.reset_count,
        restart_count=None if clock is None else clock.restart_count,
        clock_ms=None if clock is None else clock.clock,
    )
    if not isinstance(seen, ListObservation):
        return result
    kept = seen.log.common_records(judged.log)
    return replace(
        result,
        records=len(seen.log),
        matched_records=matched_records(seen, seen.quotes),
        kept=kept,
        missing=len(seen.log) - kept,
    )


def rejected(rejection: Rejection) -> Judgement:
    """The judgement on evidence that fails a check before its list can be judged."""
    verdict = rejection.reason.verdict
    return Judgement(
        verdict=verdict,
        reason=rejection.reason,
        sentence=f"Nothing can be said about the list: {rejection.what}.",
        action=action_for(rejection.reason),
        where=rejection.where,
        flags=tuple(sorted(rejection.flags)),
    )


def _placed(rejection: Rejection, where: str) -> Rejection:
    return Rejection(rejection.reason, rejection.what, where=where, flags=rejection.flags)


def _as_rejection(reason: Reason, fault: EvidenceFault) -> Rejection:
    return Rejection(reason, fault.what, where=fault.where)
