# SPDX-License-Identifier: GPL-2.0-only
"""The main job: make a kernel and a guest, take the kernel through kexec, judge the evidence.

The command and the tests both start here. `Workshop` makes what a run needs (kernels, images, the
accelerator's choice), `open_session` starts a machine that records evidence, and `round_trip` is
what the job does with it.
"""

from __future__ import annotations

import errno
import hashlib
import importlib
import json
import platform
import secrets
import shlex
import shutil
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from itertools import count, takewhile
from pathlib import Path
from typing import TYPE_CHECKING

from imakexec import __version__, scenario
from imakexec.arch import X86_64, Arch
from imakexec.deadline import Deadline
from imakexec.errors import InfraError, UserError, printable
from imakexec.evidence import EvidenceWriter
from imakexec.kernel.build import KernelImage, KernelRequest, build_kernel, find_source
from imakexec.kernel.cache import Cache
from imakexec.kernel.config import values as config_values
from imakexec.kernel.guest_image import GuestImage, build_guest_image
from imakexec.kernel.source import SourceTree
from imakexec.machine.accelerator import Accelerator, AcceleratorChoice, probe_accelerator
from imakexec.machine.complaint import complaint_lines, read_complaints
from imakexec.machine.console import ConsoleLine, boot_log
from imakexec.machine.diagnosis import FOLDER as DIAGNOSIS
from imakexec.machine.diagnosis import MEMORY, diagnose
from imakexec.machine.events import FILE as EVENTS
from imakexec.machine.guest import POLICY_PARAMETER, SHELL_PARAMETER, TOKEN_PARAMETER
from imakexec.machine.qemu import Machine, MachineConfig, require_programs, require_uefi
from imakexec.machine.swtpm import check_banks
from imakexec.machine.symbols import Symbols
from imakexec.options import Policy, ShellIn
from imakexec.process import run
from imakexec.progress import Progress, Step
from imakexec.scenario import Session

if TYPE_CHECKING:
    from imakexec.attest import Judgement

# Making a kernel from nothing takes four minutes on two cores; a slow host may need ten times that.
_BUILD_SECONDS = 3600.0
_IMAGE_SECONDS = 600.0
_SHELL_SECONDS = 24 * 3600.0
_VERSION_SECONDS = 20.0
_KEPT_RUNS = 50

DECODED = "call-traces.txt"
"""The call traces of a console, with lines of the source, where there are symbols."""

_POLICY_WORDS = {
    Policy.BUILTIN: "ima_policy=tcb|critical_data",
    Policy.TCB: "ima_policy=tcb",
    Policy.LOADED: f"{POLICY_PARAMETER}=/etc/ima/policy",
}


@dataclass(frozen=True)
class JobOptions:
    """What the main job is asked to do.

    Attributes:
        kernel: the kernel that boots.
        next_kernel: a boot image to kexec into; None for the same one.
        initrd: an archive whose files the guest has as well; None for none.
        arch: architecture of the guest.
        accelerator: forced, or None to find out.
        banks: PCR banks of the TPM.
        files: records to measure between load and execute.
        cmdline: what is added to the kernel command line.
        policy: which IMA policy measures.
        cpus: virtual CPUs.
        memory_mib: guest RAM in MiB.
        out: folder for the evidence; None for one below the user's cache.
        keep: whether the images are copied to the evidence too.
        shell: where to stop for a shell; None for not at all.
        ram: a file to hold the guest's memory; None for memory that nobody else sees.
        tpm: whether the machine has a TPM at all; without one there is nothing to judge.
        uefi: boot from UEFI firmware instead of the board's default.
        dump_memory: whether the memory of a guest that fails is kept.
    """

    kernel: KernelRequest
    next_kernel: Path | None = None
    initrd: Path | None = None
    arch: Arch = X86_64
    accelerator: Accelerator | None = None
    banks: tuple[str, ...] = ("sha1", "sha256")
    files: int = 25
    cmdline: str = ""
    policy: Policy = Policy.BUILTIN
    cpus: int = 1
    memory_mib: int = 512
    out: Path | None = None
    keep: bool = False
    shell: ShellIn | None = None
    ram: Path | None = None
    tpm: bool = True
    uefi: bool = False
    dump_memory: bool = False


@dataclass(frozen=True)
class JobResult:
    """What came out of the main job.

    Attributes:
        folder: the evidence.
        judgement: the verifier's.
        complaints: forbidden kernel messages, of both kernels; the verdict does not rest on them.
    """

    folder: Path
    judgement: Judgement
    complaints: tuple[str, ...]


@dataclass(frozen=True)
class Prepared:
    """All that a machine of the main job is made of.

    Attributes:
        kernel: the kernel that boots.
        next_image: the boot image that kexec goes into.
        next_banner: its "Linux version ..." line; "" for an image that we did not build.
        image: the guest.
        accelerator: how it runs, and why.
    """

    kernel: KernelImage
    next_image: Path
    next_banner: str
    image: GuestImage
    accelerator: AcceleratorChoice


class Workshop:
    """Makes what a run needs, cached by content.

    Args:
        project: the checkout: patches, fragments, images.
        progress: where the steps are shown.
        cache: None for the user's.
    """

    def __init__(self, project: Path, progress: Progress, cache: Cache | None = None) -> None:
        self.project = project
        self.progress = progress
        self.cache = cache if cache is not None else Cache()

    def kernel(self, request: KernelRequest) -> KernelImage:
        """Build the kernel, or find it built.

        Raises:
            UserError: the request cannot be carried out.
            GuestFailure: the tree under test does not compile.
            InfraError: the host failed.
        """
        return build_kernel(
            request,
            project=self.project,
            cache=self.cache,
            progress=self.progress,
            deadline=Deadline.after(_BUILD_SECONDS),
        )

    def source(self, request: KernelRequest) -> SourceTree:
        """The unpatched source that a request means, or find it unpacked.

        Raises:
            UserError, InfraError: see `find_source`.
        """
        return find_source(request, self.cache, self.progress, Deadline.after(_BUILD_SECONDS))

    def image(self, next_kernel: Path, arch: Arch, further: Path | None = None) -> GuestImage:
        """Pack the guest whose kexec goes into `next_kernel`, or find it packed.

        Args:
            further: an archive of the user's, see `build_guest_image`.
        """
        return build_guest_image(
            next_kernel,
            arch=arch,
            project=self.project,
            cache=self.cache,
            progress=self.progress,
            deadline=Deadline.after(_IMAGE_SECONDS),
            further=further,
        )

    def accelerator(
        self, arch: Arch, forced: Accelerator | None, kernel: Path
    ) -> AcceleratorChoice:
        """Choose the accelerator that runs `kernel`, and say which and why."""
        choice = probe_accelerator(arch, forced=forced, memory=self.cache.root, kernel=kernel)
        self.progress.note(f"accelerator: {choice.accelerator} ({choice.reason})")
        return choice

    def prepare(self, options: JobOptions) -> Prepared:
        """Make or find all that the main job runs on.

        Raises:
            UserError: the request cannot be carried out.
            GuestFailure: the tree under test does not compile.
            InfraError: the host failed.
        """
        check_options(options)
        kernel = self.kernel(options.kernel)
        next_image = options.next_kernel or kernel.image
        return Prepared(
            kernel=kernel,
            next_image=next_image,
            next_banner="" if options.next_kernel else kernel.banner,
            image=self.image(next_image, options.arch, options.initrd),
            accelerator=self.accelerator(options.arch, options.accelerator, kernel.image),
        )

    @property
    def templates(self) -> Path:
        """Where TPM states are kept between runs."""
        return self.cache.root / "tpm"


def check_options(options: JobOptions) -> None:
    """Refuse, before anything takes long, what would be refused in the end.

    Raises:
        UserError: no such kernel to execute, no such PCR bank, a command line that no kernel
            takes, or an evidence folder that is in use or cannot be made.
        InfraError: there is no room for an evidence folder, or no UEFI firmware.
    """
    if options.next_kernel is not None:
        _check_next_kernel(options.next_kernel, options.arch)
    if options.uefi:
        require_uefi(options.arch)
    check_banks(options.banks)
    _check_cmdline(options)
    if options.out is not None:
        _check_evidence_folder(options.out)


def _check_next_kernel(image: Path, arch: Arch) -> None:
    wrong = ""
    try:
        if not image.is_file():
            wrong = "is not a file"
        elif not arch.is_boot_image(image):
            wrong = f"is no boot image for {arch.name}"
    except OSError as error:
        wrong = f"cannot be read: {error.strerror}"
    if wrong:
        raise UserError(
            f"the kernel to execute {wrong}",
            where=f"--next-kernel {image}",
            remedy=f"name a boot image, such as {arch.kernel_image} of a kernel build",
        )


def _check_cmdline(options: JobOptions) -> None:
    if not options.cmdline.isprintable():
        raise UserError(
            "there is a character in the kernel command line that cannot be printed",
            where=f"--cmdline {options.cmdline!r}",
            remedy="separate the parameters by blanks",
        )
    longest = _with_words_of_the_run(options, scenario.new_token(), shell=options.shell is not None)
    size, room = len(longest.encode()) + 1, options.arch.cmdline_size
    if size > room:
        raise UserError(
            f"the kernel command line takes {size} bytes, and this kernel has room for {room}",
            where="--cmdline",
            remedy=f"make it {size - room} bytes shorter",
        )


def _check_evidence_folder(folder: Path) -> None:
    """Refuse what is in use, and try whether a file can be made there; leaves no trace."""
    try:
        # Not even a link to an empty folder: evidence is moved and copied as one folder.
        if folder.is_symlink() or (folder.exists() and not _is_empty_folder(folder)):
            raise UserError(
                "the evidence folder exists already and is not an empty folder",
                where=f"--out {folder}",
                remedy="name another folder, or remove this one",
            )
        _try_to_make(folder)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise InfraError.refused("the evidence cannot be written", error, folder) from error
        raise UserError(
            f"the evidence folder cannot be made: {error.strerror}",
            where=f"--out {folder}",
            remedy="name a folder below one that can be written",
        ) from error


def _is_empty_folder(path: Path) -> bool:
    return path.is_dir() and not any(path.iterdir())


def _try_to_make(folder: Path) -> None:
    missing = [path for path in (folder, *folder.parents) if not path.exists()]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=folder).close()
    finally:
        for path in missing:
            with suppress(OSError):
                path.rmdir()


def kernel_cmdline(options: JobOptions) -> str:
    """The command line of every kernel of a run, without its token.

    The root must be a ramfs: the "tcb" policy leaves tmpfs out, and nothing would be measured.
    """
    policy = _POLICY_WORDS[options.policy]
    words = [
        f"console={options.arch.console}",
        "panic=-1",
        options.arch.nmi_panics,
        "rootfstype=ramfs",
        policy,
        options.cmdline,
    ]
    return " ".join(filter(None, words))


def _with_words_of_the_run(options: JobOptions, token: str, *, shell: bool) -> str:
    """The command line of one kernel of a run."""
    words = [kernel_cmdline(options), f"{TOKEN_PARAMETER}={token}"]
    if shell:
        words.append(f"{SHELL_PARAMETER}={options.arch.shell_console}")
    return " ".join(words)


def machine_config(prepared: Prepared, options: JobOptions) -> MachineConfig:
    """The machine that boots the prepared kernel with a random token on its command line."""
    token = scenario.new_token()
    return MachineConfig(
        arch=options.arch,
        kernel=prepared.kernel.image,
        initrd=prepared.image.initrd,
        cmdline=_with_words_of_the_run(options, token, shell=options.shell is ShellIn.BOOT),
        accelerator=prepared.accelerator.accelerator,
        memory_mib=options.memory_mib,
        cpus=options.cpus,
        banks=options.banks,
        shell=options.shell is not None,
        tpm=options.tpm,
        token=token,
        ram=options.ram,
        uefi=options.uefi,
    )


def new_run_folder(cache: Cache) -> Path:
    """A folder for the evidence of one run, below the user's cache; only the last few are kept."""
    runs = cache.root / "runs"
    runs.mkdir(parents=True, exist_ok=True)
    for old in sorted(path for path in runs.iterdir() if path.is_dir())[:-_KEPT_RUNS]:
        shutil.rmtree(old, ignore_errors=True)
    return runs / f"{time.strftime('%Y%m%d-%H%M%S')}-{secrets.token_hex(2)}"


@contextmanager
def open_session(
    workshop: Workshop,
    prepared: Prepared,
    options: JobOptions,
    folder: Path,
    *,
    on_line: Callable[[ConsoleLine], None] | None = None,
) -> Iterator[Session]:
    """Start a machine that records evidence in `folder` for as long as the context lasts.

    Console, logs and command lines are part of the evidence however the context ends.

    Args:
        on_line: called with each console line, to show it.

    Raises:
        UserError: there is something at `folder` already.
        InfraError: QEMU or swtpm cannot be started.
    """
    threading.Thread(target=_preload, daemon=True).start()
    config = machine_config(prepared, options)
    with EvidenceWriter.create(folder) as evidence:
        machine = Machine(config, folder, templates=workshop.templates, on_line=on_line)
        try:
            with machine:
                described = describe_run(config, prepared)
                evidence.set_run(described)
                _add_command_lines(evidence, machine)
                cmdline = kernel_cmdline(options)
                try:
                    yield Session(machine, evidence, workshop.progress, cmdline, described)
                except Exception as error:
                    _diagnose(machine, prepared, error, folder, memory=options.dump_memory)
                    raise
        except BaseException:
            # What ended the run matters more than a disk that cannot take the last of it.
            with suppress(InfraError):
                _add_files(evidence, prepared, keep=options.keep)
            raise
        _add_files(evidence, prepared, keep=options.keep)


def _diagnose(
    machine: Machine, prepared: Prepared, error: Exception, folder: Path, *, memory: bool
) -> None:
    """Ask a machine whose run has failed all that it can still tell, and say it with the error."""
    boot = machine.epochs.current.number
    is_known = boot == 0 or prepared.next_image == prepared.kernel.image
    symbols = _symbols(prepared.kernel) if is_known else None
    found = diagnose(machine, folder / DIAGNOSIS, symbols=symbols, memory=memory)
    if memory:
        found.lines.extend(_read_memory(found.folder, prepared.kernel if is_known else None))
    lines = [f"  {printable(line)}" for line in found.lines]
    error.add_note("\n".join([f"diagnosis, in {found.folder}:", *lines]))


def _read_memory(folder: Path, kernel: KernelImage | None) -> Iterator[str]:
    """Say what a memory dump tells of the hand-over buffer, and write it beside the dump.

    Args:
        folder: of the diagnosis, below that of the evidence.
        kernel: that runs; None if nobody knows it.
    """
    from imakexec.memory import (  # noqa: PLC0415  # see _preload
        look,
        memory_document,
        newest_list,
    )

    dump = folder / MEMORY
    if not dump.is_file():
        return
    log = None
    with suppress(UserError):  # the run has come to no list
        log = newest_list(folder.parent)
    try:
        is_fixed = kernel is not None and _symbols(kernel) is not None
        found = look(dump, log=log, system_map=kernel.system_map if kernel and is_fixed else None)
        text = json.dumps(memory_document(found), indent=2) + "\n"
        (folder / "memory.json").write_text(text, encoding="utf-8")
    except (UserError, OSError) as error:
        yield f"the memory cannot be read: {error}"
    else:
        yield f"the memory says: {found.sentence}"


def _symbols(kernel: KernelImage) -> Symbols | None:
    """Those of a kernel that runs where it was linked to, and that was built here."""
    moves = config_values(kernel.config).get("RANDOMIZE_BASE") == "y"
    if kernel.system_map is None or moves:
        return None
    with suppress(OSError, ValueError):
        return Symbols.read(kernel.system_map)
    return None


def _preload() -> None:
    """Load what takes long to load while the guest boots: neither has to wait for the other."""
    for module in ("imakexec.machine.tpm", "imakexec.attest"):
        importlib.import_module(module)


def run_main_job(
    workshop: Workshop,
    options: JobOptions,
    *,
    on_line: Callable[[ConsoleLine], None] | None = None,
) -> JobResult:
    """Boot, load, measure, execute, and judge.

    Args:
        on_line: called with each line of the guest's console.

    Raises:
        UserError: the request cannot be carried out.
        GuestFailure: the kernel under test failed before there was anything to judge.
        InfraError: the host failed.
    """
    require_programs(options.arch)
    prepared = workshop.prepare(options)
    folder = options.out if options.out is not None else new_run_folder(workshop.cache)
    with open_session(workshop, prepared, options, folder, on_line=on_line) as session:
        complaints = round_trip(session, options, next_banner=prepared.next_banner)
        record_complaints(session, complaints)
    from imakexec.attest import judge_folder  # noqa: PLC0415  # see _preload

    return JobResult(folder, judge_folder(folder), complaints)


def round_trip(session: Session, options: JobOptions, *, next_banner: str) -> tuple[str, ...]:
    """The steps of the main job on a machine that was just started.

    Returns:
        The forbidden kernel messages that were seen.

    Raises:
        GuestFailure: the kernel under test failed.
        InfraError: the host failed.
    """
    progress = session.progress
    with progress.step("boot kernel A") as step, _stages(session, step):
        scenario.boot(session)
        scenario.take_snapshot(session, "boot")
        step.done(f"TPM banks {', '.join(session.banks)}")
    if options.shell is ShellIn.BOOT:
        _offer_shell(session)
    with progress.step("load kernel B"):
        loaded = scenario.kexec_load(session, shell=options.shell is ShellIn.KEXEC)
    with progress.step(f"measure {options.files} new files and programs"):
        scenario.generate_activity(session, options.files)
        scenario.take_snapshot(session, "before-execute")
    with progress.step("execute kernel B") as step, _stages(session, step):
        scenario.kexec_execute(session, loaded, banner=next_banner)
    if options.shell is ShellIn.KEXEC:
        _offer_shell(session)
    with progress.step("quote, read the log, quote"):
        scenario.take_snapshot(session, "after", quote_after=True)
        said = scenario.kernel_log(session)
    return loaded.complaints + complaint_lines(said)


@contextmanager
def _stages(session: Session, step: Step) -> Iterator[None]:
    """Show in a step how far a boot has come."""
    session.machine.on_stage = step.update
    try:
        yield
    finally:
        session.machine.on_stage = None


def record_complaints(session: Session, complaints: Sequence[str]) -> None:
    """Keep with the evidence what the kernels said against the hand-over."""
    session.evidence.set_run({**session.run, "kernel_complaints": list(complaints)})


def _offer_shell(session: Session) -> None:
    session.progress.note("a shell in the guest; leave it with `exit` to go on")
    session.guest.wait_for_shell(Deadline.after(_SHELL_SECONDS))


def describe_run(config: MachineConfig, prepared: Prepared) -> dict[str, object]:
    """Metadata for people: nothing in it is judged."""
    kernel = prepared.kernel
    return {
        "harness": __version__,
        "started": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "host": {
            "system": platform.platform(),
            "python": platform.python_version(),
            "qemu": tool_version(config.arch.qemu),
            "swtpm": tool_version("swtpm"),
        },
        "accelerator": {
            "name": prepared.accelerator.accelerator.value,
            "reason": prepared.accelerator.reason,
        },
        "guest": {"packages": list(prepared.image.packages), "image": prepared.image.key},
        "machine": {
            "arch": config.arch.name,
            "cpus": config.cpus,
            "memory_mib": config.memory_mib,
            "banks": config.banks,
        },
        "kernel": {
            "base": kernel.base,
            "patches": list(kernel.patches),
            "release": kernel.release,
            "banner": kernel.banner,
            "key": kernel.key,
            "sha256": _sha256(kernel.image),
            "extra_memory_kb": kernel.extra_memory_kb,
        },
        "next_kernel": {
            "same": prepared.next_image == kernel.image,
            "sha256": _sha256(prepared.next_image),
        },
    }


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _add_files(evidence: EvidenceWriter, prepared: Prepared, *, keep: bool) -> None:
    _decode(evidence.folder, prepared)
    for path in _written_meanwhile(evidence.folder):
        evidence.add_file(str(path.relative_to(evidence.folder)), path)
    evidence.add_file("kernel.config", prepared.kernel.config)
    if keep:
        evidence.add_file("kernel-a", prepared.kernel.image)
        evidence.add_file("kernel-b", prepared.next_image)
        evidence.add_file("initramfs", prepared.image.initrd)
        if prepared.kernel.system_map is not None:
            evidence.add_file("System.map", prepared.kernel.system_map)


def _decode(folder: Path, prepared: Prepared) -> None:
    """Write the call traces of all complaints beside the console, with lines of the source."""
    debug_info = prepared.kernel.debug_info
    if debug_info is None:
        return
    is_same = prepared.next_image == prepared.kernel.image
    for console in (folder / "console.log", folder / DIAGNOSIS / "console.log"):
        if not console.is_file():
            continue
        found = [
            line
            for complaint in read_complaints(console)
            if is_same or complaint.boot == 0
            for line in complaint.lines
        ]
        if found:
            with suppress(InfraError, OSError):  # a call trace that is not decoded is still one
                console.with_name(DECODED).write_text(debug_info.decode(found), encoding="utf-8")


def _written_meanwhile(folder: Path) -> Iterator[Path]:
    """What the machine itself has written into an evidence folder."""
    console = folder / "console.log"
    boots = takewhile(Path.is_file, (boot_log(console, boot) for boot in count()))
    logs = (folder / name for name in (DECODED, EVENTS, "qemu.log", "swtpm.log"))
    told = sorted((folder / DIAGNOSIS).glob("*"))
    yield from filter(Path.is_file, (console, *boots, *logs, *told))


def _add_command_lines(evidence: EvidenceWriter, machine: Machine) -> None:
    """Add the commands as they were run, one word quoted for a shell per argument."""
    evidence.add_file("qemu.cmd", f"{shlex.join(machine.argv)}\n".encode())
    if machine.swtpm is not None:
        evidence.add_file("swtpm.cmd", f"{shlex.join(machine.swtpm.argv)}\n".encode())


def tool_version(program: str) -> str:
    """The first line of `program --version`.

    Raises:
        InfraError: it is missing or does not answer.
    """
    asked = run([program, "--version"], deadline=Deadline.after(_VERSION_SECONDS))
    return asked.output.partition("\n")[0]
