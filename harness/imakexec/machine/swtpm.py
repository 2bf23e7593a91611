# SPDX-License-Identifier: GPL-2.0-only
"""A fresh software TPM for each machine.

Making a TPM's state takes swtpm_setup half a second, so a template is made once for each set of
PCR banks and copied. A copy is a TPM that was never started: all PCRs and counters are fresh.
But copies share the template's seeds, so keys made from the same template of attributes are the
same keys in every run: an attestation key identifies the template, not one machine.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from imakexec import process
from imakexec.deadline import Deadline
from imakexec.errors import InfraError, UserError

BANKS = ("sha1", "sha256", "sha384", "sha512")
"""The PCR banks that swtpm can allocate."""

_REMEDY = "install it: apt-get install swtpm swtpm-tools"
_SETUP_SECONDS = 60.0
_QUIT_SECONDS = 0.5
_STATE_FILE = "tpm2-00.permall"


def swtpm_argv(state: str, control: str, log: str) -> tuple[str, ...]:
    """The command line of the TPM.

    Args:
        state: absolute path of the state folder (a relative one breaks CMD_INIT).
        control: number of an inherited socket that is connected to QEMU's chardev. A connected
            pair has no path, and no moment at which QEMU could start before swtpm listens.
        log: path of its log.
    """
    # fmt: off
    return (
        "swtpm", "socket", "--tpm2", "--terminate",
        "--tpmstate", f"dir={state}",
        "--ctrl", f"type=unixio,clientfd={control}",
        "--log", f"file={log},level=1",
    )
    # fmt: on


@dataclass(frozen=True)
class Swtpm:
    """A running TPM.

    Attributes:
        process: the swtpm process. It ends by itself when QEMU closes the connection.
        argv: its command line.
        log: its log file.
        connection: the socket that QEMU's chardev takes over; close it once QEMU has it.
    """

    process: subprocess.Popen[bytes]
    argv: tuple[str, ...]
    log: Path
    connection: socket.socket


@contextmanager
def start_swtpm(banks: Sequence[str], *, templates: Path, log: Path) -> Iterator[Swtpm]:
    """Run a TPM that was never started before, for as long as the context lasts.

    Its state lives in the system's temporary folder, where AppArmor lets swtpm write, and is
    removed at the end.

    Args:
        banks: the PCR banks to allocate; never left to swtpm_setup's configuration.
        templates: folder in which templates are kept between runs.
        log: the log file to create.

    Raises:
        UserError: no such bank.
        InfraError: swtpm or swtpm_setup is missing or fails.
    """
    template = _template(banks, templates)
    ours, theirs = socket.socketpair()
    with (
        ours,
        theirs,
        _scratch_folder() as state,
        log.open("wb") as output,
    ):
        shutil.copy(template, state / _STATE_FILE)
        argv = swtpm_argv(str(state), str(theirs.fileno()), str(log.absolute()))
        with process.spawn(argv, pass_fds=[theirs.fileno()], stdout=output) as child:
            theirs.close()
            try:
                yield Swtpm(child, argv, log, ours)
            finally:
                _wait_for_end(child)


def _wait_for_end(child: subprocess.Popen[bytes]) -> None:
    """Let swtpm end by itself, as it does once QEMU is gone; `spawn` kills one that does not."""
    try:
        child.wait(_QUIT_SECONDS)
    except subprocess.TimeoutExpired:
        pass


@contextmanager
def _scratch_folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="imakexec-tpm-") as name:
        folder = Path(name).resolve()
        process.remove_at_death(folder)
        yield folder


def _template(banks: Sequence[str], templates: Path) -> Path:
    """The state file of a TPM with these banks that was made and never started."""
    _check_banks(banks)
    key = hashlib.sha256(f"{_version()} {','.join(banks)}".encode()).hexdigest()[:16]
    template = templates / f"tpm2-{'-'.join(banks)}-{key}"
    if not template.exists():
        templates.mkdir(parents=True, exist_ok=True)
        with _scratch_folder() as folder:
            _make_state(folder, banks)
            _publish(folder / _STATE_FILE, template)
    return template


def _check_banks(banks: Sequence[str]) -> None:
    unknown = [bank for bank in banks if bank not in BANKS]
    if unknown or not banks or len(set(banks)) != len(banks):
        raise UserError(
            f"not a set of PCR banks: {','.join(banks) or '(none)'}",
            where="--banks",
            remedy=f"give one or more of {','.join(BANKS)}, each once",
        )


def _version() -> str:
    """swtpm's own words; a newer version may write a state that an older one cannot read."""
    if shutil.which("swtpm") is None or shutil.which("swtpm_setup") is None:
        raise InfraError("there is no swtpm on this host", where="PATH", remedy=_REMEDY)
    return process.run(["swtpm", "--version"], deadline=Deadline.after(_SETUP_SECONDS)).output


def _make_state(folder: Path, banks: Sequence[str]) -> None:
    # fmt: off
    process.run(
        [
            "swtpm_setup", "--tpm2", "--overwrite",
            "--tpmstate", str(folder),
            "--pcr-banks", ",".join(banks),
        ],
        deadline=Deadline.after(_SETUP_SECONDS),
        remedy="see the last lines; swtpm_setup needs a writable temporary folder",
    )
    # fmt: on


def _publish(state: Path, template: Path) -> None:
    """Put a finished file in its place at once: a reader sees all of it or nothing."""
    descriptor, name = tempfile.mkstemp(dir=template.parent, prefix=".tpm2-")
    try:
        with os.fdopen(descriptor, "wb") as copy:
            copy.write(state.read_bytes())
        Path(name).replace(template)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
