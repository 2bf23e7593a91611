# SPDX-License-Identifier: GPL-2.0-only
"""QMP for ordinary threads: qemu.qmp's client in an event loop of its own thread."""

from __future__ import annotations

import asyncio
import concurrent.futures
import socket
import threading
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import TYPE_CHECKING, Self

from imakexec.deadline import Deadline
from imakexec.errors import InfraError

if TYPE_CHECKING:
    from qemu.qmp import QMPClient

Event = Mapping[str, object]
"""A QMP event as it came: "event", "data", "timestamp"."""


class MonitorClosed(Exception):
    """QEMU closed the monitor: it is ending, and the watch knows why."""


class Monitor:
    """The control connection to one QEMU.

    Use as a context manager; leaving it closes the connection.

    Args:
        connection: our end of the socket pair given to QEMU's `-qmp`; owned from now on.
        on_event: called with each event, in the monitor's thread.
    """

    def __init__(self, connection: socket.socket, on_event: Callable[[Event], None]) -> None:
        self._connection = connection
        self._on_event = on_event
        self._client: concurrent.futures.Future[tuple[asyncio.AbstractEventLoop, QMPClient]]
        self._client = concurrent.futures.Future()
        self._open_lock = threading.Lock()
        self._open = True
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name="qmp", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            self._connection.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass  # QEMU is gone: the socket is not connected any more
        self._thread.join()
        self._connection.close()

    def drain(self, seconds: float) -> None:
        """Return when every event of an ended QEMU was handed on, or after `seconds`."""
        self._ended.wait(seconds)

    def execute(
        self, command: str, arguments: Mapping[str, object] | None = None, *, deadline: Deadline
    ) -> object:
        """Execute a QMP command and return what it returns.

        Raises:
            MonitorClosed: QEMU ended before or instead of an answer.
            InfraError: QEMU refused the command, or gave no answer in time.
        """
        from qemu.qmp import ExecuteError, QMPError  # noqa: PLC0415  (see `_serve`)

        answer: concurrent.futures.Future[object] = self._submit(command, arguments, deadline)
        try:
            return answer.result(deadline.remaining)
        except ExecuteError as error:
            raise InfraError(
                f"QEMU refused the command {command}: {error}",
                remedy="use the QEMU of Debian 12 (7.2) or newer",
            ) from error
        except TimeoutError:
            raise _no_answer(command, deadline) from None
        except (QMPError, concurrent.futures.CancelledError, EOFError) as error:
            raise MonitorClosed(command) from error

    def _submit(
        self, command: str, arguments: Mapping[str, object] | None, deadline: Deadline
    ) -> concurrent.futures.Future[object]:
        try:
            loop, client = self._client.result(deadline.remaining)
        except TimeoutError:
            raise _no_answer(command, deadline) from None
        except concurrent.futures.CancelledError as error:
            raise MonitorClosed(command) from error
        with self._open_lock:
            if not self._open:
                raise MonitorClosed(command)
            execution = client.execute(command, None if arguments is None else dict(arguments))
            return asyncio.run_coroutine_threadsafe(execution, loop)

    def _run(self) -> None:
        try:
            asyncio.run(self._serve())
        finally:
            if not self._client.done():
                self._client.cancel()
            self._ended.set()

    async def _serve(self) -> None:
        # While QEMU starts: it takes longer than all of our set-up.
        from qemu.qmp import (  # noqa: PLC0415  # see above
            ConnectError,
            QMPClient,
            QMPError,
            Runstate,
        )

        client = QMPClient("imakexec")
        try:
            await client.connect(self._connection)
        except ConnectError:
            return
        self._client.set_result((asyncio.get_running_loop(), client))
        events = asyncio.create_task(self._hand_on(client))
        # A listener goes silent at a disconnect and raises nothing: watch the state instead.
        while client.runstate is Runstate.RUNNING:
            await client.runstate_changed()
        with self._open_lock:
            self._open = False
        events.cancel()
        for event in client.events.clear():
            self._on_event(event)
        try:
            await client.disconnect()
        except (QMPError, EOFError, OSError):
            pass  # how the connection ended is of no interest: QEMU's exit status is
        # What was submitted before the monitor closed becomes a task here; `asyncio.run` cancels
        # it, so that nobody waits for its answer.
        await asyncio.sleep(0)

    async def _hand_on(self, client: QMPClient) -> None:
        async for event in client.events:
            self._on_event(event)


def _no_answer(command: str, deadline: Deadline) -> InfraError:
    return InfraError(
        f"QEMU gave no answer to {command} within {deadline.budget:.1f} s",
        remedy="look at the load of this host and run again",
    )
