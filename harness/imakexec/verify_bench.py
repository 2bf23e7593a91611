# SPDX-License-Identifier: GPL-2.0-only
"""What it costs to read and replay a list, beside evmctl and beside the hash functions alone.

Both are timed as whole processes on the same files, in turns, so that other work on the host meets
both. Each must come to the right answer every time: a run that fails is fast. evmctl replays two
banks, whatever the verifier replays, and it has one thread; so the verifier is also timed on one
CPU.

The lists are made here, the same ones each time. Most records are ima-ng, some ima-buf, some are
violations, with paths as a distribution has them: all that evmctl takes without a remark. There is
no ima-sig: it looks for the file of each such record, which would be timed as well.

The memory is looked at in one more run: all that is resident in the first process, libraries
included, and of its copies what each has for itself alone (Documentation/filesystems/proc.rst,
/proc/PID/smaps_rollup). The list is read, not mapped: what is being worked on is in there, and
nothing else of it.

The hash functions' own cost is that of a loop over `hashlib` in this process, which computes for
each bank exactly the hashes that a replay needs, of some ten thousand records of the same list, and
does nothing else; the time is scaled to the length of the list. The figures do not judge.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import ssl
import struct
import sys
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import Self

from imakexec.bench import Runs, Sample, Spread, cpu_model, cpu_seconds, run_to_end
from imakexec.deadline import Deadline
from imakexec.errors import InfraError, UserError
from imakexec.job import tool_version
from imakexec.kernel.cache import Cache
from imakexec.oracle import (
    EVMCTL,
    Answer,
    ask_evmctl,
    evmctl_command,
    require_evmctl,
    write_pcr_files,
)
from imakexec.progress import Progress, Step

SCHEMA = "imakexec-bench-verify/1"

DEFAULT_RECORDS = (100_000, 1_000_000, 5_000_000)
"""Lengths of the lists."""
BANKS: Mapping[int, tuple[str, ...]] = {
    2: ("sha1", "sha256"),
    4: ("sha1", "sha256", "sha384", "sha512"),
}
"""The banks that are replayed, by their number."""

_ALL = BANKS[max(BANKS)]
_PCR = 10
_SAMPLE = 50_000
_ROUNDS = 5
_ASK_SECONDS = 600.0
_SHOWN_EVERY = 50_000


@dataclass(frozen=True)
class Row:
    """All runs of one length of the list with one choice of banks and CPUs.

    Attributes:
        records: in the list.
        size: of the list in bytes.
        banks: that the verifier replayed.
        cpus: that it could use.
        ours: its runs.
        evmctl: of the same turns; it always replays two banks, on one CPU.
        hashing: seconds that the hash functions alone take.
        memory: bytes that the verifier had in memory at the moment when they were most.
    """

    records: int
    size: int
    banks: tuple[str, ...]
    cpus: int
    ours: Runs
    evmctl: Runs
    hashing: float
    memory: int

    @property
    def records_per_second(self) -> float:
        """At the median wall time."""
        return self.records / self.ours.wall.median

    @property
    def microseconds(self) -> float:
        """Of wall time per record, at the median: the same for each length if time is linear."""
        return 1e6 / self.records_per_second

    @property
    def advantage(self) -> Spread:
        """How many times as long evmctl took, of each pair of runs."""
        pairs = zip(self.ours.samples, self.evmctl.samples, strict=True)
        return Spread.of(theirs.wall / ours.wall for ours, theirs in pairs)

    @property
    def factor(self) -> float:
        """The median CPU time, in all processes, as a multiple of the hash functions' own."""
        return self.ours.cpu.median / self.hashing

    def to_json(self) -> dict[str, object]:
        """Every run, and what follows from them: seconds, bytes, and ratios."""
        return {
            **asdict(self),
            "ours": self.ours.to_json(),
            "evmctl": self.evmctl.to_json(),
            "records_per_second": self.records_per_second,
            "microseconds": self.microseconds,
            "advantage": asdict(self.advantage),
            "factor": self.factor,
        }


@dataclass(frozen=True)
class VerifyHost:
    """Where the figures come from.

    Attributes:
        cpu: model name as the kernel gives it.
        cpus: how many of them this process may use.
        system: operating system and kernel.
        load: load average of the minute before the first run: what else was going on.
        python: version, and that of the library with the hash functions.
        evmctl: version.
    """

    cpu: str
    cpus: int
    system: str
    load: float
    python: str
    evmctl: str


@dataclass(frozen=True)
class VerifyFigures:
    """What was measured.

    Attributes:
        host: where.
        runs: timed runs of each.
        rows: by length, then by number of banks, then by CPUs.
    """

    host: VerifyHost
    runs: int
    rows: tuple[Row, ...]

    def to_json(self) -> dict[str, object]:
        """All of it as JSON values: seconds, bytes, and ratios; keys are stable per schema."""
        return {"schema": SCHEMA, **asdict(self), "rows": [row.to_json() for row in self.rows]}


def verify_lists(
    progress: Progress,
    *,
    records: Sequence[int] = DEFAULT_RECORDS,
    banks: Sequence[int] = tuple(BANKS),
    runs: int = 3,
    cache: Cache | None = None,
) -> VerifyFigures:
    """Measure every length with every choice of banks, on one CPU and on all.

    Args:
        records: lengths of the lists.
        banks: how many, of `BANKS`.
        runs: timed runs of each.
        cache: where the lists are kept meanwhile; None for the user's.

    Raises:
        UserError: there is no such number of banks.
        InfraError: evmctl is missing, the host failed, or a run did not come to the right answer:
            then there is no figure.
    """
    chosen = [_banks(number) for number in sorted(set(banks))]
    require_evmctl()
    host = _describe_host()
    rows: list[Row] = []
    for length in sorted(set(records)):
        # One list at a time: five million records have 0.7 GB.
        with (cache or Cache()).scratch() as folder:
            with progress.step(f"make a list of {length} records") as step:
                made = make_list(folder / "list", length, step)
                step.done(f"{made.size / 2**20:.0f} MiB")
            rows += _measure(made, chosen, host.cpus, runs, progress)
    return VerifyFigures(host, runs, tuple(rows))


def _banks(number: int) -> tuple[str, ...]:
    if number not in BANKS:
        raise UserError(
            f"no choice of {number} banks",
            where=f"--banks {number}",
            remedy=f"one of: {', '.join(map(str, BANKS))}",
        )
    return BANKS[number]


# Lists


@dataclass(frozen=True)
class MadeList:
    """A list whose outcome is known.

    Attributes:
        path: its file.
        records: how many it has.
        size: in bytes.
        pcrs: bank to the value of PCR 10 after all of them.
    """

    path: Path
    records: int
    size: int
    pcrs: Mapping[str, bytes]


_FOLDERS = (
    b"/usr/bin",
    b"/etc",
    b"/usr/lib/x86_64-linux-gnu",
    b"/usr/lib/python3/dist-packages/cryptography/hazmat/primitives",
    b"/usr/lib/modules/6.1.0-37-amd64/kernel/drivers/net/ethernet/intel",
    b"/var/lib/dpkg/info",
    b"/usr/share/perl/5.36.0/unicore/lib",
    b"/opt/service/releases/current/node_modules/library/dist",
)
_CRITICAL, _VIOLATED = 101, 997  # one in so many


@dataclass(frozen=True)
class _Written:
    """One record of a list that is made."""

    template: bytes
    data: bytes
    is_violation: bool

    def extension(self, bank: str) -> bytes:
        """What it extends the bank's PCR with."""
        if self.is_violation:
            return b"\xff" * hashlib.new(bank).digest_size
        return hashlib.new(bank, self.data).digest()

    def packed(self, digest: bytes) -> bytes:
        """As in the binary list of a little-endian machine."""
        return b"".join(
            (
                struct.pack("<I20sI", _PCR, digest, len(self.template)),
                self.template,
                struct.pack("<I", len(self.data)),
                self.data,
            )
        )


def written_records() -> Iterator[_Written]:
    """The records that every list here begins with, without end."""
    yield _written(b"ima-ng", b"\1" * 32, b"boot_aggregate")
    number = 1
    while True:
        digest = number.to_bytes(4, "little") * 8  # of a file: nobody hashes it
        path = b"%s/%d" % (_FOLDERS[number * 7 % 8], number)
        if number % _VIOLATED == 0:
            yield _written(b"ima-ng", bytes(32), path, is_violation=True)
        elif number % _CRITICAL == 0:
            yield _written(b"ima-buf", digest, b"dm_table_load", b"name=%d;" % number * 20)
        else:
            yield _written(b"ima-ng", digest, path)
        number += 1


def _written(
    template: bytes, digest: bytes, name: bytes, *more: bytes, is_violation: bool = False
) -> _Written:
    parts = (b"sha256:\0" + digest, name + b"\0", *more)
    data = b"".join(struct.pack("<I", len(part)) + part for part in parts)
    return _Written(template, data, is_violation)


def make_list(path: Path, records: int, step: Step) -> MadeList:
    """Write the list of that length, and compute where it leads to on the way."""
    values = {bank: bytes(hashlib.new(bank).digest_size) for bank in _ALL}
    with path.open("wb") as file:
        for number, record in enumerate(islice(written_records(), records)):
            extensions = {bank: record.extension(bank) for bank in _ALL}
            zero_or_digest = bytes(20) if record.is_violation else extensions["sha1"]
            file.write(record.packed(zero_or_digest))
            for bank in _ALL:
                values[bank] = hashlib.new(bank, values[bank] + extensions[bank]).digest()
            if number % _SHOWN_EVERY == 0:
                step.update(f"{number} of {records}", number / records)
    return MadeList(path, records, path.stat().st_size, values)


def hash_seconds(banks: Iterable[str], data: Sequence[bytes]) -> float:
    """What the hash functions alone need to replay records with these template data, in seconds."""
    return sum(min(_hash_once(bank, data) for _ in range(_ROUNDS)) for bank in banks)


def _hash_once(bank: str, data: Sequence[bytes]) -> float:
    """By copies of an empty hash, which is the fastest way that `hashlib` has."""
    new = hashlib.new(bank).copy
    value = new().digest()
    started = time.process_time()
    for item in data:
        measured = new()
        measured.update(item)
        running = new()
        running.update(value + measured.digest())
        value = running.digest()
    return time.process_time() - started


# Runs


@dataclass(frozen=True)
class _Evmctl:
    """`evmctl ima_measurement` on a list, with both banks that it knows."""

    command: tuple[str, ...]
    words: str
    log: Path

    @classmethod
    def of(cls, made: MadeList) -> _Evmctl:
        """Ready to be timed: it was asked once, and accepted the list."""
        folder = made.path.parent
        files = write_pcr_files(folder, {bank: {_PCR: made.pcrs[bank]} for bank in BANKS[2]})
        command = evmctl_command(made.path, files, ignore_violations=True)
        opinion = ask_evmctl(command, Deadline.after(_ASK_SECONDS))
        if opinion.answer is not Answer.ACCEPTED:
            raise InfraError(
                f"evmctl does not accept the list of the benchmark: {opinion.answer}",
                where=" ".join(command),
                remedy="use evmctl 1.4, with which this benchmark was written",
                tail=opinion.words,
            )
        return cls(command, opinion.words, folder / "evmctl.log")

    def run(self) -> Sample:
        before = cpu_seconds()
        wall = run_to_end(self.command, log=self.log)
        sample = Sample(wall, cpu_seconds() - before)
        if self.log.read_text(errors="replace") != self.words:
            raise InfraError(
                "evmctl said something else than when it accepted the list",
                where=" ".join(self.command),
                remedy="run again on a host that does nothing else",
            )
        return sample


@dataclass(frozen=True)
class _Ours:
    """`imakexec verify` on a list, with bare values: it reads, replays, compares and judges.

    Interpreter start and imports are included.
    """

    made: MadeList
    banks: tuple[str, ...]
    cpus: int

    def run(self, memory: FamilyPeak | None = None) -> Sample:
        answer, log = self.made.path.with_name("answer.json"), self.made.path.with_name("ours.log")
        answer.unlink(missing_ok=True)
        before = cpu_seconds()
        wall = run_to_end(self.argv(answer), log=log, look=memory.look if memory else None)
        sample = Sample(wall, cpu_seconds() - before)
        self.require_right(json.loads(answer.read_text()))
        return sample

    def argv(self, answer: Path) -> tuple[str, ...]:
        allowed = sorted(os.sched_getaffinity(0))[: self.cpus]
        command = Path(sys.executable).with_name("imakexec")
        values = [f"--pcr={bank}:{_PCR}={self.made.pcrs[bank].hex()}" for bank in self.banks]
        pinned = ("taskset", "--cpu-list", ",".join(map(str, allowed)))
        return (*pinned, str(command), "verify", str(self.made.path), *values, f"--json={answer}")

    def require_right(self, answer: Mapping[str, object]) -> None:
        """Check the answer against the values that the list was made with."""
        values = {bank: self.made.pcrs[bank].hex() for bank in self.banks}
        expected = {
            "verdict": "IN_SYNC",
            "records": self.made.records,
            "banks": [
                {
                    "bank": bank,
                    "expected": value,
                    "quoted": value,
                    "matched_records": self.made.records,
                }
                for bank, value in values.items()
            ],
        }
        for name, value in expected.items():
            if answer.get(name) != value:
                raise InfraError(
                    f"the verifier came to a wrong answer: {name} is {answer.get(name)}, {value}"
                    " expected",
                    where=" ".join(self.argv(Path("answer.json"))),
                    remedy="this is a mistake in imakexec: please report it",
                )


def _measure(
    made: MadeList,
    chosen: Sequence[tuple[str, ...]],
    cpus: int,
    runs: int,
    progress: Progress,
) -> list[Row]:
    """All rows of one length."""
    subjects = [_Ours(made, banks, count) for banks in chosen for count in sorted({1, cpus})]
    with progress.step(f"{made.records} records: warm up, measure memory and hashes") as step:
        evmctl = _Evmctl.of(made)
        peaks = [_peak(subject, step) for subject in subjects]
        sample = [record.data for record in islice(written_records(), min(made.records, _SAMPLE))]
        scale = made.records / len(sample)
        hashing = {banks: scale * hash_seconds(banks, sample) for banks in chosen}
        step.done(f"{max(peaks) / 2**20:.0f} MiB at most")
    turns = [
        _one_turn(evmctl, subjects, f"{made.records} records: run {n + 1} of {runs}", progress)
        for n in range(runs)
    ]
    return [
        Row(
            records=made.records,
            size=made.size,
            banks=subject.banks,
            cpus=subject.cpus,
            ours=Runs(tuple(ours[at] for _, ours in turns)),
            evmctl=Runs(tuple(theirs for theirs, _ in turns)),
            hashing=hashing[subject.banks],
            memory=peaks[at],
        )
        for at, subject in enumerate(subjects)
    ]


def _peak(subject: _Ours, step: Step) -> int:
    step.update(f"{len(subject.banks)} banks on {subject.cpus} CPUs")
    memory = FamilyPeak()
    subject.run(memory)
    return memory.peak


def _one_turn(
    evmctl: _Evmctl, subjects: Sequence[_Ours], title: str, progress: Progress
) -> tuple[Sample, list[Sample]]:
    with progress.step(title) as step:
        step.update(EVMCTL)
        theirs = evmctl.run()
        ours = []
        for subject in subjects:
            step.update(f"{len(subject.banks)} banks on {subject.cpus} CPUs")
            ours.append(subject.run())
        shown = ", ".join(f"{sample.wall:.2f}" for sample in ours)
        step.done(f"{EVMCTL} {theirs.wall:.2f} s, ours {shown} s")
    return theirs, ours


# Memory


@dataclass
class FamilyPeak:
    """The most memory that a process and its copies were seen to have at one time.

    Attributes:
        peak: in bytes.
    """

    peak: int = 0

    def look(self, pid: int) -> None:
        """Look at the process `pid` and its children now."""
        own, copies = _memory(pid), sum(_memory(child).private for child in _children(pid))
        self.peak = max(self.peak, own.resident + copies)


@dataclass(frozen=True)
class Memory:
    """Memory of a process in bytes.

    Attributes:
        resident: all of it.
        private: what no other process has.
    """

    resident: int
    private: int

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read /proc/PID/smaps_rollup, which is empty for a process that is ending."""
        kib: Counter[str] = Counter()
        for line in text.splitlines()[1:]:
            name, value, *_ = line.split()
            kib[name] = int(value)
        private = kib["Private_Clean:"] + kib["Private_Dirty:"]
        return cls(kib["Rss:"] * 1024, private * 1024)


def _memory(pid: int) -> Memory:
    try:
        return Memory.parse(Path(f"/proc/{pid}/smaps_rollup").read_text())
    except (FileNotFoundError, ProcessLookupError):
        return Memory(0, 0)  # it has just ended


def _children(pid: int) -> list[int]:
    try:
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return []  # it has just ended
    return [int(child) for child in children.split()]


def _describe_host() -> VerifyHost:
    return VerifyHost(
        cpu=cpu_model(Path("/proc/cpuinfo").read_text()),
        cpus=len(os.sched_getaffinity(0)),
        system=platform.platform(),
        load=os.getloadavg()[0],
        python=f"Python {platform.python_version()}, {ssl.OPENSSL_VERSION}",
        evmctl=tool_version(EVMCTL),
    )
