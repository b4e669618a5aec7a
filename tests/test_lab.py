"""The Lab as visitors use it, with the model that comes with the project: numbers, errors, isolation."""

from dataclasses import replace
from pathlib import Path

import pytest

from atlas.neuron import Neuron, Prompt
from atlas.store import bundled, open_atlas

pytest.importorskip("torch")
from streamlit.testing.v1 import AppTest

ROOT = Path(__file__).parent.parent
ATLAS = "starter-pocket-bert"


@pytest.fixture(scope="module")
def atlas():
    with open_atlas(bundled()[ATLAS]) as opened:
        yield opened


@pytest.fixture(scope="module")
def subject():
    from atlas.surgery import load_subject

    return load_subject("pocket-bert")


@pytest.fixture(scope="module")
def fact(atlas):
    """A known fact with few neurons, whose relation has other objects."""
    return atlas.query_one("""
        SELECT * FROM facts WHERE known AND relation_id = 'P36' AND n_neurons BETWEEN 5 AND 60
        ORDER BY fact_id
    """)


@pytest.fixture(scope="module")
def neurons(atlas, fact):
    rows = atlas.query(
        "SELECT layer, neuron FROM knowledge_neurons WHERE fact_id = $f ORDER BY ALL", {"f": fact["fact_id"]}
    )
    return tuple(Neuron(int(row.layer), int(row.neuron)) for row in rows.itertuples())


@pytest.fixture(scope="module")
def prompts(atlas, fact):
    """The fact's prompts in the order of the Lab's table."""
    rows = atlas.query(
        "SELECT * FROM prompts WHERE fact_id = $f ORDER BY held_out, template_id", {"f": fact["fact_id"]}
    )
    return [Prompt(fact["fact_id"], r.template_id, r.text, fact["object"]) for r in rows.itertuples()]


def lab(**parameters: str) -> AppTest:
    """A new visitor who opens a permalink to the Lab."""
    at = AppTest.from_file(str(ROOT / "app" / "main.py"), default_timeout=120)
    at.query_params["atlas"] = ATLAS
    at.run()
    at.switch_page("app_pages/lab.py")
    for name, value in {"atlas": ATLAS, **parameters}.items():
        at.query_params[name] = value
    return at.run()


def press(at: AppTest, label: str) -> AppTest:
    next(button for button in at.button if button.label == label).click()
    at.run()
    assert not at.exception
    return at


def labels(at: AppTest) -> list[str]:
    return [button.label for button in at.button]


def outcome(at: AppTest):
    return at.session_state["lab_outcome"][1]


def table_with(at: AppTest, column: str):
    return next(frame.value for frame in at.dataframe if column in frame.value.columns)


def test_controls_for_a_causal_model_end_with_their_answer(atlas):
    from app.experiments import control_prompts

    asked = control_prompts(atlas, causal=True, unrelated=50)
    assert len(asked) == 50
    assert all(item.prompt.ends_with_answer for item in asked)
    assert not all(item.prompt.ends_with_answer for item in control_prompts(atlas, unrelated=50))


def test_a_fact_is_suppressed_with_the_librarys_numbers(subject, fact, neurons, prompts):
    from atlas.surgery import Suppress

    at = press(lab(fact=fact["fact_id"]), "Run the experiment")
    assert not at.error
    rows = table_with(at, "says_after").iloc[: len(prompts)]
    before = subject.predict(prompts)
    with subject.applied(Suppress(neurons)) as changed:
        after = changed.predict(prompts)
    assert list(rows["before"]) == pytest.approx([each.probability for each in before], rel=1e-4)
    assert list(rows["after"]) == pytest.approx([each.probability for each in after], rel=1e-4)
    assert list(rows["rank_after"]) == [each.rank for each in after]
    assert any("Undo is exact" in box.value for box in at.success)


def test_the_ten_likeliest_answers_are_shown_for_the_chosen_prompt(subject, fact, neurons):
    from atlas.surgery import Suppress

    at = press(lab(fact=fact["fact_id"]), "Run the experiment")
    chosen = next(box for box in at.selectbox if box.key == "lab_trial")
    assert "held-out" in chosen.options[0]
    trial = next(each for each in outcome(at).trials if each.group == "paraphrases")
    after = subject.predict([trial.prompt], interventions=[Suppress(neurons)])[0]
    rows = table_with(at, "moved")
    assert [token.strip() for token, _ in after.top] == list(rows["after"])
    assert list(rows["p_after"]) == pytest.approx([p for _, p in after.top], rel=1e-4)


def test_the_controls_stand_beside_the_result(fact, neurons):
    at = press(lab(fact=fact["fact_id"]), "Run the experiment")
    result = outcome(at)
    assert {trial.group for trial in result.trials} == {"asked", "paraphrases", "neighbours", "unrelated"}
    assert len(result.random_neurons) == 5
    for draw in result.random_neurons:
        assert [n.layer for n in draw] == [n.layer for n in neurons]
        assert not set(draw) & set(neurons)
    summary = table_with(at, "random_change")
    assert len(summary) == 4
    assert any("as many random neurons" in text.value for text in at.markdown)


def test_an_edit_makes_the_new_answer_rise(atlas, fact):
    new = atlas.query_one(
        "SELECT object FROM facts WHERE relation_id = $r AND object <> $o ORDER BY object",
        {"r": fact["relation_id"], "o": fact["object"]},
    )["object"]
    at = press(lab(fact=fact["fact_id"], kind="Edit", new=new), "Run the experiment")
    rows = table_with(at, "new_after").dropna(subset="new_after")
    assert (rows["new_after"] > 10 * rows["new_before"]).all()
    assert (rows["new_rank_after"] < rows["new_rank_before"]).all()
    assert any(new in text.value and "The new answer" in text.value for text in at.markdown)


def test_neurons_are_found_live_and_can_be_left_out(subject, fact, prompts, atlas):
    from app.experiments import find_neurons

    at = press(lab(fact=fact["fact_id"], source="Find them live"), "Find neurons")
    held_out = atlas.query(
        "SELECT template_id FROM prompts WHERE held_out AND fact_id = $f", {"f": fact["fact_id"]}
    )
    discovery = [p for p in prompts if p.template_id not in set(held_out["template_id"])]
    wanted = find_neurons(subject, discovery)
    shown = table_with(at, "mean_score")
    assert list(shown["neuron"]) == [str(item.neuron) for item in wanted.neurons]
    first = str(wanted.neurons[0].neuron)
    next(box for box in at.multiselect if box.key == "without").set_value([first])
    press(at, "Run the experiment")
    changed = outcome(at).experiment.interventions[0].neurons
    assert len(changed) == len(wanted.neurons) - 1
    assert Neuron.parse(first) not in changed


def test_typed_prompts_are_experimented_on(subject):
    text = "The capital of France is [MASK].\nThe capital city of France is [Y]."
    at = press(lab(ask="My own prompts", prompts=text, answer="Paris"), "Find neurons")
    press(at, "Run the experiment")
    result = outcome(at)
    assert [trial.prompt.text for trial in result.of_group("asked")] == [
        "The capital of France is [Y].",
        "The capital city of France is [Y].",
    ]
    assert "paris" not in {trial.prompt.answer.lower() for trial in result.of_group("unrelated")}
    assert result.undo_is_exact


@pytest.mark.parametrize(
    ("prompts", "answer", "said"),
    [
        ("The capital of France is Paris.", "Paris", "exactly one"),
        ("[MASK] or [MASK].", "Paris", "exactly one"),
        ("The capital of France is [Y].", "☃", "outside the vocabulary"),
        ("The capital of France is [Y].", "", "no answer yet"),
        ("very " * 99 + "[Y].", "Paris", "tokens"),
    ],
)
def test_a_bad_prompt_gets_a_sentence_and_the_page_goes_on(prompts, answer, said):
    at = lab(ask="My own prompts", prompts=prompts, answer=answer)
    assert not at.exception
    assert any(said in box.value.replace("\\", "") for box in at.error)
    next(box for box in at.text_area if box.key == "prompts").set_value("The capital of France is [Y].")
    next(box for box in at.text_input if box.key == "answer").set_value("Paris")
    at.run()
    assert not at.error
    assert "Find neurons" in labels(at)


def test_an_edit_to_a_word_outside_the_vocabulary_gets_a_sentence(fact):
    at = lab(fact=fact["fact_id"], kind="Edit", new="☃", run="1")
    assert not at.exception
    assert any("outside the vocabulary" in box.value for box in at.error)
    assert "Run the experiment" in labels(at)


@pytest.mark.parametrize(
    ("parameters", "said"),
    [
        ({"fact": "P36-nowhere"}, "has no fact"),
        ({"model": "another model", "folder": ""}, None),
        ({"kind": "Destroy"}, None),
        ({"factor": "many", "kind": "Amplify"}, None),
    ],
)
def test_a_bad_permalink_gets_a_sentence_or_the_default(fact, parameters, said):
    at = lab(**({"fact": fact["fact_id"]} | parameters))
    assert not at.exception
    if said is None:
        assert not at.error
    else:
        assert any(said in box.value.replace("\\", "") for box in at.error)


def test_a_model_that_is_not_there_gets_a_sentence(tmp_path):
    at = lab(model="another model")
    next(box for box in at.text_input if box.key == "folder").set_value(str(tmp_path))
    at.run()
    assert not at.exception
    assert any("no config.json" in box.value.replace("\\", "") for box in at.error)


def test_a_permalink_restores_the_experiment_in_a_new_session(fact):
    at = press(lab(fact=fact["fact_id"], kind="Amplify", factor="4"), "Run the experiment")
    again = lab(fact=fact["fact_id"], kind="Amplify", factor="4", run="1")
    assert outcome(again) == outcome(at)
    assert outcome(again).experiment.interventions[0].factor == 4.0


def test_two_visitors_do_not_see_each_others_changes(atlas, subject, fact):
    new = atlas.query_one(
        "SELECT object FROM facts WHERE relation_id = $r AND object <> $o ORDER BY object DESC",
        {"r": fact["relation_id"], "o": fact["object"]},
    )["object"]
    one = press(lab(fact=fact["fact_id"], kind="Edit", new=new), "Run the experiment")
    two = press(lab(fact=fact["fact_id"], kind="Amplify", factor="1"), "Run the experiment")
    edited, untouched = outcome(one), outcome(two)
    assert [t.before for t in edited.trials] == [t.before for t in untouched.trials]
    # Amplifying by 1 is no change: the second visitor's model is the one on disk.
    assert [t.after for t in untouched.trials] == [t.before for t in untouched.trials]
    assert [t.after for t in edited.trials] != [t.before for t in edited.trials]
    alone = subject.predict([t.prompt for t in untouched.trials], top_k=100)
    assert alone == [t.before for t in untouched.trials]
    # The first visitor's page still shows their edit after the second one's run.
    one.run()
    assert outcome(one) == edited


def test_text_from_visitors_is_never_markdown(fact):
    at = lab(
        ask="My own prompts", prompts="The **capital** of [France](http://x) is [Y] [Y].", answer="Paris"
    )
    assert any("\\*\\*capital\\*\\*" in box.value for box in at.error)


def test_changed_settings_wait_for_the_button(fact):
    at = press(lab(fact=fact["fact_id"]), "Run the experiment")
    before = outcome(at)
    next(box for box in at.segmented_control if box.key == "kind").set_value("Erase")
    at.run()
    assert outcome(at) == before
    assert not at.success
    assert any("settings have changed" in text.value for text in at.caption)
    press(at, "Run the experiment")
    assert outcome(at) != before


def test_an_answer_can_be_asked_of_several_prompts_at_once(subject, prompts):
    # What the Lab relies on: the order of predictions is the order of prompts.
    shuffled = prompts[::-1]
    assert subject.predict(shuffled) == subject.predict(prompts)[::-1]
    assert subject.predict([replace(prompts[0], fact_id="x")]) == subject.predict(prompts[:1])
