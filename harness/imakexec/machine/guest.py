# SPDX-License-Identifier: GPL-2.0-only
"""The guest as seen from outside: its commands, its files, its TPM."""

from __future__ import annotations

import os
import shlex
import signal
import socket
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from errno import ENODEV, ENOENT, ENXIO, ETIMEDOUT
from pathlib import PurePosixPath
from typing import Protocol, Self

from imakexec.deadline import Deadline
from imakexec.errors import GuestFailure, ImaKexecError
from imakexec.machine.channel import REQUEST_MAX, Answer, Channel, Request, Wakeup
from imakexec.strict_json import shortened

TOKEN_PARAMETER = "imakexec.token"
"""The kernel parameter whose random value tells one boot's command line from another's."""

SHELL_PARAMETER = "imakexec.shell"
"""The kernel parameter that makes `/init` offer a shell on the named console."""

POLICY_PARAMETER = "imakexec.policy"
"""The kernel parameter that makes `/init` load the IMA policy in the named file."""

_NUMBER = struct.Struct(">I")
_SHOWN = 2000  # characters of a word and of an output, among the events
_SIGNALLED = 256  # END value of EXEC: this plus the signal's number (agent.c)
_WRITE_MAX = REQUEST_MAX // 2  # leaves room for the path


class GuestOSError(GuestFailure):
    """The guest's kernel refused an operation.

    Attributes:
        errno: as in the guest, for instance `errno.ENOENT`.
    """

    def __init__(self, doing: str, errno: int) -> None:
        super().__init__(
            f"{doing} failed in the guest: {os.strerror(errno)}",
            remedy="read the console of that time for the kernel's own message",
        )
        self.errno = errno


@dataclass(frozen=True)
class BootInfo:
    """What the agent of a fresh kernel says of it, read from /proc.

    Attributes:
        boot_id: /proc/sys/kernel/random/boot_id, new with every kernel.
        release: `uname -r`.
        banner: /proc/version, the "Linux version ..." line.
        cmdline: the kernel command line.
        uptime: seconds since this kernel started.
    """

    boot_id: str
    release: str
    banner: str
    cmdline: str
    uptime: float

    @property
    def token(self) -> str:
        """The value of the last `imakexec.token=` on the command line, "" without one."""
        words = (word.partition("=") for word in self.cmdline.split())
        return ([""] + [value for name, _, value in words if name == TOKEN_PARAMETER])[-1]

    @classmethod
    def parse(cls, payload: bytes) -> Self:
        """Read the payload of a HELLO (format: agent.c).

        Raises:
            GuestFailure: it is not what an agent sends.
        """
        fields = payload.decode(errors="replace").split("\0")
        try:
            boot_id, release, banner, cmdline, uptime, _ = (field.strip() for field in fields)
            return cls(boot_id, release, banner, cmdline, float(uptime.split()[0]))
        except (ValueError, IndexError) as error:
            raise GuestFailure(
                f"the guest agent's HELLO cannot be read: {payload[:200]!r}",
                remedy="rebuild the guest image: its agent may be of another version",
            ) from error


@dataclass(frozen=True)
class Result:
    """How a command in the guest ended.

    Attributes:
        argv: the command.
        code: exit status, negative for the number of the signal that killed it.
        stdout: what it wrote to its standard output.
        stderr: what it wrote to its standard error.
    """

    argv: tuple[str, ...]
    code: int
    stdout: bytes
    stderr: bytes

    @property
    def text(self) -> str:
        """Both outputs, for people."""
        return (self.stdout + self.stderr).decode(errors="replace")


class Events(Protocol):
    """What the guest asks of the machine's `EventLog`."""

    def add(self, event: str, **members: object) -> None:
        """Write one event."""


class GuestMachine(Protocol):
    """What the guest asks of the machine that it runs on."""

    @property
    def channel_socket(self) -> socket.socket:
        """The host's end of the virtio-serial port "imakexec.agent"."""

    @property
    def watch(self) -> Wakeup:
        """Where the machine's death is learned."""

    @property
    def events(self) -> Events:
        """Where what is done to it is written."""


class Guest:
    """The guest of a running machine, over all its kernels.

    Every method takes a deadline and raises `GuestFailure` when it passes or the guest dies, and
    `InfraError` when the host fails first.
    """

    def __init__(self, machine: GuestMachine) -> None:
        self._watch = machine.watch
        self._events = machine.events
        self._channel = Channel(machine.channel_socket, machine.watch)

    def wait_for_agent(self, deadline: Deadline, *, token: str) -> BootInfo:
        """Wait until a kernel with `token` on its command line has brought its agent up.

        Raises:
            GuestFailure: another token: this is not the kernel that was asked for.
        """
        return self._greet(self._channel.wait_for_hello(deadline), token)

    def run(
        self, argv: Sequence[str], deadline: Deadline, *, check: bool = True, stdin: bytes = b""
    ) -> Result:
        """Run a command to its end; it is searched for in the guest's PATH.

        Args:
            check: whether an end other than exit status 0 is an error.
            stdin: its standard input, below 1 MiB.

        Raises:
            GuestOSError: it cannot be started.
            GuestFailure: it was still running when the time was up (its output is in the
                message; the agent has killed it), or (with `check`) it failed.
        """
        command = shlex.join(argv)
        self._events.add("command", argv=[shortened(word, _SHOWN) for word in argv])
        request = _exec_request(argv, stdin, deadline)
        answer = self._call(
            Request.EXEC, request, deadline, doing=f"running {command}", allow=(ETIMEDOUT,)
        )
        result = _result(argv, answer)
        self._events.add("result", code=result.code, output=shortened(result.text, _SHOWN))
        if answer.value == -ETIMEDOUT:
            raise self._watch.explain(
                GuestFailure(
                    f"no end after {deadline.budget:.0f} s in the guest: {command}",
                    remedy="the command hangs, or a loaded host needs more time",
                    tail=result.text,
                )
            )
        if check and result.code != 0:
            raise self._watch.explain(_command_failed(result))
        return result

    def replace_kernel(self, argv: Sequence[str], deadline: Deadline, *, token: str) -> BootInfo:
        """Run a command that must not return, such as `kexec -e`, and greet the next kernel.

        Raises:
            GuestFailure: the command returned, or the next kernel has another token.
        """
        self._events.add("command", argv=[shortened(word, _SHOWN) for word in argv])
        answer = self._channel.call_or_hello(
            Request.EXEC,
            _exec_request(argv, b"", deadline),
            deadline,
            doing=f"waiting for the kernel that {shlex.join(argv)} starts",
        )
        if isinstance(answer, Answer):
            raise self._watch.explain(_command_failed(_result(argv, answer)))
        return self._greet(answer, token)

    def read_file(self, path: str | PurePosixPath, deadline: Deadline) -> bytes:
        """A whole file, also of a file system that does not tell sizes (proc, securityfs).

        Raises:
            GuestOSError: it cannot be opened or read.
        """
        return self._call(
            Request.READ, _string(str(path)), deadline, doing=f"reading {path}"
        ).output

    def write_file(
        self, path: str | PurePosixPath, data: bytes, deadline: Deadline, *, mode: int = 0o644
    ) -> None:
        """Write a whole file, replacing what was there.

        Up to 512 KiB are one open() and one write(), as the files of securityfs want it.

        Args:
            mode: permissions of a new file, below the agent's umask.

        Raises:
            GuestOSError: it cannot be opened or written.
        """
        for start in range(0, max(len(data), 1), _WRITE_MAX):
            header = _NUMBER.pack(mode) + _NUMBER.pack(start > 0) + _string(str(path))
            chunk = data[start : start + _WRITE_MAX]
            self._call(Request.WRITE, header + chunk, deadline, doing=f"writing {path}")

    def tpm(self, command: bytes, deadline: Deadline) -> bytes:
        """Send one TPM command through the guest's /dev/tpmrm0 and return the response.

        The device stays open from one command to the next, and transient objects with it.

        Raises:
            GuestFailure: the guest has no TPM.
            GuestOSError: its driver failed.
        """
        absent = (ENOENT, ENXIO, ENODEV)
        answer = self._call(Request.TPM, command, deadline, doing="using /dev/tpmrm0", allow=absent)
        if -answer.value in absent:
            raise self._watch.explain(
                GuestFailure(
                    f"the guest has no TPM: /dev/tpmrm0: {os.strerror(-answer.value)}",
                    remedy="look for 'tpm' on the console: the kernel needs CONFIG_TCG_TPM and "
                    "the driver of the machine's TPM",
                )
            )
        return answer.output

    def tpm_close(self, deadline: Deadline) -> None:
        """Close /dev/tpmrm0, which flushes the objects; the next command opens it again."""
        self._call(Request.TPM_CLOSE, b"", deadline, doing="closing /dev/tpmrm0")

    def ping(self, deadline: Deadline) -> BootInfo:
        """Ask the agent to introduce itself again: same kernel, new uptime."""
        answer = self._call(Request.HELLO, b"", deadline, doing="asking the agent for its boot")
        return BootInfo.parse(answer.output)

    def explain(self, failure: GuestFailure) -> ImaKexecError:
        """What to raise for a failure that was noticed above this class (see `Watch.explain`)."""
        return self._watch.explain(failure)

    def wait_for_shell(self, deadline: Deadline) -> None:
        """Wait until the shell that `imakexec.shell=` offered was left by its user."""
        self.run(["cat", "/run/shell.ended"], deadline)

    def _call(
        self,
        request: Request,
        payload: bytes,
        deadline: Deadline,
        *,
        doing: str,
        allow: tuple[int, ...] = (),
    ) -> Answer:
        """Call the agent; a negative value raises unless its errno is allowed."""
        answer = self._channel.call(request, payload, deadline, doing=doing)
        if answer.value < 0 and -answer.value not in allow:
            raise self._watch.explain(GuestOSError(doing, -answer.value))
        return answer

    def _greet(self, hello: bytes, token: str) -> BootInfo:
        """Who says hello; it must be the kernel that has the token."""
        boot = BootInfo.parse(hello)
        if boot.token != token:
            raise self._watch.explain(
                GuestFailure(
                    f"a kernel came up with {TOKEN_PARAMETER}={boot.token!r}, not {token!r}",
                    where=f"its command line: {boot.cmdline}",
                    remedy="read the console: another kernel than the one asked for was started",
                )
            )
        return boot


def _string(text: str) -> bytes:
    return text.encode() + b"\0"


def _exec_request(argv: Sequence[str], stdin: bytes, deadline: Deadline) -> bytes:
    # The agent gives up a little earlier, so that what the command wrote still arrives.
    limit = deadline.remaining - min(1.0, deadline.remaining / 5)
    words = b"".join(_string(word) for word in argv)
    return _NUMBER.pack(int(limit * 1000)) + _NUMBER.pack(len(argv)) + words + stdin


def _result(argv: Sequence[str], answer: Answer) -> Result:
    code = answer.value
    if code > _SIGNALLED:
        code = _SIGNALLED - code
    return Result(tuple(argv), code, answer.output, answer.errors)


def _command_failed(result: Result) -> GuestFailure:
    if result.code < 0:
        how = f"was killed by {signal.Signals(-result.code).name}"
    else:
        how = f"ended with exit status {result.code}"
    return GuestFailure(
        f"a command {how} in the guest: {shlex.join(result.argv)}",
        remedy="see its output, and the console of that time",
        tail=result.text,
    )
