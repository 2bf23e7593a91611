# SPDX-License-Identifier: GPL-2.0-only
"""A fresh software TPM for each machine.

Making a TPM's state takes swtpm_setup half a second, so a template is made once for each set of
PCR banks and copied. A copy is a TPM that was never started: all PCRs and counters are fresh.
But copies share the template's seeds, so keys made from the same template of attributes are the
same keys in every run: an attestation key identifies the template, not one machine.
"""

from __future__ import annotations

import hashlib
import secrets
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from imakexec import process
from imakexec.deadline import Deadline
from imakexec.errors import InfraError, UserError, free_mib

BANKS = ("sha1", "sha256", "sha384", "sha512")
"""The PCR banks that swtpm can allocate."""

_REMEDY = "install it: apt-get install swtpm swtpm-tools"
_SETUP_SECONDS = 60.0
_QUIT_SECONDS = 0.5
_STATE_FILE = "tpm2-00.permall"
# In swtpm's log: swtpm_nvstore_dir.c and libtpms' TpmFail.c.
_GAVE_UP = ("Error (fatal)", "Entering failure mode")


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
        state: the folder of its state.
    """

    process: subprocess.Popen[bytes]
    argv: tuple[str, ...]
    log: Path
    connection: socket.socket
    state: Path

    def complaint(self) -> str:
        """Why the TPM answers nothing but errors, "" if it does not.

        A TPM that cannot write its state enters failure mode, and the guest then finds none.
        """
        lines = self.log.read_text(errors="replace").splitlines()
        reason = next((line for line in lines if any(word in line for word in _GAVE_UP)), None)
        if reason is None:
            return ""
        room = f"{free_mib(self.state):.1f} MiB free for its state in {self.state.parent}"
        return f"the TPM gave up: {reason} ({room})"


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
    with ours, theirs, _scratch_folder() as state, ExitStack() as stack:
        with _writing(state):
            output = stack.enter_context(log.open("wb"))
            shutil.copy(template, state / _STATE_FILE)
        argv = swtpm_argv(str(state), str(theirs.fileno()), str(log.absolute()))
        with process.spawn(argv, pass_fds=[theirs.fileno()], stdout=output) as child:
            theirs.close()
            try:
                yield Swtpm(child, argv, log, ours, state)
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
    folder = Path(tempfile.gettempdir()).resolve() / f"imakexec-tpm-{secrets.token_hex(8)}"
    process.remove_at_death(folder)
    try:
        with _writing(folder):
            folder.mkdir(mode=0o700)
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def _writing(path: Path) -> Iterator[None]:
    """Explain what the file system refuses."""
    try:
        yield
    except OSError as error:
        raise InfraError.refused("the TPM's state cannot be written", error, path) from error


def _template(banks: Sequence[str], templates: Path) -> Path:
    """The state file of a TPM with these banks that was made and never started."""
    check_banks(banks)
    key = hashlib.sha256(f"{_version()} {','.join(banks)}".encode()).hexdigest()[:16]
    template = templates / f"tpm2-{'-'.join(banks)}-{key}"
    if not template.exists():
        with _scratch_folder() as folder:
            _make_state(folder, banks)
            _publish(folder / _STATE_FILE, template)
    return template


def check_banks(banks: Sequence[str]) -> None:
    """Refuse what swtpm cannot allocate.

    Raises:
        UserError: a bank is unknown or named twice, or there is none.
    """
    unknown = [bank for bank in banks if bank not in BANKS]
    if unknown or not banks or len(set(banks)) != len(banks):
        raise UserError(
            f"not a set of PCR banks: {','.join(banks) or '(none)'}",
            where="--banks",
            remedy=f"give one or more of {','.join(BANKS)}, each once",
        )


def require_swtpm() -> None:
    """Find out, before anything takes long, whether a TPM could be started at all.

    Raises:
        InfraError: swtpm or swtpm_setup is missing.
    """
    if shutil.which("swtpm") is None or shutil.which("swtpm_setup") is None:
        raise InfraError("there is no swtpm on this host", where="PATH", remedy=_REMEDY)


def _version() -> str:
    """swtpm's own words; a newer version may write a state that an older one cannot read."""
    require_swtpm()
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
        remedy=f"see the last lines; swtpm_setup needs a temporary folder (TMPDIR) that can be "
        f"written, and {folder.parent} has {free_mib(folder):.1f} MiB free",
    )
    # fmt: on


def _publish(state: Path, template: Path) -> None:
    """Put a finished file in its place at once: a reader sees all of it or nothing."""
    draft = template.with_name(f".{template.name}.{secrets.token_hex(4)}")
    process.remove_at_death(draft)
    try:
        with _writing(draft):
            template.parent.mkdir(parents=True, exist_ok=True)
            draft.write_bytes(state.read_bytes())
            draft.replace(template)
    finally:
        draft.unlink(missing_ok=True)
