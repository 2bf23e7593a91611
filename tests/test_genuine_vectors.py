# SPDX-License-Identifier: GPL-2.0-only
"""The genuine evidence in tests/vectors is whole, judged as it was taken, and tells of no host."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from evidence_maker import pack
from genuine import NAMES, VECTORS, genuine, naive_pcr10, records_of, split, unpack

from imakexec.attest import Flag, Reason, Verdict, judge_folder
from imakexec.attest.power import TransitionKind
from imakexec.attest.timeline import MarkerState
from imakexec.evidence import MANIFEST, SCHEMA

PROJECT = Path(__file__).parents[1]
MAKER = "harness/test_vectors.py"
LIMIT = 400_000
LIST_LIMIT = 12_000

SAME, KEXEC, COLD = TransitionKind.SAME_BOOT, TransitionKind.KEXEC, TransitionKind.COLD
COMPLETE, LOAD_ONLY, ABSENT = MarkerState.COMPLETE, MarkerState.LOAD_ONLY, MarkerState.ABSENT


@dataclass(frozen=True)
class Expected:
    """What the judgement on a vector says.

    Args:
        reason: which implies the verdict.
        snapshots: how many records each snapshot has, and how many of them the last list lacks.
        boots: what lies between the snapshots.
        handovers: what each kexec in the last list left of its markers.
        lost: how many records the last kexec is known to have lost.
        flags: all of them but that of a clock, which is unsafe for seconds after a reset.
        violations: the indices of the violation records.
        banks: of the TPM.
    """

    reason: Reason
    snapshots: tuple[tuple[int, int], ...]
    boots: tuple[TransitionKind, ...]
    handovers: tuple[MarkerState, ...]
    lost: int | None = 0
    flags: tuple[Flag, ...] = ()
    violations: tuple[int, ...] = ()
    banks: tuple[str, ...] = ("sha1", "sha256")


EXPECTED = {
    "main-job": Expected(Reason.MATCH, ((5, 0), (22, 0), (28, 0)), (SAME, KEXEC), (COMPLETE,)),
    "truncated": Expected(
        Reason.SEGMENT_FULL,
        ((5, 0), (99, 22), (82, 0)),
        (SAME, KEXEC),
        (LOAD_ONLY,),
        lost=22,
        flags=(Flag.MARKER_ANOMALY,),
    ),
    "plain-base": Expected(
        Reason.NO_MARKERS,
        ((5, 0), (21, 3), (23, 0)),
        (SAME, KEXEC),
        (ABSENT,),
        lost=3,
        flags=(Flag.NO_MARKERS,),
    ),
    "no-hardware-root": Expected(
        Reason.MATCH,
        ((5, 0), (22, 0), (28, 0)),
        (SAME, KEXEC),
        (COMPLETE,),
        flags=(Flag.NO_HARDWARE_ROOT,),
        banks=("sha384", "sha512"),
    ),
    "two-kexecs": Expected(
        Reason.MATCH,
        ((5, 0), (29, 0), (46, 0), (52, 0)),
        (KEXEC, SAME, KEXEC),
        (COMPLETE, COMPLETE),
    ),
    "violations": Expected(
        Reason.MATCH,
        ((9, 0), (26, 0), (32, 0)),
        (SAME, KEXEC),
        (COMPLETE,),
        flags=(Flag.VIOLATIONS,),
        violations=(6, 7),
    ),
    "cold-reset": Expected(Reason.MATCH, ((22, 17), (5, 0)), (COLD,), ()),
}
VERDICTS = {
    Reason.MATCH: Verdict.IN_SYNC,
    Reason.SEGMENT_FULL: Verdict.TRUNCATED,
    Reason.NO_MARKERS: Verdict.OUT_OF_SYNC,
}


def test_every_vector_is_known() -> None:
    assert set(NAMES) == set(EXPECTED)


@pytest.mark.parametrize("name", NAMES)
def test_judgement(name: str) -> None:
    expected, judgement = EXPECTED[name], judge_folder(VECTORS / name)
    assert (judgement.verdict, judgement.reason) == (VERDICTS[expected.reason], expected.reason)
    assert [(item.records, item.missing) for item in judgement.snapshots] == [*expected.snapshots]
    assert tuple(step.kind for step in judgement.transitions) == expected.boots
    assert (judgement.kexecs, judgement.cold_boots) == (
        expected.boots.count(KEXEC),
        expected.boots.count(COLD),
    )
    assert set(judgement.flags) - {Flag.CLOCK_UNSAFE} == {*expected.flags}
    assert judgement.violations == expected.violations
    assert judgement.timeline is not None
    handovers = judgement.timeline.handovers
    assert tuple(handover.markers for handover in handovers) == expected.handovers
    if handovers:
        assert handovers[-1].lost == expected.lost
    matched = judgement.records if expected.reason is Reason.MATCH else None
    assert [(bank.bank, bank.matched_records) for bank in judgement.banks] == [
        (bank, matched) for bank in expected.banks
    ]


@pytest.mark.parametrize("name", NAMES)
def test_what_the_tests_take_apart_is_what_there_is(name: str) -> None:
    """Lists and quotes come back byte for byte, and a naive replay agrees with the TPM."""
    evidence = genuine(name)
    for at, snapshot in enumerate(evidence.snapshots):
        assert snapshot.log is not None
        assert pack(split(snapshot.log)) == snapshot.log
        for quote in snapshot.quotes:
            assert unpack(quote.attest).pack() == quote.attest
        if EXPECTED[name].reason is Reason.MATCH:
            for bank, values in snapshot.quotes[-1].pcrs.items():
                assert naive_pcr10(records_of(evidence, at), bank) == values[10]


# What stands in the tree.


def test_the_vectors_are_small() -> None:
    sizes = {path: path.stat().st_size for path in VECTORS.rglob("*") if path.is_file()}
    assert sum(sizes.values()) < LIMIT
    lists = [size for path, size in sizes.items() if path.name == "binary_runtime_measurements"]
    assert max(lists) < LIST_LIMIT


@pytest.mark.parametrize("name", NAMES)
def test_the_manifest_names_every_file(name: str) -> None:
    folder = VECTORS / name
    manifest = json.loads((folder / MANIFEST).read_text())
    assert (manifest["schema"], manifest["complete"]) == (SCHEMA, True)
    found = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    assert found == {MANIFEST, *manifest["files"]}
    judged = re.compile(r"ak\.(pub|pem)|snapshots/\d\d-[a-z-]+/[a-z_-]+(\.json)?")
    assert [file for file in manifest["files"] if not judged.fullmatch(file)] == []


@pytest.mark.parametrize("name", NAMES)
def test_a_vector_tells_of_no_host(name: str) -> None:
    """No path, no name of a user or a computer, no time: `run` holds what was asked for."""
    manifest = json.loads((VECTORS / name / MANIFEST).read_text())
    run = manifest["run"]
    assert set(run) == {"vector", "harness", "machine", "kernel"}
    assert set(run["machine"]) == {"arch", "cpus", "memory_mib", "banks"}
    texts = [*strings(run), *strings(manifest["boots"])]
    assert [text for text in texts if re.search(r"(?:^|[\s=:'\"])[/~]", text)] == []
    people = {found for text in texts for found in re.findall(r"\S+@\S+", text)}
    assert people == {"(imakexec@imakexec)"}
    years = {found for text in texts for found in re.findall(r"\b(?:19|20)\d\d\b", text)}
    assert years == {"1970"}


@pytest.mark.parametrize("name", NAMES)
def test_a_vector_says_how_it_was_made(name: str) -> None:
    """By the command that the documentation gives, and that has this vector."""
    command = genuine(name).run["vector"]["command"]  # type: ignore[index]  # free metadata
    assert MAKER in command
    assert f"\n    {command}\n" in (PROJECT / "docs/test-vectors.md").read_text()
    maker = (PROJECT / MAKER).read_text()
    assert f'\n    "{name}": (' in maker
    assert f"`{name}`" in (PROJECT / "docs/test-vectors.md").read_text()


def strings(value: object) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for item in value.values():
            yield from strings(item)
    elif isinstance(value, list):
        for item in value:
            yield from strings(item)
