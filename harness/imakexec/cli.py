# SPDX-License-Identifier: GPL-2.0-only
"""The command line: parses, calls one function per subcommand, maps results to exit codes.

Without a subcommand it is the main job, so that `./run_qemu.sh --patches 0` does what it says.

Everything but the parsing and the result file is imported by the subcommand that needs it:
`imakexec verify` must run where there is neither QEMU nor a TPM library.
"""
# ruff: noqa: PLC0415

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Callable, Sequence
from contextlib import suppress
from io import TextIOWrapper
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NoReturn

import typer
from click.core import ParameterSource
from rich.console import Console

from imakexec import __version__, interruption
from imakexec.arch import ARCHES, X86_64
from imakexec.errors import ImaKexecError, InfraError, UserError
from imakexec.options import Accelerator, Aim, Policy, ShellIn
from imakexec.report.machine import ResultFile, judgement_document

if TYPE_CHECKING:
    from imakexec.kernel.build import KernelRequest
    from imakexec.review.baseline import Baseline
    from imakexec.sizing import Question, Sizing

_OWN_OPTIONS = ("-h", "--help", "--version")  # all others are those of the main job

_out = Console(soft_wrap=True)
_err = Console(stderr=True, soft_wrap=True)


def _application() -> typer.Typer:
    return typer.Typer(
        add_completion=False,
        context_settings={"help_option_names": ["-h", "--help"]},
        pretty_exceptions_enable=False,
        help="Prove that Linux carries its IMA measurement log across kexec. "
        "Without a command: run the main job.",
    )


app = _application()
bench = typer.Typer(help="Measure, side by side with what it is compared with.")
app.add_typer(bench, name="bench")
series = typer.Typer(help="Check the patch series itself.")
app.add_typer(series, name="series")
baseline = typer.Typer(help="Keep what a kernel does, and see later what has changed.")
app.add_typer(baseline, name="baseline")


def _print_version(wanted: bool) -> None:
    if wanted:
        _out.print(f"imakexec {__version__}", highlight=False)
        raise typer.Exit


@app.callback()
def _without_command(
    *,
    _version: Annotated[
        bool,
        typer.Option("--version", callback=_print_version, is_eager=True, help="Say which."),
    ] = False,
) -> None:
    """Hold the options that need no command; see `main`."""


def main() -> None:
    """Parse the command line and do what it says; ends with SystemExit."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            # Names of files and records are of any kind, terminals are not.
            stream.reconfigure(errors="backslashreplace")
    arguments = sys.argv[1:]
    if not arguments or (arguments[0].startswith("-") and arguments[0] not in _OWN_OPTIONS):
        arguments = ["run", *arguments]
    _application_for(arguments[0])(arguments, prog_name="imakexec")


def _application_for(command: str) -> typer.Typer:
    """One that has that command alone, if there is one; else the whole.

    Typer works out the options of every command that it is given. For all of them that takes as
    long as ten thousand records of a list do.
    """
    single = _application()
    single.registered_callback = app.registered_callback
    single.registered_commands = [
        item
        for item in app.registered_commands
        if item.callback is not None and command == (item.name or item.callback.__name__)
    ]
    return single if single.registered_commands else app


def _finish(work: Callable[[], int], result: ResultFile | None = None) -> NoReturn:
    """Run a subcommand and end with its exit code, or with the one of its error.

    Args:
        result: what `work` writes its result to.
    """
    try:
        if result is not None:
            result.claim()
        code = work()
    except Exception as error:
        interruption.check()  # an error that only says that a signal came is none
        code = _report(_explained(error), result)
    raise typer.Exit(code)


def _explained(error: Exception) -> ImaKexecError:
    """The error as one that says who is at fault.

    What no room of the house has explained says nothing about a kernel either.
    """
    if isinstance(error, ImaKexecError):
        return error
    if isinstance(error, OSError):
        return InfraError.refused("this host refused an operation", error)
    traceback.print_exception(error)
    return InfraError("a mistake in imakexec itself: please report it with the lines above")


def _report(error: ImaKexecError, result: ResultFile | None) -> int:
    """Print an error, write it where the result is missed, and return its exit code."""
    # Behind the error stands what a guest that failed could still tell.
    for text in (f"imakexec: {error}", *getattr(error, "__notes__", ())):
        _err.print(text, markup=False, highlight=False)
    if result is not None:
        # The error itself matters more than a file that cannot take it and is empty by now.
        with suppress(ImaKexecError):
            result.write_error(error)
    return error.exit_code


# Options that several commands share.
_Base = Annotated[
    str | None,
    typer.Option(help="Kernel source package: linux-6.1 (default), linux-6.12, ..."),
]
_Tree = Annotated[
    Path | None, typer.Option(help="A kernel tree of your own instead; it is never modified.")
]
_Patches = Annotated[
    int | None,
    typer.Option(min=0, help="Apply only the first N patches of the series; 0: the plain base."),
]
_Extra = Annotated[
    int | None,
    typer.Option(min=0, help="IMA_KEXEC_EXTRA_MEMORY_KB (default: 40 where the kernel has it)."),
]
_Accel = Annotated[Accelerator | None, typer.Option(help="Force it; default: find out.")]
_JudgementFile = Annotated[
    Path | None, typer.Option("--json", help="Write the judgement for machines.")
]
_SameFile = Annotated[Path | None, typer.Option("--json", help="Write the same for machines.")]
_FiguresFile = Annotated[
    Path | None, typer.Option("--json", help="Write the figures for machines.")
]
_TablesFile = Annotated[
    Path | None, typer.Option("--markdown", help="Write the tables as Markdown.")
]
_Banks = Annotated[str, typer.Option(help="PCR banks of the TPM, separated by commas.")]


@app.command("run")
def run_command(
    *,
    base: _Base = None,
    kernel_tree: _Tree = None,
    patches: _Patches = None,
    extra_memory_kb: _Extra = None,
    kernel: Annotated[
        Path | None, typer.Option(help="A boot image that was built elsewhere instead.")
    ] = None,
    config: Annotated[
        Path | None,
        typer.Option(help="Its .config (default: the one inside it, CONFIG_IKCONFIG)."),
    ] = None,
    next_kernel: Annotated[
        Path | None, typer.Option(help="Boot image to kexec into (default: the same kernel).")
    ] = None,
    initrd: Annotated[
        Path | None, typer.Option(help="A cpio archive whose files the guest has as well.")
    ] = None,
    arch: Annotated[
        str, typer.Option(help=f"Architecture of the guest: {', '.join(ARCHES)}.")
    ] = X86_64.name,
    accel: _Accel = None,
    banks: _Banks = "sha1,sha256",
    files: Annotated[
        int, typer.Option(min=0, help="Records to measure between load and execute.")
    ] = 25,
    cmdline: Annotated[str, typer.Option(help="Added to the kernel command line.")] = "",
    policy: Annotated[
        Policy,
        typer.Option(
            help="The kernel's tcb and critical_data, tcb alone, or one that /init loads."
        ),
    ] = Policy.BUILTIN,
    cpus: Annotated[int, typer.Option(min=1, help="Virtual CPUs.")] = 1,
    memory_mib: Annotated[int, typer.Option(min=128, help="Guest memory in MiB.")] = 512,
    out: Annotated[
        Path | None, typer.Option(help="Folder for the evidence; it must be new or empty.")
    ] = None,
    keep: Annotated[
        bool, typer.Option("--keep", help="Keep kernels and initramfs with the evidence.")
    ] = False,
    json_file: _JudgementFile = None,
    debug_info: Annotated[
        bool, typer.Option("--debug-info", help="Decode call traces to lines of the source.")
    ] = False,
    dump_memory: Annotated[
        bool, typer.Option("--dump-memory", help="Keep the memory of a guest that fails.")
    ] = False,
    shell: Annotated[
        ShellIn | None, typer.Option(help="Stop for an interactive shell in the guest.")
    ] = None,
    verbose: Annotated[
        bool, typer.Option("--verbose", help="Show the guest's console live.")
    ] = False,
    dry_run: Annotated[
        bool,
        typer.Option(
            "--dry-run", help="Print the commands; build what they name if it is missing."
        ),
    ] = False,
) -> None:
    """Take a kernel through kexec and prove its measurement log with TPM quotes."""
    result_file = ResultFile(json_file, evidence=out)

    def work() -> int:
        from imakexec import job
        from imakexec.kernel.build import DEBUG_INFO, KernelRequest
        from imakexec.machine.qemu import command_lines
        from imakexec.project import find_project
        from imakexec.report import live

        _check_together(arch=arch, base=base, kernel_tree=kernel_tree, shell=shell)
        built = (base, kernel_tree, patches, extra_memory_kb)
        _check_image(kernel, config, is_built=any(it is not None for it in built))
        request = KernelRequest(
            image=kernel,
            config=config,
            base=KernelRequest.base if base is None else base,
            kernel_tree=kernel_tree,
            patches=patches,
            extra_memory_kb=extra_memory_kb,
            arch=ARCHES[arch],
            symbols=DEBUG_INFO if debug_info else (),
        )
        options = job.JobOptions(
            kernel=request,
            next_kernel=next_kernel,
            initrd=initrd,
            arch=ARCHES[arch],
            accelerator=accel,
            banks=tuple(bank.strip() for bank in banks.split(",")),
            files=files,
            cmdline=cmdline,
            policy=policy,
            cpus=cpus,
            memory_mib=memory_mib,
            out=out,
            keep=keep,
            shell=shell,
            dump_memory=dump_memory,
        )
        progress = live.TerminalProgress(_err, live=not verbose and shell is None)
        workshop = job.Workshop(find_project(), progress)
        if dry_run:
            for argv in command_lines(job.machine_config(workshop.prepare(options), options)):
                _out.print(live.shell_command(argv), markup=False, highlight=False)
            return 0
        show = live.console_printer(_err) if verbose else None
        result = job.run_main_job(workshop, options, on_line=show)

        from imakexec.report import terminal  # with the verifier, which loaded meanwhile

        terminal.print_complaints(_err, result.complaints)
        terminal.print_judgement(_out, result.judgement, folder=result.folder)
        judged = judgement_document(
            result.judgement, folder=result.folder, complaints=result.complaints
        )
        result_file.write(judged)
        return result.judgement.exit_code

    _finish(work, result_file)


def _check_together(
    *, arch: str, base: str | None, kernel_tree: Path | None, shell: ShellIn | None
) -> None:
    """Refuse what no later step could carry out.

    Raises:
        UserError: no such architecture, two kernels at once, or a shell for nobody.
    """
    if arch not in ARCHES:
        raise UserError(
            f"no architecture {arch!r}", where="--arch", remedy=f"one of: {', '.join(ARCHES)}"
        )
    if base is not None and kernel_tree is not None:
        raise UserError(
            "a source package and a tree of your own cannot both be the kernel",
            where=f"--base {base} --kernel-tree {kernel_tree}",
            remedy="leave out one of them",
        )
    if shell is not None and not sys.stdin.isatty():
        raise UserError(
            "--shell needs a terminal",
            where="standard input",
            remedy="run it in a terminal, without a pipe or a file as its input",
        )


def _check_image(image: Path | None, config: Path | None, *, is_built: bool) -> None:
    """Refuse what is said of how a kernel is built beside one that was built elsewhere.

    Raises:
        UserError: there is both, or a configuration of nothing.
    """
    if image is None and config is not None:
        raise UserError(
            "there is no kernel that this configuration is of",
            where=f"--config {config}",
            remedy="name its boot image by --kernel",
        )
    if image is not None and is_built:
        raise UserError(
            "a kernel that was built elsewhere has its source and its patches",
            where=f"--kernel {image}",
            remedy="leave out --base, --kernel-tree, --patches and --extra-memory-kb",
        )


_Prepend = Annotated[
    list[Path] | None,
    typer.Option(help="Records saved from a trimmed list, oldest first; repeat it."),
]


_Against = Annotated[
    list[Path] | None,
    typer.Option(help="An ASCII list, or the list of another bank, to compare; repeat it."),
]


@app.command()
def verify(
    evidence: Annotated[
        Path, typer.Argument(help="An evidence folder, or a binary list with the options below.")
    ],
    *,
    message: Annotated[
        list[Path] | None,
        typer.Option("--message", "-m", help="TPMS_ATTEST of a quote; twice: before and after."),
    ] = None,
    signature: Annotated[
        list[Path] | None, typer.Option("--signature", "-s", help="Its TPMT_SIGNATURE.")
    ] = None,
    pcrs: Annotated[
        list[Path] | None,
        typer.Option("--pcrs", "-o", help="The PCR values, as tpm2_quote -o writes them."),
    ] = None,
    public: Annotated[
        Path | None,
        typer.Option("--public", "-u", help="The key that signs: TPM2B_PUBLIC, or PEM."),
    ] = None,
    nonce: Annotated[
        list[str] | None,
        typer.Option("--nonce", "-q", help="What was asked for: HEX, or @FILE."),
    ] = None,
    pcr_list: Annotated[
        str | None,
        typer.Option(
            "--pcr-list", "-l", help="What must be quoted (default: sha1:0-10+sha256:0-10)."
        ),
    ] = None,
    pcr: Annotated[
        list[str] | None,
        typer.Option(help="A bare value, sha256:10=HEX, authenticated by nothing; repeat it."),
    ] = None,
    padded: Annotated[
        list[str] | None,
        typer.Option(help="Bank with padded SHA-1 digests (kernels before 5.8); repeat it."),
    ] = None,
    prepend: _Prepend = None,
    against: _Against = None,
    checkpoint: Annotated[
        Path | None,
        typer.Option(help="Go on from this file's state, and keep the new one in it."),
    ] = None,
    reanchor: Annotated[
        bool, typer.Option("--reanchor", help="After a loss, go on from the quoted value.")
    ] = False,
    json_file: _JudgementFile = None,
    quiet: Annotated[
        bool, typer.Option("--quiet", help="Print nothing: the exit code says it.")
    ] = False,
) -> None:
    """Judge an evidence folder, or a list with its quotes.

    It needs no VM, no TPM and no network. Ends with 0 if the list is in step with
    what was quoted, 10 if it was truncated, 11 if it is out of step, 12 if it was
    tampered with, 13 for invalid and 14 for malformed evidence.
    """
    from imakexec.verification import VerifyRequest, is_folder, keep_checkpoint
    from imakexec.verification import verify as judge

    request = VerifyRequest(
        evidence,
        messages=message or (),
        signatures=signature or (),
        pcr_files=pcrs or (),
        nonces=nonce or (),
        public=public,
        pcr_list=pcr_list,
        pcrs=pcr or (),
        padded=padded or (),
        prepend=prepend or (),
        against=against or (),
        checkpoint=checkpoint,
        reanchor=reanchor,
        processes=len(os.sched_getaffinity(0)),
    )
    folder = evidence if is_folder(evidence) else None
    outputs = () if checkpoint is None else (checkpoint,)
    result_file = ResultFile(json_file, evidence=folder, inputs=[*request.inputs, *outputs])

    def work() -> int:
        from imakexec.report import terminal

        judgement = judge(request)
        kept = keep_checkpoint(request, judgement)
        result_file.write(judgement_document(judgement, folder=evidence))
        if not quiet:
            terminal.print_judgement(_out, judgement, folder=evidence, checkpoint=kept)
        return judgement.exit_code

    _finish(work, result_file)


@app.command()
def show(
    log: Annotated[
        Path, typer.Argument(help="A binary list, a hand-over buffer, or a memory dump.")
    ],
    *,
    prepend: _Prepend = None,
    against: _Against = None,
    json_file: _SameFile = None,
) -> None:
    """Show the timeline of a binary list, or of the one in a hand-over buffer or memory dump.

    Ends with 12 if the list contradicts itself or another one.
    """
    inputs = [log, *(prepend or ()), *(against or ())]
    result_file = ResultFile(json_file, inputs=inputs)

    def work() -> int:
        from imakexec.attest.listing import list_story
        from imakexec.attest.source import compare_with, read_list
        from imakexec.report.listing import print_listing

        whole = read_list(log, prepend or ())
        checks = {path: compare_with(whole.log, path) for path in against or ()}
        listing = list_story(whole, checks)
        print_listing(_out, listing)
        result_file.write(listing.to_json())
        return listing.exit_code

    _finish(work, result_file)


@app.command()
def pcr(
    log: Annotated[
        Path, typer.Argument(help="A binary list, a hand-over buffer, or a memory dump.")
    ],
    *,
    bank: Annotated[
        list[str] | None,
        typer.Option(help="sha1, sha256 (default: both), sha384 or sha512; repeat it."),
    ] = None,
    prepend: _Prepend = None,
    json_file: _SameFile = None,
) -> None:
    """Replay a binary list, or the one in a hand-over buffer or memory dump, in any bank.

    Shows the value of every PCR that it names. Ends with 12 if the list contradicts itself.
    """
    result_file = ResultFile(json_file, inputs=[log, *(prepend or ())])

    def work() -> int:
        from imakexec.attest.listing import replayed_pcrs
        from imakexec.attest.replay import HASHES
        from imakexec.attest.source import read_list
        from imakexec.report.listing import print_pcr_values

        banks = tuple(dict.fromkeys(bank or ("sha1", "sha256")))
        for name in banks:
            if name not in HASHES:
                remedy = f"one of: {', '.join(HASHES)}"
                raise UserError(f"no bank {name!r}", where=f"--bank {name}", remedy=remedy)
        cpus = len(os.sched_getaffinity(0))
        values = replayed_pcrs(read_list(log, prepend or ()), banks, processes=cpus)
        print_pcr_values(_out, values)
        result_file.write(values.to_json())
        return values.exit_code

    _finish(work, result_file)


# Options of `size` that go to lists in files, and those that go to a guest.
_OF_FILES = ("at",)
_OF_A_GUEST = (
    *("duration", "every", "keep", "base", "kernel_tree", "patches", "extra_memory_kb", "arch"),
    *("accel", "policy", "cmdline", "cpus", "memory_mib", "verbose"),
)


@app.command()
def size(
    context: typer.Context,
    logs: Annotated[
        list[Path] | None, typer.Argument(help="A list, or snapshots of one list, oldest first.")
    ] = None,
    *,
    at: Annotated[
        list[str] | None,
        typer.Option(help="When a list was read, once for each: 2026-03-01T12:00, or Unix time."),
    ] = None,
    window: Annotated[
        str, typer.Option(help="Time from load to execute, where lists have times: 90s, 10m, 2h.")
    ] = "10m",
    confidence: Annotated[
        float, typer.Option(min=0.5, max=0.9999, help="That the memory is enough for it.")
    ] = 0.99,
    page_size: Annotated[
        int, typer.Option(min=4096, max=65536, help="Of the machine, in bytes.")
    ] = 4096,
    plot: Annotated[Path | None, typer.Option(help="Draw the figures: an SVG file.")] = None,
    json_file: _FiguresFile = None,
    workload: Annotated[
        str | None,
        typer.Option(help="Instead of lists: boot the main job's guest, and run this in its sh."),
    ] = None,
    workload_file: Annotated[
        Path | None, typer.Option(help="The same, from a file. All that follows is for the guest.")
    ] = None,
    duration: Annotated[str, typer.Option(help="How long the workload runs.")] = "60s",
    every: Annotated[str, typer.Option(help="How often its list is read meanwhile.")] = "5s",
    keep: Annotated[
        Path | None,
        typer.Option(help="New folder for every list that is read, to have the figures again."),
    ] = None,
    base: _Base = None,
    kernel_tree: _Tree = None,
    patches: _Patches = None,
    extra_memory_kb: _Extra = None,
    arch: Annotated[
        str, typer.Option(help=f"Architecture of the guest: {', '.join(ARCHES)}.")
    ] = X86_64.name,
    accel: _Accel = None,
    policy: Annotated[
        Policy, typer.Option(help="That measures at first; a workload may load another one.")
    ] = Policy.BUILTIN,
    cmdline: Annotated[str, typer.Option(help="Added to the kernel command line.")] = "",
    cpus: Annotated[int, typer.Option(min=1, help="Virtual CPUs.")] = 1,
    memory_mib: Annotated[int, typer.Option(min=128, help="Guest memory in MiB.")] = 512,
    verbose: Annotated[
        bool, typer.Option("--verbose", help="Show the guest's console live.")
    ] = False,
) -> None:
    """Say how much extra memory a list needs from the load of a kexec to its execution.

    The list is in files, or that of a guest in which a workload runs.
    """
    inputs = [*(logs or ()), *(() if workload_file is None else (workload_file,))]
    result_file = ResultFile(json_file, evidence=keep, inputs=inputs)
    drawing = ResultFile(plot, evidence=keep, inputs=inputs, option="--plot")

    def size_guest(question: Question, script: str) -> Sizing:
        from imakexec.job import JobOptions, Workshop
        from imakexec.kernel.build import KernelRequest
        from imakexec.project import find_project
        from imakexec.report import live
        from imakexec.sizing import parse_duration
        from imakexec.workload import Schedule, size_workload

        _check_together(arch=arch, base=base, kernel_tree=kernel_tree, shell=None)
        schedule = Schedule(
            duration=parse_duration(duration, "--duration"), every=parse_duration(every, "--every")
        )
        request = KernelRequest(
            base=KernelRequest.base if base is None else base,
            kernel_tree=kernel_tree,
            patches=patches,
            extra_memory_kb=extra_memory_kb,
            arch=ARCHES[arch],
        )
        options = JobOptions(
            kernel=request,
            arch=ARCHES[arch],
            accelerator=accel,
            cmdline=cmdline,
            policy=policy,
            cpus=cpus,
            memory_mib=memory_mib,
            out=keep,
        )
        workshop = Workshop(find_project(), live.TerminalProgress(_err, live=not verbose))
        show = live.console_printer(_err) if verbose else None
        return size_workload(workshop, options, script, schedule, question, on_line=show)

    def work() -> int:
        from imakexec.report.plot import draw_sizing
        from imakexec.report.sizing import print_sizing
        from imakexec.sizing import Question, parse_duration, parse_time, size_lists

        drawing.claim()
        question = Question(parse_duration(window, "--window"), confidence, page_size)
        script = _chosen_workload(logs, workload, workload_file)
        _refuse_given(context, _OF_A_GUEST if script is None else _OF_FILES)
        if script is None:
            sizing = size_lists(logs or (), [parse_time(text) for text in at or ()], question)
        else:
            sizing = size_guest(question, script)
        print_sizing(_out, sizing)
        result_file.write(sizing.to_json())
        drawing.write_text(draw_sizing(sizing, question))
        return 0

    _finish(work, result_file)


def _chosen_workload(
    logs: list[Path] | None, workload: str | None, workload_file: Path | None
) -> str | None:
    """The script to run in a guest; None to read lists.

    Raises:
        UserError: neither is asked for, or more than one; or the script cannot be read.
    """
    wanted = [what for what in (logs, workload, workload_file) if what]
    if len(wanted) != 1 and workload != "":
        raise UserError(
            "lists, --workload and --workload-file: one of them is wanted,"
            f" {len(wanted) or 'none'} {'was' if len(wanted) < 2 else 'were'} given",
            where="imakexec size",
            remedy="name the lists in files, or a workload for a guest",
        )
    if workload_file is None:
        return workload
    try:
        return workload_file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(
            f"the workload cannot be read: {error}",
            where=f"--workload-file {workload_file}",
            remedy="name a shell script in UTF-8 that this user may read",
        ) from error


def _refuse_given(context: typer.Context, names: Sequence[str]) -> None:
    """Refuse options that would change nothing.

    Raises:
        UserError: one of them was given.
    """
    for name in names:
        if context.get_parameter_source(name) is ParameterSource.COMMANDLINE:
            option = f"--{name.replace('_', '-')}"
            other = "lists in files" if name in _OF_FILES else "a guest with a --workload"
            raise UserError(
                f"{option} is for {other}", where=option, remedy="leave it out, or ask for that"
            )


@app.command(
    context_settings={"allow_extra_args": True, "ignore_unknown_options": True},
    add_help_option=False,
)
def test(context: typer.Context) -> None:
    """Run `pytest tests harness`; further arguments go to pytest."""

    def work() -> int:
        from imakexec.project import find_project

        os.chdir(find_project())
        arguments = ["tests", "harness", *context.args]
        os.execv(sys.executable, [sys.executable, "-m", "pytest", *arguments])

    _finish(work)


@app.command("report")
def report_command(
    folder: Annotated[
        Path, typer.Argument(help="Filled by --artefacts or --html, or above several such.")
    ],
    *,
    json_file: _SameFile = None,
    ktap: Annotated[Path | None, typer.Option(help="Write the results as KTAP.")] = None,
    kcidb: Annotated[Path | None, typer.Option(help="Write the results for KCIDB.")] = None,
    kcidb_origin: Annotated[str, typer.Option(help="This CI's name in KCIDB.")] = "imakexec",
) -> None:
    """Make reports of finished runs of the tests; the page goes into FOLDER.

    Several runs in folders beside each other, from several hosts, become one. A run that was killed
    is shown as far as it came.
    """

    def work() -> int:
        from imakexec.report.suite import summary_lines
        from imakexec.suite.artefacts import read_runs
        from imakexec.suite.documents import Reports
        from imakexec.suite.outcome import Outcome

        run = read_runs(folder)
        wanted = Reports(folder, json_file, ktap, kcidb, kcidb_origin)
        for line in summary_lines(run.tests):
            _out.print(line, markup=False, highlight=False)
        for write in wanted.of(run, folder):
            _out.print(f"report  {write()}", markup=False, highlight=False)
        outcomes = {test.outcome for test in run.tests}
        if Outcome.FAIL in outcomes:
            return 1
        return InfraError.exit_code if Outcome.INFRA in outcomes else 0

    _finish(work)


@app.command()
def memory(
    dump: Annotated[Path, typer.Argument(help="Of a guest: what --dump-memory has kept.")],
    *,
    evidence: Annotated[
        Path | None, typer.Option(help="Of the same run: its newest list is compared.")
    ] = None,
    system_map: Annotated[
        Path | None, typer.Option(help="System.map of the kernel that ran.")
    ] = None,
    json_file: _SameFile = None,
) -> None:
    """Read the hand-over buffer out of a memory dump: was it wrong before the jump or after it?"""
    result_file = ResultFile(json_file)

    def work() -> int:
        from imakexec.memory import look, memory_document, newest_list
        from imakexec.report.memory import memory_lines

        log = None if evidence is None else newest_list(evidence)
        found = look(dump, log=log, system_map=system_map)
        for line in memory_lines(found):
            _out.print(line, markup=False, highlight=False)
        result_file.write(memory_document(found))
        if not found.buffers and not found.is_good:
            return InfraError.exit_code  # there is nothing to judge
        return 0 if found.is_good else 1

    _finish(work, result_file)


_Scenarios = Annotated[
    list[str] | None,
    typer.Option(
        "--scenario",
        help="By name or number, docs/scenarios.md, or a single test (default: gap events); "
        "repeat it.",
    ),
]
_SomeScenarios = Annotated[
    list[str] | None,
    typer.Option("--scenario", help="By name or number (default: the default set); repeat it."),
]
_Runs = Annotated[
    int,
    typer.Option(min=1, help="Runs that a good kernel passes; more for what fails sometimes."),
]
_ARCH_HELP = f"Architecture of the guest: {', '.join(ARCHES)}."


@app.command("bisect-step")
def bisect_step(
    *,
    tree: Annotated[Path, typer.Option(help="The kernel tree to judge.")] = Path(),
    scenarios: _Scenarios = None,
    runs: _Runs = 1,
    find: Annotated[Aim, typer.Option(help="What must be good: how far a kernel comes.")] = (
        Aim.SCENARIO
    ),
    known: Annotated[
        list[str] | None,
        typer.Option(help="A known defect that good commits have too; repeat it."),
    ] = None,
    features: Annotated[
        list[str] | None,
        typer.Option(
            "--feature",
            help="What a good kernel sets out to do, such as late-records or markers; repeat it.",
        ),
    ] = None,
    arch: Annotated[str, typer.Option(help=_ARCH_HELP)] = X86_64.name,
    accel: _Accel = None,
) -> None:
    """Judge the kernel tree in this folder for `git bisect run`: exit 0, 1, 125, or 128 to stop."""

    def work() -> int:
        from imakexec.bisect.judge import Question
        from imakexec.bisect.step import EXIT_CODES, judge_tree
        from imakexec.job import Workshop
        from imakexec.project import find_project
        from imakexec.report import live
        from imakexec.report.bisect import judged_lines
        from imakexec.suite.runner import Selection

        _check_together(arch=arch, base=None, kernel_tree=None, shell=None)
        question = Question(
            selection=Selection.parse(scenarios or [_DEFAULT_SCENARIO]),
            runs=runs,
            aim=find,
            known=frozenset(known or ()),
            features=frozenset(features or ()),
            arch=ARCHES[arch],
            accelerator=accel,
        )
        workshop = Workshop(find_project(), live.TerminalProgress(_err))
        judged = judge_tree(workshop, tree.absolute(), question)
        for line in judged_lines(judged):
            _out.print(line, markup=False, highlight=False)
        return EXIT_CODES[judged.quality]

    _finish(work)


@app.command("bisect")
def bisect_command(
    *,
    tree: Annotated[
        Path | None, typer.Option(help="A kernel tree with its history; it is only read.")
    ] = None,
    patches: Annotated[
        Path | None, typer.Option(help="A folder with a patch series instead.")
    ] = None,
    base: _Base = None,
    kernel_tree: _Tree = None,
    good: Annotated[
        str, typer.Option(help="A commit that is good; of a series, after how many patches.")
    ] = "",
    bad: Annotated[str, typer.Option(help="A later one that is bad (default: the last one).")] = "",
    scenarios: _Scenarios = None,
    runs: _Runs = 1,
    find: Annotated[
        Aim | None,
        typer.Option(help="Up to where a kernel must come (default: as far as the bad end does)."),
    ] = None,
    arch: Annotated[str, typer.Option(help=_ARCH_HELP)] = X86_64.name,
    accel: _Accel = None,
    fresh: Annotated[
        bool, typer.Option("--fresh", help="Forget what an interrupted run has found.")
    ] = False,
) -> None:
    """Find the first commit of a kernel tree, or patch of a series, that breaks a scenario.

    The same command goes on where an interrupted one has ended.
    """

    def work() -> int:
        from imakexec.bisect.driver import REPORT, Request, bisect
        from imakexec.bisect.judge import Question
        from imakexec.job import Workshop
        from imakexec.kernel.cache import write_atomically
        from imakexec.project import find_project
        from imakexec.report import live
        from imakexec.report.bisect import mail, summary
        from imakexec.suite.runner import Selection

        _check_together(arch=arch, base=base, kernel_tree=kernel_tree, shell=None)
        _check_history(tree=tree, patches=patches, good=good, base=base, kernel_tree=kernel_tree)
        question = Question(
            selection=Selection.parse(scenarios or [_DEFAULT_SCENARIO]),
            runs=runs,
            aim=find or Aim.SCENARIO,
            known=None,
            arch=ARCHES[arch],
            accelerator=accel,
        )
        workshop = Workshop(find_project(), live.TerminalProgress(_err))
        request = Request(
            tree=tree,
            patches=patches,
            base="linux-6.1" if base is None else base,
            kernel_tree=kernel_tree,
            good=good,
            bad=bad,
            aim=find,
            question=question,
            fresh=fresh,
        )
        found = bisect(workshop, request)
        report = found.folder / REPORT
        write_atomically(report, mail(found))
        for line in summary(found, report):
            _out.print(line, markup=False, highlight=False)
        return 0 if found.is_exact else 1

    _finish(work)


@app.command("review")
def review_command(
    source: Annotated[
        str,
        typer.Argument(
            metavar="MBOX|DIR|RANGE", help="Mails, a folder of patches, or a git range A..B."
        ),
    ],
    *,
    base: _Base = None,
    kernel_tree: _Tree = None,
    against: Annotated[
        str, typer.Option(metavar="OLD", help="An older version of the series, named alike.")
    ] = "",
    scenarios: Annotated[
        list[str] | None,
        typer.Option("--scenario", help="By name or number (default: the default set); repeat it."),
    ] = None,
    tester: Annotated[
        str, typer.Option(help='"Name <address>" for Tested-by (default: git\'s user).')
    ] = "",
    arch: Annotated[str, typer.Option(help=_ARCH_HELP)] = X86_64.name,
    accel: _Accel = None,
    out: Annotated[
        Path | None, typer.Option(help="Folder for all that is left; it must be new or empty.")
    ] = None,
) -> None:
    """Try a patch series as it was mailed, and write a text to answer it with.

    Each patch is applied, compiled and taken through a kexec; the whole is held against the base.
    """

    def work() -> int:
        from imakexec.job import Workshop, new_run_folder
        from imakexec.kernel.build import KernelRequest
        from imakexec.kernel.cache import write_atomically
        from imakexec.kernel.repository import user_of
        from imakexec.project import find_project
        from imakexec.report import live
        from imakexec.report.review import render, table_lines
        from imakexec.review.review import REPORT, ReviewRequest, run_review
        from imakexec.series.cells import Row
        from imakexec.suite.runner import Selection

        _check_together(arch=arch, base=base, kernel_tree=kernel_tree, shell=None)
        workshop = Workshop(find_project(), live.TerminalProgress(_err))
        request = ReviewRequest(
            series=source,
            against=against,
            tree=kernel_tree,
            kernel=KernelRequest(
                ARCHES[arch],
                base=KernelRequest.base if base is None else base,
                kernel_tree=kernel_tree,
                patches=0,
            ),
            selection=Selection.parse(scenarios or ()),
            accelerator=accel,
            folder=(out or new_run_folder(workshop.cache)).absolute(),
        )

        def show(row: Row) -> None:
            for line in table_lines(row):
                _err.print(line)

        review = run_review(workshop, request, show)
        text = render(review, tester or user_of(Path()))
        write_atomically(review.folder / REPORT, text)
        _out.print(text, markup=False, highlight=False, end="")
        _err.print(f"review  {review.folder / REPORT}", markup=False, highlight=False)
        return review.exit_code

    _finish(work)


_BaselineFile = Annotated[Path, typer.Argument(metavar="FILE", help="The baseline, as JSON.")]


@baseline.command("save")
def baseline_save(
    file: _BaselineFile,
    *,
    base: _Base = None,
    kernel_tree: _Tree = None,
    patches: _Patches = None,
    scenarios: _SomeScenarios = None,
    arch: Annotated[str, typer.Option(help=_ARCH_HELP)] = X86_64.name,
    accel: _Accel = None,
) -> None:
    """Run the tests on a kernel, measure it and this host, and keep what came out."""
    result_file = ResultFile(file, option="FILE")

    def work() -> int:
        from imakexec.report.baseline import baseline_lines

        kernel = _kernel_of(arch, base, kernel_tree, patches)
        found = _take_baseline(kernel, scenarios or (), accel)
        result_file.write(found.to_json())
        for line in baseline_lines(found):
            _out.print(line, markup=False, highlight=False)
        return 0

    _finish(work, result_file)


@baseline.command("compare")
def baseline_compare(
    file: _BaselineFile,
    *,
    base: _Base = None,
    kernel_tree: _Tree = None,
    patches: _Patches = None,
    scenarios: _SomeScenarios = None,
    arch: Annotated[str, typer.Option(help=_ARCH_HELP)] = X86_64.name,
    accel: _Accel = None,
) -> None:
    """Do the same again: exit 1 if the kernel does anything else, and tell what takes longer."""

    def work() -> int:
        from imakexec.report.baseline import comparison_lines
        from imakexec.review.baseline import compare, read_baseline

        kept = read_baseline(file)
        kernel = _kernel_of(arch, base, kernel_tree, patches)
        comparison = compare(kept, _take_baseline(kernel, scenarios or (), accel))
        for line in comparison_lines(comparison):
            _out.print(line, markup=False, highlight=False)
        if not comparison.is_known:
            return InfraError.exit_code
        return 1 if comparison.is_behavioural else 0

    _finish(work)


def _kernel_of(
    arch: str, base: str | None, kernel_tree: Path | None, patches: int | None
) -> KernelRequest:
    """The kernel that some options mean.

    Raises:
        UserError: they cannot all be meant.
    """
    from imakexec.kernel.build import KernelRequest

    _check_together(arch=arch, base=base, kernel_tree=kernel_tree, shell=None)
    return KernelRequest(
        ARCHES[arch],
        base=KernelRequest.base if base is None else base,
        kernel_tree=kernel_tree,
        patches=patches,
    )


def _take_baseline(
    kernel: KernelRequest, scenarios: Sequence[str], accel: Accelerator | None
) -> Baseline:
    """Run and measure."""
    from imakexec.job import Workshop, new_run_folder
    from imakexec.project import find_project
    from imakexec.report import live
    from imakexec.review.baseline import take
    from imakexec.suite.runner import Selection

    workshop = Workshop(find_project(), live.TerminalProgress(_err))
    folder = new_run_folder(workshop.cache)
    return take(workshop, kernel, Selection.parse(scenarios), accel, folder)


@app.command("b4-check")
def b4_check(
    *,
    tree: Annotated[Path, typer.Option(help="The kernel tree, on b4's review branch.")] = Path(),
    arch: Annotated[str, typer.Option(help=_ARCH_HELP)] = X86_64.name,
    accel: _Accel = None,
) -> None:
    """Answer `b4 review`, which pipes a patch or a cover letter here, in its JSON.

    It is meant for b4.review-perpatch-check-cmd and b4.review-series-check-cmd.
    """

    def work() -> int:
        from imakexec.job import Workshop, new_run_folder
        from imakexec.kernel.build import KernelRequest
        from imakexec.project import find_project
        from imakexec.report import live
        from imakexec.review.b4 import Hook

        _check_together(arch=arch, base=None, kernel_tree=None, shell=None)
        workshop = Workshop(find_project(), live.TerminalProgress(_err))
        hook = Hook(
            workshop,
            KernelRequest(ARCHES[arch]),
            accel,
            tree.absolute(),
            new_run_folder(workshop.cache),
        )
        text = hook.answer(sys.stdin.buffer.read())
        _out.print(text, markup=False, highlight=False, end="")
        return 0

    _finish(work)


_DEFAULT_SCENARIO = "gap events"


def _check_history(
    *,
    tree: Path | None,
    patches: Path | None,
    good: str,
    base: str | None,
    kernel_tree: Path | None,
) -> None:
    """Refuse what is no history, or two of them.

    Raises:
        UserError: there is not exactly one, or no good end of it.
    """
    if (tree is None) == (patches is None):
        raise UserError(
            "what is to be bisected?",
            where="--tree, --patches",
            remedy="give one of them: a kernel tree with its history, or a folder with a series",
        )
    if tree is not None and (base, kernel_tree) != (None, None):
        raise UserError(
            "a tree brings its own source",
            where="--base, --kernel-tree",
            remedy="leave it out: it is what a series is applied to",
        )
    if not good:
        raise UserError(
            "there is no good end", where="--good", remedy="name a commit that is known to be good"
        )


@app.command()
def doctor() -> None:
    """Say what this host has, what is missing, and which accelerator works and why."""

    def work() -> int:
        from imakexec.doctor import examine
        from imakexec.report import health, live

        report = examine(live.TerminalProgress(_err))
        health.print_doctor(_out, report)
        return 0 if report.healthy else 1

    _finish(work)


@bench.command("roundtrip")
def bench_roundtrip(
    runs: Annotated[int, typer.Option(min=1, help="Counted runs of each.")] = 5,
    accel: _Accel = None,
    json_file: _FiguresFile = None,
) -> None:
    """Time the main job against the same two boots under a bare QEMU with a scripted init."""
    result_file = ResultFile(json_file)

    def work() -> int:
        from imakexec.bench import roundtrip
        from imakexec.report import live, terminal

        figures = roundtrip(live.TerminalProgress(_err), runs=runs, accelerator=accel)
        terminal.print_figures(_out, figures)
        result_file.write(figures.to_json())
        return 0

    _finish(work, result_file)


@bench.command("handover")
def bench_handover(
    *,
    base: Annotated[
        list[str] | None,
        typer.Option(help="Kernels (default: linux-6.1, linux-6.12, linux-7.3); repeat it."),
    ] = None,
    records: Annotated[
        str, typer.Option(help="Lengths of the list, beside the one that a kernel boots with.")
    ] = "1000,10000,100000",
    runs: Annotated[int, typer.Option(min=1, help="Counted runs of each.")] = 3,
    accel: _Accel = None,
    json_file: _FiguresFile = None,
    markdown_file: _TablesFile = None,
) -> None:
    """Measure what the hand-over of the list costs in the guest: memory, and time."""
    result_file = ResultFile(json_file)

    def work() -> int:
        from imakexec.bench import parse_records
        from imakexec.handover_bench import DEFAULT_BASES, handover
        from imakexec.report import live
        from imakexec.report.handover import print_handover, render_markdown

        markdown_result = ResultFile(markdown_file, option="--markdown")
        markdown_result.claim()
        figures = handover(
            live.TerminalProgress(_err),
            bases=base or DEFAULT_BASES,
            records=parse_records(records),
            runs=runs,
            accelerator=accel,
        )
        print_handover(_out, figures)
        result_file.write(figures.to_json())
        markdown_result.write_text(render_markdown(figures))
        return 0

    _finish(work, result_file)


@bench.command("verify")
def bench_verify(
    *,
    records: Annotated[str, typer.Option(help="Lengths of the lists.")] = "100000,1000000,5000000",
    banks: Annotated[
        list[int] | None,
        typer.Option(help="How many banks to replay: 2 or 4 (default: both); repeat it."),
    ] = None,
    runs: Annotated[int, typer.Option(min=1, help="Timed runs of each.")] = 3,
    json_file: _FiguresFile = None,
    markdown_file: _TablesFile = None,
) -> None:
    """Time the replay of long lists against evmctl, and against the hash functions alone."""
    result_file = ResultFile(json_file)

    def work() -> int:
        from imakexec.bench import parse_records
        from imakexec.report import live
        from imakexec.report.verify_bench import print_verify_bench, render_markdown
        from imakexec.verify_bench import BANKS, verify_lists

        markdown_result = ResultFile(markdown_file, option="--markdown")
        markdown_result.claim()
        figures = verify_lists(
            live.TerminalProgress(_err),
            records=parse_records(records),
            banks=banks or tuple(BANKS),
            runs=runs,
        )
        print_verify_bench(_out, figures)
        result_file.write(figures.to_json())
        markdown_result.write_text(render_markdown(figures))
        return 0

    _finish(work, result_file)


@series.command("check")
def series_check(
    *,
    base: _Base = None,
    kernel_tree: _Tree = None,
    patch: Annotated[
        int | None, typer.Option(min=0, help="Only the row of patch N; 0: the base.")
    ] = None,
    accel: _Accel = None,
    json_file: Annotated[
        Path | None, typer.Option("--json", help="Write the table for machines.")
    ] = None,
    markdown_file: Annotated[
        Path | None, typer.Option("--markdown", help="Write the table for the cover letter.")
    ] = None,
    logs: Annotated[
        Path | None, typer.Option(help="Folder for all output; it must be new or empty.")
    ] = None,
) -> None:
    """For the base and after every patch: git am, checkpatch, builds, boots, verdict."""
    result_file = ResultFile(json_file)

    def work() -> int:
        from imakexec.job import Workshop
        from imakexec.project import find_project
        from imakexec.report.series import choose_display, document, markdown
        from imakexec.series.cells import CheckReport
        from imakexec.series.check import COLUMNS, CheckRequest, run_check
        from imakexec.series.logs import new_log_folder

        _check_together(arch=X86_64.name, base=base, kernel_tree=kernel_tree, shell=None)
        markdown_result = ResultFile(markdown_file, option="--markdown")
        markdown_result.claim()
        display = choose_display(_out, _err, COLUMNS)
        workshop = Workshop(find_project(), display.progress)
        request = CheckRequest(
            arch=X86_64,
            logs=new_log_folder(workshop.cache) if logs is None else logs.absolute(),
            base=CheckRequest.base if base is None else base,
            kernel_tree=kernel_tree,
            patch=patch,
            accelerator=accel,
        )

        def keep(report: CheckReport) -> None:
            markdown_result.write_text(markdown(report))
            result_file.write(document(report))

        with display.running():
            report = run_check(workshop, request, display.show, keep)
        display.finish(report)
        return report.exit_code

    _finish(work, result_file)


@series.command("mutate")
def series_mutate(
    names: Annotated[
        list[str] | None, typer.Argument(help="Only these mutations; default: all.")
    ] = None,
    *,
    json_file: Annotated[
        Path | None, typer.Option("--json", help="Write the outcomes for machines.")
    ] = None,
    markdown_file: Annotated[
        Path | None, typer.Option("--markdown", help="Write the outcomes as a table.")
    ] = None,
    logs: Annotated[
        Path | None, typer.Option(help="Folder for all output; it must be new or empty.")
    ] = None,
) -> None:
    """Break the series on purpose, once at a time, and see whether a test notices."""
    result_file = ResultFile(json_file)

    def work() -> int:
        from imakexec.kernel.cache import Cache
        from imakexec.project import find_project
        from imakexec.report import live, mutations
        from imakexec.series.logs import make_log_folder, new_log_folder
        from imakexec.series.mutate import mutate, read_mutations

        project = find_project()
        wanted = read_mutations(project, names or ())
        markdown_result = ResultFile(markdown_file, option="--markdown")
        markdown_result.claim()
        folder = new_log_folder(Cache()) if logs is None else logs.absolute()
        make_log_folder(folder)
        outcomes = []
        for outcome in mutate(project, wanted, folder, live.TerminalProgress(_err)):
            outcomes.append(outcome)
            for line in mutations.outcome_lines(outcome):
                _out.print(line, highlight=False)
            # What was found so far outlives an interruption.
            markdown_result.write_text(mutations.markdown(outcomes))
            result_file.write(mutations.document(outcomes, len(wanted)))
        _out.print(mutations.summary(outcomes), highlight=False)
        return mutations.exit_code(outcomes)

    _finish(work, result_file)
