# SPDX-License-Identifier: GPL-2.0-only
import gc
import itertools
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from io import FileIO
from pathlib import Path

import pytest

from imakexec.machine import console as console_module
from imakexec.machine.console import Console, ConsoleLine, console_pipe


@contextmanager
def console(folder: Path) -> Iterator[tuple[Console, FileIO, list[ConsoleLine]]]:
    ours, guest = console_pipe()
    seen: list[ConsoleLine] = []
    watched = Console(ours, folder / "console.log")
    watched.start(seen.append, lambda _error: None)
    with guest:
        yield watched, guest, seen
    watched.close()


def test_every_byte_is_logged_with_its_time(tmp_path: Path) -> None:
    with console(tmp_path) as (_, guest, seen):
        guest.write(b"one\r\ntwo\xff\r\n\r\nno newline")
    assert [line.text for line in seen] == ["one", "two\\xff", "", "no newline"]
    assert [line.number for line in seen] == [0, 1, 2, 3]
    logged = (tmp_path / "console.log").read_text().splitlines()
    assert [line[12:] for line in logged] == ["one", "two\\xff", "", "no newline"]
    assert all(0 <= float(line[:11]) < 10 for line in logged)


def logged(path: Path) -> list[str]:
    return [line[12:] for line in path.read_text().splitlines()]


FIRST = "[    0.000000] Linux version 6.1.0 (a@b) #1"
SECOND = "[    0.000000] Linux version 6.12.0 (a@b) #1"


def test_each_boot_has_a_log_of_its_own(tmp_path: Path) -> None:
    said = ["SeaBIOS", FIRST, "one", SECOND, "two"]
    with console(tmp_path) as (_, guest, _):
        guest.write("".join(f"{line}\n" for line in said).encode())
    assert logged(tmp_path / "console.log") == said
    assert logged(tmp_path / "console-0.log") == said[:3]
    assert logged(tmp_path / "console-1.log") == said[3:]
    assert not (tmp_path / "console-2.log").exists()


def test_a_guest_that_prints_banners_fills_no_folder(tmp_path: Path) -> None:
    with console(tmp_path) as (_, guest, _):
        guest.write(f"{FIRST}\n".encode() * 300)
    assert len(list(tmp_path.glob("console-*.log"))) == 100
    assert len(logged(tmp_path / "console-99.log")) == 201


def test_what_is_said_to_a_diagnosis_is_no_part_of_the_run(tmp_path: Path) -> None:
    with console(tmp_path) as (watched, guest, _):
        guest.write(b"before\n")
        watched.drain(5)
        watched.divert(tmp_path / "other.log")
        guest.write(f"after\n{SECOND}\n".encode())
    assert logged(tmp_path / "console.log") == ["before"]
    assert logged(tmp_path / "console-0.log") == ["before"]
    assert logged(tmp_path / "other.log") == ["after", SECOND]


def test_a_console_that_has_ended_can_still_be_diverted(tmp_path: Path) -> None:
    with console(tmp_path) as (watched, guest, _):
        guest.write(b"before\n")
        guest.close()
        watched.drain(5)
        time.sleep(0.1)
        watched.divert(tmp_path / "other.log")
        gc.collect()  # a file that was left open is a warning, and an error here
    assert logged(tmp_path / "console.log") == ["before"]
    assert logged(tmp_path / "other.log") == []


def test_a_line_cut_into_pieces_is_one_line(tmp_path: Path) -> None:
    with console(tmp_path) as (watched, guest, seen):
        guest.write(b"[    1.000000] Kernel pan")
        watched.drain(0.3)
        guest.write(b"ic - not syncing: x\n")
    assert [line.pattern.name for line in seen if line.pattern] == ["panic"]


def test_a_line_without_end_is_cut(tmp_path: Path) -> None:
    with console(tmp_path) as (_, guest, seen):
        guest.write(b"x" * 10000 + b"\n")
    assert [len(line.text) for line in seen] == [4096, 4096, 1808]


def test_a_megabyte_takes_no_quadratic_time(tmp_path: Path) -> None:
    began = time.monotonic()
    with console(tmp_path) as (watched, guest, _):
        guest.write((b"x" * 79 + b"\n") * 12500)
    assert watched.count == 12500
    assert time.monotonic() - began < 10


# VmHWM, because the ru_maxrss of a process begins with that of the one that it was forked from.
_FLOOD = """
import re, sys
from pathlib import Path
from imakexec.machine.console import Console, console_pipe

ours, guest = console_pipe()
seen = 0

def count(_line):
    global seen
    seen += 1

def peak_kib():
    [kib] = re.findall(r"^VmHWM:\\s+(\\d+) kB$", Path("/proc/self/status").read_text(), re.M)
    return int(kib)

watched = Console(ours, Path(sys.argv[1]))
watched.start(count, lambda _error: None)
block = eval(sys.argv[2])
guest.write(block)
watched.drain(5)
before = peak_kib()
for _ in range(int(sys.argv[3]) * 1000_000 // len(block) - 1):
    guest.write(block)
guest.write(b"[    1.000000] BUG: unable to handle page fault\\nlast words")
guest.close()
watched.close()
print(seen, peak_kib() - before)
"""


@pytest.mark.parametrize(
    ("block", "megabytes", "lines"),
    [
        ("(b'x' * 999 + b'\\n') * 1000", 100, 100_000),
        ("b'x' * 999_424", 20, 20 * 244),
        ("bytes(range(128, 256)) * 8000", 20, 19 * 250),
    ],
    ids=["lines", "no newline", "garbage"],
)
def test_a_flood_takes_neither_memory_nor_disk(
    tmp_path: Path, block: str, megabytes: int, lines: int
) -> None:
    command = [sys.executable, "-c", _FLOOD, str(tmp_path / "console.log"), block, str(megabytes)]
    told = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout
    seen, grown_kib = map(int, told.split())
    assert seen == lines + 2
    assert grown_kib < 32 << 10
    for name in ("console.log", "console-0.log"):
        path = tmp_path / name
        assert path.stat().st_size < 20 << 20
        said = logged(path)
        assert [*said[-2:]] == ["[    1.000000] BUG: unable to handle page fault", "last words"]
        [left_out] = [line for line in said if "lines are left out here" in line]
        assert left_out == f"imakexec: {lines + 3 - len(said)} lines are left out here"


def test_lines_without_text_take_room_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(console_module, "_MOST_BYTES", 1300)
    monkeypatch.setattr(console_module, "_LAST_LINES", 2)
    with console(tmp_path) as (_, guest, _):
        guest.write(b"\n" * 1000)
    assert len(logged(tmp_path / "console.log")) == 100 + 1 + 2


def test_each_boot_has_room_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(console_module, "_MOST_BYTES", 260)
    monkeypatch.setattr(console_module, "_LAST_LINES", 2)
    with console(tmp_path) as (_, guest, _):
        guest.write(f"{FIRST}\n".encode() + b"x" * 100 + b"\n" + b"y" * 100 + b"\n1\n2\n3\n4\n")
        guest.write(f"{SECOND}\nafter\n".encode())
    first = logged(tmp_path / "console-0.log")
    assert [line[:1] for line in first[:3]] == ["[", "x", "y"]
    assert first[3:] == ["imakexec: 2 lines are left out here", "3", "4"]
    assert logged(tmp_path / "console-1.log") == [SECOND, "after"]


def test_a_diagnosis_has_room_and_cuts_nothing_unsaid(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(console_module, "_MOST_BYTES", 20)
    monkeypatch.setattr(console_module, "_LAST_LINES", 1)
    with console(tmp_path) as (watched, guest, _):
        guest.write(b"a flood\n" * 5)
        watched.drain(5)
        watched.divert(tmp_path / "other.log")
        guest.write(b"after\n")
    left_out = "imakexec: 3 lines are left out here"
    assert logged(tmp_path / "console.log") == ["a flood", left_out, "a flood"]
    assert logged(tmp_path / "other.log") == ["after"]


def test_a_guest_that_complains_for_ever_is_cut_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(console_module, "_MOST_BYTES", 10)
    monkeypatch.setattr(console_module, "_MOST_COMPLAINTS", 3)
    monkeypatch.setattr(console_module, "_LAST_LINES", 2)
    with console(tmp_path) as (_, guest, _):
        guest.write(b"x" * 20 + b"\nharmless\n" + b"[    1.000000] BUG: a\n" * 10)
    left_out = "imakexec: {} lines are left out here".format
    complaint = "[    1.000000] BUG: a"
    assert logged(tmp_path / "console.log") == [
        *("x" * 20, left_out(1), *[complaint] * 3),
        *(left_out(5), *[complaint] * 2),
    ]


GARBAGE = bytes(range(256)) * 4 + b"\x1b[2J\x1b]0;title\x07" + "\u2028\u0085".encode() + b"\n"


def test_garbage_is_kept_as_text_of_one_line_each(tmp_path: Path) -> None:
    with console(tmp_path) as (_, guest, seen):
        guest.write(GARBAGE + b"[    1.000000] Kernel panic - not syncing: x\n")
    text = (tmp_path / "console.log").read_text()
    assert text.splitlines() == text.split("\n")[:-1] == [str(line) for line in seen]
    assert all(letter.isprintable() or letter == "\t" for line in seen for letter in line.text)
    assert seen[-1].pattern is not None
    assert seen[-1].pattern.name == "panic"


def test_the_tail_is_kept(tmp_path: Path) -> None:
    with console(tmp_path) as (watched, guest, _):
        guest.write(b"a\nA\nb\nc\n")
    assert [line[12:] for line in watched.tail(2).splitlines()] == ["b", "c"]
    assert [line.text for line in watched.lines(since=2)] == ["b", "c"]


def test_drain_returns_at_the_end_of_file(tmp_path: Path) -> None:
    with console(tmp_path) as (watched, guest, _):
        guest.close()
        began = time.monotonic()
        watched.drain(5)
        watched.drain(5)
        assert time.monotonic() - began < 1


def test_a_burst_of_single_bytes_waits_for_its_reader(tmp_path: Path) -> None:
    text = b"".join(b"[    0.%06d] a line of the kernel\n" % number for number in range(1000))
    ours, guest = console_pipe()
    os.set_blocking(guest.fileno(), False)
    assert sum(guest.write(text[i : i + 1]) or 0 for i in range(len(text))) == len(text)
    watched = Console(ours, tmp_path / "console.log")
    seen: list[ConsoleLine] = []
    watched.start(seen.append, lambda _error: None)
    guest.close()
    watched.close()
    assert "".join(f"{line.text}\n" for line in seen).encode() == text


def test_an_end_that_stays_open_is_left_alone(tmp_path: Path) -> None:
    with console(tmp_path) as (watched, guest, seen):
        guest.write(b"no newline")
        watched.drain(1)
        began = time.monotonic()
        watched.close()
        assert time.monotonic() - began < 2
    assert [line.text for line in seen] == ["no newline"]


def test_a_clock_that_is_set_back_keeps_nobody_waiting(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = itertools.count(start=time.time(), step=-3600)
    with console(tmp_path) as (watched, guest, seen):
        monkeypatch.setattr(time, "time", lambda: next(clock))
        guest.write(b"no newline")
        watched.drain(1)
        closing = threading.Thread(target=watched.close, daemon=True)
        closing.start()
        closing.join(5)
        assert not closing.is_alive()
    assert [line.text for line in seen] == ["no newline"]


def test_an_end_that_writes_for_ever_is_left_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("imakexec.machine.console._LAST_WORDS_SECONDS", 0.2)
    ours, guest = console_pipe()
    watched = Console(ours, tmp_path / "console.log")
    watched.start(lambda _line: None, lambda _error: None)
    with subprocess.Popen(["yes"], stdout=guest) as flood:
        watched.drain(0.5)
        closing = threading.Thread(target=watched.close, daemon=True)
        closing.start()
        closing.join(5)
        stopped = not closing.is_alive()
        flood.kill()
    guest.close()
    assert stopped


def test_a_full_disk_is_reported(tmp_path: Path) -> None:
    ours, guest = console_pipe()
    (tmp_path / "console.log").symlink_to("/dev/full")
    failures: list[OSError] = []
    watched = Console(ours, tmp_path / "console.log")
    watched.start(lambda _line: None, failures.append)
    with guest:
        guest.write(b"line\n")
        watched.drain(2)
    watched.close()
    assert [failure.strerror for failure in failures] == ["No space left on device"]
