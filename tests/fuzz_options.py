# SPDX-License-Identifier: GPL-2.0-only
"""The options of tests/test_fuzz.py, as a plugin: a second conftest.py would hide harness/'s."""

from __future__ import annotations

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the options that choose what is fed."""
    group = parser.getgroup("fuzz", "malformed inputs (tests/test_fuzz.py)")
    group.addoption("--fuzz-inputs", type=int, help="how many for each reader, instead of a few")
    group.addoption("--fuzz-seed", type=int, default=1, help="what they are made from")
    group.addoption("--fuzz-number", type=int, help="only the input of this number, to repeat it")
