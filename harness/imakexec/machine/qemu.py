# SPDX-License-Identifier: GPL-2.0-only
"""One virtual machine: QEMU, its TPM, its console, its monitor, and what watches over them.

Every connection is a socket pair made here and inherited by QEMU: no path, no port and no name
that two runs could share, and no moment at which one side is not there yet.
"""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import termios
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from io import FileIO
from pathlib import Path
from types import TracebackType
from typing import Self

from imakexec import process
from imakexec.arch import Arch
from imakexec.deadline import Deadline
from imakexec.errors import InfraError
from imakexec.machine.accelerator import Accelerator
from imakexec.machine.complaint import Pattern, Severity, find_stage
from imakexec.machine.console import Console, ConsoleLine, console_pipe
from imakexec.machine.epoch import BootEpoch, Epochs, Phase, UnexpectedReset
from imakexec.machine.events import FILE as EVENTS
from imakexec.machine.events import EventLog
from imakexec.machine.host_load import HostLoad
from imakexec.machine.monitor import Event, Monitor, MonitorClosed
from imakexec.machine.swtpm import Swtpm, require_swtpm, start_swtpm, swtpm_argv
from imakexec.machine.watch import Cause, Child, Expected, Sighting, Watch

CHANNEL_NAME = "imakexec.agent"
"""The virtio-serial port that the agent opens: /dev/virtio-ports/imakexec.agent in the guest."""

_CONSOLE_SET = 1
_KEYS_SET = 2
_COMMAND_SECONDS = 10.0
_QUIT_SECONDS = 2.0
_MOST_COMPLAINTS = 1000
"""That are noted as events."""


@dataclass(frozen=True)
class MachineConfig:
    """What to run.

    Attributes:
        kernel: the bootable image.
        initrd: the guest's initramfs; None boots none.
        cmdline: the kernel command line, as given.
        banks: the TPM's PCR banks.
        shell: connect the guest's shell console to our own terminal.
        tpm: whether there is a TPM at all.
        token: the random word in `cmdline` that identifies the first boot, if there is one.
        ram: a file that is the guest's memory, byte for byte by physical address, for who wants to
            look at it or damage it; made by QEMU. None for anonymous memory.
        uefi: boot from UEFI firmware instead of the board's default.
    """

    arch: Arch
    kernel: Path
    initrd: Path | None
    cmdline: str
    accelerator: Accelerator
    memory_mib: int = 512
    cpus: int = 1
    banks: tuple[str, ...] = ("sha1", "sha256")
    shell: bool = False
    tpm: bool = True
    token: str | None = None
    ram: Path | None = None
    uefi: bool = False


@dataclass(frozen=True)
class Descriptors:
    """The sockets QEMU inherits, as its command line names them."""

    console: str
    keys: str
    channel: str
    monitor: str
    tpm: str


# ChardevBackend of qapi/char.json. QEMU 7.2 takes a file to read from by QMP only.
_CONSOLE_WITH_KEYS: Mapping[str, object] = {
    "id": "console",
    "backend": {
        "type": "file",
        "data": {
            "out": f"/dev/fdset/{_CONSOLE_SET}",
            "append": True,
            "in": f"/dev/fdset/{_KEYS_SET}",
        },
    },
}

PLACEHOLDERS = Descriptors(
    console="CONSOLE", keys="KEYS", channel="CHANNEL", monitor="MONITOR", tpm="TPM"
)
"""Stand in for descriptors in a command line that is only shown."""


def qemu_argv(config: MachineConfig, descriptors: Descriptors) -> tuple[str, ...]:
    """QEMU's command line.

    The guest waits (`-S`) for the monitor's `cont`, so that nothing it says is lost. `-no-reboot`
    turns a reset into an end that the watch sees; it does not disturb a kexec.
    """
    # fmt: off
    argv = [
        config.arch.qemu,
        *config.arch.machine,
        "-accel", config.accelerator.value,
        "-m", str(config.memory_mib),
        "-smp", str(config.cpus),
        "-nodefaults", "-no-user-config", "-display", "none",
        "-no-reboot", "-S",
        "-kernel", str(config.kernel),
        "-append", config.cmdline,
        "-add-fd", f"fd={descriptors.console},set={_CONSOLE_SET}",
        "-add-fd", f"fd={descriptors.keys},set={_KEYS_SET}",
        "-chardev", f"file,id=console,path=/dev/fdset/{_CONSOLE_SET},append=on",
        "-serial", "chardev:console",
        "-chardev", f"socket,id=monitor,fd={descriptors.monitor}",
        "-mon", "chardev=monitor,mode=control",
        "-device", "virtio-serial-pci",
        "-chardev", f"socket,id=channel,fd={descriptors.channel}",
        "-device", f"virtserialport,chardev=channel,name={CHANNEL_NAME}",
    ]
    if config.initrd is not None:
        argv += ["-initrd", str(config.initrd)]
    if config.uefi:
        argv += ["-bios", str(config.arch.uefi.image)]
    if config.ram is not None:
        argv += [
            "-object", f"memory-backend-file,id=ram,size={config.memory_mib}M,share=on,"
                       f"mem-path={config.ram}",
            "-machine", "memory-backend=ram",
        ]
    if config.shell:
        argv += ["-chardev", "stdio,id=shell,signal=off", *config.arch.shell_device]
    if config.tpm:
        argv += [
            "-chardev", f"socket,id=tpm,fd={descriptors.tpm}",
            "-tpmdev", "emulator,id=tpm0,chardev=tpm",
            "-device", f"{config.arch.tpm_device},tpmdev=tpm0",
        ]
    # fmt: on
    return tuple(argv)


def require_programs(arch: Arch) -> None:
    """Find out, before anything takes long, whether a machine could be started at all.

    Raises:
        InfraError: QEMU or swtpm is missing.
    """
    if shutil.which(arch.qemu) is None:
        raise InfraError(
            f"there is no {arch.qemu} on this host",
            where="PATH",
            remedy=arch.set_up,
        )
    require_swtpm()


def require_uefi(arch: Arch) -> None:
    """Find out the same of a machine that boots from UEFI firmware.

    Raises:
        InfraError: there is no such firmware.
    """
    if not arch.uefi.image.is_file():
        raise InfraError(
            "there is no UEFI firmware for the guest on this host",
            where=str(arch.uefi.image),
            remedy=f"as root: apt-get install --no-install-recommends {arch.uefi.package}",
        )


def command_lines(config: MachineConfig) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The command lines of QEMU and of swtpm (empty without a TPM), with `PLACEHOLDERS`."""
    swtpm = swtpm_argv("STATE", PLACEHOLDERS.tpm, "swtpm.log") if config.tpm else ()
    return qemu_argv(config, PLACEHOLDERS), swtpm


class Machine:
    """A machine that runs for as long as its context lasts.

    Args:
        config: what to run.
        run_dir: an existing folder for console.log, qemu.log and swtpm.log, which stay there.
        templates: folder in which TPM templates are kept between runs.
        on_line: called with every console line, in the console's thread, to show it.

    Attributes:
        config, run_dir: as given.
        epochs: which kernel runs.
        events: what has happened to it.
        console: the evidence console.
        watch: where every wait on this machine ends.
        qmp: QEMU's monitor.
        channel_socket: our end of the agent's virtio-serial port.
        on_stage: called in the console's thread when a boot comes a step further, to show it.
        load: how long the host keeps it waiting.
        excuse: how that explains what the guest says; empty if it does not.
        argv: QEMU's command line.
        swtpm: the TPM, None without one.

    Raises (on entering):
        UserError: an unknown PCR bank.
        InfraError: QEMU or swtpm is missing or does not start.
    """

    epochs: Epochs
    events: EventLog
    console: Console
    watch: Watch
    qmp: Monitor
    channel_socket: socket.socket
    argv: tuple[str, ...]
    swtpm: Swtpm | None

    def __init__(
        self,
        config: MachineConfig,
        run_dir: Path,
        *,
        templates: Path,
        on_line: Callable[[ConsoleLine], None] | None = None,
    ) -> None:
        self.config = config
        self.run_dir = run_dir
        self._templates = templates
        self._on_line = on_line
        self._stack = ExitStack()
        self._process: subprocess.Popen[bytes]
        self._keys: FileIO
        self.load = HostLoad(self._pids)
        self.on_stage: Callable[[str], None] | None = None
        self.excuse = ""
        self._has_keys = False
        self._complaints = 0

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            self._start(stack)
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stack.close()

    def _pids(self) -> list[int]:
        swtpm = [] if self.swtpm is None else [self.swtpm.process.pid]
        return [self._process.pid, *swtpm]

    @property
    def pid(self) -> int:
        """QEMU's process id."""
        return self._process.pid

    def wait_for_kernel(self, deadline: Deadline) -> BootEpoch:
        """Wait for the banner of the kernel that is due to start, and return its epoch.

        Raises:
            GuestFailure: it did not start in time, or something fatal happened.
            InfraError: the host failed.
        """
        return self.watch.wait_until(self._running_epoch, deadline, doing="waiting for a banner")

    def system_reset(self, deadline: Deadline) -> BootEpoch:
        """Reset the machine and its TPM, as the reset button does, and return the new epoch.

        The same kernel boots again with the same command line.

        Raises:
            GuestFailure, InfraError: see `Watch.check`.
        """
        self.epochs.resetting()
        self.execute("set-action", {"reboot": "reset"})
        # SeaBIOS, when it starts for the second time, resets the machine once more.
        with self.watch.expect(Expected.RESET) as reset:
            self.execute("system_reset")
            reset.wait(deadline)
            epoch = self.wait_for_kernel(deadline)
        self.execute("set-action", {"reboot": "shutdown"})
        return epoch

    @contextmanager
    def paused(self, deadline: Deadline) -> Iterator[None]:
        """Stop the guest's CPUs while the context lasts, for who wants to work on its memory.

        Raises:
            GuestFailure, InfraError: see `Watch.check`.
        """
        with self.watch.expect(Expected.PAUSE) as pause:
            self.execute("stop")
            pause.wait(deadline)
        yield
        self.execute("cont")

    # For `diagnose`, which looks after the watch has judged: nothing here asks it.

    def set_aside(self, log: Path) -> None:
        """Have nothing that happens from now on belong to the run; the guest's words go to `log`.

        Raises:
            OSError: the file cannot be created.
        """
        self.watch.close()
        self.events.add("set aside", console=log)
        self.console.divert(log)

    def ask(
        self, command: str, arguments: Mapping[str, object] | None = None, *, deadline: Deadline
    ) -> object:
        """Execute a QMP command on a machine that was set aside.

        Raises:
            MonitorClosed: QEMU has ended.
            InfraError: it refused, or gave no answer in time.
        """
        return self.qmp.execute(command, arguments, deadline=deadline)

    def drain_console(self, seconds: float) -> None:
        """Return when the guest says no more, at the latest after so many seconds."""
        self.console.drain(seconds)

    @property
    def console_count(self) -> int:
        """How many lines the guest has said."""
        return self.console.count

    def press_sysrq(self, key: str, deadline: Deadline) -> None:
        """Send a break and a key over the serial line.

        Raises:
            MonitorClosed: QEMU has ended.
            InfraError: it refused, or gave no answer in time.
        """
        if not self._has_keys:
            # Only now: nothing is ever typed at the console of a run.
            self.ask("chardev-change", _CONSOLE_WITH_KEYS, deadline=deadline)
            self._has_keys = True
        self.ask("chardev-send-break", {"id": "console"}, deadline=deadline)
        self._keys.write(key.encode())

    def registers(self) -> str:
        """The registers of the first CPU, for people, or to be compared."""
        return str(self.execute("human-monitor-command", {"command-line": "info registers"}))

    def quit(self, deadline: Deadline) -> None:
        """Switch the machine off at once and wait until QEMU has ended.

        Raises:
            GuestFailure, InfraError: something else ended it first.
        """
        with self.watch.expect(Expected.POWER_OFF) as off:
            self.execute("quit")
            off.wait(deadline)

    def execute(self, command: str, arguments: Mapping[str, object] | None = None) -> object:
        """Execute a QMP command.

        Raises:
            GuestFailure: the guest ended, and QEMU with it.
            InfraError: QEMU died, refused, or gave no answer in time.
        """
        try:
            return self.qmp.execute(command, arguments, deadline=Deadline.after(_COMMAND_SECONDS))
        except MonitorClosed:
            raise self.watch.closed("QEMU's monitor") from None

    def _start(self, stack: ExitStack) -> None:
        began = time.monotonic()
        self.events = stack.enter_context(EventLog(self.run_dir / EVENTS, began=began))
        self.epochs = Epochs(self.config.token, on_change=self._note_epoch)
        self.swtpm = self._start_swtpm(stack)
        console, console_end = map(stack.enter_context, console_pipe())
        keys_end, self._keys = _pipe(stack)
        monitor, monitor_end = _pair(stack)
        self.channel_socket, channel_end = _pair(stack)
        tpm_end = None if self.swtpm is None else self.swtpm.connection
        ends = Ends(console_end, keys_end, channel_end, monitor_end, tpm_end)

        self.console = Console(console, self.run_dir / "console.log", began=began)
        self.watch = stack.enter_context(
            Watch(
                self.console,
                self.epochs.describe,
                is_executing=lambda: self.epochs.phase is Phase.EXECUTING,
                on_report=self._note_sighting,
                excuse=lambda: self.excuse,
            )
        )
        # The console is closed after QEMU has ended, so that its log holds the last words.
        stack.callback(self.console.close)
        self.console.start(self._take_line, self._console_failed)
        self.qmp = stack.enter_context(Monitor(monitor, self._take_event))
        self._launch(stack, ends)
        self._watch_children()
        stack.enter_context(self.load)
        self.execute("cont")

    def _start_swtpm(self, stack: ExitStack) -> Swtpm | None:
        if not self.config.tpm:
            return None
        log = self.run_dir / "swtpm.log"
        return stack.enter_context(
            start_swtpm(self.config.banks, templates=self._templates, log=log)
        )

    def _launch(self, stack: ExitStack, ends: Ends) -> None:
        """Start QEMU; afterwards it alone holds its ends, so that its death is an end of file."""
        self.argv = qemu_argv(self.config, ends.descriptors())
        self._process = stack.enter_context(
            _spawn_qemu(self.argv, ends, self.run_dir / "qemu.log", terminal=self.config.shell)
        )
        stack.callback(self._switch_off)
        ends.close()

    def _watch_children(self) -> None:
        self.watch.add_drain(self.qmp.drain)
        log = self.run_dir / "qemu.log"
        qemu = Child(self._process, "QEMU", log, Cause.QEMU_DIED, Cause.QEMU_EXITED)
        self.watch.add_child(qemu)
        if self.swtpm is not None:
            self.watch.add_child(
                Child(
                    self.swtpm.process,
                    "swtpm",
                    self.swtpm.log,
                    Cause.SWTPM_DIED,
                    Cause.SWTPM_EXITED,
                    self.swtpm.complaint,
                )
            )

    def _switch_off(self) -> None:
        """End QEMU softly; what this does not end, `process.spawn` kills."""
        self.watch.close()
        try:
            self.qmp.execute("quit", deadline=Deadline.after(_QUIT_SECONDS))
            self._process.wait(_QUIT_SECONDS)
        except (MonitorClosed, InfraError, subprocess.TimeoutExpired):
            pass

    def _running_epoch(self) -> BootEpoch | None:
        due = self.epochs.phase in (Phase.COLD, Phase.EXECUTING)
        return None if due else self.epochs.current

    # What the observing threads call.

    def _take_line(self, line: ConsoleLine) -> None:
        if self._on_line is not None:
            self._on_line(line)
        stage = find_stage(line.text) if self.on_stage is not None else ""
        if stage and self.on_stage is not None:
            self.on_stage(stage)
        if line.banner is not None:
            self._take_banner(line.banner)
        if line.pattern is not None:
            self._note_complaint(line.pattern, line.text)
        if line.pattern is not None and line.pattern.severity is Severity.FATAL:
            cause = Cause.PANIC if line.pattern.is_panic else Cause.OOPS
            self.watch.report(Sighting(cause, f"{line.pattern.name} in the guest: {line.text}"))
        self.watch.notice()

    def _note_complaint(self, pattern: Pattern, text: str) -> None:
        self._complaints += 1
        if self._complaints > _MOST_COMPLAINTS:  # a guest may complain for ever
            return
        waited = self.load.longest_before(time.monotonic())
        self.events.add("complaint", name=pattern.name, line=text, waited=round(waited, 3))
        if pattern.host_seconds and waited >= pattern.host_seconds:
            self.excuse = (
                f"this host has kept QEMU or swtpm waiting for a CPU, for {waited:.2f} s within "
                f"half a second, and a kernel gives its TPM {pattern.host_seconds} s: {text}"
            )

    def _take_banner(self, banner: str) -> None:
        try:
            self.epochs.banner_seen(banner)
        except UnexpectedReset as reset:
            self.watch.report(Sighting(Cause.UNEXPECTED_BANNER, reset.what))

    def _console_failed(self, error: OSError) -> None:
        refused = InfraError.refused("the console cannot be recorded", error, self.console.path)
        self.watch.report(Sighting(Cause.CONSOLE_LOST, refused.what, self.console.path))

    def _note_epoch(self, epoch: BootEpoch, phase: Phase) -> None:
        self.events.add("phase", boot=epoch.number, phase=phase)

    def _note_sighting(self, sighting: Sighting) -> None:
        self.events.add("sighting", cause=sighting.cause, detail=sighting.detail)

    def _take_event(self, event: Event) -> None:
        self.events.add("qmp", name=event["event"], data=event.get("data"))
        sighting = read_event(event, qemu_log=self.run_dir / "qemu.log")
        if sighting is not None:
            self.watch.report(sighting)
        self.watch.notice()


# QMP event and its reason (ShutdownCause, qapi/run-state.json).
_ENDS: Mapping[tuple[object, object], tuple[Cause, str]] = {
    ("SHUTDOWN", "guest-shutdown"): (Cause.POWER_OFF, "the guest powered off by itself"),
    ("SHUTDOWN", "host-qmp-quit"): (Cause.POWER_OFF, "QEMU was told to quit"),
    ("SHUTDOWN", "host-signal"): (Cause.QEMU_DIED, "QEMU was ended by a signal"),
    ("SHUTDOWN", "guest-panic"): (Cause.CRASHED, "the guest told QEMU that it crashed"),
    ("GUEST_PANICKED", None): (Cause.CRASHED, "the guest told QEMU that it crashed"),
    ("STOP", None): (Cause.QEMU_STOPPED, "QEMU stopped the guest"),
}


def read_event(event: Event, *, qemu_log: Path) -> Sighting | None:
    """What a QMP event says about the end of the machine; None if nothing."""
    name = event["event"]
    data = event.get("data")
    reason = data.get("reason") if isinstance(data, Mapping) else None
    end = _ENDS.get((name, reason))
    if end is not None:
        return Sighting(*end, qemu_log if end[0].is_host else None)
    if name in ("SHUTDOWN", "RESET"):
        return Sighting(Cause.RESET, f"the guest reset without a kexec ({reason})")
    return None


@dataclass(frozen=True)
class Ends:
    """QEMU's ends of its connections."""

    console: FileIO
    keys: FileIO
    channel: socket.socket
    monitor: socket.socket
    tpm: socket.socket | None

    def all(self) -> tuple[FileIO | socket.socket, ...]:
        """Those that there are."""
        tpm = () if self.tpm is None else (self.tpm,)
        return (self.console, self.keys, self.channel, self.monitor, *tpm)

    def descriptors(self) -> Descriptors:
        """Their numbers, for the command line."""
        return Descriptors(
            console=str(self.console.fileno()),
            keys=str(self.keys.fileno()),
            channel=str(self.channel.fileno()),
            monitor=str(self.monitor.fileno()),
            tpm="" if self.tpm is None else str(self.tpm.fileno()),
        )

    def close(self) -> None:
        """Close our copies."""
        for end in self.all():
            end.close()


def _pipe(stack: ExitStack) -> tuple[FileIO, FileIO]:
    """QEMU's end, to read from, and ours."""
    read, write = os.pipe()
    return stack.enter_context(FileIO(read, "r")), stack.enter_context(FileIO(write, "w"))


def _pair(stack: ExitStack) -> tuple[socket.socket, socket.socket]:
    """Our end and QEMU's end of one connection."""
    ours, theirs = socket.socketpair()
    return stack.enter_context(ours), stack.enter_context(theirs)


@contextmanager
def _spawn_qemu(
    argv: Sequence[str], ends: Ends, log: Path, *, terminal: bool
) -> Iterator[subprocess.Popen[bytes]]:
    """Run QEMU; with `terminal`, our own one is the guest's shell console meanwhile."""
    fds = [end.fileno() for end in ends.all()]
    with log.open("wb") as output, ExitStack() as stack:
        if terminal:
            stack.enter_context(_terminal_restored())
        child = process.spawn(
            argv,
            stdin=sys.stdin.fileno() if terminal else subprocess.DEVNULL,
            stdout=sys.stdout.fileno() if terminal else output,
            stderr=output,
            pass_fds=fds,
        )
        yield stack.enter_context(child)


@contextmanager
def _terminal_restored() -> Iterator[None]:
    """Give the terminal back as it was: a killed QEMU leaves it raw."""
    if not sys.stdin.isatty():
        yield
        return
    saved = termios.tcgetattr(sys.stdin)
    try:
        yield
    finally:
        termios.tcsetattr(sys.stdin, termios.TCSADRAIN, saved)
