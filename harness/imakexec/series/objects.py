# SPDX-License-Identifier: GPL-2.0-only
"""Does every prefix compile, in every configuration, without a message that the base has not?

Only the objects that a kexec with IMA goes through are made, with `W=1` and sparse. Each
configuration has a build folder of its own beside the bootable kernel's, so that going from one
prefix to the next compiles what the patch reaches, and nothing else. What was said about an object
is remembered with it: it is said again of every prefix that leaves the object as it is.

So the outcome is a function of tree, configuration and tools, and cached like a kernel.
"""

from __future__ import annotations

import hashlib
import json
import re
import shutil
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from types import MappingProxyType

from imakexec import process
from imakexec.arch import Arch, KexecObjects
from imakexec.deadline import Deadline
from imakexec.kernel import config
from imakexec.kernel.build import BuildFailure, compiler_versions
from imakexec.kernel.cache import Cache, write_atomically
from imakexec.kernel.make import KernelMake, build_folder, complaints, jobs
from imakexec.kernel.series import PatchSeries
from imakexec.kernel.toolchain import Toolchain
from imakexec.kernel.worktree import WorkTree
from imakexec.progress import Progress, Step
from imakexec.series.cells import Cell, Status, row_title
from imakexec.series.messages import Message, new_messages, parse_messages, said_by_object

# Raise it when this module changes what a key stands for.
_SCHEMA = 2
_KIND = "series-objects"
_MAKE_SECONDS = 1800.0
_TOOL_SECONDS = 20.0

# The object files of any architecture, each after the symbol that has it built.
_OBJECTS = (
    ("KEXEC_CORE", "kernel/kexec_core.o"),
    ("KEXEC_FILE", "kernel/kexec_file.o"),
    ("KEXEC", "kernel/kexec.o"),
    ("MULTIUSER", "kernel/reboot.o"),  # always built; so is every kernel of ours multi-user
    ("INTEGRITY", "security/integrity/"),
)


@dataclass(frozen=True)
class Permutation:
    """A configuration that the series must compile in.

    Attributes:
        name: e.g. "IMA=n".
        heading: the same for a narrow column, its words below each other.
        symbols: what it changes in the bootable kernel's; the result must have them.
        is_32bit: whether it is one of the architecture's 32-bit sibling.
    """

    name: str
    heading: tuple[str, ...]
    symbols: Mapping[str, str]
    is_32bit: bool = False

    @property
    def width(self) -> int:
        """Of its column, in characters."""
        return max(len("RED"), *map(len, self.heading))

    @property
    def meaning(self) -> str:
        """What it stands for, as configuration symbols."""
        return ", ".join(f"{name}={value}" for name, value in self.symbols.items())


BOOTABLE = Permutation("W=1", ("W=1",), MappingProxyType({}))
"""The bootable kernel's own configuration."""

PERMUTATIONS = (
    Permutation("IMA=n", ("IMA", "=n"), MappingProxyType({"IMA": "n"})),
    Permutation(
        "IMA_KEXEC=n",
        ("IMA_", "KEXEC", "=n"),
        MappingProxyType({"IMA": "y", "KEXEC_FILE": "y", "IMA_KEXEC": "n"}),
    ),
    Permutation(
        "KEXEC_FILE=n",
        ("FILE", "=n"),
        MappingProxyType({"IMA": "y", "KEXEC": "y", "KEXEC_FILE": "n", "IMA_KEXEC": "n"}),
    ),
    Permutation(
        "KEXEC_CORE=n",
        ("CORE", "=n"),
        MappingProxyType(
            {"IMA": "y", "KEXEC": "n", "KEXEC_FILE": "n", "KEXEC_CORE": "n", "IMA_KEXEC": "n"}
        ),
    ),
    Permutation(
        "IMA_DISABLE_HTABLE=y",
        ("no", "hash"),
        MappingProxyType({"IMA": "y", "IMA_KEXEC": "y", "IMA_DISABLE_HTABLE": "y"}),
    ),
    Permutation(
        "32-bit",
        ("32", "bit"),
        MappingProxyType(
            {"64BIT": "n", "IMA": "y", "KEXEC": "y", "KEXEC_FILE": "n", "IMA_KEXEC": "n"}
        ),
        is_32bit=True,
    ),
)


@dataclass(frozen=True)
class ObjectChecks:
    """Builds of the objects that the series concerns.

    Attributes:
        series: the whole series.
        work: the working copy of the base.
        arch: what is built for.
        wanted: the bootable kernel's configuration.
        cache: where outcomes are kept.
        progress: where steps are announced.
        logs: where make's output goes.
    """

    series: PatchSeries
    work: WorkTree
    arch: Arch
    wanted: tuple[config.Wanted, ...]
    cache: Cache
    progress: Progress
    logs: Path

    def compare(self, patches: int, permutation: Permutation) -> Cell:
        """Whether a prefix compiles, and says nothing that the base does not say.

        Raises:
            BuildFailure: it does not compile, or the configuration cannot be had.
            InfraError: the host failed.
        """
        kexec = self._kexec(permutation)
        if kexec is None:
            return Cell(Status.NOT_APPLICABLE, "no such architecture")
        log = self.logs / f"{patches}-{permutation.name}.log"
        now = self._messages(patches, permutation, kexec, log)
        before = now if not patches else self._messages(0, permutation, kexec, None)
        new = new_messages(now, before)
        plural = "message" if len(new) == 1 else "messages"
        faults = [f"{len(new)} new {plural}", *new] if new else []
        return Cell.judged(faults, "ok", log)

    def _kexec(self, permutation: Permutation) -> KexecObjects | None:
        return self.arch.kexec_32bit if permutation.is_32bit else self.arch.kexec

    def _messages(
        self, patches: int, permutation: Permutation, kexec: KexecObjects, log: Path | None
    ) -> Counter[Message]:
        key = self._key(patches, permutation, kexec)
        entry = self.cache.lookup(_KIND, key)
        if entry is None:
            title = f"objects of {row_title(patches, len(self.series.patches))}, {permutation.name}"
            deadline = Deadline.after(_MAKE_SECONDS)
            with (
                self.progress.step(title) as step,
                self.cache.lock(self.work.lock_name, deadline, self.progress),
            ):
                self.work.prepare(self.series.first(patches), step, deadline)
                make = _ObjectMake(self, permutation, kexec, step, deadline)
                with self.cache.publish(_KIND, key) as folder:
                    (folder / "make.log").write_text(make.run(), encoding="utf-8")
            entry = self.cache.lookup(_KIND, key)
            assert entry is not None, "published above"
        if log is not None:
            shutil.copyfile(entry / "make.log", log)
        output = (entry / "make.log").read_text(encoding="utf-8")
        return parse_messages(output, str(self.work.tree))

    def _key(self, patches: int, permutation: Permutation, kexec: KexecObjects) -> str:
        inputs = {
            "schema": _SCHEMA,
            "source": self.work.source.identity,
            "patches": [patch.digest for patch in self.series.first(patches).patches],
            "symbols": sorted((symbol.name, symbol.value) for symbol in self.wanted),
            "permutation": sorted(permutation.symbols.items()),
            "arch": kexec.kernel_arch,
            "objects": [*_OBJECTS, *kexec.objects],
            "tools": self.tools,
        }
        return hashlib.sha256(json.dumps(inputs, sort_keys=True).encode()).hexdigest()

    @cached_property
    def tools(self) -> tuple[str, ...]:
        """What compiles, links and looks, with versions.

        Raises:
            InfraError: one is missing.
        """
        deadline = Deadline.after(_TOOL_SECONDS)
        sparse = process.run(
            ["sparse", "--version"],
            deadline=deadline,
            remedy="install the package sparse (./run_qemu.sh does it by itself)",
        )
        compilers = compiler_versions(self.arch, deadline).splitlines()
        return (*compilers, f"sparse {sparse.output.strip()}")


@dataclass(frozen=True)
class _ObjectMake:
    """One configuration's objects, in its build folder, for the working copy as it is now."""

    checks: ObjectChecks
    permutation: Permutation
    kexec: KexecObjects
    step: Step
    deadline: Deadline

    @property
    def _folder(self) -> Path:
        name = re.sub(r"\W+", "-", self.permutation.name)
        kind = f"{self.kexec.kernel_arch}{self._toolchain.folder}"
        return self.checks.work.folder / f"objects-{kind}-{name}"

    @property
    def _toolchain(self) -> Toolchain:
        return Toolchain.of(self.checks.arch.cross_compile)

    @property
    def _log(self) -> Path:
        return self._folder / "make.log"

    @property
    def _said(self) -> Path:
        return self._folder / "said.json"

    def run(self) -> str:
        """Bring the objects up to date, and return what was said about each when it was made.

        Raises:
            BuildFailure: one does not compile.
            UserError: the configuration cannot be had.
            InfraError: the host failed.
        """
        with build_folder(self._folder, self.step):
            self._log.unlink(missing_ok=True)
            actual = self._configure()
            if actual.get("OBJTOOL") == "y" and not self._objtool.exists():
                # In a parallel build one part of it can run a tool while another writes it.
                self._require(self._make(["tools/objtool"]))
            targets = tuple(
                name
                for symbol, name in (*_OBJECTS, *self.kexec.objects)
                if actual.get(symbol) == "y"
            )
            self.step.update(f"{len(targets)} targets with W=1 and sparse")
            # Sparse looks at what is compiled; what is up to date was looked at then.
            made = self._make([jobs(), "--output-sync=target", "W=1", "C=1", *targets])
            # A failure too leaves objects that count as made.
            said = self._remember(said_by_object(made.output), targets)
            self._require(made)
        return "".join(said[name] for name in sorted(said))

    def _remember(self, new: Mapping[str, str], targets: tuple[str, ...]) -> Mapping[str, str]:
        """Add what was said about objects just made to what is known of the others.

        Of the targets, and of what lies in those that are folders; a source that is gone takes
        what was said about its object with it.
        """
        try:
            known: dict[str, str] = json.loads(self._said.read_text(encoding="utf-8"))
        except FileNotFoundError:
            known = {}
        folders = tuple(name for name in targets if name.endswith("/"))
        said = {
            name: text
            for name, text in (known | dict(new)).items()
            if (name in targets or name.startswith(folders)) and self._has_source(name)
        }
        write_atomically(self._said, json.dumps(said))
        return said

    def _has_source(self, name: str) -> bool:
        path = self.checks.work.tree / name
        return any(path.with_suffix(suffix).exists() for suffix in (".c", ".S"))

    @property
    def _objtool(self) -> Path:
        return self._folder / "tools/objtool/objtool"

    def _configure(self) -> Mapping[str, str]:
        """Bring .config up to date and return its symbols, verified.

        Configuring takes as long as sparse does for all objects: it is done when a Kconfig file of
        the series changes, and not for every prefix.
        """
        symbols = self.permutation.symbols.items()
        asked = [config.Wanted(name, value, self.permutation.name) for name, value in symbols]
        wanted = config.merge(self.checks.wanted, asked)
        text = config.render(wanted)
        stamp = self._folder / "configured"
        inputs = self._inputs_of_configuration(text)
        if not stamp.exists() or stamp.read_text(encoding="utf-8") != inputs:
            self.step.update("configuring")
            stamp.unlink(missing_ok=True)
            merged = self._folder / "wanted.config"
            merged.write_text(text, encoding="utf-8")
            self._require(self._make(["allnoconfig"], {"KCONFIG_ALLCONFIG": str(merged)}))
            stamp.write_text(inputs, encoding="utf-8")
        actual = config.values(self._folder / ".config")
        # Without what it switches off, much else that the guest wants cannot be had, nor need it.
        config.verify(asked or wanted, actual, self.checks.work.tree)
        return actual

    def _inputs_of_configuration(self, text: str) -> str:
        digest = hashlib.sha256(f"{text}\0{self.checks.work.source.identity}".encode())
        for name in sorted(self.checks.series.touched):
            path = self.checks.work.tree / name
            if path.name.startswith("Kconfig") and path.exists():
                digest.update(name.encode() + b"\0" + path.read_bytes())
        return digest.hexdigest()

    def _make(
        self, arguments: Sequence[str], settings: Mapping[str, str] | None = None
    ) -> process.Completed:
        make = KernelMake(
            tree=self.checks.work.tree,
            objects=self._folder,
            kernel_arch=self.kexec.kernel_arch,
            toolchain=self._toolchain,
            cache=self.checks.cache,
            log=self._log,
        )
        return make.run(arguments, self.deadline, settings=settings)

    def _require(self, made: process.Completed) -> None:
        """Let only a success pass.

        Raises:
            BuildFailure: make failed.
        """
        if made.returncode != 0:
            raise BuildFailure(
                f"make failed with {self.permutation.name}",
                where=str(self._log),
                remedy="correct the patch",
                tail=complaints(made.output),
            )
