# SPDX-License-Identifier: GPL-2.0-only
"""The catalogue: 25 situations, most of them from bugs that were shipped.

docs/scenarios.md says of each where it comes from and what must come out.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType


@dataclass(frozen=True)
class Scenario:
    """One situation of the catalogue.

    Attributes:
        number: in the catalogue, from 1.
        name: what it is called.
        budget: seconds that one of its tests may take where a boot takes one second; that of its
            longest test in the default set. More is no failure, but is shown.
    """

    number: int
    name: str
    budget: float

    @property
    def keyword(self) -> str:
        """The name as one word for pytest's -k: "failed_second_load"."""
        return "_".join(re.findall(r"[a-z0-9]+", self.name.lower()))

    def __str__(self) -> str:
        return f"{self.number:2} {self.name}"


_SCENARIOS = (
    Scenario(1, "gap events", 8),
    Scenario(2, "double load", 25),
    Scenario(3, "overflow boundary sweep", 8),
    Scenario(4, "gross overflow", 10),
    Scenario(5, "measurement storm", 12),
    Scenario(6, "failed second load", 10),
    Scenario(7, "unload and legacy replace", 10),
    Scenario(8, "mem= in the next kernel", 12),
    Scenario(9, "chain of hops", 30),
    Scenario(10, "marker records", 8),
    Scenario(11, "violations", 8),
    Scenario(12, "kdump interplay", 12),
    Scenario(13, "custom template format", 15),
    Scenario(14, "template matrix", 8),
    Scenario(15, "hash and bank matrix", 10),
    Scenario(16, "config asymmetry", 15),
    Scenario(17, "big log", 60),
    Scenario(18, "debug build", 120),
    Scenario(19, "hand-over corruption", 10),
    Scenario(20, "CMA", 10),
    Scenario(21, "architecture matrix", 30),
    Scenario(22, "log staging", 15),
    Scenario(23, "de-dup semantics", 8),
    Scenario(24, "endings without kexec", 8),
    Scenario(25, "kexec inputs", 8),
)

CATALOGUE: Mapping[int, Scenario] = MappingProxyType(
    {scenario.number: scenario for scenario in _SCENARIOS}
)
"""By number."""
