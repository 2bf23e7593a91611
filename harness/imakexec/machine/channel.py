# SPDX-License-Identifier: GPL-2.0-only
"""The wire to the guest agent: frames over one virtio-serial port.

The format is described where the other end is written, in `images/agent.c`. What matters here is
that the wire outlives the guest's kernel. kexec ends a kernel in the middle of whatever it was
sending, and QEMU keeps the bytes. Nothing of that is ever taken for an answer: every frame has a
check sum, an answer repeats the sequence number of its request, numbers are never used twice on a
channel, and a new agent fills up the unfinished frame before it says hello.
"""

from __future__ import annotations

import select
import socket
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from enum import IntEnum
from typing import Protocol

from imakexec.deadline import Deadline
from imakexec.errors import GuestFailure, ImaKexecError

MAGIC = b"IMKX"
VERSION = 1
# magic, version, type, reserved, sequence, length; then the CRC of these and the payload.
_HEADER = struct.Struct(">4sBBHII")
_CRC = struct.Struct(">I")
_HEADER_SIZE = _HEADER.size + _CRC.size

REQUEST_MAX = 1024 * 1024
"""The longest payload of a request, in bytes (REQUEST_MAX in agent.c)."""
CHUNK_MAX = 32 * 1024
"""The longest payload of a frame from the agent, in bytes (CHUNK_MAX in agent.c)."""


class Request(IntEnum):
    """What the agent can be asked (enum request in agent.c)."""

    HELLO = 1
    EXEC = 2
    READ = 3
    WRITE = 4
    TPM = 5
    TPM_CLOSE = 6


class Reply(IntEnum):
    """What the agent sends (enum reply in agent.c)."""

    HELLO = 0x80
    OUTPUT = 0x81
    ERRORS = 0x82
    END = 0x83


@dataclass(frozen=True)
class Frame:
    """One frame, as it was on the wire.

    Attributes:
        type: a `Request` or `Reply` value, or one that this version does not know.
        sequence: number of the request, 0 for an unasked HELLO.
    """

    type: int
    sequence: int
    payload: bytes

    def encode(self) -> bytes:
        """The frame's bytes."""
        header = _HEADER.pack(MAGIC, VERSION, self.type, 0, self.sequence, len(self.payload))
        return header + _CRC.pack(zlib.crc32(self.payload, zlib.crc32(header))) + self.payload


class FrameParser:
    """Finds the sound frames in a stream of bytes that may hold anything else as well."""

    def __init__(self) -> None:
        self._pending = bytearray()

    def feed(self, data: bytes) -> Iterator[Frame]:
        """Take more bytes; give every frame that is now complete."""
        self._pending += data
        while self._skip_to_magic() and len(self._pending) >= _HEADER_SIZE:
            _, version, kind, _, sequence, length = _HEADER.unpack_from(self._pending)
            if version != VERSION or length > CHUNK_MAX:
                del self._pending[: len(MAGIC)]
                continue
            end = _HEADER_SIZE + length
            if len(self._pending) < end:
                return
            frame = Frame(kind, sequence, bytes(self._pending[_HEADER_SIZE:end]))
            if frame.encode() == self._pending[:end]:
                del self._pending[:end]
                yield frame
            else:
                # What looked like a header may have swallowed the beginning of a frame.
                del self._pending[: len(MAGIC)]

    def _skip_to_magic(self) -> bool:
        start = self._pending.find(MAGIC)
        if start < 0:
            # Its first bytes may be the last ones here.
            del self._pending[: -len(MAGIC) + 1]
            return False
        del self._pending[:start]
        return True


@dataclass(frozen=True)
class Answer:
    """The whole answer to one request.

    Attributes:
        value: of the END frame: a negative errno, or what the request defines.
        output: payloads of the OUTPUT frames, joined.
        errors: payloads of the ERRORS frames, joined.
    """

    value: int
    output: bytes
    errors: bytes


class Wakeup(Protocol):
    """What the channel asks of the machine's `Watch`."""

    def fileno(self) -> int:
        """A descriptor that is readable when a fatal event is pending."""

    def check(self) -> None:
        """Raise the fatal event that is pending, if one is."""

    def remaining(self, deadline: Deadline) -> float:
        """Seconds until the guest is late, if nothing is heard of it."""

    def timed_out(self, deadline: Deadline, *, doing: str) -> ImaKexecError:
        """The error for a guest that did not do in time what it was asked."""

    def closed(self, what: str) -> ImaKexecError:
        """The error for an end of file on the connection `what`."""

    def explain(self, failure: GuestFailure) -> ImaKexecError:
        """What to raise for a failure of the guest: itself, or what the host did to cause it."""


class Channel:
    """Requests to the agent and their answers, for one thread at a time.

    Args:
        connection: the host's end of the virtio-serial port; stays the caller's.
        watch: where the death of the guest is learned while an answer is awaited.
    """

    def __init__(self, connection: socket.socket, watch: Wakeup) -> None:
        connection.setblocking(False)
        self._connection = connection
        self._watch = watch
        self._parser = FrameParser()
        self._frames: list[Frame] = []
        self._sequence = 0

    def wait_for_hello(self, deadline: Deadline) -> bytes:
        """The payload of the next HELLO; frames before it are of a kernel that is gone.

        Raises:
            GuestFailure: it did not come in time, or the guest died.
            InfraError: the host failed first.
        """
        doing = "waiting for the guest agent to say hello"
        while True:
            frame = self._next_frame(deadline, doing)
            if frame.type == Reply.HELLO:
                return frame.payload

    def call(self, request: Request, payload: bytes, deadline: Deadline, *, doing: str) -> Answer:
        """Ask the agent and wait for its whole answer.

        Args:
            doing: what the request is for ("reading /proc/version"), for messages.

        Raises:
            GuestFailure: no answer in time, the guest died, or its kernel was replaced.
            InfraError: the host failed first.
            ValueError: the payload is longer than `REQUEST_MAX`.
        """
        answer = self.call_or_hello(request, payload, deadline, doing=doing)
        if isinstance(answer, bytes):
            raise self._watch.explain(
                GuestFailure(
                    f"another kernel started while {doing}",
                    remedy="read the console: something rebooted the guest or did a kexec unasked",
                )
            )
        return answer

    def call_or_hello(
        self, request: Request, payload: bytes, deadline: Deadline, *, doing: str
    ) -> Answer | bytes:
        """As `call`, for a request that may end the kernel: then the next one's HELLO payload."""
        if len(payload) > REQUEST_MAX:
            raise ValueError(f"a request cannot carry {len(payload)} bytes (max. {REQUEST_MAX})")
        self._sequence += 1
        self._send(Frame(request, self._sequence, payload).encode(), deadline, doing)
        parts: dict[int, list[bytes]] = {Reply.OUTPUT: [], Reply.ERRORS: []}
        while True:
            frame = self._next_frame(deadline, doing)
            if frame.type == Reply.HELLO:
                return frame.payload
            if frame.sequence != self._sequence:
                continue  # the late answer to a request that was given up
            if frame.type == Reply.END:
                value = int.from_bytes(frame.payload, "big", signed=True)
                output, errors = (b"".join(chunks) for chunks in parts.values())
                return Answer(value, output, errors)
            if frame.type in parts:
                parts[frame.type].append(frame.payload)

    def _send(self, data: bytes, deadline: Deadline, doing: str) -> None:
        rest = memoryview(data)
        while rest:
            self._wait(select.POLLOUT, deadline, doing)
            try:
                rest = rest[self._connection.send(rest) :]
            except OSError as error:
                raise self._watch.closed("the agent's channel") from error

    def _next_frame(self, deadline: Deadline, doing: str) -> Frame:
        while not self._frames:
            self._wait(select.POLLIN, deadline, doing)
            try:
                data = self._connection.recv(1 << 18)
            except ConnectionError:
                data = b""
            if not data:
                raise self._watch.closed("the agent's channel")
            self._frames += self._parser.feed(data)
        return self._frames.pop(0)

    def _wait(self, event: int, deadline: Deadline, doing: str) -> None:
        """Wait for the socket and for the death of the guest at the same time."""
        poll = select.poll()
        poll.register(self._connection, event)
        poll.register(self._watch.fileno(), select.POLLIN)
        while True:
            ready = poll.poll(self._watch.remaining(deadline) * 1000)
            self._watch.check()
            if ready:
                return
            # The console may have spoken meanwhile, which wakes nobody here.
            if not self._watch.remaining(deadline):
                raise self._watch.timed_out(deadline, doing=doing)
