"""Other names of the starter facts' subjects, such as Holland for the Netherlands.

    load_synonyms()["the Netherlands"]        # ("Holland",)

Written for this project (MIT): `synonyms.csv` has subject and synonym, each name as a prompt writes it.
"""

from __future__ import annotations

import csv
from collections import defaultdict
from pathlib import Path

_PATH = Path(__file__).parent / "synonyms.csv"


def load_synonyms() -> dict[str, tuple[str, ...]]:
    """Subject → its synonyms, in the order of the file."""
    found: dict[str, list[str]] = defaultdict(list)
    with _PATH.open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            found[row["subject"]].append(row["synonym"])
    return {subject: tuple(synonyms) for subject, synonyms in found.items()}
