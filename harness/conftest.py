# SPDX-License-Identifier: GPL-2.0-only
"""Options and fixtures of the tests that boot kernels.

Kernels are named by what they are: `patched` has the whole series and room for late records,
`tight` has the whole series and half a page, `plain` is the base without any patch: the control.
"""

from __future__ import annotations

import dataclasses
import fcntl
import mmap
import os
import re
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Self

import pytest
from rich.console import Console

from imakexec import job, scenario
from imakexec.arch import ARCHES, X86_64, Arch, LateRefusal
from imakexec.attest import Judgement, MeasurementLog, Record, Rejection, judge, judge_folder
from imakexec.attest.handover import CarriedList, HandoverBuffer
from imakexec.deadline import Deadline
from imakexec.errors import ImaKexecError, InfraError
from imakexec.evidence import Evidence, EvidenceFault
from imakexec.job import JobOptions, Workshop
from imakexec.kernel.build import DEBUG_INFO, KernelImage, KernelRequest, offers_ima_option
from imakexec.kernel.cache import Cache
from imakexec.kernel.config import EXTRA_MEMORY, has_extra_memory, has_ima_option, values
from imakexec.kernel.source import SourceTree
from imakexec.machine.accelerator import Accelerator
from imakexec.machine.qemu import require_programs
from imakexec.oracle_check import disagreements
from imakexec.project import find_project
from imakexec.report.live import TerminalProgress
from imakexec.scenario import Session
from imakexec.suite import artefacts
from imakexec.suite.catalogue import CATALOGUE
from imakexec.suite.collector import FOLDER
from imakexec.suite.notes import Notes, identity_of, now
from imakexec.suite.plugin import CACHE, NOTES
from imakexec.suite.properties import KernelProperties
from imakexec.suite.runner import note_kernel
from imakexec.suite.trial import Trial

ENOUGH_KB = 40
"""Extra memory that holds the late records of every test that wants them all carried."""

CHECKED_MIB = 1024
"""Memory of a guest whose kernel has KASAN, which takes an eighth of it and keeps what is freed."""

CHECKED_TIMES = 10.0
"""What such a kernel may take for its boot, in times of that of another."""

GONE_SECONDS = 2.0
"""How long what is left of a killed run may go on."""

ORACLE_SECONDS = 120.0
"""For all lists of a test; one of 80 MiB takes a second."""

FAIL_ALLOCATIONS = """
set -e
busybox mount -t debugfs debugfs /sys/kernel/debug
for kind in failslab fail_page_alloc; do
    cd /sys/kernel/debug/$kind
    echo Y >task-filter
    echo N >ignore-gfp-wait
    echo 100 >probability
    echo -1 >times
    echo 1 >verbose
done
echo 0 >/sys/kernel/debug/fail_page_alloc/min-order
"""
"""A shell script: every allocation fails of the tasks that the probe chooses."""

COMMAND = (
    # A test run that was started in the background ignores SIGINT, and so would its children.
    *("env", "--default-signal=INT"),
    *(sys.executable, "-m", "imakexec", "run"),
    *("--accel=tcg", "--extra-memory-kb=40", "--files=5"),
)


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the options that choose what is booted and how."""
    group = parser.getgroup("imakexec")
    group.addoption("--base", default="linux-6.1", help="Debian's source of the kernels")
    group.addoption("--kernel-tree", type=Path, help="a kernel tree of your own, tested as it is")
    group.addoption(
        "--patch",
        action="append",
        default=[],
        type=Path,
        metavar="FILE",
        help="a patch of your own on top of --base or --kernel-tree, tested as it is; repeat it",
    )
    group.addoption("--kernel", type=Path, help="a boot image of your own, tested as it is")
    group.addoption("--config", type=Path, help="the configuration of --kernel")
    group.addoption(
        "--fixed", action="append", default=[], metavar="ID", help="a known defect that is mended"
    )
    group.addoption(
        "--debug-kernel", action="store_true", help="every kernel reports its own mistakes"
    )
    group.addoption(
        "--debug-info", action="store_true", help="call traces are decoded to lines of the source"
    )
    group.addoption("--mutation", type=Path, help="a patch that breaks the series on purpose")
    group.addoption("--accel", type=Accelerator, help="kvm or tcg; default: find out")
    group.addoption("--arch", choices=list(ARCHES), default=X86_64.name, help="of the guests")
    group.addoption("--vectors", type=Path, help="take the vectors anew, into this folder")


def pytest_configure(config: pytest.Config) -> None:
    """Refuse two kernels of one's own that cannot be the same."""
    if config.getoption("--kernel") and config.getoption("--patch"):
        raise pytest.UsageError("--patch is for kernels that are built here, and --kernel is not")


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip a test that needs what the guests' architecture has not; see `Arch.lacks`."""
    arch = chosen_arch(item.config)
    for marker in item.iter_markers("needs"):
        [feature] = marker.args
        if feature in arch.lacks:
            pytest.skip(f"{arch.name} lacks {feature}: {arch.lacks[feature]}")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Try each scenario on the kernels that there are; see `Subject`."""
    if "subject" not in metafunc.fixturenames:
        return
    item = metafunc.definition
    wanted = [name for marker in item.iter_markers("kernels") for name in marker.args]
    names_here = subject_names(metafunc.config)
    names = [name for name in names_here if name in (wanted or SUBJECTS)]
    parameters: list[object] = list(names)
    if item.get_closest_marker("under_debug") and not metafunc.config.getoption("--debug-kernel"):
        parameters.append(pytest.param("debug", marks=pytest.mark.nightly))
    if not parameters:
        lacking = f"needs one of the kernels {', '.join(wanted)}: {' and '.join(names_here)} here"
        parameters.append(pytest.param("", marks=pytest.mark.skip(reason=lacking)))
    metafunc.parametrize("subject", parameters, indirect=True)


def subject_names(config: pytest.Config) -> list[str]:
    """The kernels of this run: the base, with the series if it has one, and the user's own."""
    names = ["patched", "plain"] if has_series(config.getoption("--base")) else ["plain"]
    has_own = any(map(config.getoption, ("--kernel-tree", "--kernel", "--patch")))
    return [*names, "given"] if has_own else names


def has_series(base: str) -> bool:
    """Whether there is a series for a base."""
    return (find_project() / "patches" / f"{base}.y").is_dir()


def chosen_arch(config: pytest.Config) -> Arch:
    """What the guests run on."""
    return ARCHES[config.getoption("--arch")]


@dataclass(frozen=True)
class Run:
    """One finished run.

    Attributes:
        folder: where its evidence is.
        evidence: the same, loaded.
        judgement: the verifier's, from that evidence alone.
    """

    folder: Path
    evidence: Evidence
    judgement: Judgement

    def raw_log(self, snapshot: str) -> bytes:
        """The measurement list of a snapshot, as it was read."""
        logs = {item.name: item.log for item in self.evidence.snapshots}
        log = logs[snapshot]
        assert log is not None, f"the snapshot {snapshot!r} has no list"
        return log

    def records(self, snapshot: str) -> list[Record]:
        """The list of a snapshot."""
        return records_of(self.raw_log(snapshot))

    def names(self, snapshot: str) -> list[str]:
        """The event names in the list of a snapshot, in order."""
        return [record.name for record in self.records(snapshot)]


@dataclass(frozen=True)
class Lab:
    """Makes and judges the runs of one test.

    Attributes:
        workshop: builds and packs.
        accelerator: forced, or None.
        folder: for the evidence.
        notes: what becomes known of the test.
        dump_memory: whether the memory of a guest that fails is kept.
    """

    workshop: Workshop
    accelerator: Accelerator | None
    folder: Path
    notes: Notes
    dump_memory: bool

    @contextmanager
    def session(self, kernel: KernelRequest, **options: object) -> Iterator[Session]:
        """A machine that starts to boot `kernel`; `options` are fields of `JobOptions`."""
        asked = JobOptions(
            kernel=kernel,
            arch=kernel.arch,
            accelerator=self.accelerator,
            out=self.folder,
            dump_memory=self.dump_memory,
        )
        asked = dataclasses.replace(asked, **options)  # type: ignore[arg-type]  # names, by test
        prepared = self.workshop.prepare(asked)
        checks_memory = values(prepared.kernel.config).get("KASAN") == "y"
        if checks_memory:
            asked = with_room_for_checks(asked)
        accelerator = prepared.accelerator.accelerator
        self.notes.take_kernel(prepared.kernel, asked.arch, accelerator)
        with job.open_session(self.workshop, prepared, asked, self.folder) as session:
            session.patience = CHECKED_TIMES if checks_memory else 1.0
            try:
                yield session
            finally:
                self.notes.take_steps(session)

    def judge(self) -> Run:
        """Judge what the session left, as `imakexec verify` would."""
        judgement = judge_folder(self.folder)
        self.notes.take_judgement(judgement, self.folder)
        return Run(self.folder, Evidence.load(self.folder), judgement)


def with_room_for_checks(options: JobOptions) -> JobOptions:
    """The same machine for a kernel that checks its memory: larger, and freed pages poisoned."""
    return dataclasses.replace(
        options,
        memory_mib=max(options.memory_mib, CHECKED_MIB),
        cmdline=f"{options.cmdline} page_poison=1".strip(),
    )


def evidence_of(node: pytest.Item, scratch: Path) -> Iterator[Path]:
    """The evidence folders of a test.

    Args:
        scratch: what is below pytest's temporary folder counts too: runs of the command.
    """
    yield from artefacts.evidence_below(scratch)
    notes = node.stash.get(NOTES, None)
    if notes is not None:
        yield from artefacts.evidence_below(notes.folder)  # elsewhere with --artefacts


@pytest.fixture(scope="session")
def heard() -> set[Path]:
    """The evidence folders that have had their second opinion."""
    return set()


@pytest.fixture(autouse=True)
def _second_opinion(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, heard: set[Path]
) -> Iterator[None]:
    """Hold evmctl against the verifier on all evidence that there is after a test.

    Here and not where a test judges, so that no test can leave it out: runs of the command and
    folders that nobody has judged count as well.
    """
    yield
    deadline = Deadline.after(ORACLE_SECONDS)
    found = []
    scratch = tmp_path_factory.getbasetemp()
    for folder in sorted(set(evidence_of(request.node, scratch)) - heard):
        heard.add(folder)
        try:
            evidence = Evidence.load(folder)
        except EvidenceFault:
            continue  # there is no list that could be trusted to be the one that was taken
        found += [
            f"{folder}: {line}" for line in disagreements(evidence, judge(evidence), deadline)
        ]
    assert not found, "\n".join(found)


@pytest.fixture(scope="session")
def workshop() -> Workshop:
    """Builds kernels and guests, with the user's own cache."""
    return Workshop(find_project(), TerminalProgress(Console(stderr=True), live=False))


class Kernels:
    """Builds the kernels under test, each when it is first wanted, and shows that it does.

    Args:
        config: pytest's; it knows the options and how to write past its capture.
        workshop: builds them.

    Attributes:
        base: the source that the kernels of this run are made of.
    """

    def __init__(self, config: pytest.Config, workshop: Workshop) -> None:
        self.base: str = config.getoption("--base")
        self.has_series = has_series(self.base)
        self._artefacts = config.stash.get(FOLDER, None)
        debug = _lines("Kconfig.debug.fragment") if config.getoption("--debug-kernel") else ()
        self._debug = (*debug, *(DEBUG_INFO if config.getoption("--debug-info") else ()))
        mutation: Path | None = config.getoption("--mutation")
        self._mutation = () if mutation is None else (mutation.resolve(),)
        self._arch = chosen_arch(config)
        self._capture = config.pluginmanager.getplugin("capturemanager")
        self._workshop = workshop

    def request(
        self,
        *,
        patches: int | None,
        extra_memory_kb: int | None,
        symbols: tuple[str, ...] = (),
        further: tuple[Path, ...] = (),
        tree: Path | None = None,
        base: str = "",
    ) -> KernelRequest:
        """Have the kernel with the first `patches` patches (None: all) built.

        Args:
            tree: the user's, to which nothing is applied unasked; None for the base.
            base: another one than the run's.
        """
        require_programs(self._arch)
        wanted = KernelRequest(
            arch=self._arch,
            base=base or self.base,
            kernel_tree=tree,
            patches=patches,
            extra_memory_kb=extra_memory_kb,
            symbols=(*self._debug, *symbols),
            further=(*self._mutation, *further) if patches is None else further,
        )
        self.build(wanted)
        return wanted

    def series(
        self,
        *,
        extra_memory_kb: int,
        symbols: tuple[str, ...] = (),
        further: tuple[Path, ...] = (),
    ) -> KernelRequest:
        """Have the whole series built; the test is skipped on a base that has none."""
        if not self.has_series:
            pytest.skip(f"needs a base with a series in patches/: {self.base} has none")
        return self.request(
            patches=None, extra_memory_kb=extra_memory_kb, symbols=symbols, further=further
        )

    def of_base(self, base: str) -> KernelRequest:
        """Have the kernel of any base built, with the series if that has one."""
        is_ours = has_series(base)
        has_option = is_ours or has_extra_memory(self.source(base=base).path)
        return self.request(
            base=base,
            patches=None if is_ours else 0,
            extra_memory_kb=ENOUGH_KB if has_option else None,
        )

    def source(self, tree: Path | None = None, *, base: str = "") -> SourceTree:
        """The unpatched source of a base, by default the run's, or of the user's tree."""
        wanted = KernelRequest(arch=self._arch, base=base or self.base, kernel_tree=tree)
        with self._capture.global_and_fixture_disabled():
            return self._workshop.source(wanted)

    def build(self, wanted: KernelRequest) -> KernelImage:
        """Build a kernel, or find it built."""
        if self._artefacts is not None:
            note_kernel(self._artefacts, wanted)
        with self._capture.global_and_fixture_disabled():
            return self._workshop.kernel(wanted)


@pytest.fixture(scope="session")
def kernels(pytestconfig: pytest.Config, workshop: Workshop) -> Kernels:
    """Any kernel of the series."""
    return Kernels(pytestconfig, workshop)


@pytest.fixture(scope="session")
def patched(kernels: Kernels) -> KernelRequest:
    """The whole series, with room for late records."""
    return kernels.series(extra_memory_kb=ENOUGH_KB)


@pytest.fixture(scope="session")
def tight(kernels: Kernels) -> KernelRequest:
    """The whole series, with half a page for late records."""
    return kernels.series(extra_memory_kb=0)


@pytest.fixture(scope="session")
def plain(kernels: Kernels) -> KernelRequest:
    """The base without any patch: what a harness that works must find fault with."""
    return kernels.request(patches=0, extra_memory_kb=None)


@pytest.fixture(scope="session")
def probed(kernels: Kernels) -> KernelRequest:
    """The whole series, with a probe in the reboot chain."""
    return kernels.series(
        extra_memory_kb=ENOUGH_KB,
        symbols=_lines("harness/probe/Kconfig.fragment"),
        further=(find_project() / "harness/probe/reboot-chain.patch",),
    )


SUBJECTS = ("patched", "plain", "given", "debug")


@dataclass(frozen=True)
class Subject:
    """One of the kernels that every scenario is tried on, in any variant of its configuration.

    Attributes:
        name: patched, plain (the base), given (the user's), or debug (patched if there is a series
            for the base, and reporting its own mistakes).
        kernels: builds it.
        own: the user's, as it is.
    """

    name: str
    kernels: Kernels
    own: KernelRequest

    def has_ima_option(self, name: str) -> bool:
        """Whether its IMA has a configuration symbol, named without its CONFIG_."""
        if self.name != "given":
            return has_ima_option(self.kernels.source().path, name)
        if self.own.image is None:
            tree = self.kernels.source(self.own.kernel_tree).path
            return offers_ima_option(self.own, tree, name)
        # A configuration names what could be set, too.
        return f"CONFIG_{name}" in re.findall(
            r"\w+", self.kernels.build(self.own).config.read_text()
        )

    def request(
        self,
        *,
        extra_memory_kb: int = ENOUGH_KB,
        symbols: Sequence[str] = (),
        further: Sequence[Path] = (),
    ) -> KernelRequest:
        """Have it built; the extra memory is left out where a kernel has no such option."""
        given = self.own if self.name == "given" else None
        if given is not None and given.image is not None:
            built_with = self.kernels.build(given).config.read_text().splitlines()
            lacking = [line for line in symbols if line not in built_with]
            if lacking or further:
                wanted = ", ".join([*lacking, *(patch.name for patch in further)])
                pytest.skip(f"{given.image} was built without {wanted}")
            return given
        debug = _lines("Kconfig.debug.fragment") if self.name == "debug" else ()
        own = () if given is None else given.further
        return self.kernels.request(
            patches=0 if self.name == "plain" or own else None,
            extra_memory_kb=extra_memory_kb if self._has_extra_memory() else None,
            symbols=(*debug, *symbols),
            further=(*own, *further),
            tree=None if given is None else given.kernel_tree,
        )

    def _has_extra_memory(self) -> bool:
        is_ours = self.name in ("patched", "debug") and self.kernels.has_series
        return is_ours or self.has_ima_option(EXTRA_MEMORY)


@pytest.fixture
def subject(
    request: pytest.FixtureRequest, kernels: Kernels, pytestconfig: pytest.Config
) -> Subject:
    """The kernel that a scenario is tried on."""
    own = KernelRequest(
        arch=chosen_arch(pytestconfig),
        kernel_tree=pytestconfig.getoption("--kernel-tree"),
        further=tuple(path.absolute() for path in pytestconfig.getoption("--patch")),
        image=pytestconfig.getoption("--kernel"),
        config=pytestconfig.getoption("--config"),
    )
    return Subject(request.param, kernels, own)


@pytest.fixture
def trial(
    request: pytest.FixtureRequest, lab: Lab, subject: Subject, pytestconfig: pytest.Config
) -> Trial:
    """What a scenario's test does everything with.

    Its kernel has room for late records where a kernel has the option; none with the marker tight.
    """
    marker = request.node.get_closest_marker("scenario")
    tight = request.node.get_closest_marker("tight")
    checks = request.node.get_closest_marker("debug_build")
    wanted = [name for marker in request.node.iter_markers("symbols") for name in marker.args]
    kernel = subject.request(
        extra_memory_kb=0 if tight else ENOUGH_KB,
        symbols=_lines("Kconfig.debug.fragment") if checks else (),
    )
    image = lab.workshop.kernel(kernel)
    properties = KernelProperties.of(image)
    identity = identity_of(image, kernel.arch, subject.name)
    lab.notes.kernel = dataclasses.replace(identity, features=properties.features)
    lacking = [name for name in wanted if properties.config.get(name) != "y"]
    # What is built here has them, or the test must fail.
    if lacking and kernel.image is not None:
        pytest.skip(f"{properties.release} was built without {', '.join(lacking)}")
    made = Trial(
        scenario=CATALOGUE[marker.args[0]],
        kernel=properties,
        open_session=partial(lab.session, kernel=kernel),
        folder=lab.folder,
        notes=lab.notes,
        fixed=fixed_in(pytestconfig, subject.name),
    )
    lab.notes.trial = made
    return made


def fixed_in(config: pytest.Config, subject: str) -> frozenset[str]:
    """What --fixed says, which is of the user's own kernel if there is one."""
    is_of_another = "given" in subject_names(config) and subject != "given"
    return frozenset() if is_of_another else frozenset(config.getoption("--fixed"))


def _lines(fragment: str) -> tuple[str, ...]:
    lines = (find_project() / fragment).read_text().splitlines()
    return tuple(line for line in lines if line.startswith("CONFIG_"))


@pytest.fixture
def notes(
    request: pytest.FixtureRequest, pytestconfig: pytest.Config, workshop: Workshop, tmp_path: Path
) -> Notes:
    """What becomes known of a test, with the folder of its artefacts."""
    node = request.node
    attempt: int = getattr(node, "execution_count", 1)  # of pytest-rerunfailures
    root = pytestconfig.stash.get(FOLDER, None)
    if root is None:
        folder = tmp_path / "artefacts"
        node.stash[CACHE] = workshop.cache
    else:
        folder = root / artefacts.folder_name(node.nodeid, attempt)
    options = artefacts.options_of(pytestconfig.invocation_params.args)
    state = project_state()
    script = artefacts.reproduce_script(node.nodeid, options, state)
    started = now()
    artefacts.start_folder(folder, node.nodeid, started=started, script=script)
    node.stash[NOTES] = made = Notes(folder, attempt, started)
    return made


@cache
def project_state() -> str:
    """The commit of this checkout."""
    return artefacts.project_state(find_project())


@pytest.fixture
def lab(workshop: Workshop, pytestconfig: pytest.Config, notes: Notes) -> Lab:
    """What a test makes its runs with."""
    return Lab(
        workshop,
        pytestconfig.getoption("--accel"),
        notes.folder / artefacts.EVIDENCE,
        notes,
        pytestconfig.getoption("--dump-memory"),
    )


@pytest.fixture
def ram(tmp_path: Path) -> Iterator[Path]:
    """A file for the guest's memory, too large to be kept."""
    yield tmp_path / "ram"
    (tmp_path / "ram").unlink(missing_ok=True)  # the machine may not have come to make it


@pytest.fixture
def world(lab: Lab, patched: KernelRequest, tmp_path: Path) -> World:
    """A world whose cache has the patched kernel and its guest image."""
    lab.workshop.image(lab.workshop.kernel(patched).image, patched.arch)
    return World.make(tmp_path / "world", lab.workshop.cache, patched.arch)


@dataclass(frozen=True)
class World:
    """A temporary folder, a cache and a place for evidence that one test alone uses.

    Every process that a run starts inherits the run's TMPDIR, so what is left of it is found by
    its environment, whatever else runs on this computer.

    Attributes:
        folder: holds all of it.
        arch: of its guests.
    """

    folder: Path
    arch: Arch

    @classmethod
    def make(cls, folder: Path, made: Cache, arch: Arch) -> Self:
        """A world whose cache has what takes long to make, as links into the cache `made`."""
        world = cls(folder, arch)
        world.scratch.mkdir(parents=True)
        world.cache.mkdir(parents=True)
        for name in ("kernel", "guest-image", "guest-packages", "source"):
            (world.cache / name).symlink_to(made.root / name)
        return world

    @property
    def scratch(self) -> Path:
        """Its TMPDIR."""
        return self.folder / "tmp"

    @property
    def cache(self) -> Path:
        """Its cache."""
        return self.folder / "cache" / "imakexec"

    @property
    def evidence(self) -> Path:
        """Where its runs put their evidence."""
        return self.folder / "evidence"

    @property
    def environment(self) -> Mapping[str, str]:
        """What makes a process a part of it."""
        paths = {"TMPDIR": str(self.scratch), "XDG_CACHE_HOME": str(self.cache.parent)}
        return {**os.environ, **paths}

    def command(self, *arguments: str) -> tuple[str, ...]:
        """The command line of a run."""
        return (*COMMAND, f"--arch={self.arch.name}", f"--out={self.evidence}", *arguments)

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        """Start a run, and return when it has its signals in hand."""
        child = subprocess.Popen(
            self.command(*arguments),
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        wait_until(lambda: _catches_sigterm(child.pid), seconds=10)
        return child

    def run(self, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        """Run the command to its end; `environment` changes some of its variables."""
        return subprocess.run(
            self.command(*arguments),
            env={**self.environment, **environment},
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )

    def processes(self) -> list[str]:
        """Command lines of the processes that belong to it."""
        mark = f"TMPDIR={self.scratch}".encode()
        return [
            line
            for folder in Path("/proc").glob("[0-9]*")
            if mark in _read(folder / "environ").split(b"\0")
            and (line := _read(folder / "cmdline").replace(b"\0", b" ").decode())
        ]

    def assert_nothing_is_left(self) -> None:
        """No process, scratch, half of a file, socket or held lock, at the latest in a moment."""
        for left in (self.processes, self.leftovers, self.sockets, self.held_locks):
            wait_until(partial(_is_empty, left), seconds=GONE_SECONDS, instead=left)

    def leftovers(self) -> list[Path]:
        """Scratch in its temporary folder and its cache, and drafts of what was being written."""
        making = self.cache / "tmp"
        drafts = [path for path in self.cache.rglob(".*") if path.is_file()]
        scratch = [*self.scratch.iterdir(), *(making.iterdir() if making.exists() else ())]
        return [*scratch, *drafts]

    def sockets(self) -> list[str]:
        """Sockets that have a name in it, of a process that lives or has left the file."""
        lines = _read(UNIX_SOCKETS).decode().splitlines()
        files = [Path(parent, name) for parent, _, names in os.walk(self.folder) for name in names]
        return [
            *(line for line in lines if f" {self.folder}/" in line),
            *(str(path) for path in files if path.is_socket()),
        ]

    def held_locks(self) -> list[Path]:
        """The locks of its cache that somebody holds."""
        return [path for path in (self.cache / "locks").glob("*") if _is_held(path)]


UNIX_SOCKETS = Path("/proc/net/unix")
"""A socket a line, with its name, if it has one, at the end."""


def _is_empty(left: Callable[[], Sequence[object]]) -> bool:
    return not left()


def _is_held(lock: Path) -> bool:
    with lock.open("rb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


def wait_until(
    condition: Callable[[], bool], *, seconds: float, instead: Callable[[], object] = str
) -> None:
    """Wait until the condition holds; `instead` tells what is there if it does not."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"not true within {seconds} s: {instead()}"
        time.sleep(0.01)


def _catches_sigterm(pid: int) -> bool:
    for line in _read(Path(f"/proc/{pid}/status")).decode().splitlines():
        name, _, mask = line.partition(":")
        if name == "SigCgt":
            return bool(int(mask, 16) & 1 << 14)
    return False


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:
        return b""  # it has just ended


def records_of(raw: bytes) -> list[Record]:
    """The records of a measurement list; the test fails if it is none."""
    try:
        log = MeasurementLog.parse(raw)
    except Rejection as error:
        pytest.fail(f"this is no list of whole records: {error}")
    return [log[index] for index in range(len(log))]


def buffer_of(content: bytes | None) -> HandoverBuffer:
    """What `scenario.read_handover_buffer` found; the test fails if it is no hand-over buffer."""
    assert content is not None, "the next kernel has no hand-over buffer"
    try:
        return HandoverBuffer.parse(content)
    except Rejection as error:
        pytest.fail(f"this is no hand-over buffer: {error}")


def carried_in(buffer: HandoverBuffer) -> CarriedList:
    """The records that a hand-over buffer carries; the test fails if they are not as it counts."""
    try:
        return buffer.carried()
    except Rejection as error:
        pytest.fail(f"these are no records: {error}")


def late_refusal(session: Session) -> LateRefusal:
    """A load that the guest's kernel refuses after the segment was added, ready to be tried."""
    refusal = session.machine.config.arch.late_refusal
    session.guest.run(["sh", "-c", refusal.prepare], session.budget())
    return refusal


def refuse_late(session: Session) -> None:
    """Fail a load after the segment was added."""
    refusal = late_refusal(session)
    scenario.kexec_load_refused(session, image=refusal.image, cmdline=refusal.cmdline)
    assert any(refusal.says in line for line in scenario.kernel_log(session)), refusal.says


def refuse_early(session: Session) -> None:
    """Fail a load in the kernel before IMA is asked: a folder is no initramfs."""
    scenario.kexec_load_refused(session, initrd="/")


def allow(probe: str) -> str:
    """A shell script that switches the probe's parameter on."""
    return f"echo Y >/sys/module/imakexec_probe/parameters/{probe}"


SHOW_ADDRESSES = "no_hash_pointers"
"""For the command line: `mappings` then tells one mapping from another of the same size."""


def mappings(session: Session) -> list[str]:
    """What /proc/vmallocinfo says of mapped segments, a line each."""
    text = session.guest.read_file("/proc/vmallocinfo", session.budget()).decode()
    return [line for line in text.splitlines() if "kimage_map_segment" in line]


OVERFLOW = ("Kexec segment is full", "Dump measurements failed")
"""What a kernel says whose list has outgrown the segment: the series, or what was merged."""

RESTORE_ERRORS = ("nr of fields mismatch", "Failed to restore the measurement list")
"""What a kernel says that is handed a part of a record."""


def meminfo_kib(session: Session, name: str) -> int:
    """One line of the guest's /proc/meminfo, in KiB."""
    text = session.guest.read_file("/proc/meminfo", session.budget()).decode()
    [kib] = re.findall(rf"^{name}: +(\d+) kB$", text, re.MULTILINE)
    return int(kib)


def positions(names: Sequence[str], wanted: str, *, count: int | None = None) -> list[int]:
    """Where in a list an event name stands; the test fails if it is not there `count` times."""
    found = [index for index, name in enumerate(names) if name == wanted]
    assert count in (None, len(found)), f"{len(found)} records {wanted}, {count} are due"
    return found


PAGE = 4096
"""Bytes of a page, on every architecture that there is a guest of."""


def change_every_copy(ram: Path, content: bytes, *, offset: int = 0) -> int:
    """Change the last byte of what the guest's memory has of this, so far into a page each."""
    changed = 0
    with ram.open("r+b") as file, mmap.mmap(file.fileno(), 0) as memory:
        place = memory.find(content)
        while place >= 0:
            if place % PAGE == offset:
                memory[place + len(content) - 1] ^= 0xFF
                changed += 1
            place = memory.find(content, place + 1)
    return changed


SLOW_START = "initcall_debug ignore_loglevel"
"""The next kernel says each step on its way to IMA: a busy host has more time to stop it there."""


def require_early(session: Session) -> None:
    """The next kernel has not restored its list yet: IMA has not said its first word.

    Raises:
        InfraError: it may have.
    """
    console = session.machine.console
    console.drain(1.0)
    said = console.path.read_text(errors="replace").rpartition("Linux version ")[2]
    if "] ima: " in said:
        raise InfraError(
            "the machine was stopped too late: the next kernel has come to IMA",
            where=str(console.path),
            remedy="run the test again on a host with less to do",
        )


@contextmanager
def at_next_kernel(session: Session, act: Callable[[], object]) -> Iterator[None]:
    """Have something done with the machine paused, when the kernel that is executed says hello."""
    machine, budget = session.machine, session.budget(2)
    due = machine.epochs.current.number + 1
    failed: list[ImaKexecError | AssertionError] = []

    def wait_and_act() -> None:
        try:
            machine.watch.wait_until(
                lambda: machine.epochs.current.number == due or None,
                budget,
                doing="waiting for the next kernel",
            )
            with machine.paused(budget):
                require_early(session)
                act()
        except (ImaKexecError, AssertionError) as error:
            failed.append(error)

    thread = threading.Thread(target=wait_and_act)
    thread.start()
    try:
        yield
    finally:
        thread.join()
    if failed:
        raise failed[0]
