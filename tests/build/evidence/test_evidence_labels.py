"""Labels: planted neurons get the planted name, and labels without meaning score like a coin."""

from __future__ import annotations

from itertools import pairwise
from math import comb
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from atlas.store.atlas import Atlas
from build.evidence import STUDIES, labels
from build.evidence.evaluate import RECORD, EvaluateOptions, evaluate_atlas, tables_of
from build.evidence.labels import Asked, find_candidates, log_tail, name_of, score_candidates
from build.evidence.setting import Setting
from build.output.check import check_atlas
from build.plan import BuildOptions
from build.run import run_build
from tests.build.test_build import register_tiny_dataset
from tests.sample_atlas import replace_table, sample_tables, write_sample_atlas

N_RELATIONS, N_FACTS, N_PROMPTS = 10, 24, 6


def made_facts() -> pd.DataFrame:
    """Ten relations of 24 facts, each answer the answer of two facts in each of three relations."""
    rows = [
        (f"P{r}.{i:02d}", f"P{r}", f"a{(r % 3) * 12 + i // 2}")
        for r in range(N_RELATIONS)
        for i in range(N_FACTS)
    ]
    facts = pd.DataFrame(rows, columns=["fact_id", "relation", "answer"])
    return facts.assign(
        relation_name="label of " + facts["relation"], answer_name=facts["answer"].str.upper()
    )


def made_rows(facts: pd.DataFrame, activations: np.ndarray) -> pa.Table:
    """Rows of `labels.SHARD`, every second held out; activations: (n_facts, N_PROMPTS, n_neurons)."""
    n_facts, n_prompts, n_neurons = activations.shape
    return pa.table(
        {
            "fact_id": np.repeat(facts["fact_id"].to_numpy(str), n_prompts),
            "held_out": np.tile(np.arange(n_prompts) % 2 == 1, n_facts),
            "activations": list(activations.reshape(-1, n_neurons).astype(np.float32)),
        }
    ).cast(labels.SHARD)


def noise(random: np.random.Generator, n_facts: int, n_neurons: int) -> np.ndarray:
    """Activations that the prompts of a fact share, and a little of each prompt's own."""
    of_fact = random.normal(size=(n_facts, 1, n_neurons))
    return of_fact + 0.3 * random.normal(size=(n_facts, N_PROMPTS, n_neurons))


@pytest.mark.parametrize(("shared", "drawn", "size", "total"), [(3, 5, 4, 20), (2, 2, 2, 9), (1, 4, 30, 31)])
def test_the_chance_of_sharing_is_that_of_draws_without_replacement(shared, drawn, size, total):
    ways = sum(comb(size, k) * comb(total - size, drawn - k) for k in range(shared, min(drawn, size) + 1))
    found = log_tail(*(np.array([number]) for number in (shared, drawn, size)), total)
    assert np.exp(found[0]) == pytest.approx(ways / comb(total, drawn))


def planted(
    random: np.random.Generator, facts: pd.DataFrame
) -> tuple[pd.DataFrame, dict[int, tuple[str, str]]]:
    """Pairs, and neuron → (kind, value): relations, answers, and neurons of facts drawn at random."""
    shares: dict[int, tuple[str, str]] = {}
    chosen: dict[int, np.ndarray] = {}
    for neuron in range(60):
        kind = ("relation", "answer", "random")[neuron % 3]
        if kind == "random":
            chosen[neuron] = random.choice(facts["fact_id"], 8, replace=False)
            continue
        value = random.choice(facts[kind].unique())
        members = facts.loc[facts[kind] == value, "fact_id"].to_numpy()
        others = random.choice(facts["fact_id"], 2, replace=False)
        chosen[neuron] = np.unique([*random.choice(members, 6, replace=False), *others])
        shares[neuron] = (kind, value)
    pairs = [(1, neuron, fact_id) for neuron, ids in chosen.items() for fact_id in ids]
    return pd.DataFrame(pairs, columns=["layer", "neuron", "fact_id"]).assign(mean_activation=1.0), shares


def test_candidates_are_what_was_planted_and_no_neuron_of_random_facts():
    facts = made_facts()
    pairs, shares = planted(np.random.default_rng(0), facts)
    found = find_candidates(pairs, facts)
    assert dict(zip(found["neuron"], zip(found["kind"], found["value"], strict=True), strict=True)) == shares
    named = {row.value: row.name for row in found.itertuples(index=False)}
    assert all(name in (f"label of {value}", value.upper()) for value, name in named.items())


def test_planted_activations_bear_the_label_out_on_either_side_and_noise_does_not():
    random, facts = np.random.default_rng(1), made_facts()
    pairs, _ = planted(random, facts)
    candidates = find_candidates(pairs, facts)
    activations = noise(random, len(facts), len(candidates))
    for place, row in enumerate(candidates.itertuples()):
        if row.neuron % 2:  # the others' activations have nothing to do with their label
            side = 1 if row.neuron % 4 == 1 else -1
            activations[(facts[row.kind] == row.value).to_numpy(), :, place] += side * 6
    scored = score_candidates(candidates, Asked.of(made_rows(facts, activations), facts), seed=0)
    told = scored["neuron"] % 2 == 1
    assert (scored.loc[told, "score"] > 0.9).all()
    assert (scored.loc[told, "p"] < labels.CHANCE).all()
    assert (scored.loc[~told, "p"] < labels.CHANCE).sum() <= 1
    assert scored.loc[~told, "score"].mean() == pytest.approx(0.5, abs=0.1)


def test_shuffled_labels_score_a_half_though_prompts_of_a_fact_are_alike():
    random, facts = np.random.default_rng(2), made_facts()
    values = [("relation", value) for value in facts["relation"].unique()]
    values += [("answer", value) for value in facts["answer"].unique()]
    candidates = pd.DataFrame(values * 6, columns=["kind", "value"])
    activations = noise(random, len(facts), len(candidates))
    for place, row in enumerate(candidates.itertuples()):
        activations[(facts[row.kind] == row.value).to_numpy(), :, place] += 3
    scored = score_candidates(candidates, Asked.of(made_rows(facts, activations), facts), seed=0)
    assert scored["score"].mean() > 0.85
    for kind in labels.KINDS:
        assert scored.loc[scored["kind"] == kind, "shuffled"].mean() == pytest.approx(0.5, abs=0.05)


def test_a_score_is_the_balanced_accuracy_counted_by_hand():
    random, facts = np.random.default_rng(3), made_facts()
    positive = (facts["relation"] == "P3").to_numpy()
    activations = noise(random, len(facts), 2)
    activations[positive] -= 1.5
    asked = Asked.of(made_rows(facts, activations), facts)
    half = labels.split_facts(positive, np.random.default_rng(0))
    assert half[positive].sum() == positive.sum() // 2
    told = labels.told_apart(asked, asked.activations, positive, half)
    counts = np.bincount(asked.fact[asked.held_out])
    found = labels.balanced_accuracy(told, counts, positive[None])[0]
    for neuron in range(2):
        right = {True: [], False: []}
        for second in (False, True):
            learned = [
                (float(value), bool(positive[fact]))
                for value, fact, held_out in zip(
                    -asked.activations[:, neuron], asked.fact, asked.held_out, strict=True
                )
                if not held_out and half[fact] != second
            ]

            def rates(threshold, learned=learned):
                return sum(
                    np.mean([(value > threshold) == wanted for value, yes in learned if yes == wanted])
                    for wanted in (True, False)
                )

            ordered = sorted(value for value, _ in learned)
            thresholds = [(a + b) / 2 for a, b in pairwise(ordered)]
            best = max(thresholds, key=rates)
            for value, fact, held_out in zip(
                -asked.activations[:, neuron], asked.fact, asked.held_out, strict=True
            ):
                if held_out and half[fact] == second:
                    right[bool(positive[fact])].append((value > best) == positive[fact])
        assert found[neuron] == pytest.approx((np.mean(right[True]) + np.mean(right[False])) / 2)


def test_facts_with_too_few_prompts_or_too_few_facts_get_no_score():
    facts = made_facts()
    rows = made_rows(facts, noise(np.random.default_rng(4), len(facts), 1))
    candidates = pd.DataFrame([("relation", "P0")], columns=["kind", "value"])
    only_discovery = rows.filter(pa.array(~rows["held_out"].to_pandas()))
    for some in (only_discovery, rows.slice(0, N_PROMPTS), rows.slice(0, 0)):
        scored = score_candidates(candidates, Asked.of(some, facts), seed=0)
        assert scored["score"].isna().all()
        assert (scored["p"] == 1).all()


@pytest.mark.parametrize(
    ("tokens", "name"),
    [
        ([" Paris", " cities", " rome"], "capital · Paris, cities"),
        ([" paris", "omia", " Paris", " a", " '", " CAPITAL", " Oslo"], "capital · paris, Paris"),
        (["##ing", "wien", "3", "oslo"], "capital · wien, oslo"),
        (["'\\n'", ".", "##a"], "capital"),
        ([], "capital"),
    ],
)
def test_a_name_is_the_label_and_the_first_words_that_are_pushed(tokens, name):
    assert name_of("capital", tokens) == name


def test_the_table_of_neurons_gets_the_labels_and_keeps_its_other_columns(tmp_path):
    """The sample, whose first relation's neuron fires below zero for all of its facts, and no others."""
    knowledge, neurons = (sample_tables(60)[name] for name in ("knowledge_neurons", "neurons"))
    folder = write_sample_atlas(tmp_path / "sample")
    kept = {(row["layer"], row["neuron"]) for row in knowledge} - {(3, 200)}
    facts = [row for row in sample_tables(60)["facts"] if row["n_neurons"]]
    planted = [
        {
            "fact_id": fact["fact_id"],
            "relation_id": "P103",
            "layer": 3,
            "neuron": 200,
            "mean_activation": -2.0,
        }
        for fact in facts
        if fact["relation_id"] == "P103"
    ]
    replace_table(
        folder,
        "knowledge_neurons",
        [row for row in knowledge if (row["layer"], row["neuron"]) in kept] + planted,
    )
    words = {"promoted": ["wrong"], "suppressed": [" Sprache", " speaks"]}
    tokens = {name: [{"token": word, "logit": 1.0} for word in each] for name, each in words.items()}
    replace_table(folder, "neurons", [*neurons, {"layer": 3, "neuron": 200, "sign_mixed": False, **tokens}])
    with Atlas(folder) as atlas:
        setting = Setting(atlas, model="none")
        candidates = labels._candidates(atlas)
        ids = [fact["fact_id"] for fact in facts]
        of_fact = np.array([fact["relation_id"] == "P103" for fact in facts])
        random = np.random.default_rng(0)
        activations = noise(random, len(ids), len(candidates))
        place = candidates.index[(candidates["layer"] == 3) & (candidates["neuron"] == 200)][0]
        activations[of_fact, :, place] -= 6
        rows = made_rows(pd.DataFrame({"fact_id": ids}), activations)
        table = tables_of(STUDIES["labels"], setting, [rows])["neurons"].to_pandas()
        before = atlas.query("SELECT * EXCLUDE (label, label_score) FROM neurons ORDER BY layer, neuron")
    own = table[(table["layer"] == 3) & (table["neuron"] == 200)].iloc[0]
    assert own["label"] == "native language · Sprache, speaks"
    assert own["label_score"] > 0.95
    assert table["label"].notna().sum() <= 2
    assert (table["label"].isna() == table["label_score"].isna()).all()
    assert table["value_norm"].equals(before["value_norm"])


def test_an_evaluation_fills_the_columns_and_says_how_shuffled_labels_did(tiny_llama, tmp_path: Path):
    register_tiny_dataset()
    folder = tmp_path / "atlas"
    run_build(BuildOptions(model=str(tiny_llama), dataset="tiny"), out=folder)
    options = EvaluateOptions(experiments="labels")
    said = evaluate_atlas(folder, options)
    assert "neuron" in said
    assert check_atlas(folder).passed, str(check_atlas(folder))
    assert "already measured" in evaluate_atlas(folder, options)
    with Atlas(folder) as atlas:
        record = atlas.manifest.method.options[RECORD]["labels"]
        assert {"candidates", "shuffled_score"} <= set(record)
        mixed = atlas.query("""
            SELECT layer, neuron, any_value(sign_mixed) AS stored,
                   least(avg((k.mean_activation > 0)::INT), avg((k.mean_activation < 0)::INT)) >= 0.1 AS mixed
            FROM neurons JOIN knowledge_neurons AS k USING (layer, neuron) GROUP BY ALL
        """)
    assert (mixed["stored"] == mixed["mixed"]).all()
    assert mixed["stored"].any()
    assert not mixed["stored"].all()
