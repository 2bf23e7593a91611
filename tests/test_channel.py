# SPDX-License-Identifier: GPL-2.0-only
"""The wire to the agent, against a peer that is told what to send."""

from __future__ import annotations

import os
import socket
import struct
import threading
from collections.abc import Iterator
from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from imakexec.deadline import Deadline
from imakexec.errors import GuestFailure, ImaKexecError, InfraError
from imakexec.machine.channel import (
    CHUNK_MAX,
    MAGIC,
    REQUEST_MAX,
    Channel,
    Frame,
    FrameParser,
    Reply,
    Request,
)

HELLO = Frame(Reply.HELLO, 0, b"a new kernel")
PADDING = bytes(20 + CHUNK_MAX)


class Watch:
    """A watch that sees what the test tells it."""

    def __init__(self) -> None:
        self._event = os.eventfd(0)
        self._death: ImaKexecError | None = None

    def die(self, death: ImaKexecError) -> None:
        self._death = death
        os.eventfd_write(self._event, 1)

    def close(self) -> None:
        os.close(self._event)

    def fileno(self) -> int:
        return self._event

    def check(self) -> None:
        if self._death is not None:
            raise self._death

    def remaining(self, deadline: Deadline) -> float:
        return deadline.remaining

    def timed_out(self, deadline: Deadline, *, doing: str) -> GuestFailure:
        return GuestFailure(f"{deadline.budget} s passed {doing}")

    def closed(self, what: str) -> ImaKexecError:
        return InfraError(f"{what} was closed")

    def explain(self, failure: GuestFailure) -> ImaKexecError:
        return failure


@dataclass
class Wire:
    """A channel, and the other end of its socket."""

    channel: Channel
    peer: socket.socket
    watch: Watch

    def send(self, *frames: Frame) -> None:
        self.peer.sendall(b"".join(frame.encode() for frame in frames))

    def ping(self, seconds: float = 5.0) -> bytes:
        deadline = Deadline.after(seconds)
        return self.channel.call(Request.HELLO, b"", deadline, doing="pinging").output


@pytest.fixture
def wire() -> Iterator[Wire]:
    ours, theirs = socket.socketpair()
    watch = Watch()
    with ours, theirs:
        yield Wire(Channel(ours, watch), theirs, watch)
    watch.close()


def end(sequence: int, value: int = 0) -> Frame:
    return Frame(Reply.END, sequence, value.to_bytes(4, "big", signed=True))


def parse(data: bytes) -> list[Frame]:
    return list(FrameParser().feed(data))


def test_a_frame_has_the_documented_bytes() -> None:
    assert Frame(Request.READ, 7, b"/x\0").encode() == bytes.fromhex(
        "494d4b58 01 03 0000 00000007 00000003 5afe8b33 2f7800"
    )


frames = st.builds(Frame, st.integers(0, 255), st.integers(0, 2**32 - 1), st.binary(max_size=64))


@given(st.lists(frames), st.integers(1, 50))
def test_split_frames_are_put_together(sent: list[Frame], size: int) -> None:
    data = b"".join(frame.encode() for frame in sent)
    parser = FrameParser()
    got = [
        frame
        for start in range(0, len(data), size)
        for frame in parser.feed(data[start : start + size])
    ]
    assert got == sent


@given(st.binary(max_size=100), frames)
def test_garbage_before_a_frame_is_skipped(garbage: bytes, frame: Frame) -> None:
    # Behind garbage that looks like a header the frame shows when its payload would be full.
    assert frame in parse(garbage + frame.encode() + PADDING)


@given(st.data())
def test_an_unfinished_frame_is_exposed_by_the_padding_before_hello(data: st.DataObject) -> None:
    stale = Frame(Reply.OUTPUT, 3, bytes(CHUNK_MAX)).encode()
    cut = data.draw(st.integers(0, len(stale) - 1))
    got = parse(stale[:cut] + PADDING + HELLO.encode())
    # Zeros can complete a frame that was cut in its zeros: it is the true one then.
    assert got in ([HELLO], [Frame(Reply.OUTPUT, 3, bytes(CHUNK_MAX)), HELLO])


def test_a_changed_byte_makes_no_frame() -> None:
    sound = end(1, -2).encode()
    for position in range(len(sound)):
        broken = bytearray(sound)
        broken[position] ^= 1
        assert parse(bytes(broken) + PADDING) == []


def test_a_frame_inside_a_broken_one_is_found() -> None:
    outer = bytearray(Frame(Reply.OUTPUT, 1, HELLO.encode()).encode())
    outer[-1] ^= 1  # the inner one's last byte, which is followed by a sound copy
    assert parse(bytes(outer) + HELLO.encode()) == [HELLO]


def test_a_length_that_no_agent_sends_is_not_waited_for() -> None:
    header = struct.pack(">4sBBHIII", MAGIC, 1, Reply.OUTPUT, 0, 1, CHUNK_MAX + 1, 0)
    assert parse(header + HELLO.encode()) == [HELLO]


def test_an_answer_is_all_frames_up_to_the_end(wire: Wire) -> None:
    wire.send(
        Frame(Reply.OUTPUT, 1, b"out"),
        Frame(Reply.ERRORS, 1, b"err"),
        Frame(Reply.OUTPUT, 1, b"put"),
        end(1, -5),
    )
    answer = wire.channel.call(Request.READ, b"/\0", Deadline.after(5), doing="reading")
    assert (answer.value, answer.output, answer.errors) == (-5, b"output", b"err")
    assert parse(wire.peer.recv(100)) == [Frame(Request.READ, 1, b"/\0")]


def test_answers_to_older_requests_are_not_taken(wire: Wire) -> None:
    with pytest.raises(GuestFailure, match="passed pinging"):
        wire.ping(seconds=0.01)
    wire.send(Frame(Reply.OUTPUT, 1, b"late"), end(1), Frame(Reply.OUTPUT, 2, b"now"), end(2))
    assert wire.ping() == b"now"


def test_frames_of_unknown_types_are_ignored(wire: Wire) -> None:
    wire.send(Frame(0x99, 1, b"?"), end(1))
    assert wire.ping() == b""


def test_a_hello_during_a_call_is_a_restarted_guest(wire: Wire) -> None:
    wire.send(HELLO)
    with pytest.raises(GuestFailure, match="another kernel started while pinging"):
        wire.ping()


def test_a_hello_is_the_answer_to_kexec(wire: Wire) -> None:
    wire.send(Frame(Reply.OUTPUT, 1, b"kexec says"))
    wire.peer.sendall(end(1, -5).encode()[:-1] + PADDING)
    wire.send(HELLO)
    answer = wire.channel.call_or_hello(Request.EXEC, b"", Deadline.after(5), doing="executing")
    assert answer == HELLO.payload


def test_hello_is_found_behind_the_last_kernels_frames(wire: Wire) -> None:
    wire.send(end(1), HELLO)
    assert wire.channel.wait_for_hello(Deadline.after(5)) == HELLO.payload


def test_the_guests_death_ends_a_wait_long_before_the_deadline(wire: Wire) -> None:
    timer = threading.Timer(0.05, wire.watch.die, [GuestFailure("kernel panic")])
    timer.start()
    deadline = Deadline.after(30)
    with pytest.raises(GuestFailure, match="kernel panic"):
        wire.channel.wait_for_hello(deadline)
    timer.join()
    assert deadline.remaining > 25


def test_the_guests_death_ends_a_send_that_nobody_takes(wire: Wire) -> None:
    wire.watch.die(GuestFailure("kernel panic"))
    with pytest.raises(GuestFailure, match="kernel panic"):
        wire.channel.call(Request.WRITE, bytes(REQUEST_MAX), Deadline.after(30), doing="writing")


def test_a_send_that_nobody_takes_ends_at_the_deadline(wire: Wire) -> None:
    with pytest.raises(GuestFailure, match="passed writing"):
        wire.channel.call(Request.WRITE, bytes(REQUEST_MAX), Deadline.after(0.05), doing="writing")


def test_end_of_file_is_explained_by_the_watch(wire: Wire) -> None:
    wire.peer.shutdown(socket.SHUT_WR)
    with pytest.raises(InfraError, match="agent's channel was closed"):
        wire.ping()


def test_too_long_a_request_is_the_callers_fault(wire: Wire) -> None:
    with pytest.raises(ValueError, match="cannot carry"):
        wire.channel.call(Request.WRITE, bytes(REQUEST_MAX + 1), Deadline.after(1), doing="writing")
