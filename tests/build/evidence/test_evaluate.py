"""Experiments on a finished atlas: tables are added whole or not at all, and a killed run loses nothing."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
import torch

from atlas.errors import BuildError
from atlas.neuron import Neuron, Prompt
from atlas.queries.evidence import ASKED_GROUPS, CONTROLS, NEURON_GROUPS, TOP_GROUPS
from atlas.store.atlas import DATA, Atlas
from atlas.store.manifest import file_name, read_manifest, verify
from atlas.store.schema import TABLES
from atlas.surgery import Amplify, Suppress, load_subject
from build.evidence import STUDIES, find_studies
from build.evidence.effects import draw_matched, select_most_active, summarize
from build.evidence.evaluate import EvaluateOptions, evaluate_atlas
from build.evidence.setting import Setting
from build.output.check import check_atlas
from build.output.writer import Output, settle
from tests.by_hand import logits_scaled, probability_scaled
from tests.sample_atlas import replace_table, sample_tables, write_sample_atlas

FEW = EvaluateOptions(experiments="effects", sample=30)


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """A copy of pocket-bert's atlas with what a build writes, and nothing that was measured later."""
    folder = tmp_path / "atlas"
    folder.mkdir()
    return without_experiments(DATA / "starter-pocket-bert", folder)


def without_experiments(source: Path, folder: Path) -> Path:
    later = {table for study in STUDIES.values() for table in study.tables} - {"control_neurons"}
    later -= {study.table for study in STUDIES.values() if study.extends}
    plain = json.loads((source / "manifest.json").read_text())
    for table in later:
        plain["files"].pop(file_name(table), None)
    plain["method"]["options"].pop("experiments", None)
    (folder / "manifest.json").write_text(json.dumps(plain))
    for name in plain["files"]:
        shutil.copyfile(source / name, folder / name)
    return folder


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """pocket-bert's atlas with the effects of 30 facts."""
    folder = without_experiments(DATA / "starter-pocket-bert", tmp_path_factory.mktemp("measured"))
    evaluate_atlas(folder, FEW, fresh=True)
    return folder


def tables_of(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.glob("*.parquet"))}


# --- the driver ---


def test_experiments_are_named_by_study_or_by_what_the_paper_calls_them():
    assert [study.name for study in find_studies("suppress, erase")] == ["effects", "erase"]
    assert [study.name for study in find_studies("all")] == [each for each in STUDIES if each != "planted"]
    with pytest.raises(BuildError, match=r"no experiment 'supress'\. Give some of: statistics, effects"):
        find_studies("supress")


def test_every_study_fills_tables_of_the_schema_and_no_two_the_same():
    tables = [table for study in STUDIES.values() for table in study.tables]
    assert len(tables) == len(set(tables))
    assert set(tables) < set(TABLES)
    for study in STUDIES.values():
        assert {"units", "measure", "summary"} <= set(dir(study.load()))


def test_an_atlas_with_more_tables_passes_the_check_and_says_how_they_were_measured(measured):
    assert check_atlas(measured).passed, str(check_atlas(measured))
    record = read_manifest(measured).method.options["experiments"]["effects"]
    assert (record["sample"], record["seed"]) == (30, 0)
    assert not (measured / "work").exists()


def test_what_was_measured_is_not_measured_again_unless_asked(measured, tmp_path, capsys):
    folder = shutil.copytree(measured, tmp_path / "again")
    before = tables_of(folder)
    assert "already measured" in evaluate_atlas(folder, FEW)
    assert "already measured" not in evaluate_atlas(folder, FEW, fresh=True)
    assert tables_of(folder) == before


def test_another_sample_is_measured_and_replaces_the_table(measured, tmp_path):
    folder = shutil.copytree(measured, tmp_path / "other")
    evaluate_atlas(folder, EvaluateOptions(experiments="effects", sample=5), fresh=True)
    with Atlas(folder) as atlas:
        for group, n in (("matched", 5), ("own", 3085)):
            counted = 'SELECT count(DISTINCT fact_id) AS n FROM effects WHERE "group" = $group'
            assert atlas.query_one(counted, {"group": group})["n"] == n
    verify(folder)


@pytest.mark.parametrize(
    "changed", [{"sample": 5}, {"seed": 1}, {"sample": 0}], ids=["sample", "seed", "every fact"]
)
def test_rows_of_another_sample_or_seed_are_not_replaced_unasked(measured, tmp_path, changed):
    folder = shutil.copytree(measured, tmp_path / "other")
    before = tables_of(folder)
    with pytest.raises(BuildError, match=r"has the table effects with a sample of 30.* Give --fresh"):
        evaluate_atlas(folder, EvaluateOptions(**{"experiments": "effects", "sample": 30, **changed}))
    assert tables_of(folder) == before


def test_an_evaluation_killed_in_any_shard_goes_on_to_the_same_rows(measured, copy, monkeypatch):
    original, written = Output.write_shard, []

    def dying(self: Output, stage: str, index: int, table: object) -> None:
        if len(written) % 2:  # every second shard's writer is killed first
            written.append("killed")
            raise KeyboardInterrupt
        original(self, stage, index, table)
        written.append(index)

    monkeypatch.setattr(Output, "write_shard", dying)
    for _ in range(5):
        try:
            evaluate_atlas(copy, FEW, fresh=True)
            break
        except KeyboardInterrupt:
            assert (copy / "work").is_dir()
            verify(copy)  # the atlas is what it was all the time
    assert "killed" in written
    assert tables_of(copy) == tables_of(measured)


@pytest.mark.parametrize("rename", range(6))
def test_tables_killed_at_any_rename_are_all_old_or_all_new_when_settled(measured, copy, rename, monkeypatch):
    manifest = read_manifest(measured)
    new = {name: pq.read_table(measured / file_name(name)) for name in STUDIES["effects"].tables}
    old = tables_of(copy)
    original, count = os.replace, iter(range(1000))

    def dying(source: object, target: object) -> None:
        if Path(target).parent == copy and next(count) == rename:
            raise KeyboardInterrupt
        original(source, target)

    output = Output(copy)
    output.reopen()
    with monkeypatch.context() as patched:
        patched.setattr(os, "replace", dying)
        with pytest.raises(KeyboardInterrupt):
            output.add_tables(new, manifest)
    output.leave()
    settle(copy)
    verify(copy)
    complete = rename >= 5  # five whole files first: four tables and the manifest
    assert (tables_of(copy) == tables_of(measured)) is complete
    assert (tables_of(copy) == old) is not complete
    assert not list(copy.glob("*.next"))
    assert not list(copy.glob(".*"))


def test_two_evaluations_of_one_folder_do_not_run_together(copy):
    output = Output(copy)
    output.reopen()
    with pytest.raises(BuildError, match="Another build is running"):
        evaluate_atlas(copy, FEW)
    output.leave()


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--experiments", "nothing"], "There is no experiment 'nothing'"),
        (["--experiments", ","], "--experiments names none"),
        (["--sample", "-1"], "--sample must be 0 or more, got -1."),
        (["--seed", "-1"], "--seed must be 0 or more, got -1."),
        (["--threads", "0"], "--threads"),
    ],
)
def test_bad_options_are_one_sentence_and_status_2(copy, refused, arguments, sentence):
    before = tables_of(copy)
    assert sentence in refused("evaluate", copy, *arguments)
    assert tables_of(copy) == before


def test_another_model_is_refused(copy, tiny_bert):
    with pytest.raises(BuildError, match="other weights"):
        evaluate_atlas(copy, EvaluateOptions(experiments="effects", model=str(tiny_bert)))


def test_an_atlas_without_what_a_study_needs_is_refused(tmp_path):
    folder = write_sample_atlas(tmp_path / "sample", leave_out=("attributions",))
    with pytest.raises(BuildError, match="has no attributions, which the experiment 'statistics' needs"):
        evaluate_atlas(folder, EvaluateOptions(experiments="statistics"))


# --- facts that are left out ---

LEFT_OUT = {"P103-00000", "P36-00001"}


@pytest.fixture
def marked(tmp_path: Path) -> Path:
    """The sample with a contested and a guessable fact."""
    folder = write_sample_atlas(tmp_path / "marked")
    rows = sample_tables()["facts"]
    for row in rows:
        row["contested"], row["guessable"] = row["fact_id"] == "P103-00000", row["fact_id"] == "P36-00001"
    return replace_table(folder, "facts", rows)


def test_contested_and_guessable_facts_are_left_out_unless_asked(marked):
    with Atlas(marked) as atlas:
        setting, every = (Setting(atlas, "none", all_facts=asked) for asked in (False, True))
        ids = {fact.fact_id for fact in every.facts}
        assert len(ids) == 60
        assert setting.left_out == LEFT_OUT
        assert {fact.fact_id for fact in setting.facts} == ids - LEFT_OUT
        assert {fact.fact_id for facts in setting.by_relation.values() for fact in facts} == ids - LEFT_OUT
        for kept, table in zip(setting.scores, every.scores, strict=True):
            assert set(table["fact_id"].to_pylist()) - set(kept["fact_id"].to_pylist()) == LEFT_OUT


def test_an_evaluation_says_how_many_facts_it_left_out_and_records_it(marked):
    def evaluate(*, all_facts: bool = False, fresh: bool = False) -> tuple[str, dict, set[int]]:
        options = EvaluateOptions(experiments="statistics", all_facts=all_facts)
        said = evaluate_atlas(marked, options, fresh=fresh)
        record = read_manifest(marked).method.options["experiments"]["statistics"]
        return said, record, set(pq.read_table(marked / "statistics.parquet")["n_facts"].to_pylist())

    said, record, n_facts = evaluate()
    assert "2 contested or guessable facts left out (--all-facts)" in said
    assert (record["all_facts"], record["left_out"], n_facts) == (False, 2, {58})
    with pytest.raises(BuildError, match="with every fact, 2 left out, and seed 0; this would be every fact"):
        evaluate(all_facts=True)
    said, record, n_facts = evaluate(all_facts=True, fresh=True)
    assert "left out" not in said
    assert (record["all_facts"], record["left_out"], n_facts) == (True, 0, {60})


# --- suppress and amplify ---


@pytest.fixture(scope="module")
def setting(measured: Path) -> Setting:
    return Setting(Atlas(measured), "pocket-bert", sample=30)


@pytest.fixture(scope="module")
def effects(measured: Path) -> pd.DataFrame:
    return pq.read_table(measured / "effects.parquet").to_pandas()


def test_the_sample_takes_known_facts_of_every_relation_in_turn(setting):
    drawn = setting.sampled("effects")
    assert len(drawn) == 30
    assert all(fact.known for fact in drawn)
    counts = pd.Series([fact.relation_id for fact in drawn]).value_counts()
    assert counts.max() == 1
    assert [fact.fact_id for fact in drawn] == sorted(fact.fact_id for fact in drawn)


def test_every_prompt_has_every_group_of_neurons_and_other_facts_are_asked(setting, effects):
    for fact in setting.sampled("effects"):
        rows = effects[effects["fact_id"] == fact.fact_id]
        every = {each.prompt.template_id for each in fact.prompts}
        asked = {each.prompt.template_id for each in fact.held_out}
        for (group, intervention), part in rows.groupby(["group", "intervention"]):
            if group not in ASKED_GROUPS:
                assert part["prompt_fact_id"].eq(fact.fact_id).all()
                few = group in TOP_GROUPS or intervention == "mean"
                assert sorted(part["template_id"]) == sorted(asked if few else every)
        assert set(rows["group"]) >= {"own", *CONTROLS, "same_relation", "unrelated"}
        others = rows[rows["group"].isin(ASKED_GROUPS)]
        assert others["rank_before"].eq(1).all()
        assert others["held_out"].all()
        for (group, _), part in others.groupby(["group", "intervention"]):
            assert part["prompt_fact_id"].is_unique
            assert len(part) <= len(asked)
            for other in map(setting.by_id.get, part["prompt_fact_id"]):
                assert (other.relation_id == fact.relation_id) == ("relation" in group.split("_"))
                assert (other.answer == fact.answer) == ("answer" in group.split("_"))


def test_facts_outside_the_sample_keep_what_the_build_measured(setting, effects):
    before = pq.read_table(DATA / "starter-pocket-bert" / "effects.parquet").to_pandas()
    drawn = [fact.fact_id for fact in setting.sampled("effects")]
    before = before[~before["fact_id"].isin(drawn) & before["group"].isin(["own", "random", "unrelated"])]
    before = before[before["held_out"] & (before["intervention"] != "mean")]
    kept = effects[~effects["fact_id"].isin(drawn)]
    assert len(kept) == len(before) > 10_000
    pd.testing.assert_frame_equal(kept.reset_index(drop=True), before.reset_index(drop=True))


@pytest.mark.parametrize("group", [*NEURON_GROUPS])
def test_an_effect_is_what_scaling_the_activations_by_hand_gives(setting, effects, plain_means, group):
    subject = setting.subject
    rows = effects[effects["group"] == group].sample(12, random_state=0)
    for row in rows.itertuples():
        fact = setting.by_id[row.fact_id]
        activations = setting.activations([each.prompt for each in fact.discovery])
        sizes = np.stack([w.norm(dim=0).numpy(force=True) for w in down_weights(subject)])
        values = {"matched": activations.mean(0), "contribution_matched": abs(activations).mean(0) * sizes}
        if group in values:
            generator = setting.generator(group, fact.fact_id)
            neurons = draw_matched(fact.neurons, values[group], generator)
        else:
            neurons = {
                "random": setting.random_neurons(fact.neurons, "random", fact.fact_id),
                "baseline": select_most_active(len(fact.neurons), activations),
            }.get(group, fact.neurons[: TOP_GROUPS.get(group)])
        prompts = setting.by_id[row.prompt_fact_id].prompts
        prompt = next(each.prompt for each in prompts if each.prompt.template_id == row.template_id)
        means = plain_means if row.intervention == "mean" else None
        change = (subject, prompt, neurons, {"suppress": 0.0, "amplify": 2.0}.get(row.intervention), means)
        assert row.p_after == pytest.approx(probability_scaled(*change), rel=1e-3, abs=1e-7)
        first = logits_scaled(*change)[subject.encode(prompt).positions[0]]
        top = subject.token_text(int(first.argmax()))
        before = subject.predict([prompt], top_k=1)[0]
        assert row.p_before == pytest.approx(before.probability, rel=1e-4, abs=1e-7)
        assert row.top_changed == (top != before.top_token)
        assert row.n_neurons == len(neurons) == TOP_GROUPS.get(group, len(fact.neurons))


def down_weights(subject):
    return [block.output.dense.weight for block in subject.model.bert.encoder.layer]


@pytest.fixture(scope="module")
def plain_means(setting: Setting) -> np.ndarray:
    """Mean activations at the mask over the prompts that the setting draws, prompt by prompt with hooks."""
    order = setting.generator("mean").permutation(len(setting.facts))[:500]
    total, subject = np.zeros((setting.n_layers, setting.n_neurons)), setting.subject
    for index in order:
        encoded = subject.encode(setting.facts[index].discovery[0].prompt)
        total += np.stack([each[encoded.positions[0]].numpy() for each in inputs_of_down(subject, encoded)])
    return (total / len(order)).astype(np.float32)


def inputs_of_down(subject, encoded) -> list[torch.Tensor]:
    """What each layer's down-projection reads, (n_tokens, n_neurons) each."""
    seen: list[torch.Tensor] = []
    handles = [
        block.output.dense.register_forward_pre_hook(lambda m, inputs: seen.append(inputs[0][0]))
        for block in subject.model.bert.encoder.layer
    ]
    with torch.no_grad():
        subject.model(torch.tensor([encoded.input_ids]))
    for handle in handles:
        handle.remove()
    return seen


def test_every_effect_can_be_replayed_from_the_tables_alone(measured):
    """The neurons come from the atlas by SQL, and nothing is drawn; other batches may round the last bit."""
    with Atlas(measured) as atlas:
        rows = atlas.query("""
            SELECT e.*, p.text, f.object,
                   coalesce(
                       (SELECT list((layer, neuron)) FROM control_neurons AS c
                        WHERE c.fact_id = e.fact_id AND c."group" = e."group" AND draw = 1),
                       (SELECT list((layer, neuron) ORDER BY mean_score DESC, layer, neuron)[:e.n_neurons]
                        FROM knowledge_neurons AS k WHERE k.fact_id = e.fact_id)) AS changed
            FROM effects AS e JOIN facts AS f ON f.fact_id = prompt_fact_id
            JOIN prompts AS p ON p.fact_id = prompt_fact_id AND p.template_id = e.template_id
            WHERE intervention <> 'mean' AND e.fact_id IN
                (SELECT fact_id FROM effects WHERE "group" = 'matched')
        """)
    subject = load_subject("pocket-bert")
    assert set(rows["group"]) == set(NEURON_GROUPS)
    assert [len(changed) for changed in rows["changed"]] == rows["n_neurons"].tolist()
    kinds = {"suppress": Suppress, "amplify": Amplify}
    after = subject.predict(
        [Prompt(row.prompt_fact_id, row.template_id, row.text, row.object) for row in rows.itertuples()],
        interventions=[
            kinds[row.intervention](tuple(Neuron(*pair) for pair in row.changed)) for row in rows.itertuples()
        ],
    )
    probability = np.array([each.probability for each in after], np.float32)
    np.testing.assert_allclose(probability, rows["p_after"], rtol=1e-6)
    assert (probability == rows["p_after"]).mean() > 0.99
    assert [each.rank for each in after] == rows["rank_after"].tolist()


def test_matched_neurons_are_of_the_same_layers_about_as_active_and_others():
    generator = np.random.default_rng(0)
    activations = generator.normal(size=(3, 2, 200)).astype(np.float32)
    own = tuple(Neuron(layer, index) for layer in (0, 1) for index in (3, 50, 120))
    matched = draw_matched(own, activations.mean(axis=0), generator)
    assert len(set(matched)) == len(own)
    assert not set(matched) & set(own)
    assert [each.layer for each in matched] == [each.layer for each in own]
    mean = activations.mean(axis=0)
    for layer in (0, 1):
        wanted = sorted(mean[layer, [3, 50, 120]])
        found = sorted(mean[layer, [each.neuron for each in matched if each.layer == layer]])
        # The twenty nearest of two hundred lie within a tenth of all values, and a little more at the ends.
        ranks = np.searchsorted(np.sort(mean[layer]), [wanted, found])
        assert np.abs(ranks[0] - ranks[1]).max() <= 30


def test_where_a_layer_has_too_few_others_some_matches_are_left_out():
    values = np.ones((1, 5), np.float32)
    own = tuple(Neuron(0, index) for index in range(3))
    assert draw_matched(own, values, np.random.default_rng(0)) == (Neuron(0, 3), Neuron(0, 4))


def test_the_baseline_counts_each_prompt_alike():
    activations = np.zeros((2, 1, 3), np.float32)
    activations[0, 0] = [100, 90, 0]  # a prompt with large numbers
    activations[1, 0] = [0, 0.9, 1]
    # Means of shares: 0.5, 0.9, 0.5; of plain numbers the first would lead.
    assert select_most_active(1, activations) == (Neuron(0, 1),)


def test_the_two_ratios_are_the_paper_s_and_the_replication_s():
    rows = pd.DataFrame(
        [
            # relation, fact, before, after
            ("P1", "a", 0.8, 0.4),
            ("P1", "a", 0.4, 0.4),
            ("P1", "b", 0.1, 0.0),
            ("P2", "c", 0.5, 1.0),
        ],
        columns=["relation_id", "fact_id", "p_before", "p_after"],
    ).assign(
        intervention="suppress",
        group="own",
        held_out=True,
        known=True,
        asked_known=True,
        activity=1.0,
        top_changed=[True, False, True, False],
    )
    found = {row["relation_id"]: row for row in summarize(rows) if row["facts"] == "known"}
    assert found["P1"]["paper_change"] == pytest.approx(-0.5 / 1.3)
    assert found["P1"]["replication_change"] == pytest.approx((-0.5 + 0 - 1) / 3)
    assert found["P1"]["top_changed"] == pytest.approx(2 / 3)
    assert found["all"]["paper_change"] == pytest.approx((-0.5 / 1.3 + 1) / 2)
    assert (found["all"]["n_relations"], found["all"]["n_facts"], found["all"]["n_prompts"]) == (2, 3, 4)
    # P1's two facts are drawn as (a, a), (a, b), (b, b): ratios −1/3, −0.385, −1.
    assert found["P1"]["paper_low"] == pytest.approx(-1)
    assert found["P1"]["paper_high"] == pytest.approx(-0.4 / 1.2)
    # One fact says nothing of how far facts differ; for the mean, relations are drawn again as well.
    assert found["P2"]["paper_low"] is found["P2"]["paper_high"] is None
    assert found["all"]["paper_low"] == pytest.approx(-1)
    assert found["all"]["paper_high"] == pytest.approx(1)


def many_facts(generator: np.random.Generator, *, relations: int, facts: int) -> pd.DataFrame:
    """Facts whose answers fall from 0.5 to about 0.3, differently from relation to relation."""
    centres = np.repeat(generator.normal(0.3, 0.05, relations), facts)
    return pd.DataFrame(
        {
            "relation_id": np.repeat([f"P{i}" for i in range(relations)], facts),
            "fact_id": [f"f{i}" for i in range(relations * facts)],
            "p_before": 0.5,
            "p_after": generator.normal(centres, 0.1),
            "activity": 1.0,
        }
    ).assign(
        intervention="suppress", group="own", held_out=True, known=True, asked_known=True, top_changed=False
    )


def test_a_bootstrap_interval_covers_the_truth_about_as_often_as_it_says():
    generator = np.random.default_rng(1)
    covered = 0
    for trial in range(60):
        rows = many_facts(generator, relations=20, facts=5)
        every = next(
            row
            for row in summarize(rows, seed=trial, draws=300)
            if row["relation_id"] == "all" and row["facts"] == "all"
        )
        covered += every["paper_low"] <= -0.4 <= every["paper_high"]
    assert 50 <= covered <= 60


def test_relations_with_as_many_facts_are_drawn_independently():
    rows = many_facts(np.random.default_rng(0), relations=12, facts=2)
    every = next(row for row in summarize(rows) if row["relation_id"] == "all")
    # With the relations' own spread (0.05 of 0.5) and the facts' (0.1 of 0.5) drawn again by themselves:
    # the standard error of twelve means is about sqrt(0.1² + 0.2² / 2) / sqrt(12) = 0.05.
    assert 0.1 < every["paper_high"] - every["paper_low"] < 0.35


def test_the_committed_summaries_follow_from_the_committed_effects():
    for folder in sorted(DATA.glob("starter-*")):
        with Atlas(folder) as atlas:
            if not atlas.measured("effect_summaries"):
                pytest.fail(f"{folder.name} has no summaries")
            newer = atlas.manifest.method.options["experiments"]["effects"]["version"] >= 4
            plain = atlas.query(f"""
                WITH rows AS (
                    SELECT f.relation_id, intervention, "group",
                           sum(p_after - p_before) / sum(p_before) AS ratio
                    FROM effects AS e JOIN facts AS f USING (fact_id) JOIN facts AS asked
                      ON asked.fact_id = e.prompt_fact_id
                    WHERE e.held_out AND (asked.known OR {newer} AND rank_before = 1) AND f.known
                      AND p_before > 0
                      AND fact_id IN (SELECT fact_id FROM effects WHERE "group" = 'matched') GROUP BY ALL
                )
                SELECT intervention, "group", avg(ratio) AS ratio FROM rows GROUP BY ALL ORDER BY ALL
            """)
            stored = atlas.query("""
                SELECT intervention, "group", paper_change, paper_low, paper_high FROM effect_summaries
                WHERE relation_id = 'all' AND templates = 'held-out' AND facts = 'known' ORDER BY 1, 2
            """)
        assert stored["group"].tolist() == plain["group"].tolist()
        assert len(stored) == (24 if newer else 10)
        assert stored["paper_change"].to_numpy() == pytest.approx(plain["ratio"].to_numpy(), rel=1e-4)
        assert (stored["paper_low"] <= stored["paper_high"]).all()


def test_how_active_the_changed_neurons_are_is_read_off_the_discovery_prompts(setting, effects):
    for fact in setting.sampled("effects")[:5]:
        rows = effects[effects["fact_id"] == fact.fact_id]
        found = [setting.subject.activations([each.prompt])[0] for each in fact.discovery]
        by_hand = np.mean([abs(float(each[n.layer, n.neuron])) for each in found for n in fact.neurons])
        for group in ("own", "unrelated"):
            stored = rows.loc[rows["group"] == group, "activity"]
            assert stored.to_numpy() == pytest.approx(by_hand, rel=1e-4)
        assert (rows.loc[rows["group"] == "random", "activity"] < by_hand).all()
