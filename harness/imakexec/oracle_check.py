# SPDX-License-Identifier: GPL-2.0-only
"""Holds the verifier against `evmctl`: where the two disagree, one of them is mistaken.

evmctl accepts lists that are wrong, and cannot read some that are right. Both are written down here
by their reason, so that whatever else is between the two is a finding. All was seen of version 1.4.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from enum import StrEnum
from types import MappingProxyType

from imakexec.attest import Judgement, MeasurementLog, Reason, Rejection, Verdict, replay
from imakexec.attest.log import DIGEST_SIZES
from imakexec.attest.replay import IMA_PCR
from imakexec.deadline import Deadline
from imakexec.evidence import Evidence, QuoteRecord
from imakexec.oracle import BANKS, EVMCTL, second_opinion


class WrongAccept(StrEnum):
    """Why it accepts what must not be accepted."""

    READS_NO_FURTHER = "it stops at the first record after which the PCRs hold the values"
    LAST_BANK_DECIDES = "of all banks that it compares, the last one decides alone"
    FORM_NOT_CHECKED = "it hashes template data whatever the template's name and its fields are"
    NO_QUOTE = "it sees one list and PCR values: no quote, no key, no counters, no earlier list"
    NO_FIRMWARE_PCRS = "it does not compare boot_aggregate with the firmware's PCRs"


_WRONG_ACCEPTS: Mapping[Reason, WrongAccept] = MappingProxyType(
    {
        Reason.UNCOVERED_TAIL: WrongAccept.READS_NO_FURTHER,
        Reason.TRAILING_BYTES: WrongAccept.READS_NO_FURTHER,
        Reason.SHORT_RECORD: WrongAccept.READS_NO_FURTHER,
        Reason.PCR_INDEX: WrongAccept.READS_NO_FURTHER,
        # One before that record is held against the replay: see `disagreements`.
        Reason.TEMPLATE_DIGEST: WrongAccept.READS_NO_FURTHER,
        Reason.FIELD_SUM: WrongAccept.FORM_NOT_CHECKED,
        Reason.TEMPLATE_NAME: WrongAccept.FORM_NOT_CHECKED,
        Reason.BANKS_DIVERGE: WrongAccept.LAST_BANK_DECIDES,
        Reason.BOOT_AGGREGATE: WrongAccept.NO_FIRMWARE_PCRS,
        Reason.HISTORY_REWRITTEN: WrongAccept.NO_QUOTE,
        Reason.STALE_LIST: WrongAccept.NO_QUOTE,
    }
)


def known_wrong_accept(reason: Reason) -> WrongAccept | None:
    """Why it may accept a list that the verifier refuses for that reason; None if it must not."""
    return _WRONG_ACCEPTS.get(reason)


def unreadable(log: MeasurementLog) -> str:
    """The property of a list for which it cannot judge it though it is a good one; "" if none."""
    if log.layout.byteorder.value != sys.byteorder:
        return f"it reads integers as {sys.byteorder}-endian only"
    if log.layout.bank != "sha1":
        return "it reads lists with SHA-1 in their digest column only"
    if len(log.templates) > 1 and any(template.is_legacy for template in log.templates):
        return 'it reads no list that has records of template "ima" beside others'
    if any(pcr != IMA_PCR for pcr, _, _ in log.extends()):
        return f"it compares all PCRs that records extend, and no more than PCR {IMA_PCR} is given"
    return ""


def disagreements(evidence: Evidence, judgement: Judgement, deadline: Deadline) -> Iterator[str]:
    """Where it thinks otherwise about evidence without being known for it, a paragraph each.

    It is asked about each list with each of its quotes, one bank at a time, and must accept if and
    only if the replay meets the bank's value before any record contradicts itself. A list counts
    as accepted if it is in every bank. For IN_SYNC it must accept each list with one of its quotes;
    else it must not accept the list that decided with its last quote, unless `known_wrong_accept`
    says why it may. With INVALID_EVIDENCE no list has decided.

    Raises:
        InfraError: as `oracle.ask_evmctl`.
    """
    accepted: dict[str, list[bool]] = {}
    for snapshot in evidence.snapshots:
        for quote in snapshot.quotes:
            values = _values(quote)
            if snapshot.log is None or not values:
                continue
            opinions = {
                bank: second_opinion(
                    snapshot.log,
                    {bank: {IMA_PCR: value}},
                    deadline,
                    verify_bank=bank,
                    ignore_violations=True,
                )
                for bank, value in values.items()
            }
            expected = _expected(snapshot.log, values)
            for bank, opinion in opinions.items():
                wanted = expected.get(bank, opinion.accepts)
                if wanted is not opinion.accepts:
                    must = "must" if wanted else "must not"
                    yield f"snapshot {snapshot.name}: {bank} {must} be accepted; {opinion}"
            if _is_readable(snapshot.log):
                every = all(opinion.accepts for opinion in opinions.values())
                accepted.setdefault(snapshot.name, []).append(every)
    yield from _against_verdict(judgement, accepted)


def _values(quote: QuoteRecord) -> dict[str, bytes]:
    """PCR 10 of the banks that it replays, as far as the evidence holds one."""
    values = {bank: quote.pcrs.get(bank, {}).get(IMA_PCR, b"") for bank in BANKS}
    return {bank: value for bank, value in values.items() if len(value) == DIGEST_SIZES[bank]}


def _expected(raw: bytes, values: Mapping[str, bytes]) -> dict[str, bool]:
    """Bank to whether it must accept or must not; a bank is absent where it may do either."""
    try:
        log, _ = MeasurementLog.parse_whole_records(raw)
    except Rejection as rejection:
        return {} if known_wrong_accept(rejection.reason) else dict.fromkeys(values, False)
    if unreadable(log):
        return dict.fromkeys(values, False)
    outcome = replay(log, tuple(values), {bank: {value} for bank, value in values.items()})
    good = len(log) if outcome.contradiction is None else outcome.contradiction
    counts = {bank: outcome.records_at(bank, value) for bank, value in values.items()}
    return {bank: count is not None and count <= good for bank, count in counts.items()}


def _is_readable(raw: bytes) -> bool:
    try:
        return not unreadable(MeasurementLog.parse_whole_records(raw)[0])
    except Rejection:
        return True


def _against_verdict(judgement: Judgement, accepted: Mapping[str, list[bool]]) -> Iterator[str]:
    """Where the answers contradict the verdict; `accepted` has one per quote of each list."""
    said = f"the verdict is {judgement.verdict} ({judgement.reason})"
    if judgement.verdict is Verdict.IN_SYNC:
        for name, answers in accepted.items():
            if not any(answers):
                yield f"snapshot {name}: {said}, {EVMCTL} accepts its list with no quote"
        return
    answers = accepted.get(judgement.snapshot, [False])
    if answers[-1] and not known_wrong_accept(judgement.reason):
        yield f"snapshot {judgement.snapshot}: {said}, {EVMCTL} accepts its list"
