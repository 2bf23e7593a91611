# SPDX-License-Identifier: GPL-2.0-only
"""The guest agent itself, compiled for this host, and the library's `Guest` talking to it."""

from __future__ import annotations

import errno
import os
import socket
import struct
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from imakexec.arch import X86_64
from imakexec.deadline import Deadline
from imakexec.errors import GuestFailure, ImaKexecError, InfraError
from imakexec.kernel.guest_image import compile_agent
from imakexec.machine.channel import (
    CHUNK_MAX,
    MAGIC,
    REQUEST_MAX,
    Frame,
    FrameParser,
    Reply,
    Request,
)
from imakexec.machine.events import EventLog
from imakexec.machine.guest import BootInfo, Guest, GuestOSError

SOURCE = Path(__file__).parent.parent / "images" / "agent.c"


class QuietWatch:
    """A watch under which nobody dies."""

    def __init__(self) -> None:
        self._event = os.eventfd(0)

    def close(self) -> None:
        os.close(self._event)

    def fileno(self) -> int:
        return self._event

    def check(self) -> None:
        pass

    def remaining(self, deadline: Deadline) -> float:
        return deadline.remaining

    def timed_out(self, deadline: Deadline, *, doing: str) -> GuestFailure:
        return GuestFailure(f"{deadline.budget} s passed {doing}")

    def closed(self, what: str) -> ImaKexecError:
        return InfraError(f"{what} was closed")

    def explain(self, failure: GuestFailure) -> ImaKexecError:
        return failure


@dataclass
class Room:
    """A machine without a machine: an agent at the other end of a socket."""

    channel_socket: socket.socket
    watch: QuietWatch
    events: EventLog

    def raw_exchange(self, data: bytes) -> list[tuple[int, int]]:
        """Send bytes as they are; sequence and value of the END frames of the answer."""
        self.channel_socket.settimeout(5)
        self.channel_socket.sendall(data)
        parser = FrameParser()
        ends: list[tuple[int, int]] = []
        # The last thing sent is always answered: by it the test knows that all is there.
        self.channel_socket.sendall(Frame(Request.TPM_CLOSE, 999, b"").encode())
        while (999, 0) not in ends:
            for frame in parser.feed(self.channel_socket.recv(1 << 16)):
                if frame.type == Reply.END:
                    value = int.from_bytes(frame.payload, "big", signed=True)
                    ends.append((frame.sequence, value))
        return ends[:-1]


@pytest.fixture(scope="module")
def agent(tmp_path_factory: pytest.TempPathFactory) -> Path:
    program = tmp_path_factory.mktemp("agent") / "agent"
    compile_agent(SOURCE, program, Deadline.after(60), arch=X86_64)
    return program


@pytest.fixture
def room(agent: Path, tmp_path: Path) -> Iterator[Room]:
    """An agent whose TPM is a FIFO: it answers every command with the same bytes."""
    os.mkfifo(tmp_path / "tpm")
    ours, theirs = socket.socketpair()
    argv = [str(agent), str(theirs.fileno()), str(tmp_path / "tpm")]
    watch = QuietWatch()
    with ours, theirs, subprocess.Popen(argv, pass_fds=[theirs.fileno()]) as process:
        theirs.close()
        with EventLog(tmp_path / "events.jsonl", began=time.monotonic()) as events:
            yield Room(ours, watch, events)
        assert process.poll() is None, "the agent died"
        process.kill()
    watch.close()


@pytest.fixture
def guest(room: Room) -> Guest:
    guest = Guest(room)
    guest.wait_for_agent(soon(), token="")
    return guest


def soon() -> Deadline:
    return Deadline.after(10)


def request(kind: int, payload: bytes = b"") -> bytes:
    return Frame(kind, 1, payload).encode()


def test_hello_says_what_proc_says(room: Room) -> None:
    boot = Guest(room).wait_for_agent(soon(), token="")
    assert boot.boot_id == Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    assert boot.release == os.uname().release
    assert boot.banner == Path("/proc/version").read_text().strip()
    assert boot.cmdline == Path("/proc/cmdline").read_text().strip()
    assert boot.uptime == pytest.approx(time.clock_gettime(time.CLOCK_BOOTTIME), abs=10)


def test_hello_stands_behind_what_fills_up_the_longest_unfinished_frame(room: Room) -> None:
    padding = bytes(len(Frame(Reply.OUTPUT, 1, bytes(CHUNK_MAX)).encode()))
    room.channel_socket.settimeout(5)
    received = b""
    while MAGIC not in received:
        received += room.channel_socket.recv(1 << 16)
    assert received.startswith(padding + MAGIC)


def test_another_token_is_not_the_kernel_that_was_asked_for(room: Room) -> None:
    with pytest.raises(GuestFailure, match="not 'b7'"):
        Guest(room).wait_for_agent(soon(), token="b7")


def test_ping_names_the_same_boot(guest: Guest) -> None:
    assert guest.ping(soon()).boot_id == guest.ping(soon()).boot_id != ""


def test_outputs_and_status_are_separate(guest: Guest) -> None:
    result = guest.run(["sh", "-c", "echo out; echo err >&2; exit 3"], soon(), check=False)
    assert (result.code, result.stdout, result.stderr) == (3, b"out\n", b"err\n")


def test_a_failed_command_shows_what_it_said(guest: Guest) -> None:
    with pytest.raises(GuestFailure, match="exit status 3") as failure:
        guest.run(["sh", "-c", "echo out; echo err >&2; exit 3"], soon())
    assert failure.value.tail == "out\nerr\n"


def test_a_signal_is_told_from_a_status(guest: Guest) -> None:
    assert guest.run(["sh", "-c", "kill -KILL $$"], soon(), check=False).code == -9
    with pytest.raises(GuestFailure, match="killed by SIGKILL"):
        guest.run(["sh", "-c", "kill -KILL $$"], soon())


def test_stdin_of_any_size_comes_back(guest: Guest) -> None:
    data = os.urandom(900_000)
    assert guest.run(["cat"], soon(), stdin=data).stdout == data


def test_a_command_need_not_read_its_stdin(guest: Guest) -> None:
    assert guest.run(["true"], soon(), stdin=bytes(900_000)).code == 0


def test_a_broken_pipe_kills_the_command_and_not_the_agent(guest: Guest) -> None:
    result = guest.run(["sh", "-c", "yes | head -n 1"], soon())
    # Had it inherited the agent's ignored SIGPIPE, yes would complain instead.
    assert (result.stdout, result.stderr) == (b"y\n", b"")


def test_a_command_has_the_standard_descriptors_alone(guest: Guest) -> None:
    # The fourth is the folder that ls reads.
    assert guest.run(["ls", "/proc/self/fd"], soon()).stdout.split() == [b"0", b"1", b"2", b"3"]


def test_a_missing_program_is_an_error_of_its_own(guest: Guest) -> None:
    with pytest.raises(GuestOSError) as failure:
        guest.run(["no-such-program"], soon(), check=False)
    assert failure.value.errno == errno.ENOENT


def test_the_time_limit_kills_the_whole_group_and_keeps_the_output(
    guest: Guest, tmp_path: Path
) -> None:
    script = f"echo started; sleep 60 & echo $! >{tmp_path}/pid; wait"
    started = time.monotonic()
    with pytest.raises(GuestFailure, match="no end after") as failure:
        guest.run(["sh", "-c", script], Deadline.after(0.5))
    assert time.monotonic() - started < 5
    assert failure.value.tail == "started\n"
    assert not _is_running(int((tmp_path / "pid").read_text()))


def _is_running(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"


def test_a_process_left_in_the_background_is_not_waited_for(guest: Guest) -> None:
    started = time.monotonic()
    result = guest.run(["sh", "-c", "sleep 3 & echo done"], soon())
    assert result.stdout == b"done\n"
    assert time.monotonic() - started < 2


def test_a_command_that_returns_has_not_replaced_the_kernel(guest: Guest) -> None:
    with pytest.raises(GuestFailure, match="exit status 1") as failure:
        guest.replace_kernel(["sh", "-c", "echo no >&2; exit 1"], soon(), token="")
    assert failure.value.tail == "no\n"


def test_files_without_a_size_are_read_whole(guest: Guest) -> None:
    assert guest.read_file("/proc/version", soon()) == Path("/proc/version").read_bytes()


@pytest.mark.parametrize("size", [0, 1, 32 * 1024, 512 * 1024, 3_000_000])
def test_a_file_is_written_and_read_back(guest: Guest, tmp_path: Path, size: int) -> None:
    data = os.urandom(size)
    guest.write_file(str(tmp_path / "file"), b"what was there before" * size, soon())
    guest.write_file(str(tmp_path / "file"), data, soon())
    assert (tmp_path / "file").read_bytes() == data
    assert guest.read_file(str(tmp_path / "file"), soon()) == data


def test_a_new_file_has_the_mode(guest: Guest, tmp_path: Path) -> None:
    guest.write_file(str(tmp_path / "file"), b"#!/bin/sh\n", soon(), mode=0o700)
    assert (tmp_path / "file").stat().st_mode & 0o777 == 0o700


def test_a_refused_file_operation_names_its_errno(guest: Guest, tmp_path: Path) -> None:
    for call, number in (
        (lambda: guest.read_file("/no/such/file", soon()), errno.ENOENT),
        (lambda: guest.read_file(str(tmp_path), soon()), errno.EISDIR),
        (lambda: guest.write_file(str(tmp_path), b"", soon()), errno.EISDIR),
    ):
        with pytest.raises(GuestOSError, match=f"(?i){os.strerror(number)}") as failure:
            call()
        assert failure.value.errno == number


def test_tpm_commands_go_there_and_back(guest: Guest) -> None:
    assert guest.tpm(b"command", soon()) == b"command"
    guest.tpm_close(soon())
    assert guest.tpm(b"another", soon()) == b"another"


def test_a_guest_without_a_tpm_says_so(guest: Guest, tmp_path: Path) -> None:
    (tmp_path / "tpm").unlink()
    with pytest.raises(GuestFailure, match="the guest has no TPM: /dev/tpmrm0: No such file"):
        guest.tpm(b"command", soon())


def header(*, version: int = 1, length: int = 0, crc: int = 0) -> bytes:
    return struct.pack(">4sBBHIII", MAGIC, version, Request.HELLO, 0, 1, length, crc)


EXEC_NOTHING = struct.pack(">II", 1000, 0)
EXEC_TOO_MUCH = struct.pack(">II", 1000, 0xFFFFFFFF)
EXEC_CUT = struct.pack(">II", 1000, 2) + b"cat\0"
NO_NUL = b"/proc/version"


@pytest.mark.parametrize(
    ("data", "number"),
    [
        pytest.param(header(), errno.EBADMSG, id="wrong check sum"),
        pytest.param(header(version=2), errno.EPROTO, id="other version"),
        pytest.param(header(length=REQUEST_MAX + 1), errno.EMSGSIZE, id="too long"),
        pytest.param(header(length=0xFFFFFFFF), errno.EMSGSIZE, id="far too long"),
        pytest.param(request(0), errno.EOPNOTSUPP, id="unknown request"),
        pytest.param(request(Request.EXEC), errno.EINVAL, id="no payload"),
        pytest.param(request(Request.EXEC, EXEC_NOTHING), errno.E2BIG, id="no arguments"),
        pytest.param(request(Request.EXEC, EXEC_TOO_MUCH), errno.E2BIG, id="many arguments"),
        pytest.param(request(Request.EXEC, EXEC_CUT), errno.EINVAL, id="argument missing"),
        pytest.param(request(Request.READ, NO_NUL), errno.EINVAL, id="path without end"),
        pytest.param(request(Request.WRITE, bytes(8)), errno.EINVAL, id="path missing"),
    ],
)
def test_a_bad_request_is_answered_and_the_next_one_served(
    room: Room, data: bytes, number: int
) -> None:
    assert room.raw_exchange(data) == [(1, -number)]


def test_garbage_between_requests_is_skipped(room: Room) -> None:
    data = b"IMK" + request(0) + os.urandom(100).replace(MAGIC, b"") + MAGIC[:2] + request(0)
    assert room.raw_exchange(data) == [(1, -errno.EOPNOTSUPP)] * 2


def test_a_request_in_pieces_is_put_together(room: Room) -> None:
    data = request(Request.READ, b"/proc/version\0")
    for byte in data[:-1]:
        room.channel_socket.sendall(bytes([byte]))
    assert room.raw_exchange(data[-1:]) == [(1, 0)]


def test_the_last_token_counts() -> None:
    payload = b"id\n\0r\n\0v\n\0imakexec.token=a x=y imakexec.token=b\n\0001.5 3.0\n\0"
    assert BootInfo.parse(payload).token == "b"
    assert BootInfo.parse(payload).uptime == 1.5


@pytest.mark.parametrize("payload", [b"", b"id\0r\0v\0c\0", b"id\0r\0v\0c\0soon\0", bytes(5)])
def test_a_hello_that_is_none_is_refused(payload: bytes) -> None:
    with pytest.raises(GuestFailure, match="cannot be read"):
        BootInfo.parse(payload)
