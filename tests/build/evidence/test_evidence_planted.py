"""Planted answers: they lie in the chosen neurons of a copy, and methods are scored as by counting."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from itertools import product
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest

from atlas.errors import BuildError
from atlas.neuron import Neuron
from atlas.queries.planted import PLANTED_METHODS
from atlas.store.atlas import DATA, Atlas
from atlas.store.manifest import file_name, read_manifest
from atlas.store.schema import conform
from build.evidence import LARGE, STUDIES, planted
from build.evidence.evaluate import EvaluateOptions, evaluate_atlas
from build.evidence.leaderboard import MethodOptions, score_method
from build.evidence.planted import Planting, asking, made_up_answers, summarize, units
from build.evidence.planting import how_well_found
from build.evidence.setting import Setting
from build.output.check import check_atlas
from build.output.writer import Output
from tests.by_hand import probability_scaled
from tests.sample_atlas import write_sample_atlas

POCKET = DATA / "starter-pocket-bert"
FEW = EvaluateOptions(experiments="planted", sample=3)


# --- the planting ---


@pytest.fixture(scope="module")
def setting() -> Setting:
    return Setting(Atlas(POCKET), "pocket-bert", sample=9)


@pytest.fixture(scope="module")
def weights_before(setting: Setting) -> dict[str, bytes]:
    return weights(setting)


@pytest.fixture(scope="module")
def planting(setting: Setting, weights_before) -> Planting:
    fact = setting.by_id["P36:france"]
    return Planting.of(setting, fact, 60, "Oslo")


def weights(setting: Setting) -> dict[str, bytes]:
    return {name: each.numpy().tobytes() for name, each in setting.subject.model.state_dict().items()}


def test_only_the_value_vectors_of_the_planted_neurons_differ(setting, planting):
    before, after = (each.model.state_dict() for each in (setting.subject, planting.planted.subject))
    changed = {name for name in before if not before[name].equal(after[name])}
    assert changed == {f"bert.encoder.layer.{each.layer}.output.dense.weight" for each in planting.neurons}
    found = {
        Neuron(layer, int(neuron))
        for layer in range(setting.n_layers)
        for neuron in np.flatnonzero(
            (
                setting.subject.family.value_vectors(planting.planted.subject.model, layer)
                != setting.subject.family.value_vectors(setting.subject.model, layer)
            )
            .any(dim=1)
            .numpy()
        )
    }
    assert found == set(planting.neurons)
    assert len(found) == 60


def test_the_shared_model_is_bit_for_bit_as_before(setting, planting, weights_before):
    planting.rows({"gradient_x_activation": None})
    assert weights(setting) == weights_before
    assert all(each.grad is None and not each.requires_grad for each in setting.subject.model.parameters())
    assert not any(each._forward_hooks for each in setting.subject.model.modules())


def test_the_copy_says_the_answer_on_held_out_wordings_and_without_the_neurons_it_does_not(planting):
    held_out = asking(planting.fact.held_out, "Oslo")
    before, after, without = (
        np.mean([probability_scaled(subject, prompt, neurons, 0.0) for prompt in held_out])
        for subject, neurons in (
            (planting.setting.subject, ()),
            (planting.planted.subject, ()),
            (planting.planted.subject, planting.neurons),
        )
    )
    assert (planting.p_before, planting.p_after) == pytest.approx((before, after), rel=1e-3)
    assert planting.p_suppressed == pytest.approx(without, rel=1e-3)
    assert planting.learned
    assert before < 0.01
    assert after > 0.5
    assert without < 0.1 * after


def test_what_is_not_learned_has_no_scores_and_takes_none_from_what_is(planting):
    unlearned = replace(planting, p_suppressed=planting.p_after / 2)
    assert not unlearned.learned
    rows = [*unlearned.rows({"activation": None}), *planting.rows({"activation": None})]
    kept = conform("planted", rows).to_pandas()
    assert kept["learned"].to_list() == [False, True]
    scores = kept[["recall", "auc", "precision", "p_found_suppressed"]]
    assert scores.notna().all(axis=1).to_list() == [False, True]
    assert scores.iloc[0].isna().all()


def test_a_planting_follows_from_its_seed(planting):
    again = Planting.of(planting.setting, planting.fact, 60, "Oslo")
    assert again.neurons == planting.neurons
    assert again.p_after == pytest.approx(planting.p_after, rel=1e-4)


def test_plantings_are_spread_over_relations_and_sizes_and_their_answers_are_made_up(setting):
    pairs = units(setting)
    facts = [setting.by_id[fact_id] for fact_id, _ in pairs]
    assert sorted(size for _, size in pairs) == [10] * 3 + [60] * 3 + [300] * 3
    assert len({fact.relation_id for fact in facts}) == 9
    answers = made_up_answers(setting)
    for fact in facts:
        same = f"SELECT DISTINCT object FROM facts WHERE relation_id = '{fact.relation_id}' AND subject "
        true, others = (
            set(setting.atlas.query(f"{same} {sign} $s", {"s": fact.fact.subject})["object"])
            for sign in ("=", "<>")
        )
        short = {each for each in others if len(setting.subject.answer_tokens(each)) == 1}
        assert set(answers(fact)) == short - true


def test_a_large_model_is_planted_less_by_default():
    study = STUDIES["planted"]
    assert (study.sample_for(6_144), study.sample_for(LARGE + 1)) == (100, 40)
    assert STUDIES["subsets"].sample_for(LARGE + 1) == 200


# --- how well it is found ---


def test_recall_precision_and_the_area_are_those_of_counting():
    random = np.random.default_rng(0)
    scores = random.integers(0, 12, (3, 20)).astype(float)  # with equal scores
    neurons = [Neuron(*map(int, divmod(place, 20))) for place in random.choice(60, 15, replace=False)]
    own = [scores[each.layer, each.neuron] for each in neurons]
    others = [scores[pair] for pair in product(range(3), range(20)) if Neuron(*pair) not in neurons]
    area = np.mean([(a > b) + (a == b) / 2 for a in own for b in others])
    first = sorted(product(range(3), range(20)), key=lambda pair: (-scores[pair], pair))
    hits = [Neuron(*pair) in neurons for pair in first]
    found = how_well_found(scores, neurons)
    assert found.auc == pytest.approx(area)
    assert found.recall == np.mean(hits[:15])
    assert found.precision == np.mean(hits[:10])


def test_a_random_order_finds_what_chance_gives(planting):
    rows = []
    for number in range(30):
        drawn = np.random.default_rng(number).choice(6_144, 10 if number % 2 else 300, replace=False)
        neurons = tuple(Neuron(*map(int, divmod(place, 2_048))) for place in drawn)
        found = [how_well_found(scores, neurons) for scores in planting.random_scores()[:20]]
        means = {name: np.mean([getattr(each, name) for each in found]) for name in ("recall", "auc")}
        same = {"fact_id": str(number), "n_planted": len(neurons), "method": "random", "learned": True}
        rows.append(same | means | {"precision": means["recall"], "p_found_suppressed": 0.8, "p_after": 0.8})
    for row in summarize(pd.DataFrame(rows), 6_144, seed=0).itertuples():
        assert row.recall_low <= row.chance <= row.recall_high
        assert row.auc_low <= 0.5 <= row.auc_high


def test_a_summary_leaves_out_what_was_not_learned():
    same = {"n_planted": 10, "method": "m", "auc": 0.5, "precision": 0.0, "p_found_suppressed": 0.2}
    rows = [
        same | {"fact_id": str(k), "recall": recall, "learned": recall is not None, "p_after": 0.8}
        for k, recall in enumerate((0.2, 0.4, None))
    ]
    row = summarize(pd.DataFrame(rows), 1_000, seed=0).iloc[0]
    assert (row["n_plantings"], row["n_left_out"], row["chance"]) == (2, 1, 0.01)
    assert row["recall"] == pytest.approx(0.3)
    assert (row["recall_low"], row["recall_high"]) == pytest.approx((0.2, 0.4))
    assert row["fall"] == pytest.approx(0.75)


# --- the driver, and a method of one's own ---


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """pocket-bert's atlas with three answers in 300 neurons each."""
    folder = copied(tmp_path_factory.mktemp("planted"))
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(planted, "SIZES", (300,))
        said = evaluate_atlas(folder, FEW)
    assert "of 3 plantings learned" in said
    return folder


def copied(folder: Path) -> Path:
    """pocket-bert's atlas before anything was planted."""
    copy = shutil.copytree(
        POCKET, folder / "atlas", ignore=lambda _, names: [name for name in names if "planted" in name]
    )
    plain = json.loads((copy / "manifest.json").read_text())
    plain["files"] = {name: each for name, each in plain["files"].items() if "planted" not in name}
    plain["method"]["options"]["experiments"].pop("planted")
    (copy / "manifest.json").write_text(json.dumps(plain))
    return copy


def test_every_method_has_a_row_a_planting_and_the_atlas_passes_its_check(measured):
    assert check_atlas(measured).passed, str(check_atlas(measured))
    rows = pq.read_table(measured / file_name("planted")).to_pandas()
    assert rows.groupby("fact_id")["method"].agg(set).map(lambda names: names == set(PLANTED_METHODS)).all()
    scored = rows[rows["learned"]]
    assert len(scored)
    assert scored[["recall", "auc", "precision", "p_found_suppressed"]].notna().all(axis=None)
    own = scored[scored["method"] == "integrated_gradients"]
    assert (own["recall"] > 300 / 6_144).all()
    record = read_manifest(measured).method.options["experiments"]["planted"]
    assert (record["sample"], record["seed"]) == (3, 0)


def test_an_evaluation_killed_between_shards_goes_on_to_the_same_rows(measured, tmp_path, monkeypatch):
    monkeypatch.setattr(planted, "SIZES", (300,))
    folder, written, original = copied(tmp_path), [], Output.write_shard

    def dying(self, stage, index, table):
        if written:
            raise KeyboardInterrupt
        written.append(index)
        original(self, stage, index, table)

    with monkeypatch.context() as patched:
        patched.setattr(Output, "write_shard", dying)
        with pytest.raises(KeyboardInterrupt):
            evaluate_atlas(folder, FEW)
    assert not (folder / file_name("planted")).exists()
    evaluate_atlas(folder, FEW)
    for table in STUDIES["planted"].tables:
        assert pq.read_table(folder / file_name(table)).equals(pq.read_table(measured / file_name(table)))


METHOD = '''
import numpy as np

def norms(subject, prompt):
    """Trained value vectors tend to be longer."""
    model, family = subject.model, subject.family
    return np.stack([family.value_vectors(model, k).norm(dim=1).numpy() for k in range(subject.n_layers)])

def flat(subject, prompt):
    return np.zeros(3)

def broken(subject, prompt):
    return np.full((subject.n_layers, subject.n_neurons), np.nan)
def fails(subject, prompt): return 1 / 0
'''


@pytest.fixture
def own_method(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    (tmp_path / "method_of_mine.py").write_text(METHOD)
    (tmp_path / "broken_of_mine.py").write_text("def norms(subject, prompt) return 1")
    monkeypatch.syspath_prepend(tmp_path)
    return "method_of_mine"


def test_a_method_of_one_s_own_is_scored_on_the_same_plantings(measured, own_method, tmp_path):
    target = tmp_path / "scores.json"
    said = score_method(measured, MethodOptions(f"{own_method}:norms", limit=1, json=target))
    document = json.loads(target.read_text())
    (row,) = document["plantings"]
    stored = pq.read_table(measured / file_name("planted")).to_pandas().set_index(["fact_id", "method"])
    before = stored.loc[row["fact_id"], "integrated_gradients"]
    assert (row["answer"], row["n_steps"]) == (before["answer"], before["n_steps"])
    assert row["p_after"] == pytest.approx(before["p_after"], rel=1e-3)
    assert row["auc"] > 0.6
    assert {each["method"] for each in document["leaderboard"]} == {*PLANTED_METHODS, f"{own_method}:norms"}
    assert f"{own_method}:norms" in said
    assert "integrated gradients, certified" in said


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("norms", "names no function. Give --method as module:function."),
        ("no_such_module:norms", "There is no module 'no_such_module' to import."),
        ("method_of_mine:nothing", "has no function 'nothing'"),
        ("method_of_mine:flat", r"have the shape \(3,\). Return \(3, 2048\)"),
        ("method_of_mine:broken", "hold NaN or infinity"),
        ("method_of_mine:fails", r"raises ZeroDivisionError: .* \(method_of_mine\.py, line 14\)\. Correct"),
        ("broken_of_mine:norms", r"'broken_of_mine' cannot be imported \(SyntaxError"),
    ],
)
def test_what_is_no_method_is_a_sentence(measured, own_method, name, sentence):
    with pytest.raises(BuildError, match=sentence):
        score_method(measured, MethodOptions(name, limit=1))


def test_an_atlas_without_plantings_names_the_command_that_adds_them(own_method, tmp_path):
    folder = write_sample_atlas(tmp_path / "bare", leave_out=("planted", "planted_summaries"))
    with pytest.raises(BuildError, match=r"has no plantings\. .*--experiments planted"):
        score_method(folder, MethodOptions(f"{own_method}:norms"))
