# SPDX-License-Identifier: GPL-2.0-only
import os
import select
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from imakexec.deadline import Deadline
from imakexec.errors import GuestFailure, InfraError
from imakexec.machine.watch import Cause, Child, Expected, Sighting, Watch, describe_exit


class FakeConsole:
    """Says what it was told; `late` happens while it is drained."""

    path = Path("console.log")
    silent_for = 1.5

    def __init__(self) -> None:
        self.late: list[Sighting] = []
        self.watch: Watch | None = None

    def tail(self, lines: int = 40) -> str:
        return f"last {lines} lines"

    def drain(self, seconds: float) -> None:
        assert seconds > 0
        while self.late and self.watch is not None:
            self.watch.report(self.late.pop())


@pytest.fixture
def console() -> FakeConsole:
    return FakeConsole()


@pytest.fixture
def watch(console: FakeConsole) -> Iterator[Watch]:
    with Watch(console, lambda: "boot 0, running") as watched:
        console.watch = watched
        yield watched


def readable(watch: Watch) -> bool:
    return bool(select.select([watch], [], [], 0)[0])


def soon() -> Deadline:
    return Deadline.after(0.05)


def test_nothing_seen_is_nothing_raised(watch: Watch) -> None:
    watch.check()
    assert not readable(watch)


@pytest.mark.parametrize("cause", [cause for cause in Cause if not cause.is_host])
def test_what_the_guest_did_is_a_guest_failure(watch: Watch, cause: Cause) -> None:
    watch.report(Sighting(cause, "it happened"))
    assert readable(watch)
    with pytest.raises(GuestFailure, match=r"it happened \(boot 0, running\)") as caught:
        watch.check()
    assert caught.value.ending == cause
    assert caught.value.where == "console.log"
    assert caught.value.tail == "last 40 lines"


@pytest.mark.parametrize("cause", [cause for cause in Cause if cause.is_host])
def test_what_the_host_did_says_nothing_about_the_kernel(
    watch: Watch, cause: Cause, tmp_path: Path
) -> None:
    log = tmp_path / "qemu.log"
    log.write_text("qemu: out of memory\n")
    watch.report(Sighting(cause, "it died", log))
    with pytest.raises(InfraError, match="it died") as caught:
        watch.check()
    assert (caught.value.where, caught.value.tail) == (str(log), "qemu: out of memory")


PANIC_ENDS_ALL = [
    Sighting(Cause.QEMU_EXITED, "QEMU exited"),
    Sighting(Cause.RESET, "the guest reset"),
    Sighting(Cause.PANIC, "panic"),
    Sighting(Cause.SWTPM_EXITED, "swtpm exited"),
]


@pytest.mark.parametrize("first", range(4))
def test_one_death_seen_four_times_is_the_panic(watch: Watch, first: int) -> None:
    for sighting in PANIC_ENDS_ALL[first:] + PANIC_ENDS_ALL[:first]:
        watch.report(sighting)
    with pytest.raises(GuestFailure, match="panic"):
        watch.check()


def test_a_panic_that_arrives_while_the_console_drains_wins(
    watch: Watch, console: FakeConsole
) -> None:
    console.late = [Sighting(Cause.PANIC, "late panic")]
    watch.report(Sighting(Cause.QEMU_EXITED, "QEMU exited"))
    with pytest.raises(GuestFailure, match="late panic"):
        watch.check()


def test_a_killed_tpm_excuses_the_kernel_that_panics_for_it(watch: Watch) -> None:
    watch.report(Sighting(Cause.PANIC, "panic"))
    watch.report(Sighting(Cause.SWTPM_DIED, "swtpm was killed by SIGKILL"))
    with pytest.raises(InfraError, match="swtpm"):
        watch.check()


def test_a_tpm_that_ends_because_its_qemu_dies_is_not_the_cause(watch: Watch) -> None:
    watch.report(Sighting(Cause.SWTPM_EXITED, "swtpm exited"))
    threading.Timer(0.05, watch.report, [Sighting(Cause.QEMU_DIED, "QEMU was killed")]).start()
    with pytest.raises(InfraError, match="QEMU was killed"):
        watch.check()


def test_a_guest_that_dies_for_ever_is_noted_once(console: FakeConsole) -> None:
    noted: list[Sighting] = []
    with Watch(console, lambda: "boot 0, running", on_report=noted.append) as watch:
        with watch.expect(Expected.PANIC) as panic:
            for number in range(1000):
                watch.report(Sighting(Cause.PANIC, f"panic {number}"))
        for number in range(1000):
            watch.report(Sighting(Cause.OOPS, f"oops {number}"))
        with pytest.raises(GuestFailure, match="oops 0"):
            watch.check()
    assert [each.detail for each in panic.seen] == ["panic 0"]
    assert [each.detail for each in noted] == ["panic 0", "oops 0"]


def test_an_expected_power_off_and_its_late_exits_are_no_failure(watch: Watch) -> None:
    with watch.expect(Expected.POWER_OFF) as off:
        watch.report(Sighting(Cause.POWER_OFF, "off"))
        off.wait(soon())
    watch.report(Sighting(Cause.QEMU_EXITED, "QEMU exited"))
    watch.report(Sighting(Cause.SWTPM_EXITED, "swtpm exited"))
    watch.check()
    assert not readable(watch)


def test_an_expected_power_off_does_not_cover_a_panic(watch: Watch) -> None:
    with watch.expect(Expected.POWER_OFF) as off:
        watch.report(Sighting(Cause.PANIC, "panic"))
        with pytest.raises(GuestFailure, match="panic"):
            off.wait(soon())


def test_an_exit_alone_does_not_meet_an_expected_power_off(watch: Watch) -> None:
    with watch.expect(Expected.POWER_OFF) as off:
        watch.report(Sighting(Cause.QEMU_EXITED, "QEMU exited"))
        with pytest.raises(GuestFailure, match="waiting for a power-off"):
            off.wait(soon())


def test_an_expectation_ends_with_its_context(watch: Watch) -> None:
    with watch.expect(Expected.RESET):
        watch.report(Sighting(Cause.RESET, "expected"))
    watch.report(Sighting(Cause.RESET, "unexpected"))
    with pytest.raises(GuestFailure, match="unexpected"):
        watch.check()


def test_an_expected_panic_covers_all_that_follows_from_it(watch: Watch) -> None:
    with watch.expect(Expected.PANIC) as panic:
        for sighting in PANIC_ENDS_ALL:
            watch.report(sighting)
        panic.wait(soon())
    watch.check()


def test_an_expected_pause_excuses_no_end_after_it(watch: Watch) -> None:
    with watch.expect(Expected.PAUSE) as pause:
        watch.report(Sighting(Cause.QEMU_STOPPED, "QEMU stopped the guest"))
        pause.wait(soon())
        watch.check()
    watch.report(Sighting(Cause.QEMU_EXITED, "QEMU exited with status 0"))
    with pytest.raises(InfraError, match="QEMU exited"):
        watch.check()


def test_wait_until_is_woken_by_news_from_another_thread(watch: Watch) -> None:
    values: list[int] = []

    def later() -> None:
        time.sleep(0.05)
        values.append(7)
        watch.notice()

    thread = threading.Thread(target=later)
    thread.start()
    value = watch.wait_until(
        lambda: values[0] if values else None, Deadline.after(5), doing="waiting"
    )
    thread.join()
    assert value == 7


def test_a_hang_says_what_was_awaited_and_for_how_long(watch: Watch) -> None:
    with pytest.raises(GuestFailure, match=r"0.1 s passed waiting for Godot .*silent for 1.5 s"):
        watch.wait_until(lambda: None, soon(), doing="waiting for Godot")


def test_a_death_at_the_last_moment_explains_the_lateness(watch: Watch) -> None:
    deadline = soon()
    watch.report(Sighting(Cause.PANIC, "panic"))
    assert "panic" in str(watch.timed_out(deadline, doing="waiting"))


def test_an_end_of_file_is_explained_by_the_death_that_follows(watch: Watch) -> None:
    threading.Timer(0.05, watch.report, [Sighting(Cause.RESET, "guest reset")]).start()
    assert "guest reset" in str(watch.closed("the channel"))


def test_after_close_the_end_is_our_own(watch: Watch) -> None:
    watch.close()
    watch.report(Sighting(Cause.QEMU_DIED, "QEMU was killed by SIGKILL"))
    watch.check()


def child_ends(watch: Watch, command: list[str], *, killed: bool = False) -> None:
    process = subprocess.Popen(command)
    watch.add_child(Child(process, "QEMU", Path("none"), Cause.QEMU_DIED, Cause.QEMU_EXITED))
    if killed:
        process.kill()
    watch.wait_until(lambda: None, Deadline.after(5), doing="waiting for its exit")


@pytest.mark.parametrize(
    ("command", "killed", "message"),
    [
        (["true"], False, "QEMU exited with status 0"),
        (["false"], False, "QEMU exited with status 1"),
        (["sleep", "60"], True, "QEMU was killed by SIGKILL"),
    ],
)
def test_the_exit_of_a_child_is_noticed(
    watch: Watch, command: list[str], killed: bool, message: str
) -> None:
    with pytest.raises(InfraError, match=message):
        child_ends(watch, command, killed=killed)


def test_a_signal_without_a_name_is_a_number() -> None:
    assert describe_exit(-int(signal.SIGTERM)) == "was killed by SIGTERM"
    assert describe_exit(-40) == "was killed by signal 40"


@pytest.fixture
def sleeper() -> Iterator[subprocess.Popen[bytes]]:
    with subprocess.Popen(["sleep", "60"]) as process:
        yield process
        process.kill()


def qemu(process: subprocess.Popen[bytes], complaint: str = "") -> Child:
    log = Path("qemu.log")
    return Child(process, "QEMU", log, Cause.QEMU_DIED, Cause.QEMU_EXITED, lambda: complaint)


def test_a_failure_of_the_guest_shows_the_console(
    watch: Watch, sleeper: subprocess.Popen[bytes]
) -> None:
    watch.add_child(qemu(sleeper))
    failure = GuestFailure("a command failed", tail="its output")
    assert watch.explain(failure) is failure
    assert failure.where == "console.log"
    assert failure.tail == "its output\non the console:\nlast 40 lines"


def test_a_guest_whose_qemu_is_stopped_did_not_hang(
    watch: Watch, sleeper: subprocess.Popen[bytes]
) -> None:
    watch.add_child(qemu(sleeper))
    sleeper.send_signal(signal.SIGSTOP)
    os.waitpid(sleeper.pid, os.WUNTRACED)
    error = watch.timed_out(soon(), doing="waiting for Godot")
    assert isinstance(error, InfraError)
    assert f"QEMU (process {sleeper.pid}) is stopped" in error.what


def test_a_failure_of_the_guest_that_a_child_admits_is_the_child_s(
    watch: Watch, sleeper: subprocess.Popen[bytes]
) -> None:
    watch.add_child(qemu(sleeper, "the TPM gave up"))
    error = watch.explain(GuestFailure("the guest has no TPM"))
    assert isinstance(error, InfraError)
    assert error.what == "the TPM gave up (boot 0, running)"
    assert error.where == "qemu.log"


def test_a_failure_that_is_noticed_before_the_death_that_caused_it(
    watch: Watch, sleeper: subprocess.Popen[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    def notice_late(child: Child) -> None:
        threading.Timer(0.1, lambda: watch.report(child.sighting())).start()

    monkeypatch.setattr(watch._children, "add", notice_late)
    sleeper.kill()
    os.waitid(os.P_PID, sleeper.pid, os.WEXITED | os.WNOWAIT)
    watch.add_child(qemu(sleeper))
    error = watch.explain(GuestFailure("the TPM refused"))
    assert isinstance(error, InfraError)
    assert "QEMU was killed by SIGKILL" in error.what


def quiet() -> Deadline:
    """Ten seconds, but not in silence."""
    return Deadline.after(10.0, silence=0.05)


def test_a_guest_without_progress_is_late_before_its_time_is_up(watch: Watch) -> None:
    began = time.monotonic()
    with pytest.raises(GuestFailure, match=r"0\.1 s passed in silence waiting for it") as caught:
        watch.wait_until(lambda: None, quiet(), doing="waiting for it")
    assert caught.value.ending == Cause.NO_PROGRESS
    assert time.monotonic() - began < 5


def test_silence_before_the_wait_is_no_lack_of_progress(watch: Watch, console: FakeConsole) -> None:
    console.silent_for = 1000.0
    assert watch.remaining(Deadline.after(10.0, silence=5.0)) > 4


def test_a_guest_that_speaks_makes_progress(watch: Watch, console: FakeConsole) -> None:
    console.silent_for = 0.0
    with pytest.raises(GuestFailure, match="passed waiting for it") as caught:
        watch.wait_until(lambda: None, Deadline.after(0.2, silence=0.05), doing="waiting for it")
    assert caught.value.ending == Cause.OUT_OF_TIME


@pytest.mark.parametrize("deadline", [soon, quiet])
def test_a_kernel_that_never_comes_up_has_a_name(
    console: FakeConsole, deadline: Callable[[], Deadline]
) -> None:
    with (
        Watch(console, lambda: "boot 0, executing kexec", is_executing=lambda: True) as watch,
        pytest.raises(GuestFailure) as caught,
    ):
        watch.wait_until(lambda: None, deadline(), doing="waiting for it")
    assert caught.value.ending == Cause.NO_NEXT_KERNEL
