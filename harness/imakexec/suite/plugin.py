# SPDX-License-Identifier: GPL-2.0-only
"""The scenario suite in pytest: markers, known defects as expected failures, and the summary.

    @pytest.mark.scenario(6)          # its number in the catalogue
    def test_...(trial): ...          # `trial` is the fixture of harness/conftest.py

What a trial comes to is decided when its test function has returned, or when its guest has failed:
a test cannot leave out the oracles.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Generator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from imakexec.errors import GuestFailure, InfraError
from imakexec.job import new_run_folder
from imakexec.kernel.cache import Cache
from imakexec.project import find_project
from imakexec.report.suite import ScenarioResult, summary_lines
from imakexec.suite.catalogue import CATALOGUE
from imakexec.suite.outcome import Outcome

if TYPE_CHECKING:
    from imakexec.suite.trial import Trial

TRIAL = pytest.StashKey["Trial"]()
"""Where the fixture leaves the trial of a test."""

CACHE = pytest.StashKey[Cache]()
"""Where it leaves the cache that keeps the evidence of a failure."""

_MEMINFO = Path("/proc/meminfo")

_MACHINE_MIB = 1536
"""Memory of the host for a machine: the guest's, which is 1 GiB at most, and what is beside it."""

_RESULT = "imakexec"
"""The name of the property that carries a result from a worker of pytest-xdist."""


def pytest_configure(config: pytest.Config) -> None:
    """Describe the markers."""
    for line in (
        "scenario(number): a test of that scenario of the catalogue, docs/scenarios.md",
        "smoke: the shortest proof, under a minute; run with -m smoke",
        "kernels(*names): on these kernels only, of patched, plain, given, debug",
        "symbols(*names): skipped on a boot image of the user's that was built without one",
        "tight: the kernel has half a page for what is measured after the load, as by default",
        "debug_build: the kernel reports its own mistakes",
        "under_debug: in the nightly set also on a kernel that reports its own mistakes",
    ):
        config.addinivalue_line("markers", line)


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Let -k find a scenario by its name, and keep what is nightly out of the smoke set."""
    for item in items:
        marker = item.get_closest_marker("scenario")
        if marker is not None:
            item.extra_keyword_matches.add(CATALOGUE[marker.args[0]].keyword)
        if item.get_closest_marker("nightly") is not None:
            item.own_markers[:] = [mark for mark in item.own_markers if mark.name != "smoke"]


@pytest.hookimpl(wrapper=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> Generator[None, object, object]:
    """Conclude the trial of a test."""
    failure = None
    answer: object = True
    try:
        answer = yield
    except GuestFailure as error:
        failure = error
    trial = pyfuncitem.stash.get(TRIAL, None)
    if trial is None:
        if failure is not None:
            raise failure
        return answer
    if failure is not None:
        if not trial.may_die:
            raise failure
        trial.died(failure)
    _end(trial)
    return answer


def _end(trial: Trial) -> None:
    conclusion = trial.conclude()
    text = "\n".join(conclusion.lines)
    if conclusion.outcome is Outcome.FAIL:
        pytest.fail(f"{text}\nevidence: {trial.folder}", pytrace=False)
    if conclusion.outcome is Outcome.KNOWN:
        pytest.xfail(text)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Tell the host's trouble from the kernel's, and put into the report what the summary needs.

    A report is all that a worker sends home.
    """
    report = yield
    trial = item.stash.get(TRIAL, None)
    if call.when == "call" and report.outcome == "failed" and trial and trial.folder.exists():
        report.sections.append(("Evidence is kept", _keep(trial.folder, item.stash[CACHE])))
    if call.excinfo is not None and call.excinfo.errisinstance(InfraError):
        report.when = "setup"  # what pytest and JUnit call an error and not a failure
    marker = item.get_closest_marker("scenario")
    if marker is None or (call.when != "call" and report.outcome == "passed"):
        return report
    result = ScenarioResult(
        number=marker.args[0],
        kernel=_kernel_of(item),
        outcome=_outcome(report),
        why=_reason(report),
        seconds=report.duration,
        boot_seconds=trial.boot_seconds if trial else 0.0,
    )
    report.user_properties.append((_RESULT, result.to_json()))
    return report


def _keep(evidence: Path, cache: Cache) -> str:
    """Copy it to where no pytest removes it after some runs: the folder, or why there is none."""
    try:
        kept = new_run_folder(cache)
        shutil.copytree(evidence, kept)
    except OSError as error:  # a full disk must not take the report along
        return f"only in {evidence}: {error}"
    return str(kept)


def _kernel_of(item: pytest.Item) -> str:
    spec = getattr(item, "callspec", None)
    subject = spec.params.get("subject") if spec else None
    return subject if isinstance(subject, str) else ""  # there may be no kernel to try it on


def _outcome(report: pytest.TestReport) -> Outcome:
    if report.outcome == "skipped":
        return Outcome.KNOWN if hasattr(report, "wasxfail") else Outcome.SKIP
    if report.outcome == "failed":
        return Outcome.INFRA if report.when == "setup" else Outcome.FAIL
    return Outcome.PASS


def _reason(report: pytest.TestReport) -> str:
    if hasattr(report, "wasxfail"):
        return report.wasxfail.removeprefix("reason: ")
    if report.outcome == "skipped" and isinstance(report.longrepr, tuple):
        return str(report.longrepr[2]).removeprefix("Skipped: ")
    return ""


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Show every scenario with its outcomes, its time and its budget."""
    results = [
        ScenarioResult.from_json(value)
        for reports in terminalreporter.stats.values()
        for report in reports
        for name, value in getattr(report, "user_properties", ())
        if name == _RESULT
    ]
    if results:
        terminalreporter.section("scenarios")
        for line in summary_lines(results):
            terminalreporter.write_line(line)


@pytest.hookimpl(wrapper=True)  # around pytest-xdist's own, which comes first of the others
def pytest_cmdline_main(config: pytest.Config) -> Generator[None, object, object]:
    """Choose the number of workers where the user has not, for tests that boot machines."""
    _choose_workers(config)
    return (yield)


def _choose_workers(config: pytest.Config) -> None:
    if hasattr(config, "workerinput") or getattr(config.option, "numprocesses", 0) is not None:
        return
    if any(_boots_machines(Path(argument.partition("::")[0])) for argument in config.args):
        config.option.numprocesses = "auto"


def _boots_machines(path: Path) -> bool:
    return (path if path.is_dir() else path.parent).resolve() == find_project() / "harness"


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers() -> int:
    """How many machines this host runs side by side: one for each CPU, if there is memory for it.

    A guest keeps one busy, by either accelerator, and what drives and judges it runs while others
    wait. 0 is for a single one, in this process.
    """
    cpus = len(os.sched_getaffinity(0))
    workers = workers_for(
        cpus, cpu_max=_text_of(Path("/sys/fs/cgroup/cpu.max")), meminfo=_text_of(_MEMINFO)
    )
    return workers if workers > 1 else 0


def workers_for(cpus: int, *, cpu_max: str, meminfo: str) -> int:
    """The number of workers, at least one.

    Args:
        cpus: that this process may run on.
        cpu_max: the control group's quota and period in microseconds, or "max" for no quota
            (Documentation/admin-guide/cgroup-v2.rst); empty where there is none.
        meminfo: /proc/meminfo; empty where there is none.
    """
    quota = re.match(r"(\d+) (\d+)", cpu_max)
    if quota is not None:
        cpus = min(cpus, round(int(quota[1]) / int(quota[2])))
    available = re.search(r"^MemAvailable: +(\d+) kB", meminfo, re.MULTILINE)
    if available is not None:
        cpus = min(cpus, (int(available[1]) >> 10) // _MACHINE_MIB)
    return max(cpus, 1)


def _text_of(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""
