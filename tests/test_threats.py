# SPDX-License-Identifier: GPL-2.0-only
"""Every threat of the threat model, made from genuine evidence, ends as it must.

What is made and how stands in tests/threats; docs/test-vectors.md has the table.
"""

from __future__ import annotations

import re
import shutil
import time
import tracemalloc
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from functools import cache
from pathlib import Path

import pytest
from evidence_maker import ALG, Attestation, ng, written
from genuine import NAMES, VECTORS, Pcrs, Twin, genuine
from threats import Threat, boots, lists, markers, parsing, quotes

from imakexec.attest import (
    Flag,
    HandoverBuffer,
    Judgement,
    MeasurementLog,
    Reason,
    Rejection,
    Verdict,
    judge,
    judge_folder,
)

THREATS: tuple[Threat, ...] = (
    *quotes.THREATS,
    *lists.THREATS,
    *markers.THREATS,
    *boots.THREATS,
    *parsing.THREATS,
)
IN_SYNC = [threat for threat in THREATS if threat.verdict is Verdict.IN_SYNC]
TABLE = Path(__file__).parents[1] / "docs" / "test-vectors.md"

CPU_SECONDS = 1.0
BASE_MEMORY = 100_000
MEMORY_PER_BYTE = 10


@cache
def judged(name: str) -> Judgement:
    """The judgement on a vector as it is."""
    return judge(genuine(name))


@pytest.mark.parametrize("threat", THREATS, ids=lambda threat: threat.label)
def test_threat(threat: Threat) -> None:
    judgement = judge(threat.made())
    assert (judgement.verdict, judgement.reason) == (threat.verdict, threat.reason), (
        judgement.sentence
    )
    assert frozenset(judgement.flags) - clock_of(threat.vector) == threat.flags


def clock_of(vector: str) -> frozenset[Flag]:
    """What the clock of a vector's own TPM adds: it is unsafe for seconds after a reset."""
    return frozenset(judged(vector).flags) & {Flag.CLOCK_UNSAFE}


@pytest.mark.parametrize("name", NAMES)
def test_a_twin_is_judged_like_its_vector(name: str) -> None:
    """Else a signed attack might fail for something else than what it attacks."""
    assert judge(Twin.of(name).evidence) == judged(name)


def test_the_attacks_differ() -> None:
    labels = Counter(threat.label for threat in THREATS)
    assert [label for label, count in labels.items() if count > 1] == []
    assert {threat.number for threat in THREATS} == set(range(1, 16))


# What is in sync all the same: nothing in it may be believed for that.


def trusted(judgement: Judgement) -> Counter[str]:
    """What a judgement takes for more than a record."""
    assert judgement.timeline is not None
    accepted = (marker.kind.value for marker in judgement.timeline.markers if marker.accepted)
    return Counter(["boot" for _ in judgement.timeline.boots]) + Counter(accepted)


@pytest.mark.parametrize(
    "threat", [item for item in IN_SYNC if item.number != 11], ids=lambda threat: threat.label
)
def test_what_is_in_sync_gains_nothing(threat: Threat) -> None:
    judgement, usual = judge(threat.made()), judged(threat.vector)
    assert trusted(judgement) <= trusted(usual)
    assert judgement.kexecs <= usual.kexecs
    assert set(usual.violations) <= set(judgement.violations)


@pytest.mark.parametrize("place", markers.PLACES.values(), ids=markers.PLACES)
def test_a_marker_that_root_has_extended_is_no_more_than_a_record(
    place: markers.Place,
) -> None:
    """The residual risk: it is accepted, as none can tell it from a genuine one, and adds nothing.

    An innocent file in its place gets the same judgement, in all but what explains the list.
    """
    twin = Twin.of(parsing.MAIN)
    forged = judge(place(twin, markers.perfect("kexec_load")).evidence)
    innocent = judge(place(twin, lambda _: ng("/innocent")).evidence)
    assert forged.verdict is innocent.verdict is Verdict.IN_SYNC
    for member in ("reason", "sentence", "action", "flags", "records", "kexecs", "cold_boots"):
        assert getattr(forged, member) == getattr(innocent, member)
    assert [bank.matched_records for bank in forged.banks] == [forged.records] * 2
    assert trusted(forged) - trusted(innocent) == Counter(["kexec_load"])


def test_whoever_hands_in_evidence_names_its_key_and_its_banks() -> None:
    """The other residual risk: both must be known from before, as every twin here shows.

    Of a TPM with two banks only one is owned up to; the other may hold anything.
    """

    def only(bank: str) -> Callable[[Attestation], Attestation]:
        return lambda attestation: replace(
            attestation, selections=tuple(s for s in attestation.selections if s[0] == ALG[bank])
        )

    def one_bank(pcrs: Pcrs) -> Pcrs:
        return {"sha256": pcrs["sha256"]}

    twin = Twin.of(parsing.MAIN).falsified(only("sha256")).with_pcrs(one_bank)
    judgement = judge(replace(twin.evidence, required_banks=("sha256",)))
    assert (judgement.verdict, judgement.reason) == (Verdict.IN_SYNC, Reason.MATCH)
    assert [bank.bank for bank in judgement.banks] == ["sha256"]


# Threat 15, apart from evidence.


@contextmanager
def bounded(size: int) -> Iterator[None]:
    """Time and memory in proportion to the input, whatever it says of itself."""
    tracemalloc.start()
    started = time.process_time()
    try:
        yield
        spent = time.process_time() - started
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert spent < CPU_SECONDS
    assert peak < BASE_MEMORY + MEMORY_PER_BYTE * size


@pytest.mark.parametrize("name", parsing.ABUSES)
def test_a_list_that_is_none_is_rejected_at_little_cost(name: str) -> None:
    abuse = parsing.ABUSES[name]
    with bounded(len(abuse.content)), pytest.raises(Rejection) as caught:
        MeasurementLog.parse(abuse.content)
    assert caught.value.reason is abuse.reason


@pytest.mark.parametrize("name", parsing.ABUSES)
def test_a_list_that_is_none_in_a_folder(name: str, tmp_path: Path) -> None:
    evidence = parsing.in_the_evidence(parsing.ABUSES[name])(genuine(parsing.MAIN))
    judgement = judge_folder(written(evidence, tmp_path / "evidence"))
    assert judgement == judge(evidence)
    assert judgement.where.startswith("snapshot after, ")


@pytest.mark.parametrize("name", parsing.LYING_HEADERS)
def test_a_hand_over_buffer_that_lies(name: str) -> None:
    abuse = parsing.LYING_HEADERS[name]
    with bounded(len(abuse.content)), pytest.raises(Rejection) as caught:
        HandoverBuffer.parse(abuse.content).carried()
    assert caught.value.reason is abuse.reason


def test_a_hand_over_buffer_that_does_not_lie() -> None:
    carried = HandoverBuffer.parse(parsing.handover_buffer()).carried()
    assert (carried.log.data, carried.cut) == (parsing.genuine_list(), 0)


@pytest.mark.parametrize("name", parsing.DAMAGES)
def test_a_folder_that_is_not_whole(name: str, tmp_path: Path) -> None:
    damage, verdict, reason = parsing.DAMAGES[name]
    folder = tmp_path / "evidence"
    shutil.copytree(VECTORS / parsing.MAIN, folder)
    assert judge_folder(folder) == judged(parsing.MAIN)
    damage(folder)
    judgement = judge_folder(folder)
    assert (judgement.verdict, judgement.reason) == (verdict, reason)


# All of it.


def reached() -> Mapping[int, set[Reason]]:
    """The reasons that the attacks of each threat end in."""
    reasons: dict[int, set[Reason]] = {number: set() for number in range(1, 16)}
    for threat in THREATS:
        reasons[threat.number].add(threat.reason)
    for abuse in (*parsing.ABUSES.values(), *parsing.LYING_HEADERS.values()):
        reasons[15].add(abuse.reason)
    reasons[15].update(reason for _, _, reason in parsing.DAMAGES.values())
    return reasons


ELSEWHERE = {
    # What these need is no part of an evidence folder: test_checkpoint.py and test_detached.py.
    Reason.REANCHORED,
    Reason.LISTS_DIFFER,
    Reason.NOT_A_LIST,
}


def test_every_reason_is_reached() -> None:
    assert set().union(*reached().values()) == set(Reason) - ELSEWHERE


def test_what_is_not_in_sync_is_never_zero() -> None:
    for threat in THREATS:
        assert threat.reason.verdict is threat.verdict
        assert (judge(threat.made()).exit_code == 0) == (threat.verdict is Verdict.IN_SYNC)


def test_the_table_of_the_documentation() -> None:
    rows = re.findall(r"^\| (\d+) \|.*\| ([^|]+) \|$", TABLE.read_text(), re.MULTILINE)
    told = {int(number): set(re.findall(r"`([a-z_]+)`", cell)) for number, cell in rows}
    assert told == {
        number: {str(reason) for reason in found} for number, found in reached().items()
    }
