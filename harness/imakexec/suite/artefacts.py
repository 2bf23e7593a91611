# SPDX-License-Identifier: GPL-2.0-only
"""One folder for what a test leaves, written as it happens, so that a kill leaves it whole.

reproduce.sh     runs exactly this test again, from a checkout
result.json      what it came to: an object of "tests" in "imakexec-suite/1"
judgement.json   "imakexec-judgement/1", if the verifier was asked
evidence/        what the machine left: consoles, events, logs, command lines, configuration
"""

from __future__ import annotations

import hashlib
import json
import re
import shlex
from collections.abc import Iterator, Sequence
from pathlib import Path

from imakexec import process
from imakexec.deadline import Deadline
from imakexec.errors import InfraError, printable
from imakexec.kernel.cache import write_atomically
from imakexec.machine.diagnosis import FOLDER as DIAGNOSIS
from imakexec.machine.events import FILE as EVENTS
from imakexec.strict_json import JsonFault, parse_json
from imakexec.suite.result import SuiteRun, TestResult

RESULTS = "results.json"
"""What the document of a whole run is called, beside the folders of its tests."""
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
    command = shlex.join(["./run_qemu.sh", "test", "-n0", "-m", "", *options, nodeid])
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
    return "\n".join([*lines, f'exec {command} "$@"', ""])


_FLAGS = ("--debug-kernel", "--debug-info", "--dump-memory")
_BOOTED = (
    *_FLAGS,
    *("--base", "--kernel-tree", "--kernel", "--config", "--fixed", "--mutation", "--accel"),
    "--arch",
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


def start_folder(folder: Path, script: str) -> None:
    """Make the folder of a test that begins.

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


def read_run(folder: Path) -> SuiteRun:
    """What a run came to, also of one that was killed before it could write its document.

    Raises:
        InfraError: a file cannot be read.
        JsonFault: one is not of the documented form.
    """
    try:
        if (folder / RESULTS).is_file():
            return SuiteRun.read(parse_json((folder / RESULTS).read_bytes(), RESULTS))
        found = [
            TestResult.read(parse_json(path.read_bytes(), f"{path.parent.name}/{RESULT}"))
            for path in sorted(folder.glob(f"*/{RESULT}"))
        ]
    except OSError as error:
        raise InfraError.refused("the artefacts cannot be read", error, folder) from error
    if not found:
        raise JsonFault("no results of a run of the tests", file=str(folder))
    tests = sorted(found, key=lambda test: test.started)
    return SuiteRun(tests[0].started, 0.0, (), "", {}, tuple(tests))
