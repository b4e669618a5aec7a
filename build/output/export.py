"""An atlas in the form of EleutherAI's result files, for programs that read those.

    print(export_results(Path("out/mine"), Path("out/json")))

A fact's results are written where both interventions were measured on all of its prompts: the form lists
numbers in the order of the templates, without their names. Control groups other than the unrelated facts have
no place in it.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from atlas.store.atlas import Atlas
from build.sources.eleutherai import INTERVENTIONS, Changes, FactNeurons, Group, Results, write_files


def export_results(folder: Path, out: Path) -> str:
    """Write the files of an atlas to `out`; returns what they hold, in words.

    Raises `StoreError` for a folder that is no atlas.
    """
    with Atlas(folder) as atlas:
        facts = atlas.query("SELECT fact_id, relation_id, n_prompts, n_neurons FROM facts ORDER BY fact_id")
        neurons: FactNeurons = {fact_id: [] for fact_id in facts["fact_id"]}
        pairs = atlas.query("SELECT fact_id, layer, neuron FROM knowledge_neurons")
        for fact_id, layer, neuron in pairs.itertuples(index=False, name=None):
            neurons[fact_id].append((layer, neuron))
        results = _results(atlas)
        model = atlas.manifest.model.name
    relations = dict(zip(facts["fact_id"], facts["relation_id"], strict=True))
    paths = write_files(out, Path(model).name, neurons, results, relations)
    words = f"{len(neurons):,} facts with their neurons, {len(results):,} of them with results"
    return "\n".join([*map(str, paths), words])


def _results(atlas: Atlas) -> dict[str, Results]:
    """Results of the facts that have them on all of their prompts."""
    rows = atlas.query(
        """
        SELECT fact_id, intervention, "group", any_value(e.n_neurons) AS n_neurons,
               any_value(f.n_prompts) AS n_prompts,
               list({
                   'template_id': template_id,
                   'change': coalesce(change::DOUBLE, p_after::DOUBLE / nullif(p_before, 0) - 1),
                   'before': coalesce(rank_before = 1, false), 'after': coalesce(rank_after = 1, false)
               }) AS changes
        FROM effects AS e JOIN facts AS f USING (fact_id) WHERE "group" IN ('own', 'unrelated') GROUP BY ALL
        """
    )
    found: dict[str, dict[tuple[str, str], Any]] = {}
    for row in rows.itertuples(index=False):
        found.setdefault(row.fact_id, {})[row.intervention, row.group] = row
    results = {}
    for fact_id, groups in sorted(found.items()):
        own = [groups.get((name, "own")) for name in INTERVENTIONS.values()]
        if all(row is not None and len(row.changes) == row.n_prompts for row in own):
            changes = {
                name: Changes(
                    related=_group(groups[verb, "own"]), unrelated=_group(groups.get((verb, "unrelated")))
                )
                for name, verb in INTERVENTIONS.items()
            }
            results[fact_id] = Results(**changes, n_refined_neurons=int(own[0].n_neurons))
    return results


def _group(row: Any) -> Group:
    """A group's numbers, by the number that its templates' names end with."""
    changes = [] if row is None else sorted(row.changes, key=lambda each: _number(each["template_id"]))
    changes = [each for each in changes if each["change"] is not None]
    return Group(
        pct_change=[each["change"] for each in changes],
        correct_before=[each["before"] for each in changes],
        correct_after=[each["after"] for each in changes],
    )


def _number(template_id: str) -> tuple[int, str]:
    digits = re.search(r"(\d{1,9})$", template_id)
    return int(digits[1]) if digits else 0, template_id
