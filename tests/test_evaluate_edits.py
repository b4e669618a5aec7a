"""`python -m build evaluate-edits`: its table against single edits, and what it says of bad input."""

import pytest

from atlas.store import bundled, open_atlas
from build.__main__ import main
from build.evaluate_edits import draw_trials, known_facts, measure
from tests.sample_atlas import write_sample_atlas

ATLAS = bundled().get("starter-pocket-bert")


@pytest.fixture(scope="module")
def subject():
    from atlas.surgery import load_subject

    return load_subject("pocket-bert")


@pytest.fixture(scope="module")
def trials(subject):
    with open_atlas(ATLAS) as atlas:
        return draw_trials(subject, known_facts(atlas), sample=4, seed=1)


def test_trials_change_the_answer_and_ask_facts_that_have_neither(trials):
    assert len(trials) == 4
    for trial in trials:
        assert trial.new != trial.fact.answer
        own = trial.fact.relation_id
        assert all(p.fact_id.split(":")[0] == own for p in trial.neighbours)
        assert all(p.fact_id.split(":")[0] != own for p in trial.unrelated)
        for prompt in (*trial.neighbours, *trial.unrelated):
            assert prompt.answer not in (trial.fact.answer, trial.new)


def test_the_rates_count_single_edits(subject, trials):
    from dataclasses import replace

    from atlas.surgery import Edit

    rates = measure(subject, trials)
    hits = 0
    for trial in trials:
        with subject.applied(Edit(trial.fact.neurons, trial.fact.answer, trial.new)) as changed:
            hits += changed.predict([replace(trial.fact.prompts[0], answer=trial.new)])[0].rank == 1
    assert (rates[0].hits, rates[0].asked) == (hits, 4)
    assert rates[3].asked == sum(len(trial.fact.prompts) - 1 for trial in trials)


def test_an_edit_of_strength_zero_succeeds_nowhere_and_changes_nothing(subject, trials):
    rates = {rate.label.split(":")[0].strip(): rate for rate in measure(subject, trials, remove=0, add=0)}
    assert rates["efficacy"].hits == rates["before the edit"].hits
    for name in ("neighbourhood", "unrelated facts keep their answer"):
        assert rates[name].hits == rates[name].asked


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--sample", "0"], "A sample of 0"),
        (["--add", "-1"], "--add -1.0 is absurd"),
        (["--remove", "nan"], "--remove nan is absurd"),
    ],
)
def test_absurd_options_get_a_sentence(options, said, capsys):
    assert main(["evaluate-edits", "--model", "pocket-bert", "--atlas", str(ATLAS), *options]) == 2
    assert said in capsys.readouterr().err


def test_an_atlas_of_another_model_gets_a_sentence(tmp_path, capsys):
    folder = write_sample_atlas(tmp_path / "sample")
    assert main(["evaluate-edits", "--model", "pocket-bert", "--atlas", str(folder)]) == 2
    assert "made with other weights (sample-model)" in capsys.readouterr().err
