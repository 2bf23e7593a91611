# SPDX-License-Identifier: GPL-2.0-only
"""The tests that boot machines, in pytest: markers, outcomes, artefacts, and the summary.

    @pytest.mark.scenario(6)          # its number in the catalogue
    def test_...(trial): ...          # `trial` is the fixture of harness/conftest.py

What a trial comes to is decided when its test function has returned, or when its guest has failed:
a test cannot leave out the oracles. What says nothing about the kernel is an error of pytest and
never a failure; it is tried once more.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Generator, Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest

from imakexec.errors import GuestFailure, ImaKexecError, InfraError, counted, printable
from imakexec.job import new_run_folder
from imakexec.kernel.cache import Cache
from imakexec.machine.watch import kept_waiting
from imakexec.project import boots_machines
from imakexec.suite import artefacts, hosts
from imakexec.suite.catalogue import CATALOGUE
from imakexec.suite.collector import FOLDER, RESULT, Collector
from imakexec.suite.notes import Notes, now
from imakexec.suite.outcome import Outcome
from imakexec.suite.result import Found, TestResult
from imakexec.suite.trial import Trial

NOTES = pytest.StashKey[Notes]()
"""Where the fixture leaves what becomes known of a test."""

CACHE = pytest.StashKey[Cache]()
"""Where it leaves the cache that keeps the evidence of a failure."""

_CONSOLE_LINES = 40

_REPEATED = 1
"""How often a try that has said nothing is repeated."""


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the options that say what is reported, and where."""
    group = parser.getgroup("imakexec reports")
    group.addoption(
        "--artefacts", type=Path, metavar="DIR", help="a folder for what each test leaves"
    )
    group.addoption(
        "--html", type=Path, metavar="DIR", help="a page about this run; implies --artefacts DIR"
    )
    group.addoption("--json", type=Path, metavar="FILE", help="the results as JSON")
    group.addoption("--ktap", type=Path, metavar="FILE", help="the results as KTAP")
    group.addoption("--kcidb", type=Path, metavar="FILE", help="the results for KCIDB")
    group.addoption(
        "--kcidb-origin", default="imakexec", metavar="NAME", help="this CI's name in KCIDB"
    )
    group.addoption(
        "--dump-memory", action="store_true", help="keep the memory of a guest that has failed"
    )


def pytest_configure(config: pytest.Config) -> None:
    """Describe the markers, and collect the results where pytest shows them."""
    folder = config.getoption("--artefacts") or config.getoption("--html")
    if folder is not None:
        config.stash[FOLDER] = folder.absolute()
    if folder is not None and not hasattr(config, "workerinput"):
        _claim(folder)
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
    config.pluginmanager.register(hosts, "imakexec-hosts")
    if not hasattr(config, "workerinput"):
        config.pluginmanager.register(Collector(config), "imakexec-collector")


def _claim(folder: Path) -> None:
    """Make the folder of all artefacts; nothing that is there already is mixed with them."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        is_used = any(folder.iterdir())
    except OSError as error:
        raise pytest.UsageError(
            f"no artefacts can be written to {folder}: {error.strerror}"
        ) from error
    if is_used:
        raise pytest.UsageError(f"{folder} is not empty: name another folder, or remove this one")


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Let -k find a scenario by its name, keep what is nightly out of the smoke set, and have what
    says nothing about a kernel repeated."""
    for item in items:
        marker = item.get_closest_marker("scenario")
        if marker is not None:
            item.extra_keyword_matches.add(CATALOGUE[marker.args[0]].keyword)
        if item.get_closest_marker("nightly") is not None:
            item.own_markers[:] = [mark for mark in item.own_markers if mark.name != "smoke"]
        if _is_of_suite(item):
            item.add_marker(pytest.mark.flaky(reruns=_REPEATED, condition=_is_of_host))


def _is_of_suite(item: pytest.Item) -> bool:
    return item.get_closest_marker("scenario") is not None or boots_machines(item.path)


def _is_of_host(error: BaseException | None) -> bool:
    """Whether the host has failed, which it may not do the next time."""
    return isinstance(error, InfraError)


@pytest.hookimpl(wrapper=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> Generator[None, object, object]:
    """Conclude the trial of a test."""
    answer: object = True
    try:
        answer = yield
    except Exception as error:
        trial = _trial_of(pyfuncitem)
        if trial is None:
            raise
        _end_early(trial, error)
    else:
        trial = _trial_of(pyfuncitem)
    if trial is not None:
        _end(trial)
    return answer


def _trial_of(item: pytest.Item) -> Trial | None:
    notes = item.stash.get(NOTES, None)
    return None if notes is None else notes.trial


def _end_early(trial: Trial, error: Exception) -> None:
    """Return where a known defect has killed the guest; else raise what the error comes to.

    A test that stumbles over what a kernel has not done raises anything. If the oracles have found
    the kernel at fault, that is why.
    """
    if isinstance(error, GuestFailure) and trial.may_die:
        trial.died(error)
        return
    wrong = [] if isinstance(error, ImaKexecError | AssertionError) else trial.unexplained()
    if not wrong:
        raise error
    text = "\n".join([*wrong, f"then {type(error).__name__}: {error}"])
    raise pytest.fail.Exception(text, pytrace=False) from error


def _end(trial: Trial) -> None:
    conclusion = trial.conclude()
    text = "\n".join(conclusion.lines)
    if conclusion.outcome is Outcome.FAIL and trial.excuse:
        raise kept_waiting(trial.excuse, text, where=trial.folder)
    if conclusion.outcome is Outcome.FAIL:
        pytest.fail(text, pytrace=False)
    if conclusion.outcome is Outcome.KNOWN:
        pytest.xfail(text)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Tell the host's trouble from the kernel's, and put the result into the report.

    A report is all that a worker sends home.
    """
    report = yield
    error = None if call.excinfo is None else call.excinfo.value
    is_infra = report.outcome == "failed" and not is_of_kernel(error)
    if is_infra and _is_of_suite(item):
        report.when = "setup"  # what pytest and JUnit call an error and not a failure
    if not _is_of_suite(item) or (call.when != "call" and report.outcome == "passed"):
        return report
    notes = item.stash.get(NOTES, None)
    result = result_of(item, report, error, notes)
    setattr(report, RESULT, json.dumps(result.to_json()))
    if notes is not None and notes.folder.exists():
        # A full disk must not take the report along.
        with suppress(OSError, InfraError):
            artefacts.write_result(notes.folder, result)
        if report.outcome == "failed":
            beside = "\n".join(_found_beside(notes.trial, error))
            report.sections += [("Oracles", beside)] if beside else []
            report.sections += _what_is_left(item, notes.folder)
        with suppress(OSError):
            hosts.send_home(item.config, report, notes.folder)
    return report


def _what_is_left(item: pytest.Item, folder: Path) -> Iterator[tuple[str, str]]:
    """Complete the artefacts of a test that has failed, and say what is there."""
    yield from _console_sections(folder)
    scratch: Path | None = getattr(item, "funcargs", {}).get("tmp_path")
    with suppress(OSError):
        if scratch is not None:
            artefacts.gather(folder, scratch)
    if CACHE in item.stash:
        yield "Artefacts are kept", _keep(folder, item.stash[CACHE])
    else:
        yield "Artefacts", str(hosts.at_home(item.config, folder))


def is_of_kernel(error: BaseException | None) -> bool:
    """Whether an exception of a test says that the kernel under test is at fault.

    A test says so by an assertion or by pytest.fail(), and a guest by what it does. All else has
    gone wrong before there was anything to say: in the host, in the request, in the test itself.
    """
    return isinstance(error, AssertionError | pytest.fail.Exception | GuestFailure)


def result_of(
    item: pytest.Item,
    report: pytest.TestReport,
    error: BaseException | None,
    notes: Notes | None,
) -> TestResult:
    """What a test has come to.

    Args:
        error: what it has ended with, None for nothing.
        notes: None if it has not even begun.
    """
    marker = item.get_closest_marker("scenario")
    outcome = _outcome(report, error)
    if notes is None:
        notes = Notes(Path("/nonexistent"), 1, now())
    why = [*_reason(report, error), *_found_beside(notes.trial, error)]
    budget = CATALOGUE[marker.args[0]].budget if marker else 0.0
    return TestResult(
        nodeid=item.nodeid,
        outcome=outcome,
        why=tuple(map(artefacts.one_line, why)),
        ending=getattr(error, "ending", "") if outcome is not Outcome.PASS else "",
        in_test=outcome is Outcome.INFRA and not isinstance(error, ImaKexecError),
        started=notes.started,
        seconds=report.duration,
        budget=budget * max(1.0, notes.boot_seconds),
        scenario=marker.args[0] if marker else None,
        kernel=notes.kernel,
        accelerator=notes.accelerator,
        verdict=notes.judgement.verdict if notes.judgement else "",
        folder=str(hosts.at_home(item.config, notes.folder)) if notes.folder.exists() else "",
        steps=tuple(notes.steps),
        complaints=notes.complaints,
        findings=tuple(map(_in_a_line, notes.trial.found())) if notes.trial else (),
        mended=notes.trial.mended if notes.trial else (),
    )


def _in_a_line(found: Found) -> Found:
    return replace(found, what=artefacts.one_line(found.what))


def _outcome(report: pytest.TestReport, error: BaseException | None) -> Outcome:
    if report.outcome == "skipped":
        return Outcome.KNOWN if hasattr(report, "wasxfail") else Outcome.SKIP
    if report.outcome == "failed":
        return Outcome.FAIL if is_of_kernel(error) else Outcome.INFRA
    return Outcome.PASS


def _found_beside(trial: Trial | None, error: BaseException | None) -> list[str]:
    """What the oracles have found where an assertion of the test itself has failed first."""
    is_own = isinstance(error, AssertionError) and trial is not None
    return trial.unexplained() if is_own and trial is not None else []


def _reason(report: pytest.TestReport, error: BaseException | None) -> list[str]:
    if hasattr(report, "wasxfail"):
        return report.wasxfail.removeprefix("reason: ").splitlines()
    if report.outcome == "skipped" and isinstance(report.longrepr, tuple):
        return [str(report.longrepr[2]).removeprefix("Skipped: ")]
    if report.outcome != "failed" or error is None:
        return []
    if isinstance(error, ImaKexecError):
        return [error.what]
    if isinstance(error, pytest.fail.Exception):
        return str(error).splitlines()
    return [f"{type(error).__name__}: {str(error).partition(chr(10))[0]}"]


def _console_sections(folder: Path) -> Iterator[tuple[str, str]]:
    """The last lines of the console, for who reads no more than the report."""
    with suppress(OSError):
        text = (folder / artefacts.EVIDENCE / "console.log").read_text(errors="replace")
        lines = [printable(line) for line in text.splitlines()[-_CONSOLE_LINES:]]
        yield f"Console, last {counted(len(lines), 'line')}", "\n".join(lines)


def _keep(folder: Path, cache: Cache) -> str:
    """Copy it to where no pytest removes it after some runs: the folder, or why there is none."""
    try:
        kept = new_run_folder(cache)
        shutil.copytree(folder, kept)
    except OSError as error:  # a full disk must not take the report along
        return f"only in {folder}: {error}"
    return str(kept)
