# SPDX-License-Identifier: GPL-2.0-only
"""What makes the guest measure: new files, new programs, in numbers or to the byte."""

from __future__ import annotations

import secrets
from collections.abc import Sequence

from imakexec.scenario.session import Session, step

# Programs among the new files of an activity: enough to show that execution is measured too.
_MOST_PROGRAMS = 5

# A record of the default template "ima-ng" is this long beside its path: PCR, digest, the name with
# its length, the data's length, d-ng with "sha256:" and 32 bytes, n-ng's length and final NUL.
_RECORD_OVERHEAD = 4 + 20 + 4 + 6 + 4 + (4 + 8 + 32) + (4 + 1)
_LONGEST_PATH = 200
_LONGEST_NAME = 255

LONG_PATHS = 4000
"""The longest path that a record may name, with some room below PATH_MAX."""

_ACTIVITY = """
set -e
dir=$1 files=$2 programs=$3
mkdir -p "$dir"
i=0
while [ $i -lt $files ]; do
    i=$((i + 1))
    echo "$dir $i" >"$dir/f$i"
    read -r line <"$dir/f$i"
done
i=0
while [ $i -lt $programs ]; do
    i=$((i + 1))
    printf '#!/bin/sh\\nexit 0 # %s %s\\n' "$dir" $i >"$dir/x$i"
    chmod 755 "$dir/x$i"
    "$dir/x$i"
done
"""

_MEASURE_NAMES = """
set -e
mkdir -p "$1"
cd "$1"
while read -r name; do
    echo "$name" >"$name"
    read -r line <"$name"
done
"""

_MEASURE_AGAIN = """
set -e
mkdir -p "$1"
cd "$1"
i=0
while [ $i -lt "$2" ]; do
    i=$((i + 1))
    echo $i >f
    : <f
done
"""


@step("measure")
def generate_activity(session: Session, count: int) -> tuple[str, ...]:
    """Write and read new files and run new programs, so that `count` records are measured.

    Returns:
        The paths, in the order in which they are measured.
    """
    programs = min(_MOST_PROGRAMS, count // 5)
    files = count - programs
    folder = f"/t/{secrets.token_hex(3)}"
    session.guest.run(
        ["sh", "-c", _ACTIVITY, "activity", folder, str(files), str(programs)],
        session.budget(1 + count / 100),
    )
    return tuple(
        [f"{folder}/f{i + 1}" for i in range(files)]
        + [f"{folder}/x{i + 1}" for i in range(programs)]
    )


@step("measure")
def measure_bytes(session: Session, size: int, *, longest: int = _LONGEST_PATH) -> tuple[str, ...]:
    """Measure new files whose records of the default template take `size` bytes, to the byte.

    Args:
        longest: bytes that a path may have, `LONG_PATHS` at most. A record costs an extend of the
            TPM however long it is.

    Returns:
        The paths, in the order in which they are measured.

    Raises:
        ValueError: no whole number of records is that long.
    """
    paths = paths_of_records(size, folder=f"/b{secrets.token_hex(3)}", longest=longest)
    folder = paths[0].rpartition("/")[0]
    session.guest.run(
        ["sh", "-c", _MEASURE_NAMES, "measure", folder],
        session.budget(1 + len(paths) / 100),
        stdin="".join(f"{path.rpartition('/')[2]}\n" for path in paths).encode(),
    )
    return paths


@step("measure")
def measure_again(session: Session, count: int, *, length: int = 0) -> str:
    """Measure one file `count` times, each time with another content; its path.

    It takes less time and memory than as many files.

    Args:
        length: bytes that the path has about, `LONG_PATHS` at most; 0 for a short one.
    """
    folder = f"/a{secrets.token_hex(3)}"
    folder += f"/{'d' * (_LONGEST_NAME // 2)}" * (length // (_LONGEST_NAME // 2 + 1))
    session.guest.run(
        ["sh", "-c", _MEASURE_AGAIN, "measure", folder, str(count)], session.budget(count / 100)
    )
    return f"{folder}/f"


def paths_of_records(size: int, *, folder: str, longest: int = _LONGEST_PATH) -> tuple[str, ...]:
    """Paths of files in one folder whose ima-ng records with SHA-256 take `size` bytes together.

    Args:
        folder: in which they are, or in which their folder is nested.
        longest: bytes that a path may have.

    Raises:
        ValueError: no whole number of records is that long.
    """
    count = max(1, -(-size // (_RECORD_OVERHEAD + longest)))
    lengths = [size // count - _RECORD_OVERHEAD + (i < size % count) for i in range(count)]
    while max(lengths) - len(folder) > _LONGEST_NAME:
        folder += f"/{'d' * (_LONGEST_NAME // 2)}"
    stems = [f"{folder}/{i}." for i in range(count)]
    if any(not len(stem) <= length <= longest for stem, length in zip(stems, lengths, strict=True)):
        raise ValueError(f"{size} bytes are no whole number of records")
    return tuple(stem.ljust(length, "x") for stem, length in zip(stems, lengths, strict=True))


def storm(processes: int, *, programs: int = 0, each: int = 1) -> str:
    """A shell script that starts processes which measure without end, and goes on.

    Each writes and reads a new file over and over, so that all of a machine's CPUs wait for the
    list's mutex at any time.

    Args:
        programs: how many more processes write and execute new programs.
        each: how many records each process has made when the script goes on, see `storm_paths`.
    """
    return f"""
mkdir -p /storm
busybox mkfifo /storm/has-begun
exec 8<>/storm/has-begun
for worker in {_words(range(processes))}; do
    (
        i=0
        while :; do
            i=$((i + 1))
            echo "$worker $i" >/storm/$worker.$i
            read -r line </storm/$worker.$i
            [ $i -ne {each} ] || echo >&8
        done
    ) &
done
for worker in {_words(range(programs))}; do
    (
        i=0
        while :; do
            i=$((i + 1))
            printf '#!/bin/sh\\nexit 0 # %s %s\\n' $worker $i >/storm/x$worker.$i
            busybox chmod 755 /storm/x$worker.$i
            /storm/x$worker.$i
            [ $i -ne {each} ] || echo >&8
        done
    ) &
done
for worker in {_words(range(processes + programs))}; do
    read -r line <&8
done
"""


def storm_paths(processes: int, *, programs: int = 0, each: int = 1) -> frozenset[str]:
    """What a storm with these arguments has measured before anything else is done."""
    workers = [*range(processes), *(f"x{worker}" for worker in range(programs))]
    return frozenset(f"/storm/{worker}.{i}" for worker in workers for i in range(1, each + 1))


def _words(values: Sequence[int]) -> str:
    return " ".join(str(value) for value in values)
