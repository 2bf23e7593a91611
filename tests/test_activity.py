# SPDX-License-Identifier: GPL-2.0-only
"""Paths whose records take a number of bytes that was asked for."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from imakexec.scenario import paths_of_records

OVERHEAD = 87
"""Bytes of an ima-ng record with SHA-256 beside its path (seen in lists of Linux 6.1)."""


@given(st.integers(min_value=220, max_value=100_000))
def test_the_records_take_what_was_asked_for(size: int) -> None:
    paths = paths_of_records(size, folder="/b1a2b3c")
    assert sum(OVERHEAD + len(path) for path in paths) == size
    assert len(set(paths)) == len(paths), "a duplicate would not be measured"
    assert all(path.startswith("/b1a2b3c/") and path.count("/") == 2 for path in paths)
    assert all(len(path.rpartition("/")[2]) <= 255 for path in paths), "NAME_MAX"


@pytest.mark.parametrize("size", [0, 1, OVERHEAD, OVERHEAD + len("/b1a2b3c/0")])
def test_less_than_a_record_cannot_be_had(size: int) -> None:
    with pytest.raises(ValueError, match=f"{size} bytes are no whole number of records"):
        paths_of_records(size, folder="/b1a2b3c")
