# SPDX-License-Identifier: GPL-2.0-only
"""What this host has, what it lacks, and what to do about it.

Made for hosts on which nothing works: every check stands alone, has a time limit, and turns
whatever stops it into a row of its own. So this module imports nothing that comes from outside
the standard library, and asks for Python packages in a process of their own.
"""

from __future__ import annotations

import importlib.metadata
import json
import os
import re
import shutil
import signal
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from imakexec import process
from imakexec.arch import X86_64
from imakexec.deadline import Deadline
from imakexec.errors import ImaKexecError
from imakexec.kernel.apt import Apt
from imakexec.kernel.build import KernelRequest
from imakexec.kernel.cache import Cache
from imakexec.kernel.guest_image import read_names
from imakexec.machine.accelerator import Accelerator, probe_accelerator
from imakexec.progress import Progress
from imakexec.project import find_project

# Every question here takes well under a second on an idle host.
_ASK_SECONDS = 20.0

_GIB = 2**30
# Measured with `du` for linux-source-6.1: source 1.4, build folder 0.2 (the working copy is hard
# links), object cache, packages and images 0.1; while the source is unpacked its archives take 0.3.
_BUILD_BYTES = 2 * _GIB
# A guest takes 512 MiB, QEMU and the harness 150 MiB; the largest compilation takes less.
_RUN_BYTES = 1 * _GIB

_SET_UP = "./run_qemu.sh sets it up"
_BUILDS = "./run_qemu.sh builds one"

# Distribution and the module that a run imports of it.
_PYTHON_MODULES = (
    ("cryptography", "cryptography.hazmat.primitives.asymmetric.ec"),
    ("pexpect", "pexpect"),
    ("qemu.qmp", "qemu.qmp"),
    ("rich", "rich"),
    ("tpm2-pytss", "tpm2_pytss"),
    ("typer", "typer"),
)

# A harness that is killed while it has a child. The child holds the standard output: its end of
# file is the child's end.
_KILLED_HARNESS = """
import os, signal, sys
from imakexec import process
child = [sys.executable, "-c", "import time; time.sleep(30)"]
with process.spawn(child, stdout=sys.stdout.fileno()):
    os.kill(os.getpid(), signal.SIGKILL)
"""


# What files raise that cannot be read (OSError) or do not hold what they should (ValueError,
# LookupError).
_DAMAGE = (OSError, ValueError, LookupError)


class State(StrEnum):
    """How a check went."""

    OK = "ok"
    WARNING = "warning"
    """Runs work, but worse than they could, or need something first that they get themselves."""
    MISSING = "missing"
    """Runs do not work without it."""


@dataclass(frozen=True)
class Row:
    """The answer of one check.

    Attributes:
        name: what was looked for.
        state: how it went.
        seen: what was found: a version, an amount, a reason.
        remedy: what to do; empty when all is well.
    """

    name: str
    state: State
    seen: str
    remedy: str = ""


@dataclass(frozen=True)
class DoctorReport:
    """All rows, in the order of what builds on what."""

    rows: tuple[Row, ...]

    @property
    def healthy(self) -> bool:
        """Whether nothing is missing."""
        return all(row.state is not State.MISSING for row in self.rows)


@dataclass(frozen=True)
class Check:
    """One question to the host.

    Attributes:
        name: what is looked for.
        look: yields the answers; an error stands for one that it is missing.
        remedy: what to do after an error.
    """

    name: str
    look: Callable[[], Iterator[Row]]
    remedy: str

    def rows(self) -> tuple[Row, ...]:
        """The answers, whatever happens."""
        rows: list[Row] = []
        try:
            rows.extend(self.look())
        except ImaKexecError as error:
            rows.append(Row(self.name, State.MISSING, error.what, self.remedy))
        except _DAMAGE as error:
            rows.append(Row(self.name, State.MISSING, str(error), self.remedy))
        return tuple(rows)


def examine(progress: Progress) -> DoctorReport:
    """Look at everything that a run needs. Nothing is installed, fetched or repaired."""
    rows: list[Row] = []
    with progress.step("look at this host") as step:
        for number, check in enumerate(CHECKS):
            step.update(check.name, number / len(CHECKS))
            rows += check.rows()
    return DoctorReport(tuple(rows))


# Programs


def _packages() -> Iterator[Row]:
    names = read_names(find_project() / "harness" / "host-packages.txt")
    listing = "${Package} ${db:Status-Abbrev}${Version}\\n"
    # A name that dpkg never heard of makes its exit status 1; the other names are listed all the
    # same.
    known = process.run(
        ["dpkg-query", "--show", f"--showformat={listing}", *names],
        deadline=Deadline.after(_ASK_SECONDS),
        check=False,
    ).output
    installed = dict(re.findall(r"^(\S+) .i. ?(\S+)$", known, re.MULTILINE))
    for name in names:
        if name in installed:
            yield Row(f"package {name}", State.OK, installed[name])
        else:
            remedy = f"{_SET_UP}, or: apt-get install {name}"
            yield Row(f"package {name}", State.MISSING, "not installed", remedy)


def _python_modules() -> Iterator[Row]:
    for distribution, module in _PYTHON_MODULES:
        loaded = process.run(
            [sys.executable, "-c", f"import {module}"],
            deadline=Deadline.after(_ASK_SECONDS),
            check=False,
        )
        name = f"python {distribution}"
        if loaded.returncode == 0:
            yield Row(name, State.OK, importlib.metadata.version(distribution))
        else:
            why = loaded.output.strip().rpartition("\n")[2]
            remedy = f"remove {sys.prefix}; {_SET_UP} anew"
            yield Row(name, State.MISSING, why or f"exit {loaded.returncode}", remedy)


def _guardian() -> Iterator[Row]:
    # An error if the time is up: then the child has outlived the killed harness.
    killed = process.run(
        [sys.executable, "-c", _KILLED_HARNESS],
        deadline=Deadline.after(_ASK_SECONDS),
        check=False,
    )
    if killed.returncode == -signal.SIGKILL:
        yield Row("guardian", State.OK, "ends the children of a killed harness")
    else:
        why = killed.output.strip().rpartition("\n")[2]
        yield Row("guardian", State.MISSING, why, "children cannot be started: see the reason")


def _qemu() -> Iterator[Row]:
    yield Row("QEMU", State.OK, _version(X86_64.qemu))


def _tpm_device() -> Iterator[Row]:
    devices = _ask(X86_64.qemu, "-device", "help")
    name = f"QEMU device {X86_64.tpm_device}"
    if f'"{X86_64.tpm_device}"' in devices:
        yield Row(name, State.OK, "known")
    else:
        yield Row(name, State.MISSING, "unknown to this QEMU", "install Debian's qemu-system-x86")


def _swtpm() -> Iterator[Row]:
    yield Row("swtpm", State.OK, _version("swtpm"))


def _swtpm_setup() -> Iterator[Row]:
    _ask("swtpm_setup", "--help")  # it does not tell its version
    yield Row("swtpm_setup", State.OK, "runs")


def _version(program: str) -> str:
    return _ask(program, "--version").partition("\n")[0]


def _ask(*argv: str) -> str:
    """What a program says.

    Raises:
        InfraError: it is missing, fails, or does not answer in time.
    """
    return process.run(argv, deadline=Deadline.after(_ASK_SECONDS)).output


# What runs are made of


def _source() -> Iterator[Row]:
    name = KernelRequest(arch=X86_64).base.replace("linux-", "linux-source-")
    package = Apt().show(name, Deadline.after(_ASK_SECONDS))
    if package is not None:
        yield Row(name, State.OK, f"{package.version}, {package.size / 2**20:.0f} MiB")
    else:
        yield Row(
            name,
            State.WARNING,
            "not in the host's package lists",
            "apt-get update; else a run asks the distribution's other suites",
        )


def _cache() -> Iterator[Row]:
    cache = Cache()
    place = _existing(cache.root)
    if os.access(place, os.W_OK | os.X_OK):
        yield Row("cache folder", State.OK, str(cache.root))
    else:
        remedy = f"make {place} writable, or set XDG_CACHE_HOME to a folder that is"
        yield Row("cache folder", State.MISSING, f"{cache.root} cannot be written", remedy)
    yield disk_row(shutil.disk_usage(place).free, built=bool(_kernel_images(cache)))


def disk_row(free: int, *, built: bool) -> Row:
    """Whether a build has room.

    Args:
        free: bytes free where the cache is.
        built: whether there is a kernel already, and so something that runs.
    """
    seen = f"{free / _GIB:.1f} GiB free, a build from nothing takes {_BUILD_BYTES / _GIB:.0f} GiB"
    if free >= _BUILD_BYTES:
        return Row("disk space", State.OK, seen)
    state = State.WARNING if built else State.MISSING
    return Row("disk space", state, seen, "free some, or set XDG_CACHE_HOME to a larger disk")


def _existing(path: Path) -> Path:
    """The path, or the nearest folder above it that exists."""
    return next(folder for folder in (path, *path.parents) if folder.exists())


def _kernels() -> Iterator[Row]:
    images = _kernel_images(Cache())
    if not images:
        yield Row("kernels", State.WARNING, "none built yet", _BUILDS)
        return
    newest = json.loads((images[-1].parent / "build.json").read_text(encoding="utf-8"))["release"]
    yield Row("kernels", State.OK, f"{len(images)} built, the newest is {newest}")


def _kernel_images(cache: Cache) -> list[Path]:
    """The boot images in the cache, oldest first."""
    name = Path(X86_64.kernel_image).name
    images = (cache.root / "kernel").glob(f"*/{name}")
    return sorted(images, key=lambda path: path.stat().st_mtime_ns)


def _accelerator() -> Iterator[Row]:
    cache = Cache()
    images = _kernel_images(cache)
    kernel = images[-1] if images else None
    choice = probe_accelerator(X86_64, forced=None, memory=cache.root, kernel=kernel)
    seen = f"{choice.accelerator}; {choice.reason}"
    if choice.accelerator is Accelerator.KVM:
        yield Row("accelerator", State.OK, seen)
    elif kernel is None:
        yield Row("accelerator", State.WARNING, seen, f"{_BUILDS} and then tries KVM with it")
    else:
        remedy = "nothing has to be done: TCG needs no KVM, it is only slower"
        yield Row("accelerator", State.WARNING, seen, remedy)


# The host


def _memory() -> Iterator[Row]:
    yield memory_row(Path("/proc/meminfo").read_text())


def memory_row(meminfo: str) -> Row:
    """Whether a run has room.

    Args:
        meminfo: the text of /proc/meminfo.
    """
    kib = dict(re.findall(r"^(MemTotal|MemAvailable): +(\d+) kB$", meminfo, re.MULTILINE))
    total, available = (int(kib[name]) * 1024 for name in ("MemTotal", "MemAvailable"))
    seen = f"{available / _GIB:.1f} of {total / _GIB:.1f} GiB available"
    if available >= _RUN_BYTES:
        return Row("memory", State.OK, seen)
    return Row("memory", State.WARNING, seen, f"a run takes up to {_RUN_BYTES / _GIB:.0f} GiB")


def _cpus() -> Iterator[Row]:
    yield Row("CPUs", State.OK, f"{len(os.sched_getaffinity(0))} usable")


CHECKS = (
    Check("packages", _packages, "the project needs Debian 12"),
    Check("python modules", _python_modules, _SET_UP),
    Check("guardian", _guardian, "look for what stops /bin/sh or signals on this host"),
    Check("QEMU", _qemu, "apt-get install qemu-system-x86 seabios"),
    Check(f"QEMU device {X86_64.tpm_device}", _tpm_device, "apt-get install qemu-system-x86"),
    Check("swtpm", _swtpm, "apt-get install swtpm"),
    Check("swtpm_setup", _swtpm_setup, "apt-get install swtpm-tools"),
    Check("kernel source", _source, "apt-cache must work: check the apt settings"),
    Check("cache folder", _cache, "set XDG_CACHE_HOME to a folder that can be written"),
    Check(
        "kernels", _kernels, "make the cache folder readable, or remove it; ./run_qemu.sh fills it"
    ),
    Check("accelerator", _accelerator, "see the rows of QEMU and the cache folder first"),
    Check("memory", _memory, "mount /proc"),
    Check("CPUs", _cpus, "mount /proc"),
)
