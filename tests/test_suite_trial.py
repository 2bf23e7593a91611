# SPDX-License-Identifier: GPL-2.0-only
"""A trial passes if nothing is wrong but what is known, and all that is known shows."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path

import pytest

from imakexec.errors import GuestFailure
from imakexec.kernel.config import EXTRA_MEMORY
from imakexec.project import find_project
from imakexec.suite import defects
from imakexec.suite.catalogue import CATALOGUE
from imakexec.suite.defects import DEFECTS, LOST, Defect, known_defects
from imakexec.suite.notes import Notes
from imakexec.suite.oracles import Finding, Oracle
from imakexec.suite.outcome import Outcome
from imakexec.suite.properties import KernelProperties, version_of
from imakexec.suite.result import Found
from imakexec.suite.trial import Trial

OURS = (
    b"Kexec segment is full\0Kexec segment is not mapped\0measurements_suspended\0kexec_execute\0"
)
MERGED = b"Kexec buffer not set.\n\0measurements_suspended\0kexec_execute\0"


def kernel(release: str, texts: bytes, **config: str) -> KernelProperties:
    return KernelProperties.told(release, texts, config)


PATCHED = kernel("6.1.176", OURS, **{EXTRA_MEMORY: "40"})
PLAIN = kernel("6.1.176", b"")


def trial(which: KernelProperties = PATCHED, number: int = 1, **more: object) -> Trial:
    def open_session(**options: object) -> None:
        raise AssertionError(f"no machine is needed here: {options}")

    return Trial(
        scenario=CATALOGUE[number],
        kernel=which,
        open_session=open_session,  # type: ignore[arg-type]  # it is never called
        notes=Notes(Path("/nowhere"), 1, ""),
        **{"folder": Path("/nowhere"), **more},  # type: ignore[arg-type]  # fields, by test
    )


def test_what_a_kernel_sets_out_to_do() -> None:
    assert PATCHED.is_ours
    assert PATCHED.carries_events_after_load
    assert PATCHED.has_markers
    assert PATCHED.features == ("late-records", "whole-records", "suspension", "markers")
    assert PLAIN.features == ()
    assert PATCHED.suspends_on_execute
    assert PATCHED.extra_memory == 40 << 10
    merged = kernel("7.3.0-rc7", MERGED + b"ascii_runtime_measurements_staged\0")
    assert merged.carries_events_after_load
    assert merged.has_staging
    assert not merged.is_ours
    assert (PLAIN.carries_events_after_load, PLAIN.has_markers) == (False, False)
    assert PLAIN.extra_memory == 2048


@pytest.mark.parametrize(
    ("release", "version"),
    [("6.1.176", (6, 1, 176)), ("7.3.0-rc7", (7, 3, 0)), ("6.12-custom", (6, 12))],
)
def test_the_version_of_a_release(release: str, version: tuple[int, ...]) -> None:
    assert version_of(release) == version


def test_a_trial_without_findings_passes() -> None:
    assert trial().conclude().outcome is Outcome.PASS


def test_a_finding_fails() -> None:
    made = trial()
    made.claim("it works", holds=False, what="it does not")
    conclusion = made.conclude()
    assert conclusion.outcome is Outcome.FAIL
    assert conclusion.lines == ("it works: it does not",)


def test_a_failure_says_what_was_not_asked() -> None:
    made = trial()
    made.waive(Oracle.REPLAY, because="there is no TPM")
    assert made.conclude().lines == ()
    made.claim("it works", holds=False, what="it does not")
    assert made.conclude().lines[1:] == ("not asked: O1 replay: there is no TPM",)


def test_a_claim_that_holds_is_no_finding() -> None:
    made = trial()
    made.claim("it works", holds=["something"])
    assert made.findings == []


def known(monkeypatch: pytest.MonkeyPatch, *entries: Defect) -> None:
    monkeypatch.setattr(defects, "DEFECTS", entries)


def defect(id_: str = "Z9", *breaks: str, case: str = "", scenario: int = 1) -> Defect:
    return Defect(id_, scenario, frozenset(breaks), "as it is", lambda _: True, case)


def test_a_known_defect_that_shows_is_expected(monkeypatch: pytest.MonkeyPatch) -> None:
    known(monkeypatch, defect("Z9", Oracle.REPLAY))
    made = trial()
    made.findings.append(Finding(Oracle.REPLAY, "it is lost"))
    conclusion = made.conclude()
    assert (conclusion.outcome, conclusion.lines) == (Outcome.KNOWN, ("Z9: as it is",))


def test_a_known_defect_that_does_not_show_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    known(monkeypatch, defect("Z9", Oracle.REPLAY, Oracle.PREFIX))
    made = trial()
    made.findings.append(Finding(Oracle.REPLAY, "it is lost"))
    conclusion = made.conclude()
    assert conclusion.outcome is Outcome.FAIL
    [line] = conclusion.lines
    assert line.startswith("O2 prefix holds, which Z9 should break")
    assert "--fixed Z9" in line
    assert made.mended == ("Z9",)


def test_a_consequence_need_not_show(monkeypatch: pytest.MonkeyPatch) -> None:
    cause = defect("Z9", Oracle.REPLAY)
    known(monkeypatch, cause, dataclasses.replace(defect("Z9", Oracle.ALIVE), certain=False))
    made = trial()
    made.findings.append(Finding(Oracle.REPLAY, "it is lost"))
    assert made.conclude().outcome is Outcome.KNOWN
    made.findings.append(Finding(Oracle.ALIVE, "a panic"))
    assert made.conclude().outcome is Outcome.KNOWN
    del made.findings[0]
    assert made.conclude().outcome is Outcome.FAIL


def test_each_consequence_has_a_certain_cause() -> None:
    certain = {(item.id, item.scenario) for item in DEFECTS if item.certain}
    assert {(item.id, item.scenario) for item in DEFECTS if not item.certain} <= certain


def test_a_known_defect_excuses_nothing_else(monkeypatch: pytest.MonkeyPatch) -> None:
    known(monkeypatch, defect("Z9", Oracle.REPLAY))
    made = trial()
    made.findings += [Finding(Oracle.REPLAY, "lost"), Finding(Oracle.MESSAGES, "Oops")]
    assert made.conclude().lines == ("O6 messages: Oops",)
    assert made.found() == (Found("O1 replay", "lost", "Z9"), Found("O6 messages", "Oops", ""))
    assert made.mended == ()


def test_a_mended_defect_is_not_expected(monkeypatch: pytest.MonkeyPatch) -> None:
    known(monkeypatch, defect("Z9", Oracle.REPLAY))
    assert trial(fixed=frozenset({"Z9"})).conclude().outcome is Outcome.PASS


def test_a_defect_belongs_to_its_scenario_and_case(monkeypatch: pytest.MonkeyPatch) -> None:
    known(monkeypatch, defect("Z1", "a", case="large"), defect("Z2", "b", scenario=2))
    assert [item.id for item in trial(case=frozenset({"large"})).defects] == ["Z1"]
    assert trial().defects == ()
    assert [item.id for item in trial(number=2).defects] == ["Z2"]


def test_a_guest_may_die_only_of_a_known_defect(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    assert not trial().may_die
    known(monkeypatch, defect("Z9", Oracle.ALIVE, Oracle.MESSAGES))
    made = trial()
    made.folder = tmp_path
    (tmp_path / "console.log").write_text("   1.000000 [    0.100000] BUG: unable to handle\n")
    assert made.may_die
    made.died(GuestFailure("panic in the guest"))
    assert made.conclude().outcome is Outcome.KNOWN


def test_a_death_that_is_not_the_known_one_fails(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    death = defect("Z9", Oracle.ALIVE, Oracle.MESSAGES)
    known(monkeypatch, dataclasses.replace(death, console=r"RIP: .*:ima_restore_measurement_list"))
    (tmp_path / "console.log").write_text(
        "   1.000000 [    0.100000] BUG: unable to handle\n"
        "   1.000000 [    0.100000] RIP: 0010:ima_dump_measurement_list+0x10/0x100\n"
    )
    made = trial(folder=tmp_path)
    made.died(GuestFailure("panic in the guest"))
    conclusion = made.conclude()
    assert conclusion.outcome is Outcome.FAIL
    assert conclusion.lines[0] == "alive: panic in the guest"


def test_a_defect_excuses_only_what_it_is_about(monkeypatch: pytest.MonkeyPatch) -> None:
    known(monkeypatch, dataclasses.replace(defect("Z9", "a"), finding="^counts 0 "))
    made = trial()
    made.claim("a", holds=False, what="counts 0 violations")
    assert made.conclude().outcome is Outcome.KNOWN
    made.claim("a", holds=False, what="counts 9 violations")
    assert made.conclude().lines == ("a: counts 9 violations",)


def test_the_control_must_lose_what_is_measured_after_the_load() -> None:
    [expected] = known_defects(1, frozenset({"gap"}), PLAIN, frozenset())
    assert expected.id == "A1"
    assert expected.breaks >= LOST
    assert list(known_defects(1, frozenset({"gap"}), PATCHED, frozenset())) == []


def test_each_defect_is_of_a_scenario_and_breaks_something() -> None:
    for item in DEFECTS:
        assert item.scenario in CATALOGUE or (item.scenario is None and item.case)
        assert item.breaks
        assert re.fullmatch(r"[A-Z]\d+", item.id)


def test_each_scenario_has_its_tests() -> None:
    files = (find_project() / "harness").glob("test_*.py")
    marked = {n for file in files for n in re.findall(r"mark\.scenario\((\d+)\)", file.read_text())}
    assert {int(number) for number in marked} == set(CATALOGUE)


def test_a_defect_of_no_scenario_shows_wherever_its_case_is(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    known(monkeypatch, dataclasses.replace(defect("Z9", "a", case="loaded"), scenario=None))
    assert not trial(number=7).defects
    assert trial(number=7, case=frozenset({"loaded"})).defects


def test_two_defects_of_one_demand_are_both_named(monkeypatch: pytest.MonkeyPatch) -> None:
    known(monkeypatch, defect("Z1", "a"), defect("Z2", "a", "b"))
    made = trial()
    made.claim("a", holds=False)
    assert [line.split()[0] for line in made.conclude().lines] == ["b"]
    made.claim("b", holds=False)
    assert made.conclude().lines == ("Z1: as it is", "Z2: as it is")
