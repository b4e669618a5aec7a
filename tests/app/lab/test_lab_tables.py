"""The Lab's tables of an experiment, against the outcome they are made from."""

from dataclasses import replace
from pathlib import Path

import pytest

from app.lab import tables
from app.lab.run import run_experiment
from atlas.errors import AtlasError, PromptError
from atlas.experiments import documents
from atlas.experiments.experiment import Experiment
from atlas.interventions import Edit, Suppress, make_intervention
from atlas.neuron import ExperimentPrompt, Neuron, Prompt

pytest.importorskip("torch")

from atlas.experiments import run as experiments
from atlas.surgery import load_subject

NEURONS = (Neuron(0, 3), Neuron(1, 5), Neuron(1, 70), Neuron(2, 41))
ASKED = (
    ExperimentPrompt("asked", Prompt("f", "t1", "the capital of france is [Y]", "paris")),
    ExperimentPrompt("paraphrases", Prompt("f", "t2", "in france , the capital is [Y]", "paris")),
    ExperimentPrompt("unrelated", Prompt("g", "t3", "the official language of austria is [Y]", "german")),
)


@pytest.fixture(scope="module")
def bert(tiny_bert: Path):
    return load_subject(str(tiny_bert), device="cpu")


@pytest.fixture(scope="module", params=["tiny_bert", "tiny_gpt2"])
def subject(request: pytest.FixtureRequest, tiny):
    return load_subject(str(tiny(request.param)), device="cpu")


@pytest.fixture(scope="module")
def outcome(subject):
    return experiments.run(subject, Experiment((Suppress(NEURONS),), ASKED, draws=2))


def test_the_apps_own_limits_hold_for_typed_prompts(bert):
    with pytest.raises(PromptError, match="at most 500"):
        tables.limited_prompts(bert, "the capital " * 100 + "is [Y] .", "paris")
    with pytest.raises(PromptError, match="at most 32"):
        tables.limited_prompts(bert, "\n".join(f"{i} is [Y] ." for i in range(40)), "paris")
    assert len(tables.limited_prompts(bert, "the capital is [Y] .", "paris")) == 1


def test_the_path_of_a_layer_ends_at_the_answers_probability(subject):
    found = experiments.find_neurons(subject, [ASKED[0].prompt])
    probability = subject.predict([ASKED[0].prompt])[0].probability
    for layer in range(subject.n_layers):
        rows = tables.path_rows(found.attributions[0], layer)
        assert rows["alpha"].is_monotonic_increasing
        assert rows["alpha"].iloc[-1] == 1.0
        assert rows["probability"].iloc[-1] == pytest.approx(probability, rel=1e-4)


def test_the_summary_names_the_groups_and_has_the_librarys_numbers(outcome):
    rows = tables.summary_rows(outcome)
    assert list(rows["label"]) == ["Discovery prompts", "Held-out paraphrases", "Unrelated facts"]
    for row, each in zip(rows.itertuples(), outcome.summary(), strict=True):
        for name in rows.columns.drop("label"):
            assert getattr(row, name) == getattr(each, name), name


def test_the_new_answers_columns_are_there_for_edits_and_empty_for_other_facts(bert):
    edit = (make_intervention("edit", NEURONS, old="paris", new="rome"),)
    outcome = experiments.run(bert, Experiment(edit, ASKED, draws=2))
    rows = tables.trial_rows(outcome)
    new = [name for name in rows if name.startswith("new_")]
    assert len(new) == 6
    for name in new:
        assert rows[name].isna().tolist() == [False, False, True], name
    assert list(rows["group"]) == [item.group for item in ASKED]
    for row, trial in zip(rows[:2].itertuples(), outcome.prompts, strict=False):
        draws = [each.probability for each in trial.new_random]
        assert min(draws) < row.new_random < max(draws)
        assert row.new_rank_random == sum(each.rank for each in trial.new_random) / 2


def test_the_summary_of_an_edit_has_the_new_answer_beside_the_old(bert):
    edit = (make_intervention("edit", NEURONS, old="paris", new="rome"),)
    outcome = experiments.run(bert, Experiment(edit, ASKED, draws=2))
    rows = tables.summary_rows(outcome)
    for row, each in zip(rows[:2].itertuples(), outcome.new_summary(), strict=True):
        for name in ("before", "after", "random", "rank_1_before", "rank_1_after", "rank_1_random"):
            assert getattr(row, f"new_{name}") == getattr(each, name), name
    assert rows.set_index("group").loc["unrelated", "new_random":"new_rank_1_random"].isna().all()


def test_without_an_edit_there_is_no_new_answer(outcome):
    for rows in (tables.trial_rows(outcome), tables.summary_rows(outcome)):
        assert not [name for name in rows if name.startswith("new_")]


def test_answers_stand_side_by_side_with_their_change_of_rank(outcome):
    for trial in outcome.prompts:
        rows = tables.answer_rows(trial)
        assert len(rows) == 10
        assert list(zip(rows["before"], rows["p_before"], strict=True)) == list(trial.before.top[:10])
        assert list(zip(rows["after"], rows["p_after"], strict=True)) == list(trial.after.top[:10])
        former = [token for token, _ in trial.before.top]
        for row in rows.itertuples():
            place = former.index(row.after) + 1
            gained = place - row.rank
            sign = "=" if gained == 0 else f"▲ {gained}" if gained > 0 else f"▼ {-gained}"
            assert row.moved == (sign if place <= 10 else f"new ({place})")


def test_a_token_beyond_the_list_shows_its_rank_as_a_bound():
    assert tables.moved(None, 3, n_ranked=100) == "new (>100)"
    assert tables.moved(3, None, n_ranked=100) == "gone (>100)"
    assert tables.moved(7, 7, n_ranked=100) == "="


def test_the_curves_rows_are_the_doses_with_their_random_draws(subject):
    experiment = Experiment((Suppress(NEURONS),), ASKED, draws=2)
    doses = experiments.dose_response(subject, experiment, (0.0, 1.0))
    rows = tables.dose_rows(doses)
    assert list(rows["probability"]) == [dose.probability for dose in doses]
    own = rows[rows["group"] != "unrelated"]
    assert (own["random_low"] <= own["random"]).all()
    assert (own["random"] <= own["random_high"]).all()
    assert rows[rows["group"] == "unrelated"]["random"].isna().all()
    before = {each.group: each.before for each in experiments.run(subject, experiment).summary()}
    for group, values in rows.groupby("group"):
        assert values.set_index("factor").loc[1.0, "probability"] == pytest.approx(before[group], rel=1e-5)


def test_the_size_of_an_experiment_is_bounded_however_it_is_made(set_limits):
    """Prompts × changed neurons × runs: what a link asks for, and what a page does."""
    set_limits("experiment_size = 500")
    ten = tuple(Neuron(0, place) for place in range(10))
    kept = Experiment((Suppress(ten),), ASKED, draws=2, model="pocket-bert")
    assert tables.decode(documents.to_link(kept)) == kept
    for large in (
        replace(kept, draws=20),
        replace(kept, prompts=ASKED * 12),
        replace(kept, interventions=(Suppress(tuple(Neuron(0, place) for place in range(120))),)),
        replace(kept, interventions=tuple(Edit(ten, "paris", new) for new in ("rome", *"abcdefg"))),
    ):
        with pytest.raises(AtlasError, match=r"size of [\d,]+ .*at most 500 \(experiment_size\)"):
            tables.decode(documents.to_link(large))
        with pytest.raises(AtlasError, match="Use fewer neurons, prompts or draws"):
            run_experiment(None, large, None)
