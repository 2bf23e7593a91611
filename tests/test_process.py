# SPDX-License-Identifier: GPL-2.0-only
"""Children end with their parent, however that ends."""

from __future__ import annotations

import os
import secrets
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from imakexec import process
from imakexec.deadline import Deadline
from imakexec.errors import InfraError

# A parent with a scratch folder and a grandchild in the child's process group.
_PARENT = """
import sys, time
from pathlib import Path
from imakexec import process
process.remove_at_death(Path(sys.argv[1]))
with process.spawn(["/bin/sh", "-c", "sleep 300 & echo $$ $!; wait"]) as child:
    print(child.stdout.readline().decode(), end="", flush=True)
    time.sleep(300)
"""


def _soon() -> Deadline:
    return Deadline.after(20)


def _wait_until(condition: Callable[[], bool]) -> None:
    deadline = _soon()
    while not condition():
        assert not deadline.expired, "the condition did not come true in time"
        time.sleep(0.01)


def _alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state != "Z"


def test_output_and_exit_status_are_returned() -> None:
    done = process.run(
        ["/bin/sh", "-c", "echo out; echo err >&2; exit 3"], deadline=_soon(), check=False
    )
    assert done.returncode == 3
    assert done.output == "out\nerr\n"


def test_lines_and_log_come_as_the_child_writes_them(tmp_path: Path) -> None:
    lines: list[str] = []
    log = tmp_path / "log"
    process.run(["printf", "one\\ntwo"], deadline=_soon(), on_line=lines.append, log=log)
    assert lines == ["one", "two"]
    assert log.read_bytes() == b"one\ntwo"


def test_a_failure_shows_command_status_and_last_lines() -> None:
    with pytest.raises(InfraError) as caught:
        process.run(["/bin/sh", "-c", "echo reason; exit 7"], deadline=_soon(), remedy="do this")
    assert "exit status 7" in caught.value.what
    assert "echo reason" in caught.value.what
    assert caught.value.tail == "reason"
    assert caught.value.remedy == "do this"


def test_a_missing_program_is_named() -> None:
    with pytest.raises(InfraError, match="cannot start imakexec-no-such-program"):
        process.run(["imakexec-no-such-program"], deadline=_soon())


def test_the_deadline_ends_the_whole_group() -> None:
    pids: list[str] = []
    started = time.monotonic()
    with pytest.raises(InfraError, match="no end after"):
        process.run(
            ["/bin/sh", "-c", "sleep 300 & echo $!; wait"],
            deadline=Deadline.after(0.5),
            on_line=pids.append,
        )
    assert time.monotonic() - started < 10
    _wait_until(lambda: not _alive(int(pids[0])))


def test_a_child_that_closes_its_output_is_still_bound_by_the_deadline() -> None:
    with pytest.raises(InfraError, match="no end after"):
        process.run(
            ["/bin/sh", "-c", "exec >/dev/null 2>&1; exec sleep 300"], deadline=Deadline.after(0.5)
        )


def test_an_exception_in_the_block_ends_the_child() -> None:
    children: list[subprocess.Popen[bytes]] = []

    def fail() -> None:
        with process.spawn(["sleep", "300"]) as child:
            children.append(child)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fail()
    assert children[0].returncode == -signal.SIGKILL


def test_sigkill_of_the_parent_leaves_nothing(tmp_path: Path) -> None:
    scratch = tmp_path / "scratch with a space"
    scratch.mkdir()
    (scratch / "file").touch()
    parent = subprocess.Popen(
        [sys.executable, "-c", _PARENT, str(scratch)], stdout=subprocess.PIPE, text=True
    )
    assert parent.stdout is not None
    with parent.stdout:
        child, grandchild = map(int, parent.stdout.readline().split())
    assert _alive(child)
    assert _alive(grandchild)
    os.kill(parent.pid, signal.SIGKILL)
    parent.wait()
    _wait_until(lambda: not _alive(child) and not _alive(grandchild))
    _wait_until(lambda: not scratch.exists())


# The parent is killed in its fork, before it could tell anybody of the child.
_KILLED_IN_FORK = """
import os, signal, subprocess, sys
from imakexec import process
started = subprocess.Popen
def start(argv, **options):
    child = started(argv, **options)
    if argv[0] == "/bin/sh" and "sleep" in argv[-2]:
        os.kill(os.getpid(), signal.SIGKILL)
    return child
subprocess.Popen = start
with process.spawn(["sleep", sys.argv[1]]):
    pass
"""


def test_sigkill_in_the_moment_of_a_start_leaves_nothing() -> None:
    seconds = f"300.{secrets.randbits(64)}"  # nobody else sleeps for as long
    parent = subprocess.run([sys.executable, "-c", _KILLED_IN_FORK, seconds], check=False)
    assert parent.returncode == -signal.SIGKILL

    def sleepers() -> list[Path]:
        return [
            folder
            for folder in Path("/proc").glob("[0-9]*")
            if seconds.encode() in _command_line(folder)
        ]

    time.sleep(0.2)  # a child that nobody knows would sleep by now
    _wait_until(lambda: not sleepers())


def _command_line(folder: Path) -> bytes:
    try:
        return (folder / "cmdline").read_bytes()
    except OSError:
        return b""
