# SPDX-License-Identifier: GPL-2.0-only
"""Results as plain values, for JSON."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields, is_dataclass
from pathlib import Path

Plain = str | int | float | bool | None | list["Plain"] | dict[str, "Plain"]
"""What JSON can express."""


def plain(value: object) -> Plain:
    """A value as JSON has it: dataclasses and mappings as objects, bytes as hexadecimal digits.

    Raises:
        TypeError: it has no such form.
    """
    if value is None or isinstance(value, bool | int | float):
        return value
    if isinstance(value, str | Path):
        return str(value)
    if isinstance(value, bytes):
        return value.hex()
    if is_dataclass(value):
        return {item.name: plain(getattr(value, item.name)) for item in fields(value)}
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, Sequence):
        return [plain(item) for item in value]
    raise TypeError(f"{type(value).__name__} has no JSON form")
