"""PARAREL in the shapes that scripts for the original expect, read through `atlas.datasets.pararel`.

    pararel()["P36"]["graphs"][0]["pattern"]             # relation → templates ("graphs") and facts ("vocab")
    pararel_expanded()[uuid]["sentences"]                # fact → its sentences, relation_name, obj_label

The original downloads it on first use and keeps it as JSON at `data_path`; so do these, but what is fetched
is checked. Where its public repository is out of reach, a copy of its `data` folder does: `source`, or the
environment variable KNOWLEDGE_NEURON_ATLAS_PARAREL.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

from atlas.datasets.pararel import FACTS, TEMPLATES, data_folder, load_pararel
from atlas.errors import DatasetError

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


def pararel(
    data_path: str | Path = "datasets/pararel.json", *, source: str | Path | None = None
) -> dict[str, dict[str, list[dict[str, str]]]]:
    """Relation → {"graphs": its templates, "vocab": its facts}, rows as PARAREL publishes them.

    Raises `DatasetError` where the files cannot be had or are not the published ones.
    """
    return _kept(data_path, lambda: _published(source))


def pararel_expanded(
    data_path: str | Path = "datasets/pararel_expanded.json",
    obj_label_replacement: str | None = None,
    *,
    source: str | Path | None = None,
) -> dict[str, dict[str, str | list[str]]]:
    """Fact's uuid → {"sentences": its prompts, "relation_name": …, "obj_label": the answer}.

    obj_label_replacement: what stands in the answer's place; ``[MASK]`` if None. Only with that is the file
    `data_path` used: it would not say what stands there.
    """

    def expand() -> dict:
        expanded = {}
        beside = Path(data_path).with_name("pararel.json")
        for relation, rows in pararel(beside, source=source).items():
            for fact in rows["vocab"]:
                entry = expanded.setdefault(
                    fact["uuid"],
                    {"sentences": [], "relation_name": relation, "obj_label": fact["obj_label"]},
                )
                entry["sentences"] += [
                    template["pattern"]
                    .replace("[X]", fact["sub_label"])
                    .replace("[Y]", MASK if obj_label_replacement is None else obj_label_replacement)
                    for template in rows["graphs"]
                ]
        return expanded

    return expand() if obj_label_replacement is not None else _kept(data_path, expand)


def _published(source: str | Path | None) -> dict:
    source = source or os.environ.get(SOURCE_VARIABLE)
    folder = data_folder(Path(source) if source else None, option="source")
    load_pararel(folder, option="source")  # checks every file
    return {
        relation: {
            "graphs": _rows(folder / TEMPLATES / f"{relation}.jsonl"),
            "vocab": _rows(folder / FACTS / f"{relation}.jsonl"),
        }
        for relation in PARAREL_RELATION_NAMES
    }


def _rows(path: Path) -> list[dict[str, str]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n") if line.strip()]


def _kept(data_path: str | Path, make: Callable[[], dict]) -> dict:
    """What the JSON file holds; made and written where there is none."""
    path = Path(data_path)
    if path.exists():
        try:
            return json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise DatasetError(
                f"{path} cannot be read as JSON ({error}). Delete it, and it is made again."
            ) from None
    found = make()
    partial = path.with_name(f".{path.name}.partial-{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        partial.write_text(json.dumps(found), encoding="utf-8")
        partial.replace(path)
    except OSError as error:
        raise DatasetError(
            f"{path} cannot be written ({error.strerror}). Give a data_path in a folder that can."
        ) from None
    finally:
        if partial.exists():
            partial.unlink()
    return found
