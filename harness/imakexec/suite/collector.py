# SPDX-License-Identifier: GPL-2.0-only
"""Collects what the tests came to, and writes every report that was asked for; a plugin of pytest.

It lives where pytest shows results: in the process that was started, not in its workers.
"""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from xml.etree import ElementTree

import pytest
from _pytest.junitxml import xml_key

from imakexec.errors import ImaKexecError, InfraError
from imakexec.job import tool_version
from imakexec.project import boots_machines, find_project
from imakexec.report.suite import summary_lines
from imakexec.strict_json import parse_json
from imakexec.suite import artefacts
from imakexec.suite.documents import Reports
from imakexec.suite.outcome import Outcome
from imakexec.suite.result import Attempt, SuiteRun, TestResult

RESULT = "imakexec_result"
"""The attribute of a report that carries a result, as JSON, from a worker of pytest-xdist."""

HOST = "imakexec_host"
"""The attribute of a gateway of execnet that says what its host is: `host_facts` there."""

PARCEL = "imakexec_parcel"
"""The attribute of a report that brings the artefacts of a test from another host."""

FOLDER = pytest.StashKey[Path]()
"""The folder of all artefacts, if one was asked for."""

_NO_VERDICT = 3
"""The exit status of a run that has only said that the host failed: InfraError's."""

_GRAVITY = {outcome: place for place, outcome in enumerate(Outcome)}


class Collector:
    """The results of one run of pytest.

    Args:
        config: pytest's.
    """

    def __init__(self, config: pytest.Config) -> None:
        self._config = config
        self._results: dict[str, TestResult] = {}
        self._attempts: dict[str, list[Attempt]] = {}
        self._others_failed = False
        self._hosts: dict[str, Mapping[str, str]] = {}
        self._started = datetime.now(UTC)
        self._clock = time.monotonic()
        self._written: list[str] = []

    @pytest.hookimpl(tryfirst=True)  # before JUnit's, which closes a test with its last report
    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Take a result, and before it the artefacts that its report brings along."""
        self._take_parcel(report)
        document: str | None = getattr(report, RESULT, None)
        if document is not None:
            told = TestResult.read(parse_json(document.encode(), "a report"))
        elif report.when not in ("setup", "call", "teardown") and self._is_ours(report.nodeid):
            # pytest-xdist has made it up for a worker that is gone.
            report.when = "setup"  # what pytest and JUnit call an error and not a failure
            told = TestResult(report.nodeid, Outcome.INFRA, why=("its worker crashed",))
        else:
            self._others_failed |= report.failed
            return
        result = self._below_folder(replace(told, host=self._host_of(report)))
        outcome: str = report.outcome  # one more than pytest knows of, of pytest-rerunfailures
        if outcome == "rerun":
            attempt = Attempt("; ".join(result.why), result.seconds, result.folder)
            self._attempts.setdefault(result.nodeid, []).append(attempt)
            return
        result = replace(result, attempts=tuple(self._attempts.get(result.nodeid, ())))
        before = self._results.get(result.nodeid)
        if before is None or _GRAVITY[result.outcome] > _GRAVITY[before.outcome]:
            self._results[result.nodeid] = result
            self._enrich_junit(report, result)

    def _take_parcel(self, report: pytest.TestReport) -> None:
        parcel: bytes | None = report.__dict__.pop(PARCEL, None)
        root = self._config.stash.get(FOLDER, None)
        if parcel is None or root is None:
            return
        try:
            artefacts.unpack(parcel, root)
        except InfraError as error:
            self._written.append(f"NOT WRITTEN: {error}")

    def _host_of(self, report: pytest.TestReport) -> str:
        """The name of the host that a report has come from; empty for this one."""
        gateway = getattr(getattr(report, "node", None), "gateway", None)
        facts: Mapping[str, str] = getattr(gateway, HOST, {})
        if not facts or facts["name"] == platform.node():
            return ""
        return self._hosts.setdefault(facts["name"], facts)["name"]

    def _is_ours(self, nodeid: str) -> bool:
        return boots_machines(self._config.rootpath / nodeid.partition("::")[0])

    def _below_folder(self, result: TestResult) -> TestResult:
        root = self._config.stash.get(FOLDER, None)
        folder = Path(result.folder)
        if root is None or not result.folder or not folder.is_relative_to(root):
            return result
        return replace(result, folder=str(folder.relative_to(root)))

    def pytest_sessionfinish(self, session: pytest.Session, exitstatus: int) -> None:
        """Write the reports, and say by the exit status whether any of it is a verdict."""
        if not self._results:
            return
        run = self.run()
        for write in self._reports(run):
            try:
                self._written.append(write())
            except (ImaKexecError, OSError) as error:
                self._written.append(f"NOT WRITTEN: {error}")
                session.exitstatus = max(exitstatus, _NO_VERDICT)
        outcomes = {test.outcome for test in run.tests}
        if exitstatus == pytest.ExitCode.TESTS_FAILED and Outcome.FAIL not in outcomes:
            session.exitstatus = exitstatus if self._others_failed else _NO_VERDICT

    def run(self) -> SuiteRun:
        """What there is so far, as a document."""
        return SuiteRun(
            started=self._started.isoformat(timespec="seconds").replace("+00:00", "Z"),
            seconds=time.monotonic() - self._clock,
            command=tuple(map(artefacts.one_line, self._config.invocation_params.args)),
            project=artefacts.project_state(find_project()),
            host=host_facts() | artefacts.together(self._hosts),
            tests=tuple(self._results.values()),
        )

    def _reports(self, run: SuiteRun) -> Iterator[Callable[[], str]]:
        option = self._config.getoption
        folder = self._config.stash.get(FOLDER, None)
        if folder is not None:
            yield lambda: str(artefacts.write_run(folder, run))
        wanted = Reports(
            html=option("--html"),
            json=option("--json"),
            ktap=option("--ktap"),
            kcidb=option("--kcidb"),
            kcidb_origin=option("--kcidb-origin"),
        )
        yield from wanted.of(run, folder)

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        """Show every scenario with its outcomes, its time and its budget, and what was written."""
        if not self._results:
            return
        terminalreporter.section("scenarios")
        for line in summary_lines(self._results.values()):
            terminalreporter.write_line(line)
        for line in self._written:
            terminalreporter.write_line(f"report  {line}")

    def _enrich_junit(self, report: pytest.TestReport, result: TestResult) -> None:
        """Give a JUnit test case its properties, and its artefacts as attachments."""
        xml = self._config.stash.get(xml_key, None)
        if xml is None:
            return
        case = xml.node_reporter(report)
        for name, value in properties_of(result).items():
            case.add_property(name, value)
        lines = [f"[[ATTACHMENT|{path}]]" for path in self._attachments(result)]
        if lines:
            # GitLab and Jenkins look for such lines in what a test has written.
            node = ElementTree.Element("system-out")
            node.text = "\n".join(lines)
            case.append(node)

    def _attachments(self, result: TestResult) -> Iterator[Path]:
        root = self._config.stash.get(FOLDER, Path())
        folder = (root / result.folder).absolute()
        here = self._config.invocation_params.dir
        for path in artefacts.for_people(folder) if result.folder else ():
            # GitLab takes only what is relative to the project; Jenkins takes both.
            yield path.relative_to(here) if path.is_relative_to(here) else path


def properties_of(result: TestResult) -> Mapping[str, str]:
    """What JUnit shows beside a test, by name; only what is known."""
    found = {
        "outcome": str(result.outcome),
        "verdict": result.verdict,
        "ending": result.ending,
        "accelerator": result.accelerator,
        "host": result.host,
        "artefacts": result.folder,
        "why": "; ".join(result.why),
        "complaints": "; ".join(
            f"{heard.name} {heard.fingerprint}".strip()
            for heard in result.complaints
            if not heard.because
        ),
        "repeated": "; ".join(attempt.why for attempt in result.attempts),
    }
    if result.kernel is not None:
        kernel = result.kernel
        found |= {
            "kernel": kernel.subject,
            "kernel.release": kernel.release,
            "kernel.banner": kernel.banner,
            "kernel.base": kernel.base,
            "kernel.key": kernel.key,
            "kernel.patches": " ".join(name for name, _ in kernel.patches),
            "arch": kernel.arch,
        }
    for step in result.steps:
        found[f"seconds.{step.name}"] = f"{step.seconds:.3f}"
    return {name: value for name, value in found.items() if value}


def host_facts() -> dict[str, str]:
    """What the tests of this process run on."""
    found = {
        "name": platform.node(),
        "system": platform.platform(),
        "cpus": str(len(os.sched_getaffinity(0))),
        "python": platform.python_version(),
        "pytest": pytest.__version__,
    }
    for program in ("qemu-system-x86_64", "swtpm"):
        with suppress(InfraError):
            found[program] = artefacts.one_line(tool_version(program))
    return found
