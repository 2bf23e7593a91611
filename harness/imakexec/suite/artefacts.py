# SPDX-License-Identifier: GPL-2.0-only
"""One folder for what a test leaves, written as it happens, so that a kill leaves it whole.

reproduce.sh     runs exactly this test again, from a checkout
result.json      what it came to: an object of "tests" in "imakexec-suite/1"
judgement.json   "imakexec-judgement/1", if the verifier was asked
evidence/        what the machine left: consoles, events, logs, command lines, configuration

Beside these folders are the document of the whole run, and the kernels that it had built.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import re
import shlex
import shutil
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from imakexec import process
from imakexec.deadline import Deadline
from imakexec.errors import InfraError, UserError, printable
from imakexec.evidence import MANIFEST
from imakexec.kernel.cache import write_atomically
from imakexec.machine.diagnosis import FOLDER as DIAGNOSIS
from imakexec.machine.events import FILE as EVENTS
from imakexec.strict_json import JsonFault, parse_json
from imakexec.suite.outcome import Outcome
from imakexec.suite.result import SuiteRun, TestResult

RESULTS = "results.json"
"""What the document of a whole run is called, beside the folders of its tests."""
KERNELS = "kernels.jsonl"
"""One line for each time that a test had a kernel built, see suite/runner.py."""
RESULT = "result.json"
REPRODUCE = "reproduce.sh"
JUDGEMENT = "judgement.json"
EVIDENCE = "evidence"

_NAME_LIMIT = 100  # of a folder: enough for people, and far from a file system's 255 bytes
_DIGEST = 8
_GIT_SECONDS = 20.0


def folder_name(nodeid: str, attempt: int = 1) -> str:
    """What the folder of a test is called.

    Args:
        nodeid: pytest's name of the test.
        attempt: 1 for its first try.
    """
    short = nodeid.rpartition("/")[2].replace(".py::", ".")
    plain = re.sub(r"[^A-Za-z0-9._+-]+", "-", short).strip("-.")
    # Two tests must not meet in one folder, and no name may be too long for one.
    digest = hashlib.sha256(nodeid.encode()).hexdigest()[:_DIGEST]
    name = f"{plain[:_NAME_LIMIT]}-{digest}"
    return name if attempt == 1 else f"{name}.{attempt}"


def project_state(project: Path) -> str:
    """The commit of a checkout, "-dirty" after it if files have been changed; empty for none."""
    command = ["git", "-C", str(project), "describe", "--always", "--dirty", "--abbrev=40"]
    try:
        asked = process.run(
            [*command, "--exclude=*"], deadline=Deadline.after(_GIT_SECONDS), check=False
        )
    except InfraError:
        return ""
    return asked.output.strip() if asked.returncode == 0 else ""


def reproduce_script(nodeid: str, options: Sequence[str], state: str) -> str:
    """A script that runs one test again, from the checkout that it is started in.

    Args:
        nodeid: pytest's name of the test.
        options: of pytest that decide what is booted and how.
        state: of the checkout that it ran from, see `project_state`.
    """
    command = shlex.join([".venv/bin/pytest", "-n0", "-m", "", *options, nodeid])
    commit = state.removesuffix("-dirty")
    lines = [
        "#!/bin/sh",
        "# Runs this test again. Start it in the top folder of a checkout of imakexec; further",
        "# arguments go to pytest.",
    ]
    if state.endswith("-dirty"):
        lines.append("# Files of that checkout had been changed and not been committed.")
    if commit:
        lines += [
            f'[ "$(git rev-parse HEAD)" = {commit} ] ||',
            f'    echo "this is another commit than {commit}" >&2',
        ]
    set_up = "./run_qemu.sh --version >/dev/null || exit"
    return "\n".join([*lines, set_up, f'exec {command} "$@"', ""])


_FLAGS = ("--debug-kernel", "--debug-info", "--dump-memory")
_BOOTED = (
    *_FLAGS,
    *("--base", "--kernel-tree", "--patch", "--kernel", "--config", "--arch", "--accel"),
    *("--fixed", "--mutation"),
)


def options_of(arguments: Sequence[str]) -> list[str]:
    """The options of a run of pytest that decide what is booted and how: ours, and no others.

    Args:
        arguments: all of its arguments.
    """
    kept: list[str] = []
    words = iter(arguments)
    for word in words:
        name, has_value, _ = word.partition("=")
        if name in _BOOTED:
            kept.append(word)
            if not has_value and name not in _FLAGS:
                kept.append(next(words, ""))
    return kept


def start_folder(folder: Path, nodeid: str, *, started: str, script: str) -> None:
    """Make the folder of a test that begins; its result is that it has not come to its end.

    Args:
        nodeid: pytest's name of the test.
        started: UTC, ISO 8601 with a final Z.
        script: that runs it again.

    Raises:
        InfraError: the file system refuses.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / REPRODUCE
        path.write_text(script, encoding="utf-8")
        path.chmod(0o755)
    except OSError as error:
        raise InfraError.refused("the artefacts cannot be written", error, folder) from error
    unfinished = "the run ended while this test ran"
    result = TestResult(
        nodeid, Outcome.INFRA, why=(unfinished,), started=started, folder=str(folder)
    )
    write_result(folder, result)


def write_result(folder: Path, result: TestResult) -> None:
    """Keep what a test came to in its folder.

    Raises:
        InfraError: the file system refuses.
    """
    write_atomically(folder / RESULT, json.dumps(result.to_json(), indent=2) + "\n")


def write_run(folder: Path, run: SuiteRun) -> Path:
    """Keep what a whole run came to beside the folders of its tests, and return the file.

    Raises:
        InfraError: the file system refuses.
    """
    path = folder / RESULTS
    write_atomically(path, json.dumps(run.to_json(), indent=2) + "\n")
    return path


def evidence_below(folder: Path) -> Iterator[Path]:
    """All evidence folders below a folder, whoever has written them."""
    # What a killed run leaves may be removed meanwhile, which walk() takes for an empty folder.
    for parent, _, files in os.walk(folder):
        if MANIFEST in files:
            yield Path(parent)


def gather(folder: Path, scratch: Path) -> None:
    """Copy what runs of the command have left in a test's temporary folder to its artefacts.

    Raises:
        OSError: the file system refuses.
    """
    for evidence in evidence_below(scratch):
        if not evidence.is_relative_to(folder):
            shutil.copytree(evidence, folder / "runs" / evidence.relative_to(scratch))


def packed(folder: Path) -> bytes:
    """The regular files of a test's folder as a ZIP file, with the folder's own name in front.

    Raises:
        OSError: the file system refuses.
    """
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", zipfile.ZIP_DEFLATED, strict_timestamps=False) as parcel:
        for path in sorted(folder.rglob("*")):
            if path.is_file() and not path.is_symlink():
                parcel.write(path, path.relative_to(folder.parent))
    return content.getvalue()


def unpack(content: bytes, root: Path) -> None:
    """Lay what `packed` has made into the folder of all artefacts, and never outside of it.

    Raises:
        InfraError: the file system refuses, or this is no such file.
    """
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as parcel:
            for item in parcel.infolist():
                # extract() keeps below its folder, whatever a name says; modes it forgets.
                path = Path(parcel.extract(item, root))
                path.chmod(0o755 if item.external_attr >> 16 & 0o100 else 0o644)
    except (OSError, zipfile.BadZipFile) as error:
        raise InfraError(
            f"the artefacts of a test on another host are lost: {error}",
            where=str(root),
            remedy="make room there; they are still on that host, in pytest's temporary folder",
        ) from error


def one_line(text: str) -> str:
    """A text that can stand in a document: nothing in it steers a terminal."""
    return printable(text.replace("\n", " "))


def for_people(folder: Path) -> Iterator[Path]:
    """The artefacts of a test that somebody wants to look at first."""
    evidence = folder / EVIDENCE
    told = sorted((evidence / DIAGNOSIS).glob("*.txt"))
    for path in (
        folder / REPRODUCE,
        folder / JUDGEMENT,
        *sorted(evidence.glob("console*.log")),
        evidence / EVENTS,
        *told,
    ):
        if path.is_file():
            yield path


def read_runs(folder: Path) -> SuiteRun:
    """What one run came to, or several whose folders lie beside each other in this one.

    Raises:
        UserError: there are no results, or one is not of the documented form.
        InfraError: a file cannot be read.
    """
    try:
        whole = _read_run(folder)
        if whole is not None:
            return whole
        parts = {path: _read_run(path) for path in sorted(folder.iterdir()) if path.is_dir()}
    except OSError as error:
        raise InfraError.refused("the artefacts cannot be read", error, folder) from error
    except JsonFault as fault:
        place = f"{folder}: {fault.file}" + (f", field {fault.field}" if fault.field else "")
        raise UserError(
            f"these are no results of a run of the tests: {fault.what}",
            where=place,
            remedy="name a folder that --artefacts or --html has filled, with this version",
        ) from fault
    return _joined(folder, {path.name: run for path, run in parts.items() if run is not None})


def _read_run(folder: Path) -> SuiteRun | None:
    """That of one folder, also of a run that was killed before it could write its document."""
    path = folder / RESULTS
    if path.is_file():
        return SuiteRun.read(parse_json(path.read_bytes(), RESULTS))
    found = [
        TestResult.read(parse_json(path.read_bytes(), f"{path.parent.name}/{RESULT}"))
        for path in sorted(folder.glob(f"*/{RESULT}"))
    ]
    if not found:
        return None
    # A test that was repeated has left a folder for each try, the last one with the last word.
    tests = [_placed(test, Path(test.folder).name) for test in found]
    last = {test.nodeid: test for test in sorted(tests, key=lambda test: test.folder)}
    inside = sorted(last.values(), key=lambda test: test.started)
    return SuiteRun(inside[0].started, 0.0, (), "", {}, tuple(inside))


def _joined(folder: Path, runs: Mapping[str, SuiteRun]) -> SuiteRun:
    """Several runs as one: of the same tests on several kernels, or of some tests on each host."""
    if not runs:
        raise UserError(
            "there are no results of a run of the tests",
            where=str(folder),
            remedy="name a folder that --artefacts or --html has filled, or the one above several",
        )
    first = next(iter(runs.values()))
    return SuiteRun(
        started=min(run.started for run in runs.values()),
        seconds=max(run.seconds for run in runs.values()),
        command=first.command,
        project=" ".join(dict.fromkeys(run.project for run in runs.values() if run.project)),
        host=together({name: run.host for name, run in runs.items()}),
        tests=tuple(
            replace(
                _placed(test, f"{name}/{test.folder}"),
                host=test.host or run.host.get("name", name),
            )
            for name, run in runs.items()
            for test in run.tests
        ),
    )


def together(hosts: Mapping[str, Mapping[str, str]]) -> dict[str, str]:
    """The facts about several hosts in one table, each with the name of its host in front."""
    return {f"{name} {key}": what for name, facts in hosts.items() for key, what in facts.items()}


def _placed(test: TestResult, folder: str) -> TestResult:
    return replace(test, folder=folder if test.folder else "")
