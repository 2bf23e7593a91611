# SPDX-License-Identifier: GPL-2.0-only
"""Whatever signal ends the command, and whenever: one message, and nothing of it goes on."""

from __future__ import annotations

import fcntl
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest

from conftest import GONE_SECONDS, Lab, World, wait_until
from imakexec import scenario
from imakexec.attest import Verdict, judge_folder
from imakexec.deadline import Deadline
from imakexec.evidence import MANIFEST, Evidence
from imakexec.interruption import Interrupted
from imakexec.kernel.build import KernelRequest
from imakexec.project import find_project
from imakexec.suite import artefacts
from imakexec.suite.outcome import Outcome

# A run of the two boots takes more than four seconds on x86 without KVM, so all of these are in the
# middle of it. The seed makes them the same in every test run; they are from all the range.
_RANDOM = random.Random(20260101)
_MOMENTS = [0.05 + 4 * (part + _RANDOM.random()) / 6 for part in range(6)]

_MANY = 50
_SEED = int(os.environ.get("IMAKEXEC_SEED", random.SystemRandom().randrange(1 << 32)))
"""Of the moments in the nightly set; a failure names it, to be set again."""

_ENDINGS = [(signal.SIGINT, 130, "interrupted"), (signal.SIGTERM, 143, "terminated")]
_ENDING_SECONDS = 6.0
"""How long a run may take to end after the signal: both its processes are asked first."""

_WORKERS_SECONDS = 15.0
"""The same for a run of the tests: pytest-xdist gives its workers ten."""

_BOOTING = 0.7
"""Seconds after which a machine is in the middle of its boot, and answers."""


def ended(child: subprocess.Popen[str], within: float = _ENDING_SECONDS) -> str:
    """The error output of a run that ends by now; it is killed if it does not."""
    try:
        _, said = child.communicate(timeout=within)
    except subprocess.TimeoutExpired:
        child.kill()
        child.communicate()
        raise
    return said


def end(world: World, number: signal.Signals, *, after: float) -> tuple[int, str]:
    """Exit code and error output of a run that gets this signal after so many seconds.

    Where a run is over by then, it is half of them, and so on.
    """
    child = world.start()
    time.sleep(after)
    child.send_signal(number)
    said = ended(child)
    if child.returncode == 0 and after > 0.5:
        shutil.rmtree(world.evidence)
        return end(world, number, after=after / 2)
    return child.returncode, said


def messages(said: str) -> list[str]:
    """What was said beside the steps."""
    return [line for line in said.splitlines() if " s ok" not in line and " s failed" not in line]


@pytest.mark.parametrize("moment", _MOMENTS)
def test_a_signal_ends_a_run_in_order(world: World, moment: float) -> None:
    number, code, word = _ENDINGS[_MOMENTS.index(moment) % len(_ENDINGS)]
    returncode, said = end(world, number, after=moment)
    assert returncode == code, said
    [*notes, last] = messages(said)
    assert last == f"imakexec: {word}; everything that was started has been stopped"
    assert all("accelerator: tcg" in note for note in notes), said
    world.assert_nothing_is_left()
    assert_unfinished_evidence(world.evidence)


def test_impatience_does_not_break_the_clean_up(world: World) -> None:
    child = world.start()
    wait_until(lambda: any(world.arch.qemu in line for line in world.processes()), seconds=30)
    time.sleep(_BOOTING)
    deadline = Deadline.after(_ENDING_SECONDS)
    while child.poll() is None and not deadline.expired:
        child.send_signal(signal.SIGINT)
        time.sleep(0.0005)
    said = ended(child)
    assert child.returncode == 130
    assert said.count("imakexec: ") == 1, said
    assert "console.log" in Evidence.load(world.evidence).files, "the last step of the clean-up"
    world.assert_nothing_is_left()


def test_sigkill_leaves_nothing_and_the_next_run_works(world: World) -> None:
    for moment in _MOMENTS[::2]:
        child = world.start()
        time.sleep(moment)
        child.kill()
        child.communicate(timeout=GONE_SECONDS)
        world.assert_nothing_is_left()
        if child.returncode:  # a fast host may be done by then
            assert_unfinished_evidence(world.evidence)
        shutil.rmtree(world.evidence, ignore_errors=True)
    done = world.run()
    assert done.returncode == 0, done.stderr
    world.assert_nothing_is_left()


@pytest.mark.nightly
def test_fifty_signals_at_random_moments(world: World) -> None:
    moments = random.Random(_SEED)
    signals = [*_ENDINGS, (signal.SIGKILL, -signal.SIGKILL, "")]
    ended_early = 0
    for number in range(_MANY):
        kind, code, _ = signals[number % len(signals)]
        moment = moments.uniform(0.0, 5.0)
        told = f"IMAKEXEC_SEED={_SEED}, signal {number}: {kind.name} after {moment:.3f} s"
        child = world.start()
        time.sleep(moment)
        child.send_signal(kind)
        said = ended(child)
        assert child.returncode in (0, code), f"{told}: {said}"
        ended_early += child.returncode == code
        world.assert_nothing_is_left()
        assert not held_locks(world), told
        if child.returncode:
            assert_unfinished_evidence(world.evidence)
        shutil.rmtree(world.evidence, ignore_errors=True)
    assert ended_early > _MANY // 2, "most of them came too late"
    done = world.run()
    assert done.returncode == 0, done.stderr


def held_locks(world: World) -> list[Path]:
    """The lock files of a world's cache that somebody still holds."""
    found = []
    for path in (world.cache / "locks").glob("*"):
        with path.open("rb") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                found.append(path)
    return found


# The tests themselves.


def start_tests(world: World, *options: str) -> subprocess.Popen[str]:
    """Start a run of the tests in a world, and return when it has a machine."""
    child = subprocess.Popen(
        [
            # As in conftest.COMMAND.
            *("env", "--default-signal=INT", sys.executable, "-m", "pytest", "-v"),
            *("-p", "no:cacheprovider", f"--artefacts={world.folder / 'artefacts'}", *options),
            *("-k", "patched", f"--basetemp={world.folder / 'pytest'}"),
            "harness/test_gap_events.py",
        ],
        cwd=find_project(),
        env={**world.environment, "PYTEST_ADDOPTS": ""},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    wait_until(
        lambda: any(line.startswith("/usr/bin/qemu-system") for line in world.processes()),
        seconds=60,
    )
    return child


@pytest.mark.parametrize(
    ("number", "options"),
    [
        (signal.SIGINT, ("-n0",)),
        (signal.SIGKILL, ("-n2",)),
        pytest.param(signal.SIGTERM, ("-n0",), marks=pytest.mark.nightly),
        pytest.param(signal.SIGKILL, ("-n0",), marks=pytest.mark.nightly),
        pytest.param(signal.SIGINT, ("-n2",), marks=pytest.mark.nightly),
        pytest.param(signal.SIGTERM, ("-n2",), marks=pytest.mark.nightly),
    ],
)
def test_a_run_of_the_tests_that_is_ended_leaves_nothing_but_its_artefacts(
    world: World, number: signal.Signals, options: tuple[str, ...]
) -> None:
    child = start_tests(world, *options)
    time.sleep(1.0)
    child.send_signal(number)
    ended(child, GONE_SECONDS if number is signal.SIGKILL else _WORKERS_SECONDS)
    assert child.returncode not in (0, 1)
    wait_until(lambda: not world.processes(), seconds=GONE_SECONDS, instead=world.processes)
    assert not held_locks(world)
    run = artefacts.read_runs(world.folder / "artefacts")
    assert {test.outcome for test in run.tests} <= {Outcome.INFRA, Outcome.PASS}
    assert Outcome.INFRA in {test.outcome for test in run.tests}


def test_what_was_taken_before_an_interruption_is_no_proof(
    lab: Lab, patched: KernelRequest
) -> None:
    with suppress(Interrupted), lab.session(patched) as session:
        scenario.boot(session)
        scenario.take_snapshot(session, "before-execute")
        raise Interrupted(signal.SIGINT)
    assert lab.judge().judgement.verdict is Verdict.INVALID_EVIDENCE


def assert_unfinished_evidence(folder: Path) -> None:
    """Whatever is there can be read and judged, and says of itself that it is not complete."""
    if (folder / MANIFEST).exists():
        judge_folder(folder)
        assert not Evidence.load(folder).complete
