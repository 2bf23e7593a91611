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

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from imakexec.attest.judgement import BankResult, Judgement, SnapshotResult
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
from imakexec.attest.replay import HASHES, IMA_PCR
from imakexec.attest.replay import replay as replay_list
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

# Where the verdict's own action is not the nearest one.
_ACTION_OF_REASON = {
    Reason.NO_MARKERS: "Boot the machine cold; use a kernel that carries its list across kexec.",
    Reason.UNCOVERED_TAIL: "Take the evidence again; boot cold and investigate if it stays.",
}


def judge_folder(folder: Path) -> Judgement:
    """Judge an evidence folder.

    Raises:
        UserError: there is no such folder or no manifest in it. Whatever is wrong with the
            contents is a judgement, not an exception.
    """
    try:
        evidence = Evidence.load(folder)
    except InvalidEvidence as fault:
        return _rejected(_as_rejection(Reason.DAMAGED_FILE, fault))
    except MalformedEvidence as fault:
        return _rejected(_as_rejection(Reason.MANIFEST, fault))
    return judge(evidence)


def judge(evidence: Evidence) -> Judgement:
    """Judge evidence; pure, and the same for the same evidence at any time and place."""
    try:
        observations = _observe(evidence)
        cycles, transitions = split_power_cycles(observations, evidence.boots)
        finding = _first_failure(cycles)
    except Rejection as rejection:
        return _rejected(rejection)
    return _judgement(finding, observations, transitions)


def _observe(evidence: Evidence) -> tuple[Observation, ...]:
    """Check all quotes, then read all lists.

    Raises:
        Rejection: with a reason of INVALID_EVIDENCE or MALFORMED.
    """
    if not evidence.complete:
        raise Rejection(
            Reason.INCOMPLETE,
            "the run that took this evidence was stopped before its end",
            where="manifest.json, field complete",
        )
    ak = _key(evidence)
    banks = _banks(evidence)
    _check_end(evidence)
    quotes = [_verified_quotes(snapshot, ak, banks) for snapshot in evidence.snapshots]
    check_fresh_nonces([quote for group in quotes for quote in group])
    wanted = {
        bank: {quote.pcrs[bank][IMA_PCR] for group in quotes for quote in group} for bank in banks
    }
    return tuple(
        _observation(snapshot, group, wanted)
        for snapshot, group in zip(evidence.snapshots, quotes, strict=True)
    )


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
    snapshot: Snapshot, ak: AttestationKey, banks: Sequence[str]
) -> tuple[Quote, ...]:
    quotes = []
    for record, position in zip(snapshot.quotes, ("before", "after"), strict=False):
        try:
            quotes.append(verify_quote(record, ak, banks))
        except Rejection as rejection:
            raise _placed(rejection, f"snapshot {snapshot.name}, quote {position}") from None
    return tuple(quotes)


def _observation(
    snapshot: Snapshot, quotes: tuple[Quote, ...], wanted: dict[str, set[bytes]]
) -> Observation:
    if snapshot.log is None:
        return Observation(snapshot.name, snapshot.epoch, quotes)
    try:
        log = MeasurementLog.parse(snapshot.log)
    except Rejection as rejection:
        raise _placed(rejection, f"snapshot {snapshot.name}, {rejection.where}") from None
    outcome = replay_list(log, tuple(wanted), wanted)
    return ListObservation(snapshot.name, snapshot.epoch, quotes, log, outcome)


def _first_failure(cycles: Sequence[PowerCycle]) -> Finding:
    """The finding on the first power cycle that fails, else on the last one."""
    past_quotes: list[Quote] = []
    finding = None
    for cycle in cycles:
        finding = judge_cycle(cycle, past_quotes)
        if finding and finding.reason is not Reason.MATCH:
            return finding
        past_quotes.extend(quote for item in cycle.observations for quote in item.quotes)
    assert finding is not None, "the last snapshot has a list: see _check_end"
    return finding


def _judgement(
    finding: Finding, observations: Sequence[Observation], transitions: Sequence[Transition]
) -> Judgement:
    item = finding.observation
    flags = set(finding.flags)
    if any(transition.contradicted for transition in transitions):
        flags.add(Flag.CLAIM_CONTRADICTED)
    if not all(quote.clock_info.safe for seen in observations for quote in seen.quotes):
        flags.add(Flag.CLOCK_UNSAFE)
    kinds = [transition.kind for transition in transitions]
    verdict = finding.reason.verdict
    return Judgement(
        verdict=verdict,
        reason=finding.reason,
        sentence=finding.what,
        action=_ACTION_OF_REASON.get(finding.reason, _ACTIONS[verdict]),
        where=f"snapshot {item.name}",
        snapshot=item.name,
        records=len(item.log),
        first_divergence=finding.first_divergence,
        banks=_bank_results(item),
        timeline=finding.timeline,
        snapshots=tuple(_snapshot_result(seen, item) for seen in observations),
        transitions=tuple(transitions),
        kexecs=sum(transition.kexecs for transition in transitions),
        cold_boots=kinds.count(TransitionKind.COLD),
        violations=tuple(item.replay.violations),
        flags=tuple(sorted(flags)),
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
        reset_count=clock.reset_count,
        restart_count=clock.restart_count,
        clock_ms=clock.clock,
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


def _rejected(rejection: Rejection) -> Judgement:
    verdict = rejection.reason.verdict
    return Judgement(
        verdict=verdict,
        reason=rejection.reason,
        sentence=f"Nothing can be said about the list: {rejection.what}.",
        action=_ACTIONS[verdict],
        where=rejection.where,
        flags=tuple(sorted(rejection.flags)),
    )


def _placed(rejection: Rejection, where: str) -> Rejection:
    return Rejection(rejection.reason, rejection.what, where=where, flags=rejection.flags)


def _as_rejection(reason: Reason, fault: EvidenceFault) -> Rejection:
    return Rejection(reason, fault.what, where=fault.where)
