"""What the Lab computes, against the library's own answers; and what it says of bad input."""

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from app import experiments
from app.experiments import Asked, Experiment
from atlas.errors import AtlasError, PromptError
from atlas.neuron import Neuron, Prompt
from atlas.store import open_atlas
from tests.sample_atlas import write_sample_atlas

ROOT = Path(__file__).parent.parent
NEURONS = (Neuron(0, 3), Neuron(1, 5), Neuron(1, 70), Neuron(2, 41))
TEXTS = {
    "asked": "the capital of france is [Y]",
    "paraphrases": "in france , the capital is [Y]",
    "unrelated": "the official language of austria is [Y]",
}
ASKED = tuple(
    Asked(group, Prompt("f", group, text, "german" if group == "unrelated" else "paris"))
    for group, text in TEXTS.items()
)


@pytest.fixture(scope="module")
def sample(tmp_path_factory: pytest.TempPathFactory):
    with open_atlas(write_sample_atlas(tmp_path_factory.mktemp("atlas") / "sample")) as atlas:
        yield atlas


@pytest.fixture(scope="module", params=["tiny_bert", "tiny_gpt2"])
def subject(request: pytest.FixtureRequest, tiny):
    from atlas.surgery import load_subject

    return load_subject(str(tiny(request.param)), device="cpu")


@pytest.fixture(scope="module")
def bert(tiny_bert: Path):
    from atlas.surgery import load_subject

    return load_subject(str(tiny_bert), device="cpu")


def suppress(neurons=NEURONS):
    return (experiments.make_intervention("suppress", neurons),)


# --- which prompts ---


def test_a_facts_prompts_are_split_into_those_for_finding_and_those_held_out(sample):
    fact_id = sample.query_one("SELECT fact_id FROM facts ORDER BY fact_id")["fact_id"]
    asked = experiments.prompts_of_fact(sample, fact_id)
    rows = sample.query("SELECT * FROM prompts WHERE fact_id = $f", {"f": fact_id})
    assert {item.prompt.text for item in asked} == set(rows["text"])
    for item in asked:
        held_out = rows.set_index("template_id").loc[item.prompt.template_id, "held_out"]
        assert item.group == ("paraphrases" if held_out else "asked")


def test_control_facts_differ_as_their_group_says_and_are_drawn_by_the_seed(sample):
    own = sample.query_one("SELECT * FROM facts WHERE known ORDER BY fact_id")
    asked = experiments.control_prompts(sample, fact_id=own["fact_id"], neighbours=4, unrelated=7, seed=3)
    assert [item.group for item in asked] == ["neighbours"] * 4 + ["unrelated"] * 7
    assert len({item.prompt.fact_id for item in asked}) == 11
    for item in asked:
        fact = sample.query_one("SELECT * FROM facts WHERE fact_id = $f", {"f": item.prompt.fact_id})
        assert (fact["relation_id"] == own["relation_id"]) == (item.group == "neighbours")
        assert fact["object"] == item.prompt.answer != own["object"]
        assert fact["known"]
        prompt = sample.query_one(
            "SELECT * FROM prompts WHERE fact_id = $f AND template_id = $t",
            {"f": fact["fact_id"], "t": item.prompt.template_id},
        )
        assert prompt["held_out"]
        assert prompt["text"] == item.prompt.text
    again = experiments.control_prompts(sample, fact_id=own["fact_id"], neighbours=4, unrelated=7, seed=3)
    other = experiments.control_prompts(sample, fact_id=own["fact_id"], neighbours=4, unrelated=7, seed=4)
    assert asked == again != other


def test_controls_of_typed_prompts_never_have_their_answer(sample):
    asked = experiments.control_prompts(sample, answers=[" oslo "], unrelated=50)
    assert {item.group for item in asked} == {"unrelated"}
    assert len(asked) > 20
    assert "Oslo" not in {item.prompt.answer for item in asked}


def test_controls_of_an_unknown_fact_are_none(sample):
    assert experiments.control_prompts(sample, fact_id="P0-nothing") == ()


def test_prompts_a_model_cannot_be_asked_are_left_out_with_the_reason(bert):
    bad = Asked("unrelated", Prompt("f", "t", "the capital is [Y] .", "☃"))
    kept, reasons = experiments.usable(bert, [*ASKED, bad])
    assert kept == ASKED
    assert len(reasons) == 1
    assert "outside the vocabulary" in reasons[0]


def test_typed_prompts_are_read_line_by_line(bert):
    second = "in france , the capital is [Y] ."
    text = f"the capital of france is [MASK] .\n\n  {second}  \n{second}"
    prompts = experiments.typed_prompts(bert, text, " paris ")
    assert [prompt.text for prompt in prompts] == [
        "the capital of france is [Y] .",
        "in france , the capital is [Y] .",
    ]
    assert {prompt.answer for prompt in prompts} == {"paris"}


@pytest.mark.parametrize(
    ("text", "answer", "said"),
    [
        ("", "paris", "no prompt yet"),
        ("paris is big .", "paris", "Write exactly one"),
        ("[Y] and [Y] .", "paris", "Write exactly one"),
        ("the capital is [Y] .", " ", "no answer yet"),
        ("the capital is [Y] .", "☃", "outside the vocabulary"),
        ("the capital " * 100 + "is [Y] .", "paris", "at most 500"),
        ("\n".join(f"{i} is [Y] ." for i in range(40)), "paris", "at most 32"),
        ("very " * 70 + "is [Y] .", "paris", "reads 64"),
    ],
)
def test_typed_prompts_that_cannot_be_asked_get_a_sentence(bert, text, answer, said):
    with pytest.raises(PromptError, match=said):
        experiments.typed_prompts(bert, text, answer)


# --- which neurons ---


def test_neurons_found_live_are_those_of_the_library(subject):
    from atlas.refinement import MODES, refine_scores
    from atlas.surgery import attribute

    prompts = [item.prompt for item in ASKED[:2]]
    steps = []
    found = experiments.find_neurons(subject, prompts, progress=lambda share, said: steps.append(share))
    scores = [each.scores for each in attribute(subject, prompts, batch_rows=1)]
    assert list(found.neurons) == refine_scores(scores, MODES["default"])
    assert steps == sorted(steps)
    assert steps[-1] == 1.0
    assert found.n_paths == 2 * subject.n_layers


def test_a_single_prompt_keeps_its_coarse_neurons(bert):
    from atlas.refinement import coarse

    found = experiments.find_neurons(bert, [ASKED[0].prompt])
    assert len(found.neurons) == coarse(found.attributions[0].scores, 0.2).sum() > 0


def test_the_path_of_a_layer_ends_at_the_answers_probability(subject):
    found = experiments.find_neurons(subject, [ASKED[0].prompt])
    probability = subject.predict([ASKED[0].prompt])[0].probability
    for layer in range(subject.n_layers):
        rows = experiments.path_rows(found.attributions[0], layer)
        assert rows["alpha"].is_monotonic_increasing
        assert rows["alpha"].iloc[-1] == 1.0
        assert rows["probability"].iloc[-1] == pytest.approx(probability, rel=1e-4)


@pytest.mark.parametrize("kind", ["suppress", "amplify", "erase", "edit"])
def test_every_kind_of_the_lab_makes_its_intervention(kind):
    made = experiments.make_intervention(kind, NEURONS, factor=3.0, old="paris", new="rome", add=4)
    assert type(made).__name__.lower() == kind
    assert made.neurons == NEURONS


@pytest.mark.parametrize("kind", ["destroy", "", "Suppress"])
def test_a_kind_that_does_not_exist_gets_a_sentence(kind):
    with pytest.raises(AtlasError, match="No intervention is called"):
        experiments.make_intervention(kind, NEURONS)


def test_an_edit_without_a_new_answer_gets_a_sentence():
    with pytest.raises(PromptError, match="Type both"):
        experiments.make_intervention("edit", NEURONS, old="paris", new=" ")


def test_random_neurons_match_layer_by_layer_and_are_others():
    change = (*suppress(), experiments.make_intervention("amplify", NEURONS[:2]))
    control = experiments.matched_randomly(change, 72, np.random.default_rng(0))
    assert [n.layer for n in control[0].neurons] == [n.layer for n in NEURONS]
    assert not set(control[0].neurons) & set(NEURONS)
    # The neurons that both change are the same stand-ins in both.
    assert set(control[1].neurons) < set(control[0].neurons)
    assert control == experiments.matched_randomly(change, 72, np.random.default_rng(0))
    assert control != experiments.matched_randomly(change, 72, np.random.default_rng(1))


def test_random_neurons_are_fewer_where_a_layer_has_no_more():
    whole_layer = suppress(tuple(Neuron(0, i) for i in range(6)))
    control = experiments.matched_randomly(whole_layer, 8, np.random.default_rng(0))
    assert control[0].neurons == (Neuron(0, 6), Neuron(0, 7))


# --- the experiment ---


def test_an_experiments_numbers_are_the_librarys(subject):
    change = suppress()
    outcome = experiments.run(subject, Experiment(change, ASKED, seed=5, draws=3))
    prompts = [item.prompt for item in ASKED]
    before = subject.predict(prompts, top_k=100)
    with subject.applied(change) as changed:
        after = changed.predict(prompts, top_k=100)
    assert [trial.before for trial in outcome.trials] == before
    assert [trial.after for trial in outcome.trials] == after
    assert [trial.group for trial in outcome.trials] == list(TEXTS)
    assert len(outcome.random_neurons) == 3
    for draw, neurons in enumerate(outcome.random_neurons):
        random = subject.predict(prompts, top_k=1, interventions=[suppress(neurons)] * 3)
        assert [trial.random[draw] for trial in outcome.trials] == random
    assert outcome.undo_is_exact


def test_an_experiment_gives_the_same_result_each_time(subject):
    experiment = Experiment(suppress(), ASKED, seed=1, draws=2)
    assert experiments.run(subject, experiment) == experiments.run(subject, experiment)


def test_an_edit_reports_its_new_answer_on_the_facts_own_prompts(subject):
    edit = (experiments.make_intervention("edit", NEURONS, old="paris", new="rome"),)
    outcome = experiments.run(subject, Experiment(edit, ASKED, draws=1))
    for trial in outcome.trials:
        if trial.group == "unrelated":
            assert trial.new_before is trial.new_after is None
            continue
        rival = replace(trial.prompt, answer="rome")
        assert trial.new_before.probability == pytest.approx(subject.predict([rival])[0].probability)
        assert trial.new_after.probability == pytest.approx(
            subject.predict([rival], interventions=[edit])[0].probability, rel=1e-4
        )
    rows = experiments.trial_rows(outcome)
    assert rows["new_after"].isna().tolist() == [False, False, True]


def test_the_summary_is_the_mean_of_each_group(subject):
    outcome = experiments.run(subject, Experiment(suppress(), (*ASKED, ASKED[0]), draws=2))
    rows = experiments.summary(outcome).set_index("group")
    assert list(rows.index) == ["asked", "paraphrases", "unrelated"]
    assert list(rows["n_prompts"]) == [2, 1, 1]
    trials = outcome.of_group("asked")
    before = np.mean([trial.before.probability for trial in trials])
    after = np.mean([trial.after.probability for trial in trials])
    assert rows.loc["asked", "change"] == pytest.approx(after / before - 1)
    assert rows.loc["asked", "random"] == pytest.approx(
        np.mean([each.probability for trial in trials for each in trial.random])
    )


def test_answers_stand_side_by_side_with_their_change_of_rank(subject):
    outcome = experiments.run(subject, Experiment(suppress(), ASKED, draws=1))
    for trial in outcome.trials:
        rows = experiments.answer_rows(trial)
        assert len(rows) == 10
        assert list(zip(rows["before"], rows["p_before"], strict=True)) == list(trial.before.top[:10])
        assert list(zip(rows["after"], rows["p_after"], strict=True)) == list(trial.after.top[:10])
        former = [token for token, _ in trial.before.top]
        for row in rows.itertuples():
            place = former.index(row.after) + 1
            gained = place - row.rank
            sign = "=" if gained == 0 else f"▲ {gained}" if gained > 0 else f"▼ {-gained}"
            assert row.moved == sign


def test_a_token_from_beyond_the_list_says_the_least_it_gained():
    assert experiments.moved(None, 3, n_ranked=100) == "▲ >97"


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"asked": ()}, "no prompt"),
        ({"interventions": ()}, "no neurons"),
        ({"draws": 0}, "random draws"),
        ({"draws": 10**6}, "random draws"),
    ],
)
def test_an_experiment_that_cannot_be_made_gets_a_sentence(options, said):
    with pytest.raises(AtlasError, match=said):
        Experiment(**({"interventions": suppress(), "asked": ASKED} | options))


def test_an_experiment_without_neurons_gets_a_sentence():
    with pytest.raises(AtlasError, match="no neurons"):
        Experiment(suppress(()), ASKED)


def test_an_experiment_stopped_by_its_progress_leaves_the_model_as_it_was(subject):
    class Stopped(BaseException):
        pass

    prompts = [item.prompt for item in ASKED]
    before = subject.predict(prompts)

    def stop(share: float, said: str) -> None:
        if "draw" in said:
            raise Stopped

    with pytest.raises(Stopped):
        experiments.run(subject, Experiment(suppress(), ASKED), progress=stop)
    assert subject.predict(prompts) == before


def test_importing_the_experiments_imports_neither_torch_nor_streamlit():
    code = (
        "import sys; import app.experiments; "
        "assert not {'torch', 'transformers', 'streamlit'} & set(sys.modules), sorted(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, timeout=60)
