# SPDX-License-Identifier: GPL-2.0-only
"""What is asked of a guest that has failed, and what is made of the answers."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from imakexec.deadline import Deadline
from imakexec.errors import InfraError
from imakexec.machine.diagnosis import diagnose
from imakexec.machine.monitor import MonitorClosed
from imakexec.machine.symbols import Symbols

SYMBOLS = Symbols((0xFFFFFFFF81000000, 0xFFFFFFFF81000100), ("spin", "_etext"))
REGISTERS = """
CPU#0
RAX=0000000000000000 RBX=ffffffff81000000
RIP=ffffffff81000010 RFL=00000202
CPU#1
RIP=0000000000401000 RFL=00000202
"""


class Guest:
    """A machine whose answers the test gives."""

    def __init__(self) -> None:
        self.console_count = 7
        self.hears = True
        self.asked: list[str] = []
        self.trouble: Mapping[str, Exception] = {}
        self.log: Path | None = None

    def set_aside(self, log: Path) -> None:
        self.log = log
        log.write_text("")

    def ask(
        self, command: str, arguments: Mapping[str, object] | None = None, *, deadline: Deadline
    ) -> object:
        assert deadline.remaining > 0
        self.asked.append(command)
        if command in self.trouble:
            raise self.trouble[command]
        if command == "query-status":
            return {"status": "running"}
        if command == "human-monitor-command":
            assert arguments == {"command-line": "info registers -a"}
            return REGISTERS
        if command == "dump-guest-memory":
            assert arguments is not None
            Path(str(arguments["protocol"]).removeprefix("file:")).write_bytes(bytes(1 << 20))
        if command == "inject-nmi":
            self.console_count += 30
        return {}

    def drain_console(self, seconds: float) -> None:
        assert seconds > 0

    def press_sysrq(self, key: str, deadline: Deadline) -> None:
        assert deadline.remaining > 0
        self.asked.append(f"sysrq {key}")
        self.console_count += 10 if self.hears else 0


@pytest.fixture
def guest() -> Guest:
    return Guest()


def test_everything_is_asked_and_the_interrupt_last(guest: Guest, tmp_path: Path) -> None:
    found = diagnose(guest, tmp_path / "d", symbols=SYMBOLS)
    assert guest.asked[0] == "query-status"
    assert guest.asked[-5:] == ["sysrq l", "sysrq w", "sysrq d", "sysrq t", "inject-nmi"]
    assert "CPU 0 is at 0xffffffff81000010 (spin+0x10/0x100)" in found.lines
    assert "CPU 1 is at 0x401000" in found.lines
    assert "sysrq l, a backtrace of every CPU: 10 lines" in found.lines
    assert found.lines[-1] == "non-maskable interrupt: 30 lines"
    for name in ("summary.txt", "registers.txt", "qmp.json", "console.log"):
        assert (tmp_path / "d" / name).is_file()
        assert name in found.files
    assert (tmp_path / "d" / "summary.txt").read_text().splitlines() == found.lines
    assert "RIP=ffffffff81000010" in (tmp_path / "d" / "registers.txt").read_text()
    status = json.loads((tmp_path / "d" / "qmp.json").read_text())["query-status"]
    assert status == {"status": "running"}


def test_without_symbols_there_are_addresses(guest: Guest, tmp_path: Path) -> None:
    found = diagnose(guest, tmp_path, symbols=None)
    assert "CPU 0 is at 0xffffffff81000010" in found.lines


def test_a_guest_that_hears_no_sysrq_is_not_asked_four_times(guest: Guest, tmp_path: Path) -> None:
    guest.hears = False
    found = diagnose(guest, tmp_path, symbols=None)
    assert [word for word in guest.asked if word.startswith("sysrq")] == ["sysrq l"]
    assert any("no answer" in line for line in found.lines)
    assert "inject-nmi" in guest.asked


def test_memory_is_dumped_only_if_asked_for_and_before_the_interrupt(
    guest: Guest, tmp_path: Path
) -> None:
    diagnose(guest, tmp_path / "without", symbols=None)
    assert "dump-guest-memory" not in guest.asked
    guest.asked.clear()
    found = diagnose(guest, tmp_path / "with", symbols=None, memory=True)
    assert guest.asked.index("dump-guest-memory") < guest.asked.index("sysrq l")
    assert "memory.elf" in found.files
    assert any("(1 MiB)" in line for line in found.lines)


def closed() -> Exception:
    return MonitorClosed("query-status")


def mute() -> Exception:
    return InfraError("no answer within 3 s")


@pytest.mark.parametrize(
    ("trouble", "what"),
    [(closed, "QEMU has ended"), (mute, "QEMU does not answer: no answer within 3 s")],
)
def test_a_qemu_that_tells_nothing_is_no_error(
    guest: Guest, tmp_path: Path, trouble: Callable[[], Exception], what: str
) -> None:
    guest.trouble = {"query-status": trouble()}
    found = diagnose(guest, tmp_path, symbols=None)
    assert what in found.lines[-1]
    assert guest.asked == ["query-status"]
    assert what in (tmp_path / "summary.txt").read_text()


def test_a_board_without_such_an_interrupt(guest: Guest, tmp_path: Path) -> None:
    guest.trouble = {"inject-nmi": InfraError("QEMU refused: not supported")}
    found = diagnose(guest, tmp_path, symbols=None)
    assert found.lines[-1] == "non-maskable interrupt: QEMU refused: not supported"


def test_a_folder_that_cannot_be_written_is_no_error(guest: Guest, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    found = diagnose(guest, tmp_path / "file" / "d", symbols=None)
    assert "cannot be written" in found.lines[-1]
