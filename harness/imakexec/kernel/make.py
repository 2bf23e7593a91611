# SPDX-License-Identifier: GPL-2.0-only
"""The kernel's make, out of tree, with nothing of the host's that could change the result."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from imakexec import process
from imakexec.deadline import Deadline
from imakexec.errors import UserError
from imakexec.kernel.cache import DISK_FULL_TEXT, Cache, disk_full, explained
from imakexec.kernel.toolchain import Toolchain
from imakexec.progress import Step

_COMPLAINT = re.compile(r"error|undefined reference|\*\*\*", re.IGNORECASE)
_SHOWN_COMPLAINTS = 20

# Without these every build would differ from the last, and ccache would never hit.
REPRODUCIBLE: Mapping[str, str] = {
    "KBUILD_BUILD_TIMESTAMP": "Thu Jan  1 00:00:00 UTC 1970",
    "KBUILD_BUILD_USER": "imakexec",
    "KBUILD_BUILD_HOST": "imakexec",
    "KBUILD_BUILD_VERSION": "1",
}


@dataclass(frozen=True)
class KernelMake:
    """How make is run for one build folder.

    Attributes:
        tree: the kernel source; nothing is written to it.
        objects: the build folder (`O=`), which exists.
        kernel_arch: the kernel's name of the architecture (`ARCH=`).
        toolchain: compiles and links.
        cache: where ccache keeps its objects.
        log: receives all output.
    """

    tree: Path
    objects: Path
    kernel_arch: str
    toolchain: Toolchain
    cache: Cache
    log: Path

    def run(
        self,
        arguments: Sequence[str],
        deadline: Deadline,
        *,
        settings: Mapping[str, str] | None = None,
        on_line: Callable[[str], None] | None = None,
    ) -> process.Completed:
        """Run make to its end, whatever its exit status is.

        Args:
            arguments: targets and variables.
            settings: environment variables beside those of every build.
            on_line: called with each line of output.

        Raises:
            InfraError: it cannot be started, the disk is full, or the deadline passed.
        """
        made = process.run(
            [
                "make",
                f"--directory={self.tree}",
                f"O={self.objects}",
                f"ARCH={self.kernel_arch}",
                *self.toolchain.make_variables,
                "LOCALVERSION=",  # else a tree that is a git work tree gets a "+"
                *arguments,
            ],
            env={**_environment(self.cache), **(settings or {})},
            log=self.log,
            on_line=on_line,
            deadline=deadline,
            check=False,
        )
        if made.returncode != 0 and DISK_FULL_TEXT in made.output:
            raise disk_full(self.cache.root)
        return made


@contextmanager
def build_folder(folder: Path, step: Step) -> Iterator[None]:
    """Use `folder` as a build folder, made anew if a kill interrupted the last build in it.

    A truncated object file looks finished to make. The caller holds the lock of the folder.

    Raises:
        InfraError: the disk is full, or the folder cannot be written.
    """
    unfinished = folder / "unfinished"
    with explained(folder.parent):
        if unfinished.exists():
            step.update("removing what an interrupted build left")
            shutil.rmtree(folder)
        folder.mkdir(exist_ok=True)
        unfinished.touch()
    try:
        yield
    except UserError:
        # An orderly end: make has removed the targets that it could not finish.
        unfinished.unlink()
        raise
    unfinished.unlink()


def complaints(output: str) -> str:
    """The first lines of make's output that say why it failed."""
    found = [line for line in output.splitlines() if _COMPLAINT.search(line)]
    return "\n".join(found[:_SHOWN_COMPLAINTS])


def jobs() -> str:
    """The `-jN` that keeps every usable CPU busy."""
    return f"-j{len(os.sched_getaffinity(0))}"


def _environment(cache: Cache) -> dict[str, str]:
    """Nothing of the user's environment that could change the result and is not in the key."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if name in ("PATH", "HOME", "TMPDIR") or name.startswith("CCACHE_")
    }
    ours = {
        "CCACHE_DIR": str(cache.root / "ccache"),
        "CCACHE_NOHASHDIR": "1",
        # Headers just made or just linked look too new to be trusted by their time, which costs
        # half of the direct hits; the lock keeps them from changing while they are read.
        "CCACHE_SLOPPINESS": "include_file_mtime,include_file_ctime",
    }
    return {**ours, **kept, **REPRODUCIBLE, "LC_ALL": "C"}
