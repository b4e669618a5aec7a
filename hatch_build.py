"""Puts the map of BERT into the wheel, unless the wheel is made for commercial use.

    KNOWLEDGE_NEURON_COMMERCIAL=1 pip install .

PARAREL's facts are not for commercial use (NOTICE.md), so pyproject.toml leaves their folder out.
"""

from __future__ import annotations

import os
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

NON_COMMERCIAL = "atlas/data/pararel-bert-base-uncased"
COMMERCIAL_VARIABLE = "KNOWLEDGE_NEURON_COMMERCIAL"


class MapOfBert(BuildHookInterface):
    """What hatchling calls before it makes a wheel; an editable install takes the checkout as it is."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        if version == "standard" and os.environ.get(COMMERCIAL_VARIABLE, "") in ("", "0"):
            build_data["force_include"][NON_COMMERCIAL] = NON_COMMERCIAL
