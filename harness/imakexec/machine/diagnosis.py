# SPDX-License-Identifier: GPL-2.0-only
"""What a guest that has failed can still tell, asked for in the order that disturbs it least.

QEMU is asked first: it answers for a guest that does nothing any more. Then the kernel is, over its
serial line, which takes a CPU that handles interrupts. A non-maskable interrupt comes last, because
it ends a kernel that was told so (unknown_nmi_panic): it shows where a CPU is that handles none.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from imakexec.deadline import Deadline
from imakexec.errors import InfraError
from imakexec.machine.monitor import MonitorClosed
from imakexec.machine.symbols import Symbols

FOLDER = "diagnosis"
"""What the folder is called below a run's folder."""

MEMORY = "memory.elf"
"""The guest's memory, as an ELF core file of physical addresses."""

_ALL_SECONDS = 20.0
_COMMAND_SECONDS = 3.0
_ANSWER_SECONDS = 3.0
_DUMP_SECONDS = 120.0

# Documentation/admin-guide/sysrq.rst. Those that a healthy kernel answers in a few lines first.
_SYSRQ: Mapping[str, str] = {
    "l": "a backtrace of every CPU",
    "w": "the tasks that are blocked",
    "d": "the locks that are held",
    "t": "all tasks",
}
# x86 and arm64, as QEMU's "info registers" prints it.
_PROGRAM_COUNTER = re.compile(r"^(?:RIP=| ?PC=)([0-9a-f]{8,16})\b", re.MULTILINE)


class Patient(Protocol):
    """The machine, as far as it is asked."""

    def set_aside(self, log: Path) -> None:
        """Nothing that happens from now on belongs to the run; the guest's words go to `log`."""

    def ask(
        self, command: str, arguments: Mapping[str, object] | None = None, *, deadline: Deadline
    ) -> object:
        """Execute a QMP command; raises MonitorClosed or InfraError."""

    def drain_console(self, seconds: float) -> None:
        """Return when the guest says no more, at the latest after so many seconds."""

    @property
    def console_count(self) -> int:
        """How many lines the guest has said."""

    def press_sysrq(self, key: str, deadline: Deadline) -> None:
        """Send a break and a key over the serial line; raises MonitorClosed or InfraError."""


@dataclass
class Diagnosis:
    """What was asked, and what was said, in lines for people.

    Attributes:
        folder: where the files are.
        lines: one for each question.
        files: names of what was written, in the folder.
    """

    folder: Path
    lines: list[str] = field(default_factory=list)
    files: list[str] = field(default_factory=list)

    def write(self, name: str, text: str) -> None:
        """Keep a text as a file."""
        (self.folder / name).write_text(text, encoding="utf-8", errors="replace")
        self.files.append(name)


def diagnose(
    machine: Patient, folder: Path, *, symbols: Symbols | None, memory: bool = False
) -> Diagnosis:
    """Ask everything that can be asked; the machine is of no use afterwards.

    Never raises for what the guest, QEMU or the disk do: it explains another failure.

    Args:
        folder: is created.
        symbols: of the kernel that runs; None if nobody has them.
        memory: whether the guest's memory is dumped too.
    """
    found = Diagnosis(folder)
    deadline = Deadline.after(_ALL_SECONDS)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        machine.set_aside(folder / "console.log")
        found.files.append("console.log")
        for question in _questions(machine, found, symbols, memory=memory):
            question(deadline)
    except MonitorClosed:
        found.lines.append("QEMU has ended: there is nobody to ask any more")
    except InfraError as error:
        found.lines.append(f"QEMU does not answer: {error.what}")
    except OSError as error:
        found.lines.append(f"the answers cannot be written: {error}")
    try:
        found.write("summary.txt", "\n".join(found.lines) + "\n")
    except OSError:
        pass  # as above
    return found


def _questions(
    machine: Patient, found: Diagnosis, symbols: Symbols | None, *, memory: bool
) -> Iterator[Callable[[Deadline], None]]:
    asked = _Questions(machine, found, symbols)
    yield asked.status
    yield asked.registers
    if memory:
        yield asked.memory
    for key in _SYSRQ:
        yield lambda deadline, key=key: asked.sysrq(key, deadline)  # type: ignore[misc]
    yield asked.interrupt


@dataclass
class _Questions:
    """Each question, and what is made of its answer."""

    machine: Patient
    found: Diagnosis
    symbols: Symbols | None
    _is_deaf: bool = False

    def status(self, deadline: Deadline) -> None:
        answers = {
            command: self._ask(command, deadline)
            for command in ("query-status", "query-cpus-fast", "query-tpm")
        }
        self.found.write("qmp.json", json.dumps(answers, indent=2) + "\n")
        status = answers["query-status"]
        state = status.get("status") if isinstance(status, Mapping) else status
        self.found.lines.append(f"QEMU says that the guest is {state!r}")

    def registers(self, deadline: Deadline) -> None:
        command = {"command-line": "info registers -a"}
        text = str(self._ask("human-monitor-command", deadline, command))
        places = [int(word, 16) for word in _PROGRAM_COUNTER.findall(text)]
        names = [self._name(place) for place in places]
        heading = "".join(f"CPU {cpu} is at {name}\n" for cpu, name in enumerate(names))
        self.found.write("registers.txt", f"{heading}\n{text}")
        self.found.lines += heading.splitlines()

    def _name(self, address: int) -> str:
        name = self.symbols.name_of(address) if self.symbols is not None else ""
        return f"{address:#x} ({name})" if name else f"{address:#x}"

    def memory(self, _deadline: Deadline) -> None:
        file = self.found.folder / MEMORY
        arguments = {"paging": False, "protocol": f"file:{file}"}
        self.machine.ask("dump-guest-memory", arguments, deadline=Deadline.after(_DUMP_SECONDS))
        self.found.files.append(file.name)
        self.found.lines.append(f"the guest's memory: {file} ({file.stat().st_size >> 20} MiB)")

    def sysrq(self, key: str, deadline: Deadline) -> None:
        if self._is_deaf:
            return
        before = self.machine.console_count
        self.machine.press_sysrq(key, deadline.within(_COMMAND_SECONDS))
        self.machine.drain_console(min(_ANSWER_SECONDS, deadline.remaining))
        said = self.machine.console_count - before
        # What does not answer the first time handles no interrupts, or has no sysrq.
        self._is_deaf = not said
        answer = f"{said} lines" if said else "no answer: no CPU handles interrupts, or no sysrq"
        self.found.lines.append(f"sysrq {key}, {_SYSRQ[key]}: {answer}")

    def interrupt(self, deadline: Deadline) -> None:
        before = self.machine.console_count
        try:
            self._ask("inject-nmi", deadline)
        except InfraError as error:
            self.found.lines.append(f"non-maskable interrupt: {error.what}")
            return
        self.machine.drain_console(min(_ANSWER_SECONDS, deadline.remaining))
        said = self.machine.console_count - before
        self.found.lines.append(f"non-maskable interrupt: {said} lines")

    def _ask(
        self, command: str, deadline: Deadline, arguments: Mapping[str, object] | None = None
    ) -> object:
        return self.machine.ask(command, arguments, deadline=deadline.within(_COMMAND_SECONDS))
