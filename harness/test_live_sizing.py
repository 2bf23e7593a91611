# SPDX-License-Identifier: GPL-2.0-only
"""`imakexec size --workload` counts what a guest measures, and what it advises is enough."""

from __future__ import annotations

import dataclasses
import json
import shlex
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from jsonschema import Draft202012Validator

from conftest import ENOUGH_KB, Kernels, Lab, World
from imakexec import scenario
from imakexec.attest import Verdict
from imakexec.deadline import Deadline
from imakexec.errors import GuestFailure
from imakexec.evidence import MANIFEST
from imakexec.job import JobOptions
from imakexec.kernel.build import KernelRequest
from imakexec.options import Policy
from imakexec.project import find_project
from imakexec.sizing import Caveat, Question, Sizing
from imakexec.workload import Schedule, size_workload

WINDOW = 5.0
PAGE = 4096

# Records of one size, as many in a second on any host that is not overloaded.
RATE = 50
FIRST = 10000
RECORD = 87 + len(f"/measured/{FIRST}")
STEADY = f"""
mkdir -p /measured
look() {{
    read -r now _ </proc/uptime
    now=$((${{now%.*}} * 100 + 1${{now#*.}} - 100))
}}
look
start=$now i={FIRST}
while sleep 0.05; do
    look
    end=$(({FIRST} + (now - start) * {RATE} / 100))
    while [ $i -lt $end ]; do
        i=$((i + 1))
        echo $i >/measured/$i
        read -r line </measured/$i
    done
done
"""
# The same for as long as it takes: `$1` is a command that ends then.
FOR_A_WHILE = f'sh -c {shlex.quote(STEADY)} & sh -c "$1"; kill $!'
MEANWHILE = f"sleep {WINDOW}"

EVERYTHING = "measure func=FILE_CHECK mask=MAY_READ uid=0"

COMMAND = ("env", "--default-signal=INT", sys.executable, "-m", "imakexec", "size")


def watched(
    lab: Lab, kernel: KernelRequest, script: str, schedule: Schedule, policy: Policy
) -> Sizing:
    """What the command finds; the lists are kept."""
    options = JobOptions(
        kernel=kernel,
        arch=kernel.arch,
        accelerator=lab.accelerator,
        policy=policy,
        out=lab.folder,
    )
    return size_workload(lab.workshop, options, script, schedule, Question(window=WINDOW))


def taken_through_kexec(lab: Lab, kernel: KernelRequest, meanwhile: str) -> Verdict:
    """Load, run the workload until a command has ended, execute, and judge."""
    with lab.session(kernel) as session:
        scenario.boot(session)
        loaded = scenario.kexec_load(session)
        deadline = Deadline.after(WINDOW + session.budget().budget)
        session.guest.run(["sh", "-c", FOR_A_WHILE, "workload", meanwhile], deadline)
        scenario.take_snapshot(session, "before-execute")
        scenario.kexec_execute(session, loaded)
        scenario.take_snapshot(session, "after", quote_after=True)
    return lab.judge().judgement.verdict


def test_what_is_advised_is_enough_and_half_of_it_is_not(
    lab: Lab, kernels: Kernels, patched: KernelRequest, tmp_path: Path
) -> None:
    figures = watched(lab, patched, STEADY, Schedule(WINDOW, WINDOW / 16), Policy.BUILTIN)

    assert figures.growth is not None
    assert figures.need is not None
    assert figures.need.option is not None
    assert figures.watch is not None
    # Every byte is the workload's, and its rate is found to a tenth.
    assert figures.growth.size == figures.growth.records * RECORD
    assert figures.growth.records_per_hour == pytest.approx(3600 * RATE, rel=0.1)
    assert (figures.watch.own_records, figures.watch.ended) == (0, False)

    def with_extra(kb: int) -> KernelRequest:
        return kernels.series(extra_memory_kb=kb)

    enough = dataclasses.replace(lab, folder=tmp_path / "enough")
    kernel = with_extra(figures.need.option)
    assert taken_through_kexec(enough, kernel, MEANWHILE) is Verdict.IN_SYNC

    # At most half, and an even number: fewer kernels have to be built.
    half = figures.need.option // 4 * 2
    # The segment ends with a page, so that there may be almost a page of room more.
    assert half * 1024 + PAGE < figures.growth.size
    last = f"/measured/{FIRST + figures.growth.records}"
    short = dataclasses.replace(lab, folder=tmp_path / "short")
    until_there = f"until [ -e {last} ]; do sleep 0.1; done"
    assert taken_through_kexec(short, with_extra(half), until_there) is Verdict.TRUNCATED


@pytest.mark.parametrize("policy", list(Policy))
def test_watching_is_not_measured_and_can_be_had_again(
    lab: Lab, patched: KernelRequest, tmp_path: Path, policy: Policy
) -> None:
    figures = watched(lab, patched, "echo here; sleep 1.2; echo there", Schedule(9, 0.3), policy)
    assert figures.watch is not None
    assert (figures.watch.own_records, figures.watch.ended) == (0, True)
    assert 1.2 <= figures.watch.ran < 9
    assert figures.growth is not None
    assert figures.growth.records == 0
    assert Caveat.NO_GROWTH in figures.caveats

    command = [*COMMAND[:-1], *shlex.split((lab.folder / "size.cmd").read_text())[1:]]
    result = tmp_path / "again.json"
    subprocess.run([*command, f"--json={result}"], cwd=lab.folder, check=True, timeout=60)
    there = figures.to_json()
    again = json.loads(result.read_text())
    assert len(again["paths"]) == len(figures.snapshots) >= 4
    assert {**again, "paths": there["paths"], "watch": there["watch"]} == there
    for schema, document in (("size", there), ("evidence", manifest(lab.folder))):
        path = find_project() / f"docs/schema/imakexec-{schema}-1.json"
        Draft202012Validator(json.loads(path.read_text())).validate(document)


def manifest(folder: Path) -> object:
    """What the manifest of an evidence folder says."""
    document: object = json.loads((folder / MANIFEST).read_text())
    return document


def test_a_policy_of_the_workload_may_measure_the_watching(
    lab: Lab, patched: KernelRequest
) -> None:
    script = f"echo {EVERYTHING} >/sys/kernel/security/ima/policy && sleep 1"
    figures = watched(lab, patched, script, Schedule(9, 0.3), Policy.BUILTIN)
    assert figures.watch is not None
    assert figures.growth is not None
    assert figures.watch.own_records == figures.growth.records > 0
    assert Caveat.WATCHING_MEASURES in figures.caveats


def test_a_workload_that_fails_says_what_it_said(lab: Lab, patched: KernelRequest) -> None:
    """At once, and not at the next reading."""
    with pytest.raises(GuestFailure, match=r"exit status 7 after \d\.\d of 60 s") as caught:
        watched(lab, patched, "sleep 1; echo because; exit 7", Schedule(60, 30), Policy.BUILTIN)
    assert caught.value.tail == "because\n"
    assert (lab.folder / "lists/0001").is_file()


def test_an_interrupted_watch_leaves_nothing(world: World) -> None:
    child = subprocess.Popen(
        [
            *(*COMMAND, "--workload=sleep 900", "--accel=tcg"),
            # The kernel that the world has: else one is built in it.
            *(f"--extra-memory-kb={ENOUGH_KB}", f"--arch={world.arch.name}"),
        ],
        env=world.environment,
        stderr=subprocess.PIPE,
        text=True,
    )
    with child:
        assert child.stderr is not None
        said = next(line for line in child.stderr if "boot the guest" in line)
        assert " ok " in said
        child.send_signal(signal.SIGINT)
        try:
            _, rest = child.communicate(timeout=20)
        except subprocess.TimeoutExpired:
            child.kill()
            raise
    assert child.returncode == 130
    assert rest.endswith("interrupted; everything that was started has been stopped\n")
    world.assert_nothing_is_left()
