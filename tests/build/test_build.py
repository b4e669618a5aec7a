"""Builds from beginning to end with tiny models: rows are what the model says, and no kill changes them."""

from __future__ import annotations

import hashlib
import json
import os
import resource
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import atlas
from atlas import datasets, queries, refinement
from atlas.datasets import Dataset
from atlas.errors import BuildError, ModelError
from atlas.neuron import Fact, Neuron, Relation, Template
from atlas.queries import comparison
from atlas.queries.evidence import ASKED_GROUPS, CONTROLS, TOP_GROUPS
from atlas.store.manifest import file_name, read_manifest, record_files, write_manifest
from atlas.store.schema import SORT_KEYS, TABLES, difference
from atlas.surgery import load_subject
from build.__main__ import main as command
from build.jobs.machine import Machine
from build.output.check import check_atlas
from build.output.writer import Output, open_output
from build.plan import BuildOptions, describe_plan, make_plan
from build.run import run_build
from tests import ROOT
from tests.plain_replication import PlainReplication

BUILT = (
    "relations",
    "templates",
    "facts",
    "prompts",
    "attributions",
    "knowledge_neurons",
    "neurons",
    "activating_prompts",
    "lens",
    "effects",
    "control_neurons",
)
"""The tables of a build; `python -m build evaluate` adds the others."""

FILES = {"manifest.json", "README.md", "croissant.json", *map(file_name, BUILT)}

PARAREL = ROOT.parent / "shared" / "pararel" / "data"

CAPITALS = (
    ("france", "paris"),
    ("italy", "rome"),
    ("japan", "tokyo"),
    ("new zealand", "wellington"),
    ("brazil", "sao paulo"),
)
LANGUAGES = (("austria", "german"), ("peru", "spanish"), ("paris", "french"), ("tokyo", "japanese"))
PATTERNS = (
    "the {} of [X] is [Y] .",
    "people in [X] speak about the {} [Y] .",
    "in [X] , the {} is [Y]",
    "the old {} of [X] is [Y] .",
    "[Y] is the {} of [X] .",
    "not in [X] : the {} is [Y] .",
)


def tiny_dataset() -> Dataset:
    """Nine facts in words that the tiny models' tokenizers know, and one whose answer BERT cannot write."""
    relations = (Relation("P36", "capital"), Relation("P37", "official language"))
    templates = [
        Template(f"{relation.relation_id}.{index}", relation.relation_id, pattern.format(word))
        for relation, word in zip(relations, ("capital", "language"), strict=True)
        for index, pattern in enumerate(PATTERNS)
    ]
    facts = [Fact(f"P36.{subject}", "P36", subject, answer) for subject, answer in CAPITALS]
    facts += [Fact(f"P37.{subject}", "P37", subject, answer) for subject, answer in LANGUAGES]
    facts.append(Fact("P37.unwritable", "P37", "rome", "łł"))
    return Dataset("tiny", "1", "CC0", relations, tuple(templates), tuple(facts))


def register_tiny_dataset() -> None:
    datasets.LOADERS["tiny"] = lambda source: tiny_dataset()


@pytest.fixture(autouse=True)
def _tiny_dataset(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(datasets.LOADERS, "tiny", lambda source: tiny_dataset())


def options(model: Path, **changes: object) -> BuildOptions:
    return BuildOptions(**{"model": str(model), "dataset": "tiny", "shard_size": 3, **changes})


@pytest.fixture(scope="module")
def build_once(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """A function: model and options → the folder of their atlas, built at the first call."""
    built: dict[tuple, Path] = {}

    def build(model: Path, **changes: object) -> Path:
        key = (model, *sorted(changes.items()))
        if key not in built:
            register_tiny_dataset()
            built[key] = tmp_path_factory.mktemp("atlas") / "atlas"
            run_build(options(model, **changes), out=built[key])
        return built[key]

    return build


@pytest.fixture
def bert_atlas(build_once: Callable[..., Path], tiny_bert: Path) -> Path:
    return build_once(tiny_bert)


@pytest.fixture
def copy(bert_atlas: Path, tmp_path: Path) -> Path:
    """A copy of the BERT atlas that a test may spoil."""
    return shutil.copytree(bert_atlas, tmp_path / "copy")


def tables_of(folder: Path) -> dict[str, pa.Table]:
    return {name: pq.read_table(folder / file_name(name)) for name in BUILT}


def assert_same_rows(one: Path, other: Path) -> None:
    for name, table in tables_of(one).items():
        assert table.equals(pq.read_table(other / file_name(name))), name


def fingerprint(folder: Path) -> dict[str, tuple[str, int]]:
    """Every file below a folder with its hash and time of change."""
    return {
        str(path.relative_to(folder)): (
            hashlib.sha256(path.read_bytes()).hexdigest(),
            path.stat().st_mtime_ns,
        )
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


# --- the plan ---


@pytest.mark.skipif(not PARAREL.is_dir(), reason="needs PARAREL's data folder at ../shared/pararel/data")
@pytest.mark.parametrize(("model", "n_prompts"), [("pocket-bert", 224_674), ("smollm2-135m", 144_325)])
def test_the_plan_for_pararel_counts_the_published_prompts(model, n_prompts):
    plan = make_plan(BuildOptions(model=model, dataset="pararel", source=PARAREL))
    assert (len(plan.dataset.relations), len(plan.facts), plan.n_prompts) == (39, 27_610, n_prompts)
    assert plan.n_discovery + plan.n_held_out == n_prompts


def test_a_causal_model_is_asked_only_what_ends_with_the_object(tiny_bert, tiny_llama):
    masked, causal = make_plan(options(tiny_bert)), make_plan(options(tiny_llama))
    assert masked.n_prompts == 10 * 6
    assert causal.n_prompts == 10 * 5
    assert all(template.ends_with_object for group in causal.templates.values() for template, _ in group)


def test_every_second_usable_template_is_held_out(tiny_llama):
    templates = make_plan(options(tiny_llama)).templates["P36"]
    assert [held_out for _, held_out in templates] == [False, True, False, True, False]
    assert [template.template_id for template, _ in templates] == [f"P36.{i}" for i in (0, 1, 2, 3, 5)]


def test_shards_hold_each_fact_once_and_in_order(tiny_bert):
    plan = make_plan(options(tiny_bert, shard_size=4))
    shards = list(plan.shards())
    assert [fact for shard in shards for fact in shard] == list(plan.facts)
    assert [len(shard) for shard in shards] == [4, 4, 2]
    assert len(shards) == plan.n_shards


def test_a_relation_without_usable_templates_leaves_its_facts_out(tiny_llama, monkeypatch):
    dataset = tiny_dataset()
    kept = [t for t in dataset.templates if t.relation_id == "P36" or not t.ends_with_object]
    monkeypatch.setitem(datasets.LOADERS, "tiny", lambda source: replace(dataset, templates=tuple(kept)))
    plan = make_plan(options(tiny_llama, limit=3))
    assert {fact.relation_id for fact in plan.facts} == {"P36"}
    assert len(plan.facts) == 3
    assert plan.n_facts_left_out == 5
    with pytest.raises(BuildError, match="is causal, and no template of tiny ends with the object"):
        make_plan(options(tiny_llama, relations=("P37",)))


# --- the rows ---


def parquet_columns(path: Path) -> list[pq.ColumnChunkMetaData]:
    metadata = pq.read_metadata(path)
    groups = [metadata.row_group(index) for index in range(metadata.num_row_groups)]
    return [group.column(index) for group in groups for index in range(group.num_columns)]


@pytest.mark.parametrize("model", ["tiny_bert", "tiny_gpt2", "tiny_llama"])
def test_a_build_passes_its_own_check_and_fits_the_schema(model, tiny, build_once):
    folder = build_once(tiny(model))
    report = check_atlas(folder)
    assert report.passed, str(report)
    assert report.converged > 0.99
    assert {path.name for path in folder.iterdir()} == FILES
    for name, table in tables_of(folder).items():
        assert difference(name, table.schema) is None
        assert table.num_rows > 0, name
        assert table.sort_by([(key, "ascending") for key in SORT_KEYS[name]]).equals(table), name
        columns = parquet_columns(folder / file_name(name))
        assert {column.compression for column in columns} == {"ZSTD"}, name
        # Shells before DuckDB 2.0 read no integers whose bytes are stored by significance.
        split = {c.physical_type for c in columns if "BYTE_STREAM_SPLIT" in c.encodings}
        assert split <= {"FLOAT", "DOUBLE"}, name


def test_templates_marks_and_answer_tokens_are_written(bert_atlas):
    tables, dataset = tables_of(bert_atlas), tiny_dataset()
    templates = tables["templates"].to_pylist()
    assert {each["text"] for each in templates} == {each.pattern for each in dataset.templates}
    places = [int(each["template_id"].rpartition(".")[2]) for each in templates]
    assert [each["held_out"] for each in templates] == [place % 2 == 1 for place in places]
    facts = tables["facts"].to_pandas().set_index("fact_id")
    tokens = tables["prompts"].to_pandas().groupby("fact_id")["n_answer_tokens"].max()
    assert facts["n_answer_tokens"].to_dict() == tokens.to_dict()
    assert facts[["contested", "guessable"]].isna().all(axis=None)  # nobody has said


def test_stored_scores_are_the_large_ones_of_the_model(bert_atlas, tiny_bert):
    from atlas.attribution.attribution import attribute
    from atlas.surgery.subject import load_subject

    subject = load_subject(str(tiny_bert))
    plan = make_plan(options(tiny_bert))
    stored = tables_of(bert_atlas)["attributions"].to_pandas()
    for fact in plan.facts[3:5]:  # answers of one token and of two
        prompts = [prompt for prompt, held_out in plan.prompts_of(fact) if not held_out]
        for prompt, result in zip(prompts, attribute(subject, prompts), strict=True):
            rows = stored[(stored.fact_id == fact.fact_id) & (stored.template_id == prompt.template_id)]
            again = np.zeros_like(result.scores)
            again[rows.layer, rows.neuron] = rows.score
            expected = np.where(result.scores >= 0.1 * result.scores.max(), result.scores, 0)
            np.testing.assert_allclose(again, expected, atol=1e-5 * result.scores.max())


def test_held_out_prompts_are_asked_but_not_attributed(bert_atlas, tiny_bert):
    from atlas.surgery.subject import load_subject

    prompts = tables_of(bert_atlas)["prompts"].to_pandas()
    held_out = prompts[prompts.held_out]
    assert held_out[["max_score", "max_gap", "n_points", "converged", "n_layers"]].isna().all().all()
    assert prompts[~prompts.held_out]["max_score"].notna().all()
    attributed = tables_of(bert_atlas)["attributions"].to_pandas()
    assert not set(zip(attributed.fact_id, attributed.template_id, strict=True)) & set(
        zip(held_out.fact_id, held_out.template_id, strict=True)
    )
    plan = make_plan(options(tiny_bert))
    asked = [prompt for prompt, held in plan.prompts_of(plan.facts[0]) if held]
    rows = held_out[held_out.fact_id == plan.facts[0].fact_id]
    predictions = load_subject(str(tiny_bert)).predict(asked)
    np.testing.assert_allclose(rows.probability, [p.probability for p in predictions], rtol=1e-5)
    assert rows["rank"].tolist() == [p.rank for p in predictions]
    assert rows.top_token.tolist() == [p.top[0][0] for p in predictions]


def test_attribute_all_attributes_held_out_prompts_and_finds_the_same_neurons(
    build_once, bert_atlas, tiny_bert
):
    folder = build_once(tiny_bert, attribute="all")
    assert check_atlas(folder).passed
    assert tables_of(folder)["prompts"]["max_score"].null_count == 0
    assert (
        duckdb.sql(f"""
        SELECT fact_id, layer, neuron FROM '{bert_atlas}/knowledge_neurons.parquet'
    """).fetchall()
        == duckdb.sql(f"""
        SELECT fact_id, layer, neuron FROM '{folder}/knowledge_neurons.parquet'
    """).fetchall()
    )


def test_effects_are_what_the_interventions_do(bert_atlas, tiny_bert):
    from atlas.interventions import Amplify, Suppress
    from atlas.surgery.subject import load_subject

    subject = load_subject(str(tiny_bert))
    plan = make_plan(options(tiny_bert))
    prompts = {(p.fact_id, p.template_id): p for fact in plan.facts for p, _ in plan.prompts_of(fact)}
    tables = tables_of(bert_atlas)
    neurons: dict[str, list[Neuron]] = {}
    for row in tables["knowledge_neurons"].to_pylist():
        neurons.setdefault(row["fact_id"], []).append(Neuron(row["layer"], row["neuron"]))
    effects = tables["effects"].to_pylist()
    assert {(row["intervention"], row["group"]) for row in effects} == {
        (intervention, group)
        for intervention in ("suppress", "amplify")
        for group in ("own", "random", "unrelated")
    }
    for row in effects[::5]:
        assert row["held_out"]
        assert row["n_neurons"] == len(neurons[row["fact_id"]])
        if row["group"] == "random":
            continue
        kind = Suppress if row["intervention"] == "suppress" else Amplify
        prompt = prompts[row["prompt_fact_id"], row["template_id"]]
        with subject.applied(kind(tuple(neurons[row["fact_id"]]))) as changed:
            after = changed.predict([prompt])[0]
        assert row["p_after"] == pytest.approx(after.probability, rel=1e-4)
        assert row["rank_after"] == after.rank


@pytest.mark.parametrize("model", ["tiny_bert", "tiny_llama"])
def test_random_effects_are_those_of_the_stored_control_neurons(model, tiny, build_once):
    from atlas.interventions import Amplify, Suppress
    from atlas.surgery.subject import load_subject

    folder = build_once(tiny(model))
    subject = load_subject(str(tiny(model)))
    plan = make_plan(options(tiny(model)))
    prompts = {(p.fact_id, p.template_id): p for fact in plan.facts for p, _ in plan.prompts_of(fact)}
    drawn: dict[str, list[Neuron]] = {}
    for row in tables_of(folder)["control_neurons"].to_pylist():
        assert (row["group"], row["draw"]) == ("random", 1)
        drawn.setdefault(row["fact_id"], []).append(Neuron(row["layer"], row["neuron"]))
    effects = [row for row in tables_of(folder)["effects"].to_pylist() if row["group"] == "random"]
    for row in effects[::5]:
        kind = Suppress if row["intervention"] == "suppress" else Amplify
        with subject.applied(kind(tuple(drawn[row["fact_id"]]))) as changed:
            after = changed.predict([prompts[row["prompt_fact_id"], row["template_id"]]])[0]
        assert row["p_after"] == pytest.approx(after.probability, rel=1e-4)
        assert row["rank_after"] == after.rank


def test_every_held_out_prompt_of_a_fact_with_neurons_is_evaluated(bert_atlas):
    missing = duckdb.sql(f"""
        SELECT count(*) FROM '{bert_atlas}/prompts.parquet' AS p
        JOIN '{bert_atlas}/facts.parquet' AS f USING (fact_id)
        ANTI JOIN (
            FROM '{bert_atlas}/effects.parquet' WHERE "group" = 'own' AND intervention = 'suppress'
        ) AS e ON e.fact_id = p.fact_id AND e.prompt_fact_id = p.fact_id AND e.template_id = p.template_id
        WHERE p.held_out AND f.n_neurons > 0
    """).fetchall()[0][0]
    assert missing == 0


def test_random_neurons_match_the_layers_and_avoid_the_facts_own():
    from atlas.experiments.controls import random_match
    from build.jobs.evaluation import seeded

    own = (Neuron(0, 3), Neuron(0, 5), Neuron(2, 1))
    drawn = random_match(own, 72, seeded(0, "random", "a fact"))
    assert {one.layer - two.layer for one, two in drawn.items()} == {0}
    assert set(drawn) == set(own)
    assert not set(drawn.values()) & set(own)
    assert drawn == random_match(own, 72, seeded(0, "random", "a fact"))
    assert drawn != random_match(own, 72, seeded(1, "random", "a fact"))


def test_partners_differ_in_relation_and_object():
    from build.jobs.evaluation import Partners, seeded

    facts = [
        Fact("a", "P1", "x", "Rome"),
        Fact("b", "P2", "x", "rome"),
        Fact("c", "P1", "y", "Oslo"),
        Fact("d", "P2", "y", "Oslo"),
        Fact("e", "P2", "z", "Bern"),
    ]
    partners = Partners.among(facts, [True, True, True, True, False], [True] * 5)
    assert partners.draw(0, 5, seeded(0, "unrelated", "a")) == [3]
    assert partners.n_candidates(0) == 1
    assert partners.draw(4, 5, seeded(0, "unrelated", "e")) == []


def test_unrelated_facts_that_the_model_knows_are_asked_before_others():
    from build.jobs.evaluation import Partners, seeded

    facts = [Fact("own", "P1", "x", "Rome")] + [Fact(str(n), "P2", str(n), f"City {n}") for n in range(20)]
    known = [True] + [n in (3, 11, 17) for n in range(20)]
    partners = Partners.among(facts, [True] * 21, known)
    for seed in range(5):
        drawn = partners.draw(0, 5, seeded(seed, "unrelated", "own"))
        assert set(drawn[:3]) == {4, 12, 18}
        assert len(set(drawn)) == 5
        assert 0 not in drawn


def extremes(values: np.ndarray, facts: list[str], relations: list[str], k: int) -> list[int]:
    """Places of the `k` largest values, the first of equal ones: one a fact at most, and three a relation."""
    kept: list[int] = []
    for place in np.argsort(-values, kind="stable").tolist():
        of_relation = sum(relations[other] == relations[place] for other in kept)
        if len(kept) < k and of_relation < 3 and facts[place] not in [facts[other] for other in kept]:
            kept.append(place)
    return kept


def test_activating_prompts_are_the_extremes_over_all_prompts(bert_atlas, tiny_bert):
    from atlas.surgery.subject import load_subject

    plan = make_plan(options(tiny_bert))
    asked = [p for fact in plan.facts[:9] for p, _ in plan.prompts_of(fact)]
    facts = [prompt.fact_id for prompt in asked]
    relations = [fact_id.split(".")[0] for fact_id in facts]
    activations = load_subject(str(tiny_bert)).activations(asked).numpy()
    table = tables_of(bert_atlas)["activating_prompts"].to_pandas()
    names = {(p.fact_id, p.template_id): index for index, p in enumerate(asked)}
    for (layer, neuron), rows in list(table.groupby(["layer", "neuron"]))[::7]:
        own = activations[:, layer, neuron]
        for side, sign in (("top", 1), ("bottom", -1)):
            chosen = rows[rows.side == side].sort_values("rank")
            assert chosen["rank"].tolist() == [1, 2, 3, 4, 5]
            order = extremes(sign * own, facts, relations, 5)
            np.testing.assert_allclose(chosen.activation, own[order], atol=1e-5)
            indices = [names[key] for key in zip(chosen.fact_id, chosen.template_id, strict=True)]
            np.testing.assert_allclose(chosen.activation, own[indices], atol=1e-5)


@pytest.mark.parametrize("model", ["tiny_bert", "tiny_llama"])
def test_the_mean_activation_is_that_of_the_fact_s_discovery_prompts(model, tiny, build_once):
    from atlas.surgery.subject import load_subject

    subject = load_subject(str(tiny(model)))
    plan = make_plan(options(tiny(model)))
    stored = tables_of(build_once(tiny(model)))["knowledge_neurons"].to_pandas()
    for fact_id, rows in stored.groupby("fact_id"):
        fact = next(fact for fact in plan.facts if fact.fact_id == fact_id)
        discovery = [prompt for prompt, held_out in plan.prompts_of(fact) if not held_out]
        means = subject.activations(discovery).numpy().mean(axis=0)
        np.testing.assert_allclose(rows.mean_activation, means[rows.layer, rows.neuron], atol=1e-5)
    assert (stored.mean_activation < 0).any()


def test_of_equal_activations_the_earlier_prompt_comes_first():
    from build.jobs.activating import ActivatingPrompts

    state = ActivatingPrompts(np.array([0, 0]), np.array([0, 1]), np.arange(5), np.arange(5), k=3)
    values = np.array([[1.0, 0.0], [2.0, 0.0], [2.0, 0.0], [2.0, 0.0], [5.0, 0.0]], np.float32)
    state.update(values[:3, None, :], np.arange(3))
    state.update(values[3:, None, :], np.arange(3, 5))
    assert state.prompts[0].tolist() == [[4, 1, 2], [0, 1, 2]]
    assert state.prompts[1].tolist() == [[0, 1, 2], [0, 1, 2]]


def test_parts_keep_what_the_whole_would_keep_one_prompt_a_fact_and_three_a_relation():
    from build.jobs.activating import ActivatingPrompts

    random = np.random.default_rng(0)
    facts = np.repeat(np.arange(40), 3)
    relations = facts // 12
    # Few different values, so that many are equal.
    activations = random.integers(0, 30, (120, 1, 7)).astype(np.float32)
    layers, neurons = np.zeros(7, int), np.arange(7)
    merged = ActivatingPrompts(layers, neurons, facts, relations)
    for first, stop in ((0, 0), (0, 30), (30, 33), (33, 120)):
        part = ActivatingPrompts(layers, neurons, facts[first:stop], relations[first:stop])
        part.update(activations[first:stop], np.arange(stop - first))
        merged.merge(pa.table(part.packed()), first)
    for place in range(7):
        for side, sign in enumerate((1, -1)):
            expected = extremes(sign * activations[:, 0, place], facts.tolist(), relations.tolist(), 5)
            assert merged.prompts[side, place].tolist() == expected


@pytest.mark.parametrize("model", ["tiny_bert", "tiny_gpt2", "tiny_llama"])
def test_activating_prompts_have_the_activation_at_every_token(model, tiny, build_once):
    import torch

    from atlas.surgery.subject import load_subject

    subject = load_subject(str(tiny(model)))
    plan = make_plan(options(tiny(model)))
    prompts = {(p.fact_id, p.template_id): p for fact in plan.facts for p, _ in plan.prompts_of(fact)}
    for row in tables_of(build_once(tiny(model)))["activating_prompts"].to_pylist()[::20]:
        encoded = subject.encode(prompts[row["fact_id"], row["template_id"]])
        start = encoded.positions[0]
        ids = encoded.input_ids if subject.family.kind == "masked" else encoded.input_ids[: start + 1]
        assert row["tokens"] == [subject.token_text(token) for token in ids]
        assert row["answer_position"] == start
        seen = []
        down = subject.family.down(subject.model, row["layer"])
        hook = down.register_forward_pre_hook(lambda module, args, seen=seen: seen.append(args[0]))
        with torch.no_grad():
            subject.model(torch.tensor([ids]))
        hook.remove()
        np.testing.assert_allclose(row["activations"], seen[0][0, :, row["neuron"]], rtol=0.004, atol=1e-5)
        assert row["activations"][start] == pytest.approx(row["activation"], rel=0.004, abs=1e-5)


@pytest.mark.parametrize("model", ["tiny_bert", "tiny_llama"])
def test_the_lens_reads_one_discovery_and_one_held_out_prompt_of_each_fact(model, tiny, build_once):
    from atlas.surgery.lens import lens
    from atlas.surgery.subject import load_subject

    subject = load_subject(str(tiny(model)))
    plan = make_plan(options(tiny(model)))
    stored = tables_of(build_once(tiny(model)))["lens"].to_pandas()
    for fact_id, rows in stored.groupby("fact_id"):
        fact = next(fact for fact in plan.facts if fact.fact_id == fact_id)
        asked = plan.prompts_of(fact)
        first = [next(p for p, held_out in asked if held_out is wanted) for wanted in (False, True)]
        assert len(rows) == 2 * subject.n_layers
        for seen in lens(subject, first):
            of_prompt = rows[rows.template_id == seen.prompt.template_id].sort_values("layer")
            for row, layer in zip(of_prompt.itertuples(), seen.layers, strict=True):
                assert row.probability == pytest.approx(layer.probability, rel=1e-4)
                assert row.rank == layer.rank
                assert [each["token"] for each in row.top] == [token for token, _ in layer.top]


def test_fewer_prompts_than_places_leave_places_empty():
    from build.jobs.activating import ActivatingPrompts

    state = ActivatingPrompts(np.array([0]), np.array([0]), np.arange(2), np.zeros(2, int), k=5)
    state.update(np.array([[[1.0]], [[3.0]]], np.float32), np.arange(2))
    ids = pa.array(["a", "b"])
    assert state.pairs().tolist() == [[0, 0], [1, 0]]
    rows = state.table(ids, ids, pa.table({"tokens": [["a", "word"], ["b"]]})).to_pylist()
    assert all(row["tokens"][0] == row["fact_id"] for row in rows)
    assert [(row["side"], row["rank"], row["fact_id"]) for row in rows] == [
        ("top", 1, "b"),
        ("top", 2, "a"),
        ("bottom", 1, "a"),
        ("bottom", 2, "b"),
    ]


def test_an_answer_outside_the_vocabulary_is_left_out_and_counted(bert_atlas):
    assert "P37.unwritable" not in tables_of(bert_atlas)["facts"]["fact_id"].to_pylist()
    noted = read_manifest(bert_atlas).method.options
    assert (noted["facts_left_out"], noted["prompts_left_out"]) == (1, 6)
    assert "outside the vocabulary" in noted["why_left_out"][0]


def test_nothing_that_can_be_asked_is_one_sentence(tiny_bert, tmp_path, monkeypatch):
    dataset = tiny_dataset()
    monkeypatch.setitem(datasets.LOADERS, "tiny", lambda source: replace(dataset, facts=dataset.facts[-1:]))
    with pytest.raises(BuildError, match=r"takes no prompt of tiny.*outside the vocabulary"):
        run_build(options(tiny_bert), out=tmp_path / "out")


def test_a_model_without_numbers_is_one_sentence(tmp_path):
    from tests.tiny_models import save_broken_bert

    with pytest.raises((ModelError, BuildError), match=r"NaN.*"):
        run_build(options(save_broken_bert(tmp_path)), out=tmp_path / "out")
    assert not list((tmp_path / "out" / "work").glob("*.p*"))


@pytest.mark.parametrize(
    ("mode", "discovery", "held_out"),
    [
        ("default", None, 3),
        ("paper", None, 0),
        ("replication", None, 0),
        ("default", "all", 0),
        ("paper", "half", 3),
    ],
)
def test_the_originals_modes_take_all_templates_unless_told_otherwise(tiny_bert, mode, discovery, held_out):
    plan = make_plan(options(tiny_bert, mode=mode, discovery=discovery))
    assert [sum(held for _, held in plan.prompts_of(fact)) for fact in plan.facts] == [held_out] * 10
    assert (plan.n_discovery, plan.n_held_out) == (10 * (6 - held_out), 10 * held_out)
    assert ("none: effects are measured on" in describe_plan(plan)) == (held_out == 0)


def test_another_choice_of_templates_is_one_sentence(tiny_bert):
    with pytest.raises(BuildError, match=r"--discovery cannot be 'none'\. Choose one of: half, all\."):
        options(tiny_bert, discovery="none")


@pytest.fixture
def all_templates(build_once: Callable[..., Path], tiny_bert: Path) -> Path:
    """An atlas that holds no template out."""
    return build_once(tiny_bert, mode="replication")


def test_with_all_templates_effects_are_those_on_the_prompts_that_find_neurons(all_templates, tiny_bert):
    effects, prompts = (tables_of(all_templates)[name].to_pandas() for name in ("effects", "prompts"))
    assert not prompts.held_out.any()
    assert prompts.max_score.notna().all()
    assert not effects.held_out.any()
    assert set(effects.group) == {"own", "random", "unrelated"}
    own = effects[(effects.group == "own") & (effects.intervention == "suppress")]
    assert own.groupby("fact_id").size().eq(6).all()
    manifest = read_manifest(all_templates)
    assert manifest.method.held_out.startswith("No template")
    assert manifest.method.options["parameters"]["discovery"] == "all"


def test_summaries_fall_back_on_the_prompts_that_there_are(all_templates):
    with atlas.open(all_templates) as opened:
        summary = queries.effect_summary(opened, held_out=True)
        counted = opened.query("SELECT count(*) AS n FROM effects WHERE intervention = 'suppress'")
        fact = opened.query("SELECT fact_id FROM facts WHERE n_neurons > 0")["fact_id"][0]
        assert {"own", "random"} <= set(comparison.suppression(opened, fact=fact))
    suppressed = summary[summary["intervention"] == "suppress"]
    assert suppressed["n_prompts"].sum() == counted["n"][0]


def test_experiments_on_held_out_prompts_say_that_there_are_none(all_templates, tmp_path, capsys):
    folder = shutil.copytree(all_templates, tmp_path / "copy")
    assert command(["evaluate", str(folder), "--experiments", "effects,erase,subsets", "--sample", "3",
                    "--fresh"]) == 0  # fmt: skip
    said = capsys.readouterr().out
    assert said.count("not measured: the atlas holds no prompt out") == 2
    assert "discovery prompts, mean over relations" in said
    summaries = pq.read_table(folder / "effect_summaries.parquet").to_pandas()
    assert set(summaries.templates) == {"discovery"}
    asked = set(summaries.group) & set(ASKED_GROUPS)
    assert set(summaries.group) == {"own", *CONTROLS, *TOP_GROUPS, *asked}
    assert "unrelated" in asked
    assert check_atlas(folder).passed


def test_a_rule_of_more_than_a_threshold_is_repeated_as_it_is(all_templates):
    with atlas.open(all_templates) as opened:
        for fact_id in opened.query("SELECT fact_id FROM facts")["fact_id"]:
            rule = refinement.MODES["replication"]
            options = {"at_least": rule.at_least, "inclusive": rule.inclusive}
            found = queries.rethreshold(opened, fact_id, rule.threshold, rule.share, **options)
            stored = queries.neurons_of_fact(opened, fact_id)
            pairs = ["layer", "neuron"]
            assert set(found[pairs].itertuples(index=False)) == set(stored[pairs].itertuples(index=False))


def test_the_modes_find_their_own_neurons_in_the_same_scores(build_once, bert_atlas, tiny_bert):
    folder = build_once(tiny_bert, mode="replication", discovery="half")
    assert check_atlas(folder).passed
    assert tables_of(folder)["attributions"].equals(tables_of(bert_atlas)["attributions"])
    recorded = read_manifest(folder).method.refinement
    assert recorded["mode"] == "replication"
    assert recorded["threshold"] == refinement.MODES["replication"].threshold


def test_the_mode_replication_finds_the_sets_of_the_original_s_loop(tmp_path):
    """With its 20 points, on real facts of pocket-bert whose answers are one token."""
    out = tmp_path / "out"
    run_build(
        BuildOptions(model="pocket-bert", dataset="starter", relations=("P36",), limit=5, mode="replication",
                     rule="endpoints", steps=20),
        out=out,
    )  # fmt: skip
    subject = load_subject("pocket-bert")
    plain = PlainReplication(subject.model, subject.tokenizer)
    rule = refinement.MODES["replication"]
    with atlas.open(out) as opened:
        stored, asked = (
            tables_of(out)["knowledge_neurons"].to_pandas(),
            opened.query("FROM prompts JOIN facts USING (fact_id)"),
        )
    compared = 0
    for (fact_id, answer), prompts in asked.groupby(["fact_id", "object"]):
        if len(subject.answer_tokens(answer)) == 1:
            texts = [text.replace("[Y]", "[MASK]") for text in prompts["text"]]
            found = plain.refined(texts, answer.lower(), p=rule.share, steps=20, adaptive=rule.threshold)
            own = stored[stored["fact_id"] == fact_id]
            assert set(map(tuple, found)) == set(own[["layer", "neuron"]].itertuples(index=False, name=None))
            compared += len(found)
    assert compared > 50


def test_a_build_ends_with_the_same_rows_in_a_folder_of_any_name(bert_atlas, tiny_bert, tmp_path):
    out = tmp_path / "layer=9" / "subject=x"
    run_build(options(tiny_bert), out=out)
    assert read_manifest(out).files == read_manifest(bert_atlas).files
    assert check_atlas(out).problems == []


def test_a_fixed_rule_builds_too(build_once, tiny_bert):
    folder = build_once(tiny_bert, rule="endpoints", limit=2, steps=5)
    assert check_atlas(folder).passed
    method = read_manifest(folder).method
    assert (method.rule, method.tolerance, method.max_points) == ("endpoints", None, 5)


def test_the_manifest_says_what_the_atlas_was_made_from(bert_atlas, tiny_bert):
    manifest = read_manifest(bert_atlas)
    assert manifest.atlas_id == "tiny-tiny_bert"
    assert (manifest.model.family, manifest.model.n_layers, manifest.model.n_neurons) == ("bert", 3, 72)
    assert manifest.dataset.hash == tiny_dataset().dataset_hash
    assert manifest.method.refinement["mode"] == "default"
    assert manifest.prompts_per_second > 0
    assert manifest.files == record_files(bert_atlas)


# --- interruptions ---

# A process that has imported everything and forks for each attempt, which then costs a fraction of a second.
ZYGOTE = """
import os, random, signal, sys, time
from pathlib import Path
import pandas, torch, transformers, duckdb
import build.run, build.output.summary, build.jobs.worker
from atlas.surgery import attribution, readout, subject
from transformers import AutoModelForCausalLM, AutoModelForMaskedLM, AutoTokenizer, DynamicCache
from transformers import BertForMaskedLM, LlamaForCausalLM
from tests.build.test_build import register_tiny_dataset
from build.__main__ import main
register_tiny_dataset()

def fork(out, *options, prepare=lambda: None):
    pid = os.fork()
    if pid == 0:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        prepare()
        torch.set_num_threads(1)
        os._exit(main(["run", "--model", sys.argv[1], "--dataset", "tiny", *options, "--out", str(out)]))
    return pid
"""

# One build in a child that kills itself at its n-th rename, then one that may finish.
KILLED = (
    ZYGOTE
    + """
parent, most = sys.argv[2], int(sys.argv[3])

def child(out, kill_at=None, after=False):
    def count_renames():
        replace, count = os.replace, 0
        def counted(*args, **kwargs):
            nonlocal count
            count += 1
            if count == kill_at and not after:
                os.kill(os.getpid(), signal.SIGKILL)
            replace(*args, **kwargs)
            if count == kill_at:
                os.kill(os.getpid(), signal.SIGKILL)
        os.replace = counted
    return os.waitpid(fork(out, "--limit", "4", "--shard-size", "2", prepare=count_renames), 0)[1]

for kill_at in range(1, most + 1):
    out = os.path.join(parent, str(kill_at))
    status = child(out, kill_at, after=kill_at % 2 == 0)
    killed = os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL
    print(kill_at, "killed" if killed else "finished", child(out), flush=True)
    if not killed:
        break
"""
)

# One build killed again and again: the i-th time once so many of its files are there, and a moment later.
KILLED_AT_RANDOM = (
    ZYGOTE
    + """
out, kills, n_files = Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4])
moments = random.Random(int(sys.argv[5]))
places = sorted(moments.choices(range(n_files), k=kills))

def files():
    return [path.name for folder in (out / "work", out) for path in sorted(folder.glob("[a-z]*.[pn]*"))]

for place in places:
    longest = 0.3 if len(files()) >= place else 0.03  # while it loads, or in the middle of the next file
    pid = fork(out, "--shard-size", "1")
    while len(files()) < place:
        assert os.waitpid(pid, os.WNOHANG) == (0, 0), "the build ended by itself"
        time.sleep(0.001)
    time.sleep(moments.uniform(0, longest))
    os.kill(pid, signal.SIGKILL)
    status = os.waitpid(pid, 0)[1]
    assert os.WIFSIGNALED(status), "the build ended by itself"
    assert not (out / "manifest.json").exists()
    print(*(len([name for name in files() if name.startswith(part)]) for part in sys.argv[6:]), flush=True)
status = os.waitpid(fork(out, "--shard-size", "1"), 0)[1]
print("finished", status)
"""
)


def zygote(script: str, *arguments: object) -> list[list[str]]:
    """The words of every line that the script printed."""
    result = subprocess.run(
        [sys.executable, "-c", script, *map(str, arguments)],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=500,
    )
    assert result.returncode == 0, result.stderr
    return [line.split() for line in result.stdout.splitlines()]


def test_a_build_killed_at_any_rename_resumes_to_the_same_rows(build_once, tiny_bert, tmp_path):
    whole = build_once(tiny_bert, limit=4, shard_size=2)
    lines = zygote(KILLED, tiny_bert, tmp_path, 40)
    # plan, 2 attribute shards, value vectors, activations, 2 shards of tokens, 2 of the lens, 2 evaluate
    # shards, the tables, data card, Croissant metadata, manifest.
    assert [line[1] for line in lines] == ["killed"] * (11 + len(FILES)) + ["finished"]
    assert all(status == "0" for _, _, status in lines)
    for line in lines:
        folder = tmp_path / line[0]
        assert {path.name for path in folder.iterdir()} == FILES
        assert_same_rows(whole, folder)
        assert read_manifest(folder).files == read_manifest(whole).files


def test_a_build_killed_twenty_times_at_random_ends_with_the_same_rows(build_once, tiny_llama, tmp_path):
    whole, out = build_once(tiny_llama, shard_size=1), tmp_path / "out"
    stages = ("attribute", "readout", "activating-", "evaluate", "effects")
    # Value vectors, activations, and 10 shards each to attribute, of tokens, of the lens and to evaluate: 42
    # files, and then the tables.
    *kills, end = zygote(KILLED_AT_RANDOM, tiny_llama, out, 20, 50, 20220308, *stages)
    assert end == ["finished", "0"]
    assert len(kills) == 20
    done = [tuple(map(int, counts)) for counts in kills]
    assert done == sorted(done)  # nothing that was done is ever lost
    # Kills hit every stage: attributing, evaluating, and writing the tables.
    assert sum(attribute < 10 for attribute, *_ in done) >= 2
    assert sum(activating > 0 and evaluate < 10 for _, _, activating, evaluate, _ in done) >= 2
    assert sum(evaluate == 10 for *_, evaluate, _ in done) >= 2
    assert {path.name for path in out.iterdir()} == FILES
    assert_same_rows(whole, out)


def test_a_shard_that_is_no_parquet_file_is_made_again(bert_atlas, tiny_bert, tmp_path, monkeypatch):
    out = tmp_path / "out"
    interrupt_at(monkeypatch, "EvaluateShard")
    with pytest.raises(KeyboardInterrupt):
        run_build(options(tiny_bert), out=out)
    monkeypatch.undo()
    register_tiny_dataset()
    shard = out / "work" / "attribute-00001.parquet"
    shard.write_bytes(shard.read_bytes()[:100])
    run_build(options(tiny_bert), out=out)
    assert_same_rows(bert_atlas, out)


def interrupt_at(monkeypatch: pytest.MonkeyPatch, job: str) -> None:
    """Ctrl-C when the build first runs a job of this class."""
    from build.jobs import jobs

    def interrupt(*args: object, **kwargs: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(getattr(jobs, job), "run", interrupt)


def test_the_manifest_is_written_last(tiny_bert, tmp_path, monkeypatch):
    names = []
    original = os.replace

    def noted(source: Path, target: Path) -> None:
        names.append(Path(target).name)
        original(source, target)

    monkeypatch.setattr(os, "replace", noted)
    run_build(options(tiny_bert, limit=2), out=tmp_path / "out")
    assert names[0] == "plan.json"
    assert names[-1] == "manifest.json"
    assert set(names[-len(FILES) :]) == FILES
    assert not (tmp_path / "out" / "work").exists()


def test_a_work_folder_left_beside_the_manifest_is_tidied_up(copy, tiny_bert):
    (copy / "work").mkdir()
    (copy / "work" / "plan.json").write_text("{}")
    assert "Nothing was left to do" in run_build(options(tiny_bert), out=copy)
    assert not (copy / "work").exists()


def test_a_finished_atlas_is_left_as_it_is(copy, tiny_bert):
    before = fingerprint(copy)
    assert "Nothing was left to do" in run_build(options(tiny_bert), out=copy)
    assert fingerprint(copy) == before


# --- memory and disk ---


def test_out_of_memory_halves_the_batch_and_goes_on(bert_atlas, tiny_bert, tmp_path, monkeypatch, capsys):
    import torch

    from atlas.attribution import attribution

    original, tried = attribution.attribute, []

    def small_memory(*args: object, batch_rows: int, **kwargs: object) -> list:
        tried.append(batch_rows)
        if batch_rows > 2:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB")
        return original(*args, batch_rows=batch_rows, **kwargs)

    monkeypatch.setattr(attribution, "attribute", small_memory)
    out = tmp_path / "out"
    run_build(options(tiny_bert), out=out, machine=Machine(batch_rows=8))
    assert tried == [8, 4, 2, 2, 2, 2]
    assert "Out of memory: going on with batches of 4." in capsys.readouterr().err
    for name, table in tables_of(bert_atlas).items():
        assert table.num_rows == pq.read_metadata(out / file_name(name)).num_rows, name
    assert check_atlas(out).passed


@pytest.mark.parametrize(
    ("raised", "kind", "sentence"),
    [
        (
            "[enforce fail] DefaultCPUAllocator: not enough memory: you tried to allocate 9 bytes",
            BuildError,
            r"too little memory .* --device cpu",
        ),
        ("shapes do not match", RuntimeError, "shapes"),
    ],
    ids=["too little memory", "another error"],
)
def test_only_too_little_memory_for_one_prompt_is_one_sentence(
    tiny_bert, tmp_path, monkeypatch, raised, kind, sentence
):
    from atlas.attribution import attribution

    def broken(*args: object, **kwargs: object) -> list:
        raise RuntimeError(raised)

    monkeypatch.setattr(attribution, "attribute", broken)
    with pytest.raises(kind, match=sentence):
        run_build(options(tiny_bert), out=tmp_path / "out")


def limited_to(size: int) -> Callable[[], None]:
    return lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))


def test_a_full_disk_is_one_sentence_and_loses_nothing(bert_atlas, tiny_bert, tmp_path):
    """No file may be larger than 9 kB, so that shards can be written and a table cannot."""
    out = tmp_path / "out"
    script = (
        "import sys; from tests.build.test_build import register_tiny_dataset as r; r();"
        "from build.__main__ import main; sys.exit(main(sys.argv[1:]))"
    )
    command = ["run", "--model", str(tiny_bert), "--dataset", "tiny", "--out", str(out), "--shard-size", "3"]
    largest = max((bert_atlas / file_name(name)).stat().st_size for name in BUILT)
    result = subprocess.run(
        [sys.executable, "-c", script, *command],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        text=True,
        preexec_fn=limited_to(largest - 1),
    )
    assert result.returncode == 2
    assert "The disk is full" in result.stderr
    assert "Traceback" not in result.stderr
    assert not list(out.rglob("*.partial"))
    assert not (out / "manifest.json").exists()
    kept = fingerprint(out / "work")
    assert [name for name in kept if name.startswith("attribute-")]
    run_build(options(tiny_bert), out=out)
    assert_same_rows(bert_atlas, out)


def test_a_file_is_whole_or_not_there(tmp_path):
    path = tmp_path / "file"

    def half() -> None:
        with open_output(path) as file:
            file.write(b"half")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        half()
    assert list(tmp_path.iterdir()) == []
    with open_output(path) as file:
        file.write(b"whole")
        assert not path.exists()
    assert path.read_bytes() == b"whole"
    assert list(tmp_path.iterdir()) == [path]


# --- folders that are not this build's ---


@pytest.mark.parametrize(
    ("name", "content", "sentence"),
    [
        ("thesis.tex", "years of work", r"no build wrote \(thesis.tex\)"),
        ("work/notes.txt", "somebody's", "no build wrote"),
        ("facts.parquet", "somebody's", "no build wrote"),
        ("manifest.json", '{"name": "a web app"}', "a manifest that cannot be read"),
    ],
)
def test_a_folder_that_is_not_a_builds_is_refused_untouched(tiny_bert, tmp_path, name, content, sentence):
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_text(content)
    before = fingerprint(tmp_path)
    for fresh in (False, True):
        with pytest.raises(BuildError, match=sentence):
            run_build(options(tiny_bert), out=tmp_path, fresh=fresh)
    assert fingerprint(tmp_path) == before


def test_a_file_in_the_folders_place_is_refused(tiny_bert, tmp_path):
    path = tmp_path / "out"
    path.write_text("a file")
    with pytest.raises(BuildError, match="is a file"):
        run_build(options(tiny_bert), out=path)


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"tolerance": 0.05}, "tolerance 0.01 where this one has 0.05"),
        ({"mode": "paper"}, "mode default where this one has paper"),
        ({"limit": 4}, r"limit \(none\) where this one has 4"),
        ({"attribute": "all"}, "attribute discovery where this one has all"),
        ({"seed": 3}, "seed 0 where this one has 3"),
    ],
)
def test_an_atlas_of_other_parameters_is_refused_untouched(copy, tiny_bert, changes, named):
    before = fingerprint(copy)
    with pytest.raises(BuildError, match=f"finished atlas with {named}.*--fresh"):
        run_build(options(tiny_bert, **changes), out=copy)
    assert fingerprint(copy) == before


def test_a_build_begun_with_another_model_is_refused_untouched(tiny_bert, tiny_llama, tmp_path, monkeypatch):
    out = tmp_path / "out"
    interrupt_at(monkeypatch, "AttributeShard")
    with pytest.raises(KeyboardInterrupt):
        run_build(options(tiny_bert), out=out)
    before = fingerprint(out)
    with pytest.raises(BuildError, match=r"was begun with model .*--fresh"):
        run_build(options(tiny_llama), out=out)
    assert fingerprint(out) == before


def test_fresh_starts_over(copy, bert_atlas, tiny_bert, tmp_path):
    run_build(options(tiny_bert, limit=2), out=copy, fresh=True)
    assert pq.read_metadata(copy / "facts.parquet").num_rows == 2
    run_build(options(tiny_bert), out=copy, fresh=True)
    assert_same_rows(bert_atlas, copy)


def test_fresh_killed_halfway_leaves_the_old_atlas_or_a_begun_build(copy, tiny_bert, monkeypatch):
    def full(*args: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(Output, "write_json", full)
        with pytest.raises(KeyboardInterrupt):
            run_build(options(tiny_bert, limit=2), out=copy, fresh=True)
    assert check_atlas(copy).passed
    with monkeypatch.context() as patched:
        interrupt_at(patched, "AttributeShard")
        with pytest.raises(KeyboardInterrupt):
            run_build(options(tiny_bert, limit=2), out=copy, fresh=True)
    assert {path.name for path in copy.iterdir()} == {"work"}
    run_build(options(tiny_bert, limit=2), out=copy)
    assert pq.read_metadata(copy / "facts.parquet").num_rows == 2


def test_a_work_folder_with_somebodys_files_stays(copy, tiny_bert):
    (copy / "work").mkdir()
    (copy / "work" / "notes.txt").write_text("mine")
    run_build(options(tiny_bert), out=copy)
    assert [path.name for path in (copy / "work").iterdir()] == ["notes.txt"]


def test_tables_that_contradict_themselves_are_not_finished(tiny_bert, tmp_path, monkeypatch):
    from build.output import tables

    original = tables.facts_table

    def wrong(*args: object) -> pa.Table:
        facts = original(*args)
        n_neurons = pa.array([99] * facts.num_rows)
        return facts.set_column(facts.column_names.index("n_neurons"), "n_neurons", n_neurons)

    monkeypatch.setattr(tables, "facts_table", wrong)
    with pytest.raises(BuildError, match="facts have a wrong number of knowledge neurons"):
        run_build(options(tiny_bert, limit=2), out=tmp_path / "out")
    assert not (tmp_path / "out" / "manifest.json").exists()


def test_two_builds_do_not_share_a_folder(tmp_path):
    first, second = Output(tmp_path / "out"), Output(tmp_path / "out")
    first.claim({"model": "a"})
    with pytest.raises(BuildError, match="Another build is running"):
        second.claim({"model": "a"})
    first.close()
    assert second.claim({"model": "a"}) == "resumed"
    second.close()


# --- check ---


def flip_a_byte(content: bytes) -> bytes:
    middle = len(content) // 2
    return content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :]


@pytest.mark.parametrize(
    ("name", "change", "sentence"),
    [
        ("attributions.parquet", flip_a_byte, "sha256"),
        ("prompts.parquet", lambda content: content[:-10], "truncated"),
        ("effects.parquet", None, "missing"),
        ("manifest.json", None, "not a finished atlas"),
    ],
    ids=["flipped byte", "truncated", "missing", "no manifest"],
)
def test_check_finds_files_that_are_not_as_written(copy, name, change, sentence):
    path = copy / name
    content = path.read_bytes()
    path.unlink()
    if change is not None:
        path.write_bytes(change(content))
    assert sentence in check_atlas(copy).problems[0]


def spoil(folder: Path, table: str, change: str) -> None:
    """Change a table by SQL (`SELECT … FROM rows`) and make the manifest agree with the new file."""
    rows = pq.read_table(folder / file_name(table))
    changed = duckdb.sql(change).to_arrow_table().cast(TABLES[table])
    assert not changed.equals(rows)
    pq.write_table(changed, folder / file_name(table))
    write_manifest(folder, replace(read_manifest(folder), files=record_files(folder)))


@pytest.mark.parametrize(
    ("table", "change", "sentence"),
    [
        (
            "attributions",
            "SELECT * REPLACE (CASE WHEN layer = 1 THEN 'nan'::FLOAT ELSE score END AS score) FROM rows",
            "are not numbers",
        ),
        ("attributions", "SELECT * REPLACE (score * 2 AS score) FROM rows", "above their prompt's largest"),
        ("attributions", "FROM rows WHERE layer < 2", "knowledge neurons do not follow"),
        ("prompts", "SELECT * REPLACE (1.5 AS probability) FROM rows", "probability outside 0 to 1"),
        (
            "prompts",
            "SELECT * REPLACE (CASE WHEN converged THEN 0.5 END AS max_gap) FROM rows",
            "gap above the tolerance",
        ),
        ("knowledge_neurons", "FROM rows LIMIT 5", "facts have a wrong number of knowledge neurons"),
        ("knowledge_neurons", "SELECT * REPLACE (share / 2 AS share) FROM rows", "do not follow"),
        ("facts", "SELECT * REPLACE (NOT known AS known) FROM rows", "disagree with their prompts"),
        ("facts", "SELECT * REPLACE (9::SMALLINT AS n_answer_tokens) FROM rows", "disagree with their"),
        ("templates", "SELECT * REPLACE (text || '!' AS text) FROM rows", "what their template makes"),
        ("templates", "SELECT * REPLACE (NOT held_out AS held_out) FROM rows", "side of the split"),
        ("templates", "SELECT * REPLACE ('x' || template_id AS template_id) FROM rows", "of no template"),
        ("templates", "SELECT * REPLACE ('[X] and [X]' AS text) FROM rows", "lack one [X] and one [Y]"),
        ("templates", "FROM rows LIMIT 3", "relations have a wrong number of templates"),
        (
            "knowledge_neurons",
            "SELECT * REPLACE (CASE WHEN layer > 0 THEN mean_activation END AS mean_activation) FROM rows",
            "have no mean activation where others have one",
        ),
        ("effects", "SELECT * REPLACE (p_before / 2 AS p_before) FROM rows", "do not start from"),
        ("effects", "SELECT * REPLACE ('NaN'::FLOAT AS p_after) FROM rows", "effects have a probability"),
        ("control_neurons", "SELECT * FROM rows WHERE neuron % 3 > 0", "another number of neurons"),
        (
            "control_neurons",
            "SELECT * REPLACE (layer + 9::SMALLINT AS layer) FROM rows",
            "control neurons are outside the model",
        ),
        ("neurons", "SELECT * REPLACE (0.7::FLOAT AS label_score) FROM rows", "a score without a label"),
        (
            "neurons",
            "SELECT * REPLACE (NOT sign_mixed AS sign_mixed) FROM rows",
            "called mixed in sign, or not",
        ),
        ("lens", "SELECT * REPLACE (0::INTEGER AS rank) FROM rows", "rows of the lens have"),
        ("lens", "FROM rows WHERE layer <> 1", "lack a layer in the lens"),
        ("lens", "SELECT * REPLACE (probability / 2 AS probability) FROM rows", "end the lens with another"),
        ("neurons", "FROM rows LIMIT 3", "neurons have a wrong number of facts"),
        (
            "activating_prompts",
            "SELECT * REPLACE (answer_position + 1::SMALLINT AS answer_position) FROM rows",
            "have other activations at their tokens",
        ),
        (
            "activating_prompts",
            "SELECT * REPLACE (first(fact_id) OVER (PARTITION BY layer, neuron, side) AS fact_id) FROM rows",
            "have two activating prompts of a fact",
        ),
        ("relations", "FROM rows UNION ALL FROM rows", "occur more than once"),
    ],
)
def test_check_finds_rows_that_cannot_be(copy, table, change, sentence):
    spoil(copy, table, change)
    report = check_atlas(copy)
    assert not report.passed
    assert any(sentence in problem for problem in report.problems), report.problems


def test_check_warns_of_paths_that_did_not_converge(copy):
    spoil(
        copy,
        "prompts",
        """SELECT * REPLACE (CASE WHEN converged THEN false END AS converged,
                             CASE WHEN converged THEN 1 END AS n_unconverged) FROM rows""",
    )
    report = check_atlas(copy)
    assert report.passed, str(report)
    assert "converged, fewer than 99%" in report.warnings[0]


def test_the_plan_file_is_plain_json_a_person_can_read(tiny_bert, tmp_path, monkeypatch):
    interrupt_at(monkeypatch, "AttributeShard")
    with pytest.raises(KeyboardInterrupt):
        run_build(options(tiny_bert), out=tmp_path / "out")
    plan = json.loads((tmp_path / "out" / "work" / "plan.json").read_text())
    assert plan["model"] == str(tiny_bert)
    assert plan["tolerance"] == 0.01
