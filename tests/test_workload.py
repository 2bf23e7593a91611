# SPDX-License-Identifier: GPL-2.0-only
"""`imakexec size --workload`: when a guest's list is read, and what is made of it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path

import pytest
from command_line import Run
from evidence_maker import Rec, ng
from evidence_maker import pack as pack_records

from imakexec import workload
from imakexec.errors import GuestFailure, UserError
from imakexec.job import JobOptions
from imakexec.progress import SilentProgress
from imakexec.sizing import Caveat, Question, Sizing, Watch, size_growth
from imakexec.workload import (
    Readings,
    Schedule,
    WorkloadEnd,
    read_while_running,
    require_success,
)


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    return Run(monkeypatch, capsys)


BOOTED = [ng(f"/booted{n}") for n in range(5)]


@dataclass
class FakeGuest:
    """A guest whose clock moves only when something is done to it.

    Args:
        measured: how many records the workload has measured so many seconds after its start.
        reading: seconds that it takes to read the list.
        ends: seconds after which the workload ends by itself.
        own: how many records each of the first looks adds; the last number is that of all others.
    """

    measured: Callable[[float], int] = lambda seconds: int(10 * seconds)
    reading: float = 0.01
    ends: float = float("inf")
    status: int = 0
    own: Sequence[int] = (0,)
    clock: float = 1000.0
    started: float | None = None
    looks: int = 0
    waits: list[float] = field(default_factory=list)
    records: list[Rec] = field(default_factory=lambda: list(BOOTED))
    waited: Callable[[], None] = lambda: None

    def now(self) -> float:
        return self.clock

    def start(self) -> None:
        assert self.started is None
        self.started = self.clock

    def read_list(self) -> bytes:
        self.clock += self.reading
        if self.started is not None:
            due = self.measured(min(self.clock - self.started, self.ends))
            have = sum(b"/w0" in record.data for record in self.records)
            self.records += [ng(f"/w{n:06}") for n in range(have, due)]
        content = pack_records(self.records)
        added = self.own[min(self.looks, len(self.own) - 1)]
        self.records += [ng(f"/look{self.looks}-{n}") for n in range(added)]
        self.looks += 1
        return content

    def wait(self, seconds: float) -> WorkloadEnd | None:
        self.waits.append(seconds)
        self.waited()
        end = float("inf") if self.started is None else self.started + self.ends
        self.clock = max(self.clock, min(self.clock + seconds, end))
        return WorkloadEnd(self.status, "one\nlast words\n") if self.clock >= end else None


class Told:
    """A step that keeps what it is told."""

    def __init__(self) -> None:
        self.fractions: list[float] = []

    def update(self, detail: str, fraction: float | None = None) -> None:
        assert "bytes in" in detail
        assert fraction is not None
        self.fractions.append(fraction)

    def done(self, result: str) -> None:
        pass


def read(guest: FakeGuest, duration: float = 60, every: float = 5) -> Readings:
    return read_while_running(guest, Schedule(duration, every), Told(), lambda _: None)


def test_the_list_is_read_before_the_start_at_even_times_and_at_the_end() -> None:
    guest, kept, step = FakeGuest(), list[bytes](), Told()
    readings = read_while_running(guest, Schedule(60, 5), step, kept.append)
    passed = [at - readings.times[0] for at in readings.times]
    assert passed == pytest.approx([0, *(n + 0.01 for n in range(5, 65, 5))])
    assert readings.counts == (5, *(5 + 10 * n for n in range(5, 65, 5)))
    assert readings.end is None
    assert (len(readings.log), len(kept)) == (readings.counts[-1], 13)
    assert all(later.startswith(earlier) for earlier, later in pairwise(kept))
    assert step.fractions == pytest.approx([(n + 0.01) / 60 for n in range(5, 60, 5)] + [1.0])
    assert readings.reading == pytest.approx(12 * 0.01 / 60.01)


def test_what_a_workload_measures_at_once_is_not_missed() -> None:
    assert read(FakeGuest(measured=lambda _: 7)).counts == (5, *[12] * 12)


def test_the_last_reading_is_at_the_end_though_that_is_no_even_time() -> None:
    readings = read(FakeGuest(), duration=12, every=5)
    passed = [at - readings.times[0] for at in readings.times]
    assert passed == pytest.approx([0, 5.01, 10.01, 12.01])


def test_a_slow_reading_leaves_out_the_next_ones() -> None:
    readings = read(FakeGuest(reading=7), duration=60, every=5)
    passed = [at - readings.times[0] for at in readings.times]
    assert passed == pytest.approx([0, 12, 22, 32, 42, 52, 62])
    assert readings.reading == pytest.approx(6 * 7 / 62)


def test_a_workload_that_ends_is_not_waited_for() -> None:
    readings = read(FakeGuest(ends=7.5))
    assert readings.end == WorkloadEnd(0, "one\nlast words\n")
    assert readings.seconds == pytest.approx(7.51)
    assert readings.counts == (5, 55, 80)


def test_a_workload_that_fails_is_an_error_with_its_last_lines() -> None:
    readings = read(FakeGuest(ends=7.5, status=3))
    with pytest.raises(GuestFailure, match=r"exit status 3 after 7.5 of 60 s") as caught:
        require_success(readings, Schedule(60, 5))
    assert caught.value.tail.endswith("last words\n")
    require_success(read(FakeGuest(ends=7.5)), Schedule(60, 5))
    require_success(read(FakeGuest()), Schedule(60, 5))


@pytest.mark.parametrize(("own", "made"), [((0,), 0), ((3, 1, 0), 0), ((2,), 24), ((5, 1), 12)])
def test_what_looking_measures_is_told_if_it_goes_on(own: tuple[int, ...], made: int) -> None:
    readings = read(FakeGuest(measured=lambda _: 0, own=own))
    assert readings.own_records == made == readings.counts[-1] - readings.counts[0]


def test_what_looking_measures_by_a_policy_of_the_workload_is_told() -> None:
    """What a look makes is measured once, and only after such a policy was loaded."""
    own = ["/sys/kernel/security/integrity/ima/binary_runtime_measurements", "/run/workload/ended"]
    guest = FakeGuest(measured=lambda _: 5)
    guest.waited = lambda: guest.records.extend(map(ng, own if len(guest.waits) == 9 else ()))
    assert read(guest).own_records == 2


class ShorterGuest(FakeGuest):
    """One whose list loses its first record in the end."""

    def read_list(self) -> bytes:
        content = super().read_list()
        return content[len(BOOTED[0].pack()) :] if self.clock > 1050 else content


class EmptyGuest(FakeGuest):
    """One without a list."""

    def read_list(self) -> bytes:
        return b""


def test_a_list_that_does_not_only_grow_gives_no_figure() -> None:
    with pytest.raises(GuestFailure, match="does not begin with"):
        read(ShorterGuest())


def test_what_is_no_list_gives_no_figure() -> None:
    with pytest.raises(GuestFailure, match="the guest's list cannot be read"):
        read(EmptyGuest())


def test_a_schedule_has_a_reading_between_the_first_and_the_last() -> None:
    Schedule(5, 5)
    with pytest.raises(UserError, match="every 6 s of 5 s"):
        Schedule(5, 6)


def sizing(readings: Readings, question: Question, *, ended: bool = False) -> Sizing:
    watch = Watch(
        kernel="linux, 7 patches",
        accelerator="tcg",
        policy="builtin",
        workload="\nwhile :; do\n    measure\ndone\n",
        asked=60,
        ran=readings.seconds,
        ended=ended,
        reading=readings.reading,
        own_records=readings.own_records,
        evidence=Path("there"),
    )
    log, counts, times = readings.log, readings.counts, readings.times
    return size_growth(log, counts, times, question, paths=(), watch=watch)


def test_looks_that_are_measured_are_said_with_the_figures() -> None:
    question = Question(window=30)
    assert sizing(read(FakeGuest()), question).caveats == ()
    [caveat] = sizing(read(FakeGuest(own=(2,))), question).caveats
    assert caveat is Caveat.WATCHING_MEASURES


# The command, and a machine that is none.


@dataclass
class Machine:
    """Stands for `size_workload`, and keeps what it was asked for."""

    asked: list[tuple[JobOptions, str, Schedule]] = field(default_factory=list)
    guest: FakeGuest = field(default_factory=FakeGuest)

    def __call__(
        self,
        _workshop: object,
        options: JobOptions,
        script: str,
        schedule: Schedule,
        question: Question,
        *,
        on_line: object,
    ) -> Sizing:
        assert on_line is None
        self.asked.append((options, script, schedule))
        readings = read(self.guest, schedule.duration, schedule.every)
        return sizing(readings, question, ended=readings.end is not None)


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Machine:
    machine = Machine()
    monkeypatch.setattr(workload, "size_workload", machine)
    return machine


def test_a_workload_of_the_command_line(run: Run, machine: Machine, tmp_path: Path) -> None:
    picture = tmp_path / "plot.svg"
    ended = run(
        *("size", "--workload=measure", "--window=30s", "--plot", picture, "--patches=2"),
        *("--policy=tcb", "--keep", tmp_path / "kept", "--duration=2m"),
    )
    assert ended.code == 0, ended.err
    [(options, script, schedule)] = machine.asked
    assert (options.kernel.patches, options.policy.value) == (2, "tcb")
    assert (options.out, script, schedule) == (tmp_path / "kept", "measure", Schedule(120, 5))
    assert ended.out.startswith("guest     linux, 7 patches, tcg; IMA policy builtin\n")
    assert "workload  while :; do ... (3 lines)\n" in ended.out
    assert "watched   120.0 s; reading the list took 0.2 % of it\n" in ended.out
    assert "mind" not in ended.out
    assert "growth of the list" in picture.read_text()


def test_a_workload_in_a_file_that_ends_early(run: Run, machine: Machine, tmp_path: Path) -> None:
    (tmp_path / "script").write_text("measure\n")
    machine.guest = FakeGuest(ends=12)
    ended = run("size", "--workload-file", tmp_path / "script")
    assert [script for _, script, _ in machine.asked] == ["measure\n"]
    assert "watched   12.0 s of 1 min: it ended by itself; reading" in ended.out


def test_a_workload_that_measures_nothing_has_an_answer(run: Run, machine: Machine) -> None:
    machine.guest = FakeGuest(measured=lambda _: 0)
    said = " ".join(run("size", "--workload=true", "--window=10s").out.split())
    assert "nothing was measured meanwhile: two markers are all that is known" in said
    assert "for which CONFIG_IMA_KEXEC_EXTRA_MEMORY_KB=0 is enough" in said
    assert "the most seen was 0 records and 0 bytes" in said


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ((), "lists, --workload and --workload-file: one of them is wanted, none was given"),
        (("list", "--workload=x"), "one of them is wanted, 2 were given"),
        (("--workload=x", "--workload-file=script"), "one of them is wanted, 2 were given"),
        (("--workload=x", "--at=1"), "--at is for lists in files"),
        (("list", "--keep=kept"), "--keep is for a guest"),
        (("list", "--policy=builtin"), "--policy is for a guest"),
        (("list", "--memory-mib=600"), "--memory-mib is for a guest"),
        (("--workload-file=none",), "where: --workload-file none"),
        (("--workload-file=latin",), "where: --workload-file latin"),
        (("--workload-file=script", "--json=script"), "where: --json script"),
        (("--workload=x", "--keep=kept", "--plot=kept/plot"), "would lie in the evidence folder"),
        (("--workload=x", "--arch=vax"), "no architecture 'vax'"),
        (("--workload=x", "--every=2m"), "every 120 s of 60 s"),
        (("--workload=x", "--duration=long"), "where: --duration long"),
        (("--workload=x", "--every=0"), "where: --every 0"),
        (("--workload=x", "--base=linux-6.1", "--kernel-tree=."), "cannot both be the kernel"),
    ],
)
def test_what_is_refused(
    run: Run,
    machine: Machine,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    arguments: tuple[str, ...],
    said: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "list").write_bytes(pack_records(BOOTED))
    (tmp_path / "script").write_text("true")
    (tmp_path / "latin").write_bytes(b"\xe9")
    ended = run("size", *arguments)
    assert (ended.code, ended.out, machine.asked) == (2, "", [])
    assert said in ended.err


@pytest.mark.parametrize("script", ["", " \n"])
def test_an_empty_workload_boots_nothing(run: Run, script: str) -> None:
    ended = run("size", f"--workload={script}")
    assert (ended.code, ended.out) == (2, "")
    assert "the workload is empty" in ended.err


def test_a_quiet_end_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    notes = Notes()
    workload._note_end(read(FakeGuest(ends=7.5)), Schedule(60, 5), notes)
    workload._note_end(read(FakeGuest()), Schedule(60, 5), notes)
    [note] = notes.said
    assert note.startswith("the workload ended by itself, with exit status 0, after 7.5 of 60 s")
    assert note.endswith("its last words: last words")
    assert capsys.readouterr().out == ""


class Notes(SilentProgress):
    def __init__(self) -> None:
        self.said: list[str] = []

    def note(self, text: str) -> None:
        self.said.append(text)
