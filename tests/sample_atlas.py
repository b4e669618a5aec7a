"""A small synthetic atlas for tests: every table, real Parquet, a valid manifest, the same each time.

    folder = write_sample_atlas(tmp_path / "sample")                  # 60 facts
    folder = write_sample_atlas(tmp_path / "large", n_facts=27_610)   # as large as PARAREL

Made up, but with the shapes of a real one: facts of a relation share neurons, a few hubs are everybody's,
some facts are not known, some prompts have no positive score, names carry accents, held-out templates
have no attributions, suppressing a fact's own neurons lowers its probability and random ones hardly do.
`share`, `mean_score` and the counts are computed from the attributions row by row, in plain Python; what the
experiments measure is made up in tests/sample_evidence.py.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection
from dataclasses import replace
from itertools import groupby
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from atlas.store.manifest import (
    DatasetRecord,
    Manifest,
    MethodRecord,
    ModelRecord,
    file_name,
    read_manifest,
    record_files,
    write_manifest,
)
from atlas.store.schema import REQUIRED_TABLES, TABLES, conform
from tests import sample_evidence

N_LAYERS = 4
N_NEURONS = 256
STORED_FRACTION = 0.1

# relation → (label, subjects' stem, objects, patterns)
RELATIONS = {
    "P36": ("capital", ["Réunia", "Östland", "Norway"], ["Paris", "São Tomé", "Bogotá", "Oslo", "Wien"]),
    "P103": ("native language", ["Anna", "Łukasz", "Ömer"], ["French", "Polish", "Turkish"]),
    "P30": ("continent", ["Mount", "Lake", "Río"], ["Europe", "Asia", "South America", "Africa"]),
    "P176": ("manufacturer", ["Phone", "Car", "Camera"], ["Apple", "Škoda", "Nikon"]),
}
N_TEMPLATES = 8
OPTIONAL_TABLES = tuple(table for table in TABLES if table not in REQUIRED_TABLES)
MOST_MEASURED = 2_000  # facts whose effects are measured, as with --sample


def write_sample_atlas(
    folder: Path,
    *,
    n_facts: int = 60,
    atlas_id: str = "sample",
    seed: int = 0,
    leave_out: Collection[str] = (),
) -> Path:
    """Write an atlas of `n_facts` facts into `folder` (made if absent) and return it.

    `leave_out` names tables that are not written, as in an atlas that could not measure them.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    for name, rows in sample_tables(n_facts, seed).items():
        if name not in leave_out:
            write_table(folder, name, rows)
    write_manifest(
        folder,
        Manifest(
            atlas_id=atlas_id,
            model=ModelRecord(
                name="sample-model",
                revision="1",
                weights_sha256="0" * 64,
                activation_function="gelu",
                family="bert",
                dtype="float32",
                n_layers=N_LAYERS,
                n_neurons=N_NEURONS,
            ),
            dataset=DatasetRecord(id="sample", revision="1", hash="0" * 64, licence="CC0-1.0"),
            method=MethodRecord(
                name="integrated_gradients",
                rule="certified",
                tolerance=0.01,
                max_points=513,
                refinement={"mode": "default", "threshold": 0.2, "share": 0.5, "at_least": 2},
                stored_fraction=STORED_FRACTION,
                held_out="every second template",
                seed=seed,
            ),
            files=record_files(folder),
            code_version="0.1.0",
            device="cpu",
            seconds=12.5,
            prompts_per_second=38.4,
            created="2026-01-01",
            notes="Synthetic rows for tests.",
        ),
    )
    return folder


def write_table(folder: Path, table: str, rows: pa.Table | list[dict]) -> None:
    """Write a table's file: columns in order, rows sorted, zstd."""
    pq.write_table(conform(table, rows), folder / file_name(table), compression="zstd", compression_level=9)


def replace_table(folder: Path, table: str, rows: pa.Table | list[dict]) -> Path:
    """Give a finished atlas other rows of a table, or a table more; returns its folder."""
    write_table(folder, table, rows)
    write_manifest(folder, replace(read_manifest(folder), files=record_files(folder)))
    return folder


def sample_tables(n_facts: int = 60, seed: int = 0) -> dict[str, list[dict]]:
    """The rows of every table, as lists of dicts."""
    random = np.random.default_rng(seed)
    relation_ids = sorted(RELATIONS)
    relation_neurons = {
        r: [(int(random.integers(N_LAYERS)), int(random.integers(N_NEURONS))) for _ in range(12)]
        for r in relation_ids
    }
    hubs = [(0, 7), (N_LAYERS - 1, 11)]

    facts, prompts, attributions, knowledge = [], [], [], []
    for index in range(n_facts):
        relation = relation_ids[index % len(relation_ids)]
        label, subjects, objects = RELATIONS[relation]
        number = index // len(relation_ids)
        fact_id = f"{relation}-{number:05d}"
        subject = f"{subjects[number % len(subjects)]} {number}"
        answer = objects[(number * 7 + number // 3) % len(objects)]
        known = index % 5 != 4
        own = [(int(random.integers(N_LAYERS)), int(random.integers(N_NEURONS)))]
        own += [relation_neurons[relation][int(i)] for i in random.choice(12, 2, replace=False)]
        own += [hubs[index % 2]] if index % 3 else []
        silent = index % 15 == 14

        stored: dict[tuple[int, int], list[float]] = defaultdict(list)
        coarse: dict[tuple[int, int], int] = defaultdict(int)
        ranks, probabilities = [], []
        for place in range(N_TEMPLATES):
            template_id = f"{relation}.{place}"
            held_out = place % 2 == 1
            rank = 1 if known and place != 3 else int(random.integers(2, 40))
            probability = round(float(random.uniform(0.4, 0.9) if rank == 1 else random.uniform(0.0, 0.1)), 6)
            ranks.append(rank)
            probabilities.append(probability)
            scores = {}
            if not silent:
                for neuron in own:
                    if random.random() < 0.8:
                        scores[neuron] = float(np.float32(random.uniform(0.02, 0.1)))
                scores[(int(random.integers(N_LAYERS)), int(random.integers(N_NEURONS)))] = float(
                    np.float32(random.uniform(0.003, 0.05))
                )
            largest = max(scores.values()) if scores else -0.001
            prompts.append(
                {
                    "fact_id": fact_id,
                    "template_id": template_id,
                    "text": f"Wording {place}: the {label} of {subject} is [Y].",
                    "held_out": held_out,
                    "probability": probability,
                    "rank": rank,
                    "top_token": answer if rank == 1 else "the",
                    "top_probability": max(probability, 0.2),
                    "max_gap": None if held_out else 0.004,
                    "n_points": None if held_out else 9 * N_LAYERS,
                    "converged": None if held_out else True,
                    "n_answer_tokens": len(answer.split()),
                    "max_score": None if held_out else largest,
                    "n_layers": None if held_out else N_LAYERS,
                    "n_unconverged": None if held_out else 0,
                }
            )
            if held_out or largest <= 0:
                continue
            for neuron, score in scores.items():
                if score >= STORED_FRACTION * largest:
                    stored[neuron].append(score)
                    coarse[neuron] += score >= 0.2 * largest
                    attributions.append(
                        {
                            "fact_id": fact_id,
                            "template_id": template_id,
                            "layer": neuron[0],
                            "neuron": neuron[1],
                            "score": score,
                        }
                    )
        n_discovery = N_TEMPLATES // 2
        kept = sorted(n for n, count in coarse.items() if count >= max(0.5 * n_discovery, 2))
        for layer, neuron in kept:
            values = stored[layer, neuron]
            knowledge.append(
                {
                    "fact_id": fact_id,
                    "relation_id": relation,
                    "layer": layer,
                    "neuron": neuron,
                    "share": coarse[layer, neuron] / n_discovery,
                    "mean_score": sum(values) / len(values),
                    "max_score": max(values),
                    "mean_activation": (-1.0) ** (layer + neuron) * max(values) * 10,
                }
            )
        facts.append(
            {
                "fact_id": fact_id,
                "relation_id": relation,
                "subject": subject,
                "object": answer,
                "n_prompts": N_TEMPLATES,
                "n_neurons": len(kept),
                "known": sum(r == 1 for r in ranks) > N_TEMPLATES / 2,
                "mean_probability": sum(probabilities) / len(probabilities),
                "contested": False,
                "guessable": False,
                "n_answer_tokens": len(answer.split()),
            }
        )

    prompts_of = {fact_id: list(rows) for fact_id, rows in groupby(prompts, lambda row: row["fact_id"])}
    measured = sample_evidence.sampled(facts, MOST_MEASURED)
    pairs = [(k["fact_id"], k["relation_id"], k["layer"], k["neuron"]) for k in knowledge]
    of_measured = {fact["fact_id"] for fact in measured}
    return {
        "relations": [
            {
                "relation_id": relation,
                "label": RELATIONS[relation][0],
                "n_facts": sum(f["relation_id"] == relation for f in facts),
                "n_templates": N_TEMPLATES,
            }
            for relation in relation_ids
            if any(f["relation_id"] == relation for f in facts)
        ],
        "templates": [
            {
                "relation_id": relation,
                "template_id": f"{relation}.{place}",
                "text": f"Wording {place}: the {RELATIONS[relation][0]} of [X] is [Y].",
                "held_out": place % 2 == 1,
            }
            for relation in sorted({fact["relation_id"] for fact in facts})
            for place in range(N_TEMPLATES)
        ],
        "facts": facts,
        "prompts": prompts,
        "attributions": attributions,
        "knowledge_neurons": knowledge,
        **sample_evidence.effect_tables(measured, prompts_of, seed=seed),
        "control_neurons": sample_evidence.control_neurons(
            (pair for pair in pairs if pair[0] in of_measured), N_NEURONS
        ),
        **sample_evidence.evidence_tables(facts, prompts_of, pairs, n_layers=N_LAYERS, seed=seed),
        **_neuron_tables(knowledge, prompts, random),
    }


def _neuron_tables(knowledge: list[dict], prompts: list[dict], random) -> dict[str, list[dict]]:
    carried = defaultdict(list)
    for row in knowledge:
        carried[row["layer"], row["neuron"]].append(row)
    neurons, activating = [], []
    for (layer, neuron), rows in sorted(carried.items()):
        neurons.append(
            {
                "layer": layer,
                "neuron": neuron,
                "n_facts": len(rows),
                "n_relations": len({row["relation_id"] for row in rows}),
                "value_norm": 1.0 + neuron / N_NEURONS,
                "promoted": [{"token": f"up{k}", "logit": 2.0 - k / 10} for k in range(10)],
                "suppressed": [{"token": f"down{k}", "logit": -2.0 + k / 10} for k in range(10)],
                "label": f"{RELATIONS[rows[0]['relation_id']][0]} · up0, up1" if len(rows) > 2 else None,
                "label_score": 0.75 if len(rows) > 2 else None,
                "sign_mixed": False,
            }
        )
        for side, sign in (("top", 1), ("bottom", -1)):
            n_facts = len(prompts) // N_TEMPLATES
            for rank, fact in enumerate(random.choice(n_facts, min(3, n_facts), replace=False), 1):
                place = fact * N_TEMPLATES + (fact + rank) % N_TEMPLATES
                tokens = prompts[place]["text"].removesuffix(".").replace("[Y]", "[MASK]").split()
                activating.append(
                    {
                        "layer": layer,
                        "neuron": neuron,
                        "side": side,
                        "rank": rank,
                        "fact_id": prompts[place]["fact_id"],
                        "template_id": prompts[place]["template_id"],
                        "activation": sign * (4.0 - rank),
                        "tokens": ["[CLS]", *tokens, ".", "[SEP]"],
                        "activations": [
                            0.0,
                            *[sign * 0.5] * (len(tokens) - 1),
                            sign * (4.0 - rank),
                            0.0,
                            0.0,
                        ],
                        "answer_position": len(tokens),
                    }
                )
    return {"neurons": neurons, "activating_prompts": activating}
