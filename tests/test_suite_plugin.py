# SPDX-License-Identifier: GPL-2.0-only
"""What pytest makes of the tests that boot machines: outcomes, artefacts, reports, the table."""

from __future__ import annotations

import json
import platform
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest

from imakexec.errors import UserError
from imakexec.project import find_project
from imakexec.strict_json import NAME_PART, parse_json
from imakexec.suite import artefacts, collector
from imakexec.suite.result import Found, SuiteRun, TestResult

pytest_plugins = ["pytester"]

CONFTEST = """
import pytest
from imakexec.errors import GuestFailure
from imakexec.kernel.cache import Cache
from imakexec.suite import artefacts, collector
from imakexec.suite.collector import FOLDER
from imakexec.suite.notes import Notes
from imakexec.suite.outcome import Conclusion, Outcome
from imakexec.suite.plugin import CACHE, NOTES
from imakexec.suite.result import Found, KernelIdentity, Step

NOW = "2026-11-30T12:00:00Z"
KERNEL = KernelIdentity("patched", "6.1.1", "Linux version 6.1.1", "base", (), "key", 64 * "0", "x")

class Trial:
    may_die = False
    excuse = ""
    conclusion = Conclusion(Outcome.PASS, ())
    mended = ()

    def found(self):
        return (Found("O1 replay", "lost\x1b[0m", "A1"),)

    def died(self, failure):
        self.conclusion = Conclusion(Outcome.KNOWN, (f"K1: {failure.what}",))

    def conclude(self):
        return self.conclusion

    def unexplained(self):
        return self.conclusion.lines if self.conclusion.outcome is Outcome.FAIL else []

@pytest.fixture
def subject(request):
    return request.param

@pytest.fixture
def trial(request, subject, tmp_path):
    node = request.node
    attempt = node.execution_count
    root = request.config.stash.get(FOLDER, None)
    folder = root / artefacts.folder_name(node.nodeid, attempt) if root else tmp_path / "folder"
    if root is None:
        node.stash[CACHE] = Cache(request.config.rootpath / "cache")
    artefacts.start_folder(folder, node.nodeid, started=NOW, script="")
    (folder / "of").write_text(node.name)
    (folder / "evidence").mkdir()
    line = f"   1.000000 {node.name} said\\x1b[0m\\n"
    (folder / "evidence" / "console.log").write_text(line * 50)
    made = Trial()
    made.folder = folder
    node.stash[NOTES] = made.notes = Notes(folder, attempt, NOW)
    made.notes.trial, made.notes.kernel = made, KERNEL
    made.notes.boot_seconds = 2.0
    made.notes.steps.append(Step("boot", 0.0, 2.0))
    return made
"""

TESTS = """
import pytest
from imakexec.errors import GuestFailure, InfraError
from imakexec.suite.outcome import Conclusion, Outcome

pytestmark = [
    pytest.mark.scenario(6),
    pytest.mark.parametrize("subject", ["patched"], indirect=True),
]

def test_good(trial):
    pass

def test_bad(trial, tmp_path):
    left = tmp_path / "world" / "evidence"
    left.mkdir(parents=True)
    (left / "manifest.json").write_text("{}")
    trial.conclusion = Conclusion(Outcome.FAIL, ("O1 replay: lost", "O2 prefix: lost"))

def test_known(trial):
    trial.conclusion = Conclusion(Outcome.KNOWN, ("C4: not counted",))

def test_its_own_assertion(trial):
    trial.conclusion = Conclusion(Outcome.FAIL, ("O1 replay: not in step",))
    assert False, "this is no known defect"

def test_dies(trial):
    raise GuestFailure("a panic nobody knows")

def test_dies_as_known(trial):
    trial.may_die = True
    raise GuestFailure("a page fault in the copy")

def test_the_host_fails(trial):
    raise InfraError("QEMU died")

def test_the_host_was_busy(trial):
    trial.conclusion = Conclusion(Outcome.FAIL, ("O6 messages: tpm tpm0: Operation Timed out",))
    trial.excuse = "this host has kept swtpm waiting"

def test_the_host_fails_once(trial):
    if trial.notes.attempt == 1:
        raise InfraError("swtpm died")

def test_stumbles(trial):
    trial.conclusion = Conclusion(Outcome.FAIL, ("O2 prefix: lost",))
    [only] = []

def test_the_test_fails(trial):
    {}["a mistake in the test"]

def test_not_here(trial):
    pytest.skip("needs a kernel of 7.2 or later")
"""

OUTCOMES = {
    "test_good": "pass",
    "test_bad": "fail",
    "test_known": "known",
    "test_its_own_assertion": "fail",
    "test_dies": "fail",
    "test_dies_as_known": "known",
    "test_the_host_fails": "infra",
    "test_the_host_was_busy": "infra",
    "test_the_host_fails_once": "pass",
    "test_stumbles": "fail",
    "test_the_test_fails": "infra",
    "test_not_here": "skip",
}


PLUGINS = ("-p", "imakexec.suite.plugin", "-p", "no:cacheprovider", "-p", "no:xdist")


@pytest.fixture
def ran(pytester: pytest.Pytester) -> pytest.RunResult:
    pytester.makeconftest(CONFTEST)
    pytester.makepyfile(TESTS)
    return pytester.runpytest_inprocess(*PLUGINS)


@pytest.fixture
def reported(pytester: pytest.Pytester) -> SuiteRun:
    """What the same run says with every report asked for."""
    pytester.makeconftest(CONFTEST)
    pytester.makepyfile(TESTS)
    pytester.runpytest_inprocess(
        *PLUGINS,
        *("--artefacts=kept", "--json=run.json", "--ktap=run.ktap", "--kcidb=run.kcidb"),
        "--junit-xml=run.xml",
    )
    return artefacts.read_runs(pytester.path / "kept")


def named(run: SuiteRun) -> dict[str, TestResult]:
    return {test.nodeid.partition("::")[2].partition("[")[0]: test for test in run.tests}


def test_what_a_trial_comes_to_is_the_outcome_of_its_test(ran: pytest.RunResult) -> None:
    ran.assert_outcomes(passed=2, failed=4, errors=3, xfailed=2, skipped=1)
    ran.stdout.fnmatch_lines(["*O1 replay: lost*", "*O2 prefix: lost*", "*Artefacts are kept*"])
    ran.stdout.fnmatch_lines(["*this is no known defect*"])
    ran.stdout.fnmatch_lines(["*a panic nobody knows*"])
    assert ran.ret == pytest.ExitCode.TESTS_FAILED


def test_every_outcome_is_in_the_document(reported: SuiteRun) -> None:
    assert {name: str(test.outcome) for name, test in named(reported).items()} == OUTCOMES


def test_trouble_of_the_host_is_repeated_once_and_told(reported: SuiteRun) -> None:
    tests = named(reported)
    [attempt] = tests["test_the_host_fails_once"].attempts
    assert attempt.why == "swtpm died"
    assert attempt.folder != tests["test_the_host_fails_once"].folder
    [attempt] = tests["test_the_host_fails"].attempts
    assert attempt.why == tests["test_the_host_fails"].why[0] == "QEMU died"
    # What a kernel or a test has done it would do again.
    assert all(
        not tests[name].attempts for name in ("test_dies", "test_bad", "test_the_test_fails")
    )


def test_a_failure_that_the_load_of_the_host_explains_is_no_verdict(reported: SuiteRun) -> None:
    busy = named(reported)["test_the_host_was_busy"]
    assert busy.ending == "kept waiting by the host"
    assert "this host has kept swtpm waiting; then: O6 messages" in busy.why[0]
    assert len(busy.attempts) == 1


def test_a_repeated_test_is_in_the_summary(ran: pytest.RunResult) -> None:
    text = " ".join("\n".join(ran.outlines).split())
    assert "6 repeated once: test_a_repeated_test_is_in_the_summary.py::" in text
    assert "swtpm died" in text


def test_a_test_that_stumbles_over_the_fault_of_a_kernel_blames_it(reported: SuiteRun) -> None:
    why = named(reported)["test_stumbles"].why
    assert why[0] == "O2 prefix: lost"
    assert why[1].startswith("then ValueError: not enough values")


def test_what_the_oracles_have_found_stands_beside_a_failed_assertion(
    reported: SuiteRun, ran: pytest.RunResult
) -> None:
    why = named(reported)["test_its_own_assertion"].why
    assert why == ("AssertionError: this is no known defect", "O1 replay: not in step")
    ran.stdout.fnmatch_lines(["*- Oracles -*", "O1 replay: not in step"])


def test_a_mistake_in_a_test_says_nothing_about_the_kernel(reported: SuiteRun) -> None:
    tests = named(reported)
    assert tests["test_the_test_fails"].in_test
    assert tests["test_the_test_fails"].why == ("KeyError: 'a mistake in the test'",)
    assert not tests["test_the_host_fails"].in_test


def test_a_worker_that_crashes_says_nothing_about_the_kernel(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(collector, "boots_machines", lambda path: path.name == "test_it.py")
    pytester.makepyfile(test_it="import os\ndef test_it(): os._exit(9)")
    ran = pytester.runpytest_inprocess(*PLUGINS[:-2], "-n1", "--json=run.json")
    assert ran.ret == 3
    [test] = json.loads((pytester.path / "run.json").read_text())["tests"]
    assert (test["outcome"], test["why"]) == ("infra", ["its worker crashed"])


@pytest.mark.parametrize(
    ("words", "status"),
    [
        ("test_good or test_not_here or test_known", 0),
        ("test_the_host_fails", 3),
        ("test_the_host_fails or test_bad", 1),
        ("test_the_test_fails and not host", 3),
        ("test_the_host_fails_once", 0),
    ],
)
def test_the_exit_status_tells_a_verdict_from_none(
    pytester: pytest.Pytester, words: str, status: int
) -> None:
    pytester.makeconftest(CONFTEST)
    pytester.makepyfile(TESTS)
    assert pytester.runpytest_inprocess(*PLUGINS, "-k", words).ret == status


def test_a_failure_elsewhere_is_no_trouble_of_the_host(pytester: pytest.Pytester) -> None:
    pytester.makeconftest(CONFTEST)
    pytester.makepyfile(TESTS, test_other="def test_other_of_the_host_fails(): assert False")
    ran = pytester.runpytest_inprocess(*PLUGINS, "-k", "of_the_host_fails or test_the_host_fails")
    assert ran.ret == 1


def test_each_test_has_a_folder_that_tells_what_it_came_to(
    reported: SuiteRun, pytester: pytest.Pytester
) -> None:
    for test in reported.tests:
        folder = pytester.path / "kept" / test.folder
        told = TestResult.read(parse_json((folder / "result.json").read_bytes(), "result.json"))
        assert (told.nodeid, told.outcome) == (test.nodeid, test.outcome)
        assert (folder / "reproduce.sh").is_file()


def test_a_result_has_what_the_oracles_have_found(reported: SuiteRun) -> None:
    assert named(reported)["test_bad"].findings == (Found("O1 replay", "lost?[0m", "A1"),)


def test_what_a_command_has_left_is_with_the_artefacts_of_a_failure(
    reported: SuiteRun, pytester: pytest.Pytester
) -> None:
    found = list((pytester.path / "kept").glob("*/runs/world/evidence/manifest.json"))
    assert [path.parents[3].name for path in found] == [named(reported)["test_bad"].folder]


def test_a_run_that_was_killed_is_read_from_what_its_tests_have_left(
    reported: SuiteRun, pytester: pytest.Pytester
) -> None:
    (pytester.path / "kept" / "results.json").unlink()
    found = artefacts.read_runs(pytester.path / "kept")
    assert {test.nodeid for test in found.tests} == {test.nodeid for test in reported.tests}


def test_a_script_runs_exactly_its_test() -> None:
    nodeid = "harness/test_gap_events.py::test_gap_events[patched-5]"
    script = artefacts.reproduce_script(nodeid, ["--accel", "tcg"], "0123abcd-dirty")
    *_, set_up, command, _ = script.split("\n")
    assert set_up == "./run_qemu.sh --version >/dev/null || exit"
    assert "had been changed" in script
    program, *arguments, rest = shlex.split(command.removeprefix("exec "))
    assert (program, rest) == (".venv/bin/pytest", "$@")
    ran = subprocess.run(
        [sys.executable, "-m", "pytest", *arguments, "--collect-only", "-q"],
        cwd=find_project(),
        capture_output=True,
        text=True,
        check=False,
    )
    assert [line for line in ran.stdout.splitlines() if "::" in line] == [nodeid]


@pytest.mark.parametrize(
    ("arguments", "kept"),
    [
        (["harness/", "-m", "smoke", "-x"], []),
        (["--base", "linux-7.3", "--html=x"], ["--base", "linux-7.3"]),
        (
            ["--kernel=b", "--config", "c", "--debug-kernel"],
            ["--kernel=b", "--config", "c", "--debug-kernel"],
        ),
        (["--debug-info", "-n", "2"], ["--debug-info"]),
    ],
)
def test_what_is_booted_is_kept_of_the_options(arguments: list[str], kept: list[str]) -> None:
    assert artefacts.options_of(arguments) == kept


def test_no_two_tests_share_a_folder() -> None:
    names = {
        artefacts.folder_name(nodeid)
        for nodeid in (
            "harness/test_a.py::test_b[x/y]",
            "harness/test_a.py::test_b[x-y]",
            "harness/test_a.py::test_b[" + "x" * 300 + "]",
            "harness/test_a.py::test_b[" + "x" * 301 + "]",
            "../../test_a.py::test_b",
        )
    }
    assert len(names) == 5
    assert all(NAME_PART.fullmatch(name) and len(name) < 200 for name in names)
    assert artefacts.folder_name("a", 2) == f"{artefacts.folder_name('a')}.2"


def test_a_test_that_a_kill_has_ended_is_no_verdict(tmp_path: Path) -> None:
    artefacts.start_folder(tmp_path / "x", "test_a.py::test_b", started="2026Z", script="exit")
    [test] = artefacts.read_runs(tmp_path).tests
    assert (test.nodeid, test.outcome, test.folder) == ("test_a.py::test_b", "infra", "x")
    assert test.why == ("the run ended while this test ran",)


@pytest.mark.usefixtures("reported")
def test_several_runs_become_one(pytester: pytest.Pytester) -> None:
    both = pytester.path / "both"
    both.mkdir()
    for host in ("one", "two"):
        shutil.copytree(pytester.path / "kept", both / host)
    (both / "two" / "results.json").unlink()
    run = artefacts.read_runs(both)
    assert len(run.tests) == 2 * len(OUTCOMES)
    assert {test.host for test in run.tests} == {platform.node(), "two"}
    assert run.host["one name"] == platform.node()
    assert all((both / test.folder / "reproduce.sh").is_file() for test in run.tests)


@pytest.mark.parametrize("content", [b"{}", b"no JSON", b'{"schema": "other/1"}'])
def test_what_are_no_results_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "results.json").write_bytes(content)
    with pytest.raises(UserError, match="no results of a run") as caught:
        artefacts.read_runs(tmp_path)
    assert "results.json" in caught.value.where


def test_a_folder_without_results_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no results of a run"):
        artefacts.read_runs(tmp_path)


def test_a_folder_that_is_in_use_is_refused(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(TESTS)
    (pytester.path / "kept").mkdir()
    (pytester.path / "kept" / "something").write_text("mine")
    ran = pytester.runpytest_inprocess(*PLUGINS, "--artefacts=kept")
    assert ran.ret == pytest.ExitCode.USAGE_ERROR
    ran.stderr.fnmatch_lines(["*kept is not empty*"])


def test_junit_tells_errors_from_failures_and_names_the_artefacts(
    reported: SuiteRun, pytester: pytest.Pytester
) -> None:
    suite = ElementTree.parse(pytester.path / "run.xml").getroot()[0]
    cases = {case.attrib["name"].partition("[")[0]: case for case in suite.iter("testcase")}
    kinds = {
        name: [child.tag for child in case if child.tag in ("error", "failure", "skipped")]
        for name, case in cases.items()
    }
    words = {"pass": [], "fail": ["failure"], "infra": ["error"]}
    for name, outcome in OUTCOMES.items():
        assert kinds[name] == words.get(outcome, ["skipped"])
    properties = {
        node.attrib["name"]: node.attrib["value"] for node in cases["test_bad"].iter("property")
    }
    assert properties["outcome"] == "fail"
    assert properties["kernel.release"] == "6.1.1"
    assert properties["seconds.boot"] == "2.000"
    [attached] = cases["test_bad"].iter("system-out")
    folder = named(reported)["test_bad"].folder
    assert f"[[ATTACHMENT|kept/{folder}/reproduce.sh]]" in (attached.text or "").splitlines()


def test_what_is_attached_from_elsewhere_has_its_whole_path(
    pytester: pytest.Pytester, tmp_path: Path
) -> None:
    pytester.makeconftest(CONFTEST)
    pytester.makepyfile(TESTS)
    pytester.runpytest_inprocess(
        *PLUGINS, "-k", "test_bad", f"--artefacts={tmp_path / 'kept'}", "--junit-xml=run.xml"
    )
    [script] = (tmp_path / "kept").glob("*/reproduce.sh")
    assert f"[[ATTACHMENT|{script}]]" in (pytester.path / "run.xml").read_text()


@pytest.mark.usefixtures("reported")
def test_the_other_reports_are_written(pytester: pytest.Pytester) -> None:
    assert "KTAP version 1" in (pytester.path / "run.ktap").read_text()
    json.loads((pytester.path / "run.json").read_text())
    assert json.loads((pytester.path / "run.kcidb").read_text())["version"]


GARBAGE = """
import pytest
from imakexec.errors import GuestFailure, InfraError

pytestmark = pytest.mark.parametrize("subject", ["patched"], indirect=True)
SAID = "".join(map(chr, range(256))) + "\\u2028\\u202e\\udc80\\ufffe <b>]]></b>"

def said(trial):
    with (trial.folder / "evidence" / "console.log").open("wb") as console:
        console.write(SAID.encode(errors="surrogateescape") * 100)
    return SAID

@pytest.mark.scenario(6)
def test_a_guest(trial):
    raise GuestFailure(said(trial), tail=SAID, where=SAID)

@pytest.mark.scenario(6)
def test_the_host(trial):
    raise InfraError(said(trial), tail=SAID)

@pytest.mark.scenario(6)
def test_an_assertion(trial):
    assert said(trial) == "", SAID
"""


def test_garbage_breaks_no_report(pytester: pytest.Pytester) -> None:
    pytester.makeconftest(CONFTEST)
    pytester.makepyfile(GARBAGE)
    kinds = ("json", "ktap", "kcidb", "junit-xml")
    ran = pytester.runpytest_inprocess(
        *PLUGINS, "--reruns=0", "--html=page", *(f"--{kind}=run.{kind}" for kind in kinds)
    )
    ran.assert_outcomes(failed=2, errors=1)
    assert not [line for line in ran.outlines if "NOT WRITTEN" in line]
    cases = ElementTree.parse(pytester.path / "run.junit-xml").findall(".//testcase")
    assert len({case.attrib["name"] for case in cases}) == 3
    assert json.loads((pytester.path / "run.kcidb").read_text(encoding="utf-8"))["version"]
    SuiteRun.read(parse_json((pytester.path / "run.json").read_bytes(), "run.json"))
    for name in ("run.ktap", "page/index.html"):
        text = (pytester.path / name).read_text(encoding="utf-8")
        assert [each for each in text if not each.isprintable() and each not in "\n\t"] == []


def test_a_report_that_cannot_be_written_is_told_and_no_verdict(
    pytester: pytest.Pytester,
) -> None:
    pytester.makeconftest(CONFTEST)
    pytester.makepyfile(TESTS)
    ran = pytester.runpytest_inprocess(*PLUGINS, "-k", "test_good", "--ktap=/nowhere/run.ktap")
    assert ran.ret == 3
    ran.stdout.fnmatch_lines(["*NOT WRITTEN: *nowhere*"])


def test_the_evidence_of_a_failure_is_kept(
    ran: pytest.RunResult, pytester: pytest.Pytester
) -> None:
    kept = [
        ((folder / "of").read_text().partition("[")[0], str(folder))
        for folder in pytester.path.glob("cache/runs/*")
    ]
    bad = {name for name, outcome in OUTCOMES.items() if outcome in ("fail", "infra")}
    assert {name for name, _ in kept} == bad | {"test_the_host_fails_once"}
    last = [path for name, path in kept if name == "test_bad"]
    ran.stdout.fnmatch_lines_random(last)


def test_a_cache_that_cannot_be_written_costs_no_report(pytester: pytest.Pytester) -> None:
    pytester.makeconftest(CONFTEST)
    pytester.makepyfile(TESTS)
    (pytester.path / "cache").write_text("no folder")
    ran = pytester.runpytest_inprocess(*PLUGINS)
    ran.assert_outcomes(passed=2, failed=4, errors=3, xfailed=2, skipped=1)
    ran.stdout.fnmatch_lines(["only in */folder: *"])


def test_a_failure_shows_the_last_lines_of_its_console(ran: pytest.RunResult) -> None:
    said = [line for line in ran.outlines if "test_bad[patched] said" in line]
    assert said == ["   1.000000 test_bad[patched] said?[0m"] * 40
    assert not any("test_good[patched] said" in line for line in ran.outlines)


def test_the_table_at_the_end(ran: pytest.RunResult) -> None:
    lines = ran.outlines
    start = next(n for n, line in enumerate(lines) if line.startswith("scenario "))
    row = lines[start + 1]
    # The budget is that of ten boots of two seconds.
    assert " ".join(row.split()) == "6 failed second load patched 2 2 1 4 3 0.0 s 20 s"
    reasons = "\n".join(lines[start + 2 :])
    assert " 6 known: C4: not counted" in reasons
    assert " 6 known: K1: a page fault in the copy" in reasons
    assert " 6 skip: needs a kernel of 7.2 or later" in reasons
    assert " 6 infra: QEMU died" in reasons
    assert all(len(line) <= 79 for line in lines[start : start + 4])


def test_what_is_nightly_is_never_smoke(pytester: pytest.Pytester) -> None:
    pytester.makeini("[pytest]\nmarkers =\n    nightly: takes long\n")
    pytester.makepyfile(
        """
        import pytest

        @pytest.mark.smoke
        @pytest.mark.parametrize("kernel", ["a", pytest.param("b", marks=pytest.mark.nightly)])
        def test_it(kernel):
            pass
        """
    )
    pytester.runpytest_inprocess(*PLUGINS, "-m", "smoke").assert_outcomes(passed=1, deselected=1)
    pytester.runpytest_inprocess(*PLUGINS, "-m", "nightly").assert_outcomes(passed=1, deselected=1)


@pytest.mark.parametrize(("words", "found"), [("failed_second_load", 12), ("big_log", 0)])
def test_a_scenario_is_found_by_its_name(pytester: pytest.Pytester, words: str, found: int) -> None:
    pytester.makeconftest(CONFTEST)
    pytester.makepyfile(TESTS)
    ran = pytester.runpytest_inprocess(*PLUGINS, "--collect-only", "-k", words)
    ran.assert_outcomes(deselected=12 - found)
