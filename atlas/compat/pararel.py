"""PARAREL in the shapes that scripts for the original read.

    pararel()["P36"]["graphs"][0]["pattern"]             # relation → templates ("graphs") and facts ("vocab")
    pararel_expanded()[uuid]["sentences"]                # fact → its sentences, relation_name, obj_label

As in the original, the first call downloads the files and writes them as JSON at `data_path`;
`atlas.datasets.pararel` checks their sha256. A copy of PARAREL's `data` folder replaces the download: give
its path in `source` or in the environment variable KNOWLEDGE_NEURON_ATLAS_PARAREL.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from atlas.datasets.pararel import FACTS, TEMPLATES, data_folder, load_pararel
from atlas.errors import DatasetError
from atlas.files import whole_file

SOURCE_VARIABLE = "KNOWLEDGE_NEURON_ATLAS_PARAREL"
MASK = "[MASK]"

# In the original's order: scripts draw from it with a seed.
# fmt: off
PARAREL_RELATION_NAMES = [
    "P39", "P264", "P37", "P108", "P131", "P103", "P176", "P30", "P178", "P138", "P47", "P17", "P413",
    "P27", "P463", "P364", "P495", "P449", "P20", "P1376", "P1001", "P361", "P36", "P1303", "P530", "P19",
    "P190", "P740", "P136", "P127", "P1412", "P407", "P140", "P279", "P276", "P159", "P106", "P101", "P937",
]
# fmt: on


Relations = dict[str, dict[str, list[dict[str, str]]]]
Expanded = dict[str, dict[str, Any]]


def pararel(
    data_path: str | Path = "datasets/pararel.json", *, source: str | Path | None = None
) -> Relations:
    """Relation → {"graphs": its templates, "vocab": its facts}, rows as PARAREL publishes them.

    Raises `DatasetError` where the files cannot be read or are not the published ones.
    """
    return _cached(data_path, lambda: _published(source))


def pararel_expanded(
    data_path: str | Path = "datasets/pararel_expanded.json",
    obj_label_replacement: str | None = None,
    *,
    source: str | Path | None = None,
) -> Expanded:
    """Fact's uuid → {"sentences": its prompts, "relation_name": …, "obj_label": the answer}.

    obj_label_replacement: the text in the answer's place; None: ``[MASK]``. The file at `data_path` does not
    record it, so it is read and written with None only.
    """

    def expand() -> Expanded:
        expanded: Expanded = {}
        for relation, rows in pararel(Path(data_path).with_name("pararel.json"), source=source).items():
            for fact in rows["vocab"]:
                entry = {"sentences": [], "relation_name": relation, "obj_label": fact["obj_label"]}
                expanded.setdefault(fact["uuid"], entry)["sentences"] += [
                    template["pattern"].replace("[X]", fact["sub_label"]).replace("[Y]", blank)
                    for template in rows["graphs"]
                ]
        return expanded

    blank = MASK if obj_label_replacement is None else obj_label_replacement
    return _cached(data_path, expand) if obj_label_replacement is None else expand()


def _published(source: str | Path | None) -> Relations:
    source = source or os.environ.get(SOURCE_VARIABLE)
    folder = data_folder(Path(source) if source else None, option="source")
    names = [relation.relation_id for relation in load_pararel(folder, option="source").relations]

    def rows(kind: str, relation: str) -> list[dict[str, str]]:
        lines = (folder / kind / f"{relation}.jsonl").read_text(encoding="utf-8").split("\n")
        return [json.loads(line) for line in lines if line.strip()]

    # The original's order; relations of people's own follow it.
    place = {name: number for number, name in enumerate(PARAREL_RELATION_NAMES)}
    names.sort(key=lambda name: place.get(name, len(place)))
    return {name: {"graphs": rows(TEMPLATES, name), "vocab": rows(FACTS, name)} for name in names}


def _cached(data_path: str | Path, make: Callable[[], dict]) -> dict:
    """The content of the JSON file; a missing file is made and written."""
    path = Path(data_path)
    if path.exists():
        try:
            return json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise DatasetError(
                f"{path} is not JSON ({error}). Delete it; the next call writes it again."
            ) from None
    made = make()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with whole_file(path, shared=True) as file:
            file.write(json.dumps(made).encode())
    except OSError as error:
        raise DatasetError(
            f"{path} cannot be written ({error.strerror}). Give a data_path in a writable folder."
        ) from None
    return made
