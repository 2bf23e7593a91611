# SPDX-License-Identifier: GPL-2.0-only
from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

from imakexec.machine.host_load import HostLoad, read_waits


def threads(proc: Path, waits: dict[int, int]) -> None:
    for thread, nanoseconds in waits.items():
        folder = proc / "7" / "task" / str(thread)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "schedstat").write_text(f"1000 {nanoseconds} 3\n")


def test_what_the_scheduler_says_of_each_thread(tmp_path: Path) -> None:
    threads(tmp_path, {7: 250_000_000, 8: 0})
    waits = read_waits([7, 9], proc=tmp_path)
    assert sorted(waits.values()) == [0.0, 0.25]


def test_a_thread_that_ends_meanwhile_is_no_error(tmp_path: Path) -> None:
    threads(tmp_path, {7: 250_000_000})
    (tmp_path / "7" / "task" / "8").mkdir()
    (tmp_path / "7" / "task" / "8" / "schedstat").write_text("")
    assert list(read_waits([7], proc=tmp_path).values()) == [0.25]


def test_the_longest_wait_of_the_time_before_a_moment() -> None:
    """A process of ours that shares one CPU with another that never rests."""
    cpu = min(os.sched_getaffinity(0))
    program = f"import os\nos.sched_setaffinity(0, {{{cpu}}})\nwhile True: pass"
    busy = [subprocess.Popen([sys.executable, "-c", program]) for _ in range(3)]
    try:
        load = HostLoad(lambda: [child.pid for child in busy])
        time.sleep(0.5)  # until each has chosen its CPU
        load.look()
        began = time.monotonic()
        time.sleep(1.0)
        load.look()
        assert load.longest_before(time.monotonic()) > 0.2
        assert load.longest_before(began - 10) == 0.0
        assert load.longest_before(time.monotonic() + 60) == 0.0
    finally:
        for child in busy:
            child.kill()
            child.wait()


def test_processes_that_are_never_kept_waiting() -> None:
    sleeper = subprocess.Popen(["sleep", "60"])
    try:
        with HostLoad(lambda: [sleeper.pid]) as load:
            time.sleep(0.6)
        assert load.longest_before(time.monotonic()) < 0.2
    finally:
        sleeper.kill()
        sleeper.wait()
