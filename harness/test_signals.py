# SPDX-License-Identifier: GPL-2.0-only
"""Whatever signal ends the command, and whenever: one message, and nothing of it goes on."""

from __future__ import annotations

import hashlib
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
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
    """Each run also packs its guest and makes its TPM's template: a signal may come meanwhile."""
    (world.cache / "guest-image").unlink()
    began = time.monotonic()
    assert world.run().returncode == 0
    longest = time.monotonic() - began
    sound = entries(world.cache)
    moments = random.Random(_SEED)
    signals = [*_ENDINGS, (signal.SIGKILL, -signal.SIGKILL, "")]
    ended_early = tries = 0
    while ended_early < _MANY:
        tries += 1
        assert tries <= 2 * _MANY, "most of them came too late"
        for kind_of_entry in _MADE:
            shutil.rmtree(world.cache / kind_of_entry, ignore_errors=True)
        shutil.rmtree(world.evidence, ignore_errors=True)
        kind, code, _ = signals[ended_early % len(signals)]
        moment = moments.uniform(0.0, longest)
        told = f"IMAKEXEC_SEED={_SEED}, try {tries}: {kind.name} after {moment:.3f} s"
        child = world.start()
        time.sleep(moment)
        child.send_signal(kind)
        sent = time.monotonic()
        said = ended(child)
        world.assert_nothing_is_left()
        print(f"{told}, exit status {child.returncode}, gone {time.monotonic() - sent:.2f} s later")
        assert entries(world.cache).items() <= sound.items(), told
        if child.returncode == 0:  # it was over by then
            longest = min(longest, moment)
            continue
        ended_early += 1
        assert child.returncode == code, f"{told}: {said}"
        assert_unfinished_evidence(world.evidence)
    shutil.rmtree(world.evidence, ignore_errors=True)
    done = world.run()
    assert done.returncode == 0, done.stderr
    assert entries(world.cache) == sound


_MADE = ("guest-image", "tpm")
"""The kinds of entries of a cache that a run makes in a second."""


def entries(cache: Path) -> Mapping[str, str]:
    """These entries by their path, each with what tells whether it is whole.

    That is the SHA-256 of all that is in it. Of a TPM's state, whose seeds are random, it is the
    size.
    """
    images = {path: _digest_of(path) for path in (cache / "guest-image").glob("*")}
    states = {path: str(path.stat().st_size) for path in (cache / "tpm").glob("*")}
    return {str(path.relative_to(cache)): told for path, told in (images | states).items()}


def _digest_of(folder: Path) -> str:
    digest = hashlib.sha256()
    for path in sorted(folder.iterdir()):
        digest.update(f"{path.name} {path.stat().st_size} ".encode() + path.read_bytes())
    return digest.hexdigest()


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
    assert_ended(world, child, number)


def assert_ended(world: World, child: subprocess.Popen[str], number: signal.Signals) -> None:
    """A run of the tests ends with nothing left but artefacts, and they tell where it was."""
    ended(child, GONE_SECONDS if number is signal.SIGKILL else _WORKERS_SECONDS)
    assert child.returncode not in (0, 1)
    world.assert_nothing_is_left()
    run = artefacts.read_runs(world.folder / "artefacts")
    assert {test.outcome for test in run.tests} <= {Outcome.INFRA, Outcome.PASS, Outcome.SKIP}
    assert Outcome.INFRA in {test.outcome for test in run.tests}


@pytest.mark.nightly
@pytest.mark.parametrize("workers", [0, 2])
def test_runs_of_the_tests_that_are_ended_at_random_moments(world: World, workers: int) -> None:
    moments = random.Random(_SEED)
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGKILL) * 3:
        moment = moments.uniform(0.0, 6.0)
        print(f"IMAKEXEC_SEED={_SEED}: {number.name} after {moment:.3f} s")
        child = start_tests(world, f"-n{workers}")
        time.sleep(moment)
        child.send_signal(number)
        assert_ended(world, child, number)
        shutil.rmtree(world.folder / "artefacts")


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
