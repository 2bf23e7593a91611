# SPDX-License-Identifier: GPL-2.0-only
"""What pytest makes of a trial: its outcome, the table at the end, the number of workers."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from imakexec.project import find_project
from imakexec.suite import plugin

pytest_plugins = ["pytester"]

CONFTEST = """
import pytest
from imakexec.errors import GuestFailure
from imakexec.kernel.cache import Cache
from imakexec.suite.plugin import CACHE, TRIAL
from imakexec.suite.outcome import Conclusion, Outcome

class Trial:
    boot_seconds = 2.0
    may_die = False
    conclusion = Conclusion(Outcome.PASS, ())

    def died(self, failure):
        self.conclusion = Conclusion(Outcome.KNOWN, (f"K1: {failure.what}",))

    def conclude(self):
        return self.conclusion

@pytest.fixture
def subject(request):
    return request.param

@pytest.fixture
def trial(request, subject, tmp_path):
    request.node.stash[TRIAL] = made = Trial()
    request.node.stash[CACHE] = Cache(request.config.rootpath / "cache")
    made.folder = tmp_path / "evidence"
    made.folder.mkdir()
    (made.folder / "of").write_text(request.node.name)
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

def test_bad(trial):
    trial.conclusion = Conclusion(Outcome.FAIL, ("O1 replay: lost", "O2 prefix: lost"))

def test_known(trial):
    trial.conclusion = Conclusion(Outcome.KNOWN, ("C4: not counted",))

def test_its_own_assertion(trial):
    trial.conclusion = Conclusion(Outcome.KNOWN, ("C4: not counted",))
    assert False, "this is no known defect"

def test_dies(trial):
    raise GuestFailure("a panic nobody knows")

def test_dies_as_known(trial):
    trial.may_die = True
    raise GuestFailure("a page fault in the copy")

def test_the_host_fails(trial):
    raise InfraError("QEMU died")

def test_not_here(trial):
    pytest.skip("needs a kernel of 7.2 or later")
"""


@pytest.fixture
def ran(pytester: pytest.Pytester) -> pytest.RunResult:
    pytester.makeconftest(CONFTEST)
    pytester.makepyfile(TESTS)
    return pytester.runpytest_inprocess("-p", "imakexec.suite.plugin", "-p", "no:cacheprovider")


def test_what_a_trial_comes_to_is_the_outcome_of_its_test(ran: pytest.RunResult) -> None:
    ran.assert_outcomes(passed=1, failed=3, errors=1, xfailed=2, skipped=1)
    ran.stdout.fnmatch_lines(["*O1 replay: lost*", "*O2 prefix: lost*", "*evidence: /*/evidence*"])
    ran.stdout.fnmatch_lines(["*this is no known defect*"])
    ran.stdout.fnmatch_lines(["*a panic nobody knows*"])


def test_the_evidence_of_a_failure_is_kept(
    ran: pytest.RunResult, pytester: pytest.Pytester
) -> None:
    kept = {(folder / "of").read_text(): folder for folder in pytester.path.glob("cache/runs/*")}
    failed = ("test_bad", "test_its_own_assertion", "test_dies", "test_the_host_fails")
    assert kept.keys() == {f"{name}[patched]" for name in failed}
    ran.stdout.fnmatch_lines_random([str(folder) for folder in kept.values()])


def test_a_cache_that_cannot_be_written_costs_no_report(pytester: pytest.Pytester) -> None:
    pytester.makeconftest(CONFTEST)
    pytester.makepyfile(TESTS)
    (pytester.path / "cache").write_text("no folder")
    ran = pytester.runpytest_inprocess("-p", "imakexec.suite.plugin", "-p", "no:cacheprovider")
    ran.assert_outcomes(passed=1, failed=3, errors=1, xfailed=2, skipped=1)
    ran.stdout.fnmatch_lines(["only in */evidence: *"])


def test_the_table_at_the_end(ran: pytest.RunResult) -> None:
    lines = ran.outlines
    start = next(n for n, line in enumerate(lines) if line.startswith("scenario "))
    row = lines[start + 1]
    # The budget is that of ten boots of two seconds.
    assert " ".join(row.split()) == "6 failed second load patched 1 2 1 3 1 0.0 s 20 s"
    reasons = "\n".join(lines[start + 2 :])
    assert " 6 known: C4: not counted" in reasons
    assert " 6 known: K1: a page fault in the copy" in reasons
    assert " 6 skip: needs a kernel of 7.2 or later" in reasons
    assert all(len(line) <= 79 for line in lines[start : start + 4])


@pytest.mark.parametrize(("cpus", "workers"), [(1, 0), (2, 2), (16, 16)])
def test_one_worker_for_each_cpu(monkeypatch: pytest.MonkeyPatch, cpus: int, workers: int) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(cpus)))
    monkeypatch.setattr(plugin, "_text_of", lambda _: "")
    assert plugin.pytest_xdist_auto_num_workers() == workers


@pytest.mark.parametrize(
    ("cpu_max", "gib", "workers"),
    [("max 100000", 24, 8), ("250000 100000", 24, 2), ("50000 100000", 24, 1), ("", 5, 3)],
)
def test_no_more_workers_than_the_host_has_time_and_memory_for(
    cpu_max: str, gib: int, workers: int
) -> None:
    meminfo = f"MemTotal: 99999999 kB\nMemAvailable:   {gib << 20} kB\n"
    assert plugin.workers_for(8, cpu_max=cpu_max, meminfo=meminfo) == workers


class Options:
    numprocesses: object = None


class Chosen:
    """As much of pytest's configuration as the choice looks at."""

    workerinput: object

    def __init__(self, args: list[str], numprocesses: object = None) -> None:
        self.args = args
        self.option = Options()
        self.option.numprocesses = numprocesses


HARNESS = str(find_project() / "harness")


@pytest.mark.parametrize(
    ("args", "asked", "chosen"),
    [
        ([HARNESS], None, "auto"),
        ([f"{HARNESS}/test_gap_events.py::test_gap_events"], None, "auto"),
        ([str(find_project() / "tests")], None, None),
        ([HARNESS], 3, 3),
        ([HARNESS], 0, 0),
    ],
)
def test_the_user_chooses_first(args: list[str], asked: object, chosen: object) -> None:
    config = Chosen(args, asked)
    plugin._choose_workers(config)  # type: ignore[arg-type]  # it looks at no more
    assert config.option.numprocesses == chosen


def test_a_worker_has_no_workers() -> None:
    config = Chosen([HARNESS])
    config.workerinput = {}
    plugin._choose_workers(config)  # type: ignore[arg-type]  # it looks at no more
    assert config.option.numprocesses is None


@pytest.mark.parametrize("arguments", [[], ["harness"]])
def test_the_choice_reaches_xdist(arguments: list[str]) -> None:
    ran = subprocess.run(
        [sys.executable, "-m", "pytest", *arguments, "-k", "no_such_test"],
        cwd=find_project(),
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    workers = plugin.pytest_xdist_auto_num_workers()
    shown = f"created: {workers}/{workers} workers" in ran.stdout
    assert shown is (workers > 1), ran.stdout


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
    plugins = ("-p", "imakexec.suite.plugin", "-p", "no:cacheprovider")
    pytester.runpytest_inprocess(*plugins, "-m", "smoke").assert_outcomes(passed=1, deselected=1)
    pytester.runpytest_inprocess(*plugins, "-m", "nightly").assert_outcomes(passed=1, deselected=1)


@pytest.mark.parametrize(("words", "found"), [("failed_second_load", 8), ("big_log", 0)])
def test_a_scenario_is_found_by_its_name(pytester: pytest.Pytester, words: str, found: int) -> None:
    pytester.makeconftest(CONFTEST)
    pytester.makepyfile(TESTS)
    ran = pytester.runpytest_inprocess("-p", "imakexec.suite.plugin", "--collect-only", "-k", words)
    ran.assert_outcomes(deselected=8 - found)
