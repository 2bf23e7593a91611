# SPDX-License-Identifier: GPL-2.0-only
"""A run of the tests for KCIDB, the database that kernel CI systems report to.

The form and the meaning of each member are those of the schema in the library kcidb-io. The source
with its patches is a checkout, a kernel a build of it, a test a test of that build, a known defect
an issue, and that it has shown in a test an incident.

- A test that was tried on no kernel, or on several, is left out (`without_kernel`): the schema
  wants each test to be of one build, and an invented one would be said to have been tested.
- Earlier tries stand in the `misc` of the test that was repeated, and are no tests themselves: a
  database sums a build up by its loudest status, and a MISS among them would drown the PASS.
- Patches are in the `misc` of their checkout. In `patchset_files` each would need a URL, and a name
  is none.
- Artefacts have `file` URLs, for who has the folder; whoever publishes them has to say where.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path, PurePosixPath
from types import MappingProxyType

from jsonschema import ValidationError
from kcidb_io.schema import LATEST

from imakexec.errors import InfraError, UserError, counted
from imakexec.report.artefacts import find_artefacts, regular_file
from imakexec.strict_json import UNPRINTABLE, shortened
from imakexec.suite.catalogue import CATALOGUE
from imakexec.suite.defects import DEFECTS
from imakexec.suite.outcome import Outcome
from imakexec.suite.result import KernelIdentity, SuiteRun, TestResult

_Object = dict[str, object]

_PROJECT = "imakexec"
_CONSOLE = "evidence/console.log"
_EXCERPT_LIMIT = 16384  # characters, in the schema
_MESSAGE_WIDTH = 300

_STATUS: Mapping[Outcome, str] = MappingProxyType(
    {
        Outcome.PASS: "PASS",
        # "The test completed and reported the tested code as faulty": that it was known to be is
        # what the incident says.
        Outcome.KNOWN: "FAIL",
        Outcome.SKIP: "SKIP",
        Outcome.FAIL: "FAIL",
        Outcome.INFRA: "MISS",  # "a failure in the test harness"; but see _status
    }
)

# Debian's source packages, the content of which never changes.
_PACKAGE = re.compile(r"(linux-source-\S+) \S+")
# "Linux version RELEASE (USER@HOST) (COMPILER, LINKER) #1 ...", init/version-timestamp.c
_COMPILER = re.compile(r"Linux version \S+ \(\S+\) \((.+?)(?:, [^,]+)?\) #")
_ARCHITECTURE = re.compile(r"[a-z0-9_]+")
_NOT_IN_A_PATH = re.compile(r"[^A-Za-z0-9_-]+")
_DEFECT = re.compile(r"([A-Z]+[0-9]+): ")

# Of an id, what stands for it wherever it shows.
_REASONS: Mapping[str, str] = MappingProxyType(
    {defect.id: str(defect) for defect in reversed(DEFECTS)}
)
_ISSUE_VERSION = 1


def write_kcidb(run: SuiteRun, path: Path, *, origin: str, folder: Path | None) -> str:
    """Write the report, and say where, and what it leaves out.

    Raises:
        UserError: `origin` cannot be one.
        InfraError: the report is not valid.
        OSError: the file cannot be written.
    """
    path.write_text(json.dumps(kcidb_document(run, origin=origin, folder=folder), indent=2) + "\n")
    left_out = len(without_kernel(run))
    if not left_out:
        return str(path)
    return f"{path}, without {counted(left_out, 'test')} of no kernel, or of several"


def kcidb_document(run: SuiteRun, *, origin: str, folder: Path | None) -> _Object:
    """The report, valid by the newest schema that the library has.

    The same run has the same report, with the same ids; a kernel has the same ids in each run.

    Args:
        origin: the name of the CI system, as KCIDB knows it.
        folder: of the run's document, to which the tests' own are relative; None if it is not here,
            and nothing can be read from the consoles.

    Raises:
        UserError: `origin` is no such name.
        InfraError: the report is not valid, which is a mistake in here or in the run's document.
    """
    if not re.fullmatch(LATEST.origin_pattern, origin):
        raise UserError(
            f"not a name of a CI system: {origin!r}",
            remedy='give the name that KCIDB knows, of "a" to "z", digits and "_"',
        )
    report = _Report(run, origin, folder)
    checkouts: dict[object, _Object] = {}
    builds: dict[object, _Object] = {}
    issues: dict[object, _Object] = {}
    tests = []
    incidents = []
    for test, kernel, test_id in report.tests():
        checkout, build = report.checkout(kernel), report.build(kernel)
        checkouts[checkout["id"]] = checkout
        builds[build["id"]] = build
        tests.append(report.test(test, kernel, test_id))
        for defect, lines in _defects_of(test).items():
            issue = report.issue(defect, lines)
            issues[issue["id"]] = issue
            incidents.append(report.incident(defect, lines, test_id))
    return _validated(
        {
            **LATEST.new(),
            "checkouts": list(checkouts.values()),
            "builds": list(builds.values()),
            "tests": tests,
            "issues": list(issues.values()),
            "incidents": incidents,
        }
    )


def without_kernel(run: SuiteRun) -> tuple[TestResult, ...]:
    """The tests that no KCIDB report has."""
    return tuple(test for test in run.tests if test.kernel is None)


@dataclass(frozen=True)
class _Report:
    """Makes the objects of a report.

    Attributes:
        run: that is reported.
        origin: by whom.
        folder: of the run's document; None if it is not here.
    """

    run: SuiteRun
    origin: str
    folder: Path | None

    def tests(self) -> Iterator[tuple[TestResult, KernelIdentity, str]]:
        """The tests of one kernel each, with their ids."""
        whole = (self.run.started, self.run.command, self.run.project, dict(self.run.host))
        seen = Counter[str]()
        for test in self.run.tests:
            seen[test.nodeid] += 1
            if test.kernel is not None:
                yield test, test.kernel, self._id(whole, test.nodeid, seen[test.nodeid])

    def checkout(self, kernel: KernelIdentity) -> _Object:
        """The source with its patches; two with the same id are the same object."""
        package = _PACKAGE.fullmatch(kernel.base)
        named = {"tree_name": package[1]} if package else {}
        return {
            "id": self._checkout_id(kernel),
            "origin": self.origin,
            **named,
            "patchset_hash": _patchset_hash(kernel),
            "comment": kernel.base,
            "valid": True,
            "misc": {"patches": [{"name": name, "sha256": sha} for name, sha in kernel.patches]},
        }

    def _checkout_id(self, kernel: KernelIdentity) -> str:
        # A tree of the user's has the same name with every content.
        content = "" if _PACKAGE.fullmatch(kernel.base) else kernel.key
        return self._id("checkout", kernel.base, kernel.patches, content)

    def build(self, kernel: KernelIdentity) -> _Object:
        """The kernel; two with the same id are the same object."""
        compiler = _COMPILER.match(kernel.banner)
        architecture = _ARCHITECTURE.fullmatch(kernel.arch)
        return {
            "id": self._build_id(kernel),
            "origin": self.origin,
            "checkout_id": self._checkout_id(kernel),
            **({"architecture": kernel.arch} if architecture else {}),
            **({"compiler": compiler[1]} if compiler else {}),
            "config_name": f"{_PROJECT} {kernel.config[:12]}",
            "status": "PASS",
            "comment": kernel.banner,
            "misc": {"release": kernel.release, "key": kernel.key, "config_sha256": kernel.config},
        }

    def _build_id(self, kernel: KernelIdentity) -> str:
        # What it is tried as belongs to the test: plain and given may be the same kernel.
        return self._id("build", asdict(replace(kernel, subject="")))

    def test(self, test: TestResult, kernel: KernelIdentity, test_id: str) -> _Object:
        """A test, as its last try has ended."""
        place = _place(self.folder, test.folder)
        known = {"accelerator": test.accelerator, "ran on": test.host}
        excerpt = _excerpt(test, place)
        return {
            "id": test_id,
            "origin": self.origin,
            "build_id": self._build_id(kernel),
            "path": _path(test, kernel),
            "comment": test.nodeid,
            "status": _status(test),
            **({"start_time": test.started} if test.started else {}),
            "duration": test.seconds,
            "environment": {
                "comment": ", ".join(f"{name} {value}" for name, value in self.run.host.items()),
                "misc": {
                    "host": dict(self.run.host),
                    **{name: what for name, what in known.items() if what},
                },
            },
            **({"log_excerpt": excerpt} if excerpt else {}),
            **_files(place),
            "misc": {**self._misc(test), "kernel": kernel.subject},
        }

    def _misc(self, test: TestResult) -> _Object:
        strange = (each.fingerprint for each in test.complaints if not each.because)
        return {
            "outcome": test.outcome.value,
            "why": list(test.why),
            "in_test": test.in_test,
            "ending": test.ending,
            "verdict": test.verdict,
            "fingerprints": [*dict.fromkeys(filter(None, strange))],
            "complaints": [asdict(complaint) for complaint in test.complaints],
            "steps": [asdict(step) for step in test.steps],
            "attempts": [asdict(attempt) for attempt in test.attempts],
            "budget": test.budget,
            "folder": test.folder,
            "project": self.run.project,
        }

    def issue(self, defect: str, lines: Sequence[str]) -> _Object:
        """A known defect; of an id that this version does not know, what has shown of it."""
        return {
            "id": self._issue_id(defect),
            "version": _ISSUE_VERSION,
            "origin": self.origin,
            "culprit": {"code": True, "tool": False, "harness": False},
            "comment": _REASONS.get(defect, lines[0]),
            "misc": {"defect": defect},
        }

    def _issue_id(self, defect: str) -> str:
        return f"{self.origin}:{_PROJECT}-{defect}"

    def incident(self, defect: str, lines: Sequence[str], test_id: str) -> _Object:
        """That a known defect has shown in a test."""
        return {
            "id": self._id("incident", defect, test_id),
            "origin": self.origin,
            "issue_id": self._issue_id(defect),
            "issue_version": _ISSUE_VERSION,
            "test_id": test_id,
            "present": True,
            "comment": "\n".join(lines),
        }

    def _id(self, *parts: object) -> str:
        digest = hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()
        return f"{self.origin}:{_PROJECT}-{digest}"


def _status(test: TestResult) -> str:
    """ERROR: "the test didn't complete due to a failure in its code"."""
    if test.outcome is Outcome.INFRA and test.in_test:
        return "ERROR"
    return _STATUS[test.outcome]


def _patchset_hash(kernel: KernelIdentity) -> str:
    if not kernel.patches:
        return ""
    return hashlib.sha256("".join(f"{sha}\n" for _, sha in kernel.patches).encode()).hexdigest()


def _path(test: TestResult, kernel: KernelIdentity) -> str:
    """The project, the scenario or else the file, the function, and its parameters.

    The kernel is no part of it: the same test of two builds has the same path.
    """
    name, _, parameters = test.nodeid.removesuffix("]").partition("[")
    file, *names = name.split("::")
    group = PurePosixPath(file).stem.removeprefix("test_")
    if test.scenario is not None:
        known = CATALOGUE.get(test.scenario)
        group = known.keyword if known else f"scenario_{test.scenario}"
    words = parameters.split("-")
    if kernel.subject in words:
        words.remove(kernel.subject)
    nodes = (_PROJECT, group, *names, "-".join(words))
    return ".".join(node for each in nodes if (node := _NOT_IN_A_PATH.sub("_", each).strip("_")))


def _defects_of(test: TestResult) -> Mapping[str, list[str]]:
    """The known defects that have shown, each with the lines that say so."""
    found: dict[str, list[str]] = {}
    for line in test.why if test.outcome is Outcome.KNOWN else ():
        defect = _DEFECT.match(line)
        if defect is not None:
            found.setdefault(defect[1], []).append(line)
    return found


def _place(folder: Path | None, name: str) -> Path | None:
    """The folder of a test's artefacts, if it is there and in the run's folder."""
    if folder is None or not name:
        return None
    whole = folder.resolve()
    try:
        place = (whole / name).resolve()
        return place if place.is_relative_to(whole) and place.is_dir() else None
    except (OSError, ValueError):  # no path at all, or one that cannot be looked at
        return None


def _excerpt(test: TestResult, place: Path | None) -> str:
    """What was found, and what the kernels have said last if it went wrong."""
    found = "\n".join(test.why)[:_EXCERPT_LIMIT]
    room = _EXCERPT_LIMIT - len(found) - 2
    if place is None or test.outcome in (Outcome.PASS, Outcome.SKIP) or room <= 0:
        return found
    return f"{found}\n\n{_end_of(place, place / _CONSOLE, room)}".strip()


def _end_of(place: Path, console: Path, room: int) -> str:
    """The last whole lines of a file, as many as the bytes of them fit; empty if it is none."""
    try:
        if regular_file(place, console) is None:
            return ""
        with console.open("rb") as file:
            skipped = max(0, console.stat().st_size - room)
            file.seek(skipped)
            text = file.read(room).decode(errors="replace")
    except OSError:
        return ""
    return (text.partition("\n")[2] or text) if skipped else text


def _files(place: Path | None) -> _Object:
    """The console as the log, and all other files of the test."""
    if place is None:
        return {}
    shelves = find_artefacts(place, place).shelves
    urls = {
        f"{shelf.name}/{file.name}".removeprefix("/"): f"{place.as_uri()}/{file.href}"
        for shelf in shelves
        for file in shelf.files
    }
    log = {"log_url": urls.pop(_CONSOLE)} if _CONSOLE in urls else {}
    files = [{"name": name.replace("/", "_"), "url": url} for name, url in urls.items()]
    return {**log, "output_files": files}  # the schema allows no "/" in a name


def _validated(report: _Object) -> _Object:
    clean = {name: _clean(value) for name, value in report.items()}
    try:
        LATEST.validate_exactly(clean)
    except ValidationError as error:
        raise InfraError(
            f"the KCIDB report breaks the schema {LATEST}: "
            f"{shortened(error.message, _MESSAGE_WIDTH)}",
            where=error.json_path,
            remedy="the JSON report of the run has all of it; this is a mistake of imakexec",
        ) from error
    return clean


def _clean(value: object) -> object:
    """The same without what no text there may hold, or what could deface where it is shown."""
    match value:
        case str():
            return UNPRINTABLE.sub("?", value)
        case dict():
            return {_clean(name): _clean(member) for name, member in value.items()}
        case list():
            return [_clean(item) for item in value]
    return value
