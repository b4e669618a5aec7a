"""Grammar: rows against hand-set activations and value vectors of pocket-bert, ratios against plain sums."""

import shutil
from collections import defaultdict
from contextlib import contextmanager, nullcontext
from dataclasses import replace

import numpy as np
import pytest
import torch

from atlas.datasets.grammar import load_grammar
from atlas.neuron import Neuron
from atlas.queries import critics
from atlas.store.atlas import Atlas, bundled
from atlas.store.manifest import file_name, read_manifest, record_files, write_manifest
from atlas.store.schema import conform
from build.evidence.evaluate import EvaluateOptions, evaluate_atlas
from build.evidence.grammar import find_neurons, has_tokens, is_known, measure, summary, units
from build.evidence.setting import Setting
from build.output.check import check_rows
from build.output.writer import Output
from tests.by_hand import down_projections, probability_scaled
from tests.sample_atlas import replace_table

POCKET = bundled().get("starter-pocket-bert")


@pytest.fixture(scope="module")
def setting():
    return Setting(Atlas(POCKET), "pocket-bert")


@pytest.fixture(scope="module")
def unit(setting):
    """Five pairs that pocket-bert has words for, of which it calls some right by chance."""
    return next(unit for unit in units(setting) if unit[0].phenomenon == "agreement-phrase")


@pytest.fixture(scope="module")
def rows(setting, unit):
    return measure(setting, unit)


@contextmanager
def edited(subject, neurons, old, new, remove, add):
    """Value vectors moved from one word's embedding to another's, by hand."""
    embeddings = subject.model.bert.embeddings.word_embeddings.weight
    e_old, e_new = (embeddings[list(subject.answer_tokens(word))].mean(0) for word in (old, new))
    with down_projections(subject) as weights:
        for neuron in neurons:
            value = weights[neuron.layer][:, neuron.neuron].clone()
            moved = value - remove * value.norm() / e_old.norm() * e_old
            weights[neuron.layer][:, neuron.neuron] = moved + add * value.norm() / e_new.norm() * e_new
        yield


def chance_of(subject, prompt, word):
    return probability_scaled(subject, replace(prompt, answer=word), (), 1)


def plain_neurons(subject, prompts):
    """Neurons that reach a fifth of the largest score in half of the prompts: one by one."""
    from atlas.attribution.attribution import attribute

    hits = defaultdict(int)
    for prompt in prompts:
        scores = attribute(subject, [prompt], tolerance=0.01, max_points=513)[0].scores.astype(float)
        for layer, neuron in zip(*(scores >= 0.2 * scores.max()).nonzero(), strict=True):
            hits[Neuron(int(layer), int(neuron))] += 1
    return {neuron for neuron, n in hits.items() if 2 * n >= len(prompts)}


def test_a_pair_is_known_where_its_right_word_is_likelier_on_most_prompts(setting, unit, rows):
    for pair in unit:
        mine = [row for row in rows if row["pair_id"] == pair.pair_id and row["intervention"] == "none"]
        prompts = pair.prompts(causal=False)
        assert [row["text"] for row in mine] == [prompt.text for prompt in prompts]
        right = 0
        for row, prompt in zip(mine, prompts, strict=True):
            good, bad = (chance_of(setting.subject, prompt, word) for word in (pair.good, pair.bad))
            assert row["p_good_before"] == pytest.approx(good, rel=1e-3)
            assert row["p_bad_before"] == pytest.approx(bad, rel=1e-3)
            right += good > bad
        assert {row["known"] for row in mine} == {right > 4}
    assert {row["known"] for row in rows} == {True, False}


def test_rows_are_what_hand_set_activations_and_moved_value_vectors_give(setting, unit, rows):
    pair = next(p for p in unit if any(r["pair_id"] == p.pair_id and r["known"] for r in rows))
    prompts = {prompt.template_id: prompt for prompt in pair.prompts(causal=False)}
    own = plain_neurons(setting.subject, [p for p in prompts.values() if not pair.holds_out(p)])
    groups = {"own": own, "random": setting.random_neurons(tuple(sorted(own)), "grammar", pair.pair_id)}
    changed = [row for row in rows if row["pair_id"] == pair.pair_id and row["intervention"] != "none"]
    assert len(changed) == 4 * 2 * 3
    for row in changed:
        prompt, neurons = prompts[row["template_id"]], groups[row["group"]]
        assert row["held_out"]
        assert pair.holds_out(prompt)
        assert row["n_neurons"] == len(neurons) == len(own) > 0
        for name, word in (("good", pair.good), ("bad", pair.bad)):
            if row["intervention"] == "suppress":
                after = probability_scaled(setting.subject, replace(prompt, answer=word), neurons, 0)
            else:
                with edited(setting.subject, neurons, pair.good, pair.bad, 1, row["add"]):
                    after = chance_of(setting.subject, prompt, word)
            assert row[f"p_{name}_after"] == pytest.approx(after, rel=2e-3, abs=1e-9)
    none = next(r for r in rows if r["pair_id"] == pair.pair_id and r["intervention"] == "none")
    of_facts = {
        Neuron(int(layer), int(neuron))
        for layer, neuron in setting.atlas.query("SELECT layer, neuron FROM neurons").itertuples(index=False)
    }
    assert (none["n_neurons"], none["n_shared"]) == (len(own), len(own & of_facts))
    chance = [sum(n.layer == each.layer for n in of_facts) / setting.n_neurons for each in own]
    assert none["shared_by_chance"] == pytest.approx(sum(chance))


def test_pairs_with_words_in_parts_are_counted_and_not_asked(setting):
    pairs = [unit[0] for unit in units(replace(setting, sample=1))]
    parts = [p for p in pairs if not has_tokens(setting.subject, p, p.prompts(causal=False))]
    assert {p.phenomenon for p in parts} >= {"anaphor-gender", "anaphor-number"}
    rows = measure(setting, parts)
    assert len(rows) == 8 * len(parts)
    assert {(row["known"], row["p_good_before"], row["n_neurons"]) for row in rows} == {(None,) * 3}
    assert find_neurons(setting, {}) == {}
    assert not is_known([])


def test_a_model_of_facts_knows_no_grammar_and_the_summary_says_so(rows, tmp_path):
    folder = replace_table(shutil.copytree(POCKET, tmp_path / "pocket"), "grammar", conform("grammar", rows))
    with Atlas(folder) as atlas:
        found = critics.phenomena(atlas)
        n_known = len({row["pair_id"] for row in rows if row["known"]})
        assert found[["n_pairs", "n_asked", "n_known"]].to_numpy().tolist() == [[5, 5, n_known]]
        assert critics.grammar_ratio(atlas).empty
        lines = summary(atlas)
    assert f"not known beyond chance: {n_known} of the 5 pairs whose words are tokens" in lines[1]
    assert "no ratio to facts: no phenomenon is known" in lines[2]
    assert check_rows_of(folder, rows) == []
    wrong = next(row for row in rows if row["intervention"] == "edit")
    broken = [row | {"p_bad_after": 1.5, "held_out": False} if row is wrong else row for row in rows]
    assert check_rows_of(folder, broken) == [
        "1 rows of grammar have a probability outside 0 to 1, a rank below 1, or no known change",
        "1 rows of grammar change neurons of pairs that are not known, or on discovery wordings",
    ]


def check_rows_of(folder, rows):
    """What the check of rows says of a table of grammar in an atlas without scores."""
    replace_table(folder, "grammar", conform("grammar", rows))
    (folder / file_name("attributions")).unlink(missing_ok=True)
    write_manifest(folder, replace(read_manifest(folder), files=record_files(folder)))
    return check_rows(folder, read_manifest(folder)).problems


def made_up(fall, flips):
    """Rows of two phenomena with 20 known pairs of two prompts each, whose own neurons have these effects."""
    random = np.random.default_rng(0)
    rows = []
    for phenomenon in ("one", "two"):
        for number in range(20):
            names = {"phenomenon": phenomenon, "pair_id": f"{phenomenon}:{number}", "known": True}
            for place in range(2):
                names |= {"template_id": f"{phenomenon}.{place}", "held_out": True}
                before = {"p_good_before": random.uniform(0.2, 0.6), "p_bad_before": 0.1}
                before |= {"rank_good_before": 1 + place, "rank_bad_before": 5}
                before |= {"p_good_after": None, "p_bad_after": None, "n_neurons": 3}
                rows.append(names | before | {"intervention": "none", "add": 0, "group": "none"})
                for group, share in (("own", 1.0), ("random", 0.1)):
                    after = before["p_good_before"] * (1 + share * fall * random.uniform(0.5, 1.5))
                    change = {"intervention": "suppress", "add": 0, "group": group, "p_good_after": after}
                    rows.append(names | before | change)
                    flipped = random.random() < flips * share
                    change = {"intervention": "edit", "add": 8, "group": group, "p_good_after": 0.2}
                    rows.append(names | before | change | {"p_bad_after": 0.3 if flipped else 0.1})
    return rows


def test_the_ratio_is_that_of_the_effects_summed_one_by_one(setting, tmp_path):
    rows = made_up(-0.4, 0.5)
    folder = replace_table(shutil.copytree(POCKET, tmp_path / "pocket"), "grammar", conform("grammar", rows))
    with Atlas(folder) as atlas:
        found = critics.grammar_ratio(atlas).set_index(["measure", "answers"])
        effects = atlas.query("""
            FROM effects JOIN facts USING (fact_id)
            WHERE intervention = 'suppress' AND "group" = 'own' AND held_out AND known
        """)
        edits = atlas.query("""
            FROM edits JOIN facts USING (fact_id)
            WHERE "group" = 'all' AND kind IN ('edited', 'paraphrase') AND add = 8 AND known
        """)
    assert list(found["add"]) == [0, 0, 8, 8]
    own = [r for r in rows if r["intervention"] == "suppress" and r["group"] == "own"]
    grammar = np.mean([change_of([r for r in own if r["phenomenon"] == name]) for name in ("one", "two")])
    fact = np.mean(
        [
            (part["p_after"] - part["p_before"]).sum() / part["p_before"].sum()
            for _, part in effects.groupby("relation_id")
        ]
    )
    row = found.loc["suppress", "all"]
    assert row["grammar"] == pytest.approx(grammar, rel=1e-5)
    assert row["facts"] == pytest.approx(fact, rel=1e-4)
    assert row["ratio"] == pytest.approx(grammar / fact, rel=1e-4)
    assert (row["n_pairs"], row["n_facts"]) == (40, effects["fact_id"].nunique())
    assert row["ratio_low"] < row["ratio"] < row["ratio_high"]
    first = [r for r in own if r["rank_good_before"] == 1]
    grammar = np.mean([change_of([r for r in first if r["phenomenon"] == name]) for name in ("one", "two")])
    assert found.loc["suppress", "first"]["grammar"] == pytest.approx(grammar, rel=1e-5)
    # An edit counts where the old answer was likelier before.
    edits = edits[edits["p_old_before"] > edits["p_new_before"]]
    flipped = (edits["p_new_after"] > edits["p_old_after"]).groupby(edits["relation_id"]).mean().mean()
    assert found.loc["edit", "all"]["facts"] == pytest.approx(flipped)
    mine = [r for r in rows if r["intervention"] == "edit" and r["group"] == "own"]
    assert found.loc["edit", "all"]["grammar"] == pytest.approx(
        np.mean([r["p_bad_after"] > 0.2 for r in mine])
    )


def change_of(rows):
    before = sum(row["p_good_before"] for row in rows)
    return sum(row["p_good_after"] - row["p_good_before"] for row in rows) / before


def test_a_killed_evaluation_goes_on_to_the_same_rows(tmp_path, monkeypatch):
    options, pairs = EvaluateOptions(experiments="grammar", sample=2), load_grammar()
    monkeypatch.setattr("build.evidence.grammar.load_grammar", lambda: pairs[:75:5])
    whole = shutil.copytree(POCKET, tmp_path / "whole")
    evaluate_atlas(whole, options, fresh=True)
    folder, original, written = shutil.copytree(POCKET, tmp_path / "killed"), Output.write_shard, []

    def dying(self, stage, index, table):
        if len(written) == 2:
            written.append("killed")
            raise KeyboardInterrupt
        original(self, stage, index, table)
        written.append(index)

    monkeypatch.setattr(Output, "write_shard", dying)
    for killed in (True, False):
        with pytest.raises(KeyboardInterrupt) if killed else nullcontext():
            evaluate_atlas(folder, options, fresh=True)
    assert written == [0, 1, "killed", 2]
    name = file_name("grammar")
    assert (folder / name).read_bytes() == (whole / name).read_bytes()
    assert "already measured" in evaluate_atlas(folder, options)


def test_the_shared_model_is_as_it_was(setting, rows):
    before = Setting(Atlas(POCKET), "pocket-bert").subject.model.state_dict()
    for name, weight in setting.subject.model.state_dict().items():
        assert torch.equal(weight, before[name]), name
