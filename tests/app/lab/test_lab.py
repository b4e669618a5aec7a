"""The Lab as visitors use it, with the model that comes with the project: numbers, links, errors, limits."""

import json
import shutil
import threading
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from atlas import queries
from atlas.errors import AtlasError
from atlas.experiments import documents
from atlas.experiments.controls import experiment_prompts
from atlas.experiments.experiment import Experiment
from atlas.interventions import Amplify, Edit, Erase, Patch, SetTo, Suppress
from atlas.models import CACHE_VARIABLE
from atlas.neuron import PROMPT_GROUPS, ExperimentPrompt, Neuron, Prompt
from atlas.numbers import signed_percent
from atlas.store.atlas import DATA, bundled, open_atlas

pytest.importorskip("torch")
from streamlit.testing.v1 import AppTest

from app.lab import tables
from app.lab.run import show_progress
from app.shared.texts import parted
from tests.app.pages import MAIN, html, labels, only_atlas, press, replace_tables

ATLAS = "starter-pocket-bert"
# Fewer controls than a visitor starts with: every test here runs experiments.
QUICK = {"draws": 2, "neighbours": 2, "unrelated": 3}
RUN, AGAIN = "Run the experiment", "Run again"


@pytest.fixture(scope="module")
def atlas():
    with open_atlas(bundled()[ATLAS]) as opened:
        yield opened


@pytest.fixture(scope="module")
def subject():
    from app.shared import resources

    return resources.subject("pocket-bert")


@pytest.fixture(scope="module")
def fact(atlas):
    """A known fact with few neurons, whose relation has other objects."""
    return atlas.query_one("""
        SELECT * FROM facts WHERE known AND relation_id = 'P36' AND n_neurons BETWEEN 5 AND 60
        ORDER BY fact_id
    """)


@pytest.fixture(scope="module")
def other_answer(atlas, fact):
    return atlas.query_one(
        "SELECT object FROM facts WHERE relation_id = $r AND object <> $o ORDER BY object",
        {"r": fact["relation_id"], "o": fact["object"]},
    )["object"]


@pytest.fixture(scope="module")
def neurons(atlas, fact):
    rows = atlas.query(
        "SELECT layer, neuron FROM knowledge_neurons WHERE fact_id = $f ORDER BY ALL", {"f": fact["fact_id"]}
    )
    return tuple(Neuron(int(row.layer), int(row.neuron)) for row in rows.itertuples())


@pytest.fixture(scope="module")
def prompts(atlas, fact):
    return [item.prompt for item in experiment_prompts(atlas, fact["fact_id"])]


@pytest.fixture(scope="module")
def discovery(atlas, fact):
    return [item.prompt for item in experiment_prompts(atlas, fact["fact_id"]) if item.group == "asked"]


def lab(*, quick: bool = True, session: dict | None = None, **parameters: str) -> AppTest:
    """A new visitor who opens a permalink to the Lab."""
    at = AppTest.from_file(str(MAIN), default_timeout=120)
    for name, value in (QUICK if quick else {}).items():
        at.session_state[f"lab_{name}"] = value
    for name, value in (session or {}).items():
        at.session_state[name] = value
    at.query_params["atlas"] = ATLAS
    at.run()
    return visit(at, "lab", **parameters)


def visit(at: AppTest, page: str, **parameters: str) -> AppTest:
    at.switch_page(f"{page}/page.py")
    at.query_params.clear()
    for name, value in {"atlas": ATLAS, **parameters}.items():
        at.query_params[name] = value
    at.run()
    assert not at.exception
    return at


def widget(widgets, key: str):
    return next(each for each in widgets if each.key == key)


def first_change(at: AppTest) -> int:
    return at.session_state["lab_changes"][0]


def set_kind(at: AppTest, kind: str, number: int | None = None, **settings) -> AppTest:
    """Choose what a change does (the first one's if none is named), with its numbers."""
    number = number or first_change(at)
    if "new" in settings:  # AppTest cannot type what is not offered; the box comes with the kind
        at.session_state[f"lab_new_{number}"] = settings.pop("new")
    widget(at.selectbox, f"lab_kind_{number}").set_value(kind)
    at.run()
    for name, value in settings.items():
        widget(at.number_input, f"lab_{name}_{number}").set_value(value)
    if settings:
        at.run()
    assert not at.exception
    return at


def link(at: AppTest) -> str:
    value = at.query_params["x"]
    return value if isinstance(value, str) else value[0]


def said(boxes) -> str:
    return " ".join(box.value.replace("\\", "") for box in boxes)


def done(at: AppTest):
    """The run whose results are on the screen."""
    return at.session_state["lab_run"]


def table_with(at: AppTest, column: str):
    return next(frame.value for frame in at.dataframe if column in frame.value.columns)


def tick(at: AppTest, names: list[str]) -> AppTest:
    """Leave ticks at these neurons only."""
    listed = list(table_with(at, "neuron")["neuron"])
    key = next(each.key for each in at.dataframe if (each.key or "").startswith("lab_ticks_"))
    rows = [listed.index(name) for name in names]
    at.session_state[key] = {"selection": {"rows": rows, "columns": [], "cells": []}}
    return at.run()


# From a sentence to another answer -------------------------------------------------------------------


def type_sentence(at: AppTest, text: str) -> AppTest:
    widget(at.text_input, "lab_sentence").set_value(text).run()
    assert not at.exception
    return at


def test_a_sentence_is_answered_before_anything_else_is_asked(subject):
    at = type_sentence(lab(), "The country of France is governed from")
    asked = subject.prompt("The country of France is governed from [Y].", "paris")
    top = subject.predict([asked])[0].top
    shown = next(text.value for text in at.markdown if text.value.startswith("##### →"))
    for token, probability in top[:5]:
        assert f"{token} :gray[{probability:.0%}]" in shown.replace("*", "")
    assert f"**{top[0][0]}**" in shown
    assert "Forget" in labels(at)


def test_a_sentence_of_the_atlas_asks_about_its_fact_in_all_its_wordings(fact, prompts):
    text = next(each for each in prompts if each.ends_with_answer).before
    at = type_sentence(lab(), f"  {text.lower()} ")
    assert at.session_state["lab_fact"] == fact["fact_id"]
    asked = [
        item.prompt
        for item in documents.from_link(link(at)).prompts
        if item.prompt.fact_id == fact["fact_id"]
    ]
    assert set(asked) == set(prompts)
    type_sentence(at, "The moon is made of")
    assert at.session_state["lab_fact"] is None
    assert "fact" not in at.query_params


def test_forgetting_a_typed_sentence_finds_its_neurons_and_flips_the_answer(subject, fact):
    from atlas.experiments.run import find_neurons

    sentence = f"Everyone knows that the capital of {fact['subject']} is called"
    at = press(type_sentence(lab(), sentence), "Forget")
    run = done(at)
    before = run.outcome.prompts[0].before.top_token
    asked = subject.prompt(f"{sentence} [Y].", before)
    assert run.experiment.interventions == (Suppress(find_neurons(subject, [asked]).chosen),)
    after = subject.predict([asked], interventions=[run.experiment.interventions])
    assert run.outcome.prompts[0].after.top_token == after[0].top_token
    said_now = next(text.value for text in at.markdown if text.value.startswith("## "))
    assert after[0].top_token in said_now.replace("\\", "")
    assert "With as many random neurons of the same layers" in said(at.markdown)


def test_every_verb_is_a_button_that_runs(atlas, fact, neurons, other_answer):
    at = press(lab(fact=fact["fact_id"]), "Boost")
    assert done(at).experiment.interventions == (Amplify(neurons, 3.0),)
    at.session_state["lab_rewrite"] = other_answer
    press(at, "Rewrite")
    uncommon = queries.uncommon_neurons(atlas, neurons, fact_id=fact["fact_id"])
    assert 0 < len(uncommon) < len(neurons)
    assert done(at).experiment.interventions == (Edit(uncommon, fact["object"], other_answer, 1.0, 2.0),)
    widget(at.number_input, "lab_set_to").set_value(0.5)
    press(at, "Set")
    assert done(at).experiment.interventions == (SetTo(neurons, 0.5),)
    widget(at.text_input, "lab_take_from").set_value("The capital of Italy is [Y].")
    press(at, "Take")
    assert done(at).experiment.interventions == (Patch(neurons, "The capital of Italy is [Y]."),)
    assert done(at).outcome.undo_is_exact


@pytest.mark.parametrize(
    ("text", "says"), [("[Y] and [Y]", "2 places for the answer"), ("very " * 90, "reads at most 64")]
)
def test_a_prompt_to_take_from_that_cannot_be_read_gets_a_sentence(fact, text, says):
    at = lab(fact=fact["fact_id"])
    widget(at.text_input, "lab_take_from").set_value(text)
    press(at, "Take")
    assert says in said(at.error)
    assert "lab_run" not in at.session_state
    assert not at.run().error


def test_what_a_causal_model_writes_stands_in_three_columns_and_never_as_markup(
    tiny_gpt2, set_limits, monkeypatch
):
    from atlas.experiments import generate
    from atlas.surgery.subject import load_subject

    set_limits("tokens = 30")
    given = []

    def hostile(*arguments, **options):
        texts = write_texts(*arguments, **options)
        given.append(options["n_tokens"])
        return replace(texts, after=replace(texts.after, text=" <b>x</b> **y** [z](http://a)"))

    write_texts = generate.write_texts
    monkeypatch.setattr(generate, "write_texts", hostile)
    session = {"lab_given": {Neuron(0, n): "typed" for n in range(40)}, "lab_tokens": 30}
    sentence = "the capital of france is"
    at = press(lab(session=session, model=str(tiny_gpt2), prompts=sentence, answer="paris"), "Forget")
    blocks = [each for each in html(at) if 'class="asked"' in each]
    assert len(blocks) == 3
    own = load_subject(str(tiny_gpt2))
    as_it_was = generate.generate(own, own.prompt(sentence, "paris"), n_tokens=30)
    assert parted(as_it_was, asked=f"{sentence} ") == blocks[0]
    assert "&lt;b&gt;x&lt;/b&gt;" in blocks[1]
    assert "<b>" not in "".join(blocks)
    assert given == [30]
    widget(at.number_input, "lab_tokens").set_value(31)  # as only a program would
    press(at, AGAIN)
    assert given[1] <= 30


def test_work_that_takes_longer_than_the_limit_is_stopped_with_a_sentence(subject, fact, set_limits):
    set_limits("model_seconds = 0.001")
    at = press(lab(fact=fact["fact_id"]), RUN)
    assert "stopped after 0.001 s (model_seconds)" in said(at.error)
    assert "lab_run" not in at.session_state
    assert not subject.lock.busy


def test_an_experiment_that_the_atlas_gives_has_a_short_link(fact, neurons, other_answer):
    at = press(lab(quick=False, fact=fact["fact_id"]), "Boost")
    assert "x" not in at.query_params
    short = {name: at.query_params[name] for name in ("fact", "change", "run")}
    assert short == {"fact": fact["fact_id"], "change": "amplify:3", "run": "1"}
    other = lab(quick=False, **short)
    assert done(other).experiment == done(at).experiment
    assert done(other).outcome == done(at).outcome
    # With fewer neurons it has a long one.
    tick(at, [str(neuron) for neuron in neurons[1:]])
    assert documents.from_link(link(at)).neurons == neurons[1:]


def test_a_link_without_the_new_answer_opens_the_changes_and_runs_with_one(fact, other_answer):
    at = lab(quick=False, fact=fact["fact_id"], change="edit")
    assert "lab_run" not in at.session_state
    assert box_is_open(at, "Several changes, strengths, controls")
    number = first_change(at)
    at.session_state[f"lab_new_{number}"] = other_answer
    press(at.run(), RUN)
    short = {name: at.query_params[name] for name in ("fact", "change", "run")}
    assert short["change"] == f"edit:{other_answer}"
    assert done(lab(quick=False, **short)).experiment.interventions == done(at).experiment.interventions


@pytest.mark.parametrize(
    "change",
    ["explode", "amplify:many", "set:nan", "amplify:1e99", "erase:all", "patch:", "patch:no gap", "edit: "],
)
def test_a_short_link_that_cannot_be_read_gets_a_sentence(fact, change):
    at = lab(fact=fact["fact_id"], change=change, run="1")
    assert at.error or "missing" in run_button(at).label
    assert "lab_run" not in at.session_state


def test_what_else_flipped_is_listed_worst_first(fact):
    at = press(lab(fact=fact["fact_id"]), "Forget")
    outcome = done(at).outcome
    flips = tables.flip_rows(outcome)
    others = [each for each in outcome.prompts if each.group in ("neighbours", "unrelated")]
    flipped = [each for each in others if each.before.top_token != each.after.top_token]
    assert set(flips["text"]) == {each.prompt.text for each in flipped}
    falls = list(flips["before"] - flips["after"])
    assert falls == sorted(falls, reverse=True)
    assert f"{len(flips)} of {len(others)} other fact" in said(at.markdown)


# The numbers -----------------------------------------------------------------------------------------


def test_a_fact_is_suppressed_in_one_click_with_the_librarys_numbers(subject, fact, neurons, prompts):
    at = press(lab(fact=fact["fact_id"]), RUN)
    assert not at.error
    rows = table_with(at, "says_after").iloc[: len(prompts)]
    shown = next(frame for frame in at.dataframe if "says_after" in frame.value)
    assert list(shown.proto.column_order)[:2] == ["text", "group"]
    before = subject.predict(prompts)
    with subject.applied(Suppress(neurons)) as changed:
        after = changed.predict(prompts)
    assert list(rows["before"]) == pytest.approx([each.probability for each in before], rel=1e-5)
    assert list(rows["after"]) == pytest.approx([each.probability for each in after], rel=1e-5)
    assert list(rows["rank_after"]) == [each.rank for each in after]
    assert list(rows["says_after"]) == [each.top_token for each in after]
    assert "Exact undo" in said(at.caption)


def test_the_controls_always_stand_beside_the_result(fact, neurons):
    at = press(lab(fact=fact["fact_id"]), RUN)
    outcome = done(at).outcome
    assert {trial.group for trial in outcome.prompts} == {"asked", "paraphrases", "neighbours", "unrelated"}
    assert len(outcome.random_neurons) == QUICK["draws"]
    for draw in outcome.random_neurons:
        assert [n.layer for n in draw] == [n.layer for n in neurons]
        assert not set(draw) & set(neurons)
    shown = table_with(at, "first")
    summary = outcome.summary()
    assert list(shown["after"]) == [each.after for each in summary]
    assert list(shown["random"]) == pytest.approx([100 * each.random_change for each in summary])
    own = next(each for each in summary if each.group == "paraphrases")
    sentence = next(text.value for text in at.markdown if "takes the probability" in text.value)
    assert f"**{own.before:.3f}** to **{own.after:.3f}** ({signed_percent(own.change)})" in sentence
    assert f"random neurons of the same layers: {signed_percent(own.random_change)}" in sentence


def test_too_few_prompts_of_other_facts_are_counted(fact, tmp_path, monkeypatch):
    """Of the relation, the model answers the prompts of this fact and three others right."""
    folder = Path(shutil.copytree(bundled()[ATLAS], tmp_path / ATLAS))
    rows = pq.read_table(folder / "prompts.parquet").to_pandas()
    others = rows["fact_id"].str.startswith("P36:") & (rows["fact_id"] != fact["fact_id"])
    right = ["P36:norway", "P36:japan", "P36:kenya"]
    rows.loc[others & ~rows["fact_id"].isin(right), "rank"] = 2
    replace_tables(folder, prompts=pa.Table.from_pandas(rows, preserve_index=False))
    only_atlas(monkeypatch, folder)
    at = lab(fact=fact["fact_id"], session={"lab_neighbours": 6})
    near = [i.prompt for i in documents.from_link(link(at)).prompts if i.group == "neighbours"]
    assert sorted(prompt.fact_id for prompt in near) == sorted(right)
    assert "Only 3 of 6 prompts of the same relation: no more are answered right." in said(at.caption)
    assert "on unrelated facts" not in said(at.caption)
    widget(at.number_input, "lab_neighbours").set_value(3)
    at.run()
    assert "Only 3" not in said(at.caption)


def test_the_ten_likeliest_answers_are_shown_for_the_chosen_prompt(subject, fact, neurons):
    at = press(lab(fact=fact["fact_id"]), RUN)
    prompt = widget(at.selectbox, "lab_trial")
    assert "Held-out" in prompt.options[0]
    at = prompt.select_index(1).run()
    trial = [each for each in done(at).outcome.prompts if each.group == "paraphrases"][1]
    after = subject.predict([trial.prompt], interventions=[Suppress(neurons)], top_k=100)[0]
    rows = table_with(at, "moved")
    assert list(rows["after"]) == [token.strip() or repr(token) for token, _ in after.top[:10]]
    assert list(rows["p_after"]) == pytest.approx([p for _, p in after.top[:10]], rel=1e-5)
    then = table_with(at, "becomes")
    for row in then.itertuples():
        place = next((n for n, (token, _) in enumerate(after.top, 1) if token.strip() == row.before), None)
        assert row.becomes == tables.moved(row.rank, place, n_ranked=100)


def test_an_edit_makes_the_new_answer_rise(fact, other_answer):
    at = set_kind(lab(fact=fact["fact_id"]), "edit", new=other_answer)
    press(at, RUN)
    assert done(at).experiment.interventions == (
        Edit(done(at).experiment.neurons, fact["object"], other_answer, 1.0, 2.0),
    )
    rows = table_with(at, "new_after").dropna(subset="new_after")
    assert (rows["new_after"] > 10 * rows["new_before"]).all()
    assert (rows["new_rank_after"] < rows["new_rank_before"]).all()
    # Random neurons stand beside it: in the sentence, prompt by prompt, and below the chosen prompt.
    new = next(each for each in done(at).outcome.new_summary() if each.group == "paraphrases")
    assert len(done(at).outcome.of_group("paraphrases")[0].new_random) == QUICK["draws"]
    assert new.random < new.after
    sentence = next(text.value for text in at.markdown if "The new answer" in text.value)
    assert other_answer in sentence
    assert f"from **{new.before:.3f}** to **{new.after:.3f}**" in sentence
    assert f"rank 1 on {new.rank_1_after} of {new.n_prompts}; with as many random neurons" in sentence
    assert f": {new.random:.3f}, rank 1 on {round(new.rank_1_random, 1):g} of {new.n_prompts}." in sentence
    own = rows[rows["group"] == PROMPT_GROUPS["paraphrases"]]
    assert own["new_random"].mean() == pytest.approx(new.random)
    assert f"with random neurons {own['new_random'].iloc[0]:.4f}." in said(at.caption)


def test_the_dose_response_curve_has_the_librarys_numbers(subject, fact):
    from atlas.experiments.run import dose_response

    at = press(lab(fact=fact["fact_id"]), RUN)
    press(at, "Measure the curve")
    _, doses = at.session_state["lab_doses"]
    assert doses == dose_response(subject, done(at).experiment)
    assert "Measure the curve" not in labels(at)
    unchanged = {each.group: each.probability for each in doses if each.factor == 1.0}
    for each in done(at).outcome.summary():
        assert unchanged[each.group] == pytest.approx(each.before, rel=1e-5)


def test_the_path_of_a_score_is_drawn_and_its_ends_are_the_layers_sum(fact):
    at = press(lab(fact=fact["fact_id"]), RUN)
    press(at, "Follow the path")
    (attribution,) = next(iter(at.session_state["lab_paths"].values())).values()
    layer = int(attribution.scores.max(axis=1).argmax())
    assert widget(at.selectbox, f"lab_layer_{layer}").value == layer
    total = attribution.scores[layer].sum()
    assert any(f"add up to **{total:+.4f}**" in text.value for text in at.markdown)


# Neurons ---------------------------------------------------------------------------------------------


def test_neurons_are_found_live_and_can_be_deselected(subject, fact, discovery):
    from atlas.experiments.run import find_neurons

    at = press(lab(fact=fact["fact_id"]), "Find them live")
    wanted = find_neurons(subject, discovery)
    names = [str(item.neuron) for item in wanted.neurons]
    assert list(table_with(at, "neuron")["neuron"]) == names
    tick(at, names[1:])
    press(at, RUN)
    assert {str(neuron) for neuron in done(at).experiment.neurons} == set(names[1:])
    assert any(f"{len(names) - 1} of {len(names)} selected" in text.value for text in at.caption)


def test_neurons_of_negative_examples_are_left_out_of_what_is_found_live(atlas, subject, fact, discovery):
    from atlas.experiments.run import find_neurons

    alike = queries.facts_sharing_neurons(atlas, fact["fact_id"]).iloc[0]
    others = [item.prompt for item in experiment_prompts(atlas, alike["fact_id"]) if item.group == "asked"]
    text, answer = "\n".join(prompt.text for prompt in others[:2]), alike["object"]
    at = lab(fact=fact["fact_id"], session={"lab_negatives": text, "lab_negative_answer": answer})
    press(at, "Find them live")
    negatives = [subject.prompt(line, answer) for line in text.splitlines()]
    wanted = find_neurons(subject, discovery, negatives=negatives)
    names = {str(item.neuron) for item in find_neurons(subject, discovery).neurons}
    left = [str(item.neuron) for item in wanted.neurons]
    assert set(left) < names
    assert list(table_with(at, "neuron")["neuron"]) == left
    assert "Without those of 2 negative prompts" in said(at.caption)
    # Other examples are another search.
    widget(at.text_input, "lab_negative_answer").set_value(f"not {answer}")
    at.run()
    assert "Without those of" not in said(at.caption)
    widget(at.text_area, "lab_negatives").set_value("no place for an answer")
    at.run()
    assert "0 places for the answer" in said(at.error)


def test_a_deselected_neuron_stays_deselected(fact, neurons):
    at = lab(fact=fact["fact_id"])
    tick(at, [str(neuron) for neuron in neurons[1:]])
    visit(at, "neuron", neuron="L0.N1")
    visit(at, "lab")
    assert f"suppress {len(neurons) - 1} neurons" in said(at.markdown)
    at.session_state["lab_given"] = {Neuron(0, 1): "typed"}
    at.run()
    widget(at.button_group, "lab_sources").set_value(["atlas", "given"])
    at.run()
    assert f"suppress {len(neurons)} neurons" in said(at.markdown)


def test_neurons_come_from_the_tray(fact):
    from app.shared import resources

    key = resources.subject("pocket-bert").weights_sha256
    inside = {Neuron(0, 7): "France → Paris", Neuron(2, 9): ""}
    at = lab(fact=fact["fact_id"], source="tray", session={"trays": {key: inside}})
    assert setup_is_open(at)
    rows = table_with(at, "neuron")
    assert list(rows["neuron"]) == ["L0.N7", "L2.N9"]
    assert list(rows["origin"]) == ["France → Paris", "the tray"]
    press(at, RUN)
    assert done(at).experiment.neurons == tuple(inside)


def test_the_tray_that_is_filled_on_a_page_is_used_in_the_lab(fact, neurons):
    at = visit(lab(), "fact", fact=fact["fact_id"])
    next(button for button in at.button if "tray" in button.label).click().run()
    press(at, "Use in the Lab")
    assert set(table_with(at, "neuron")["neuron"]) == {str(neuron) for neuron in neurons}
    assert documents.from_link(link(at)).fact_id == fact["fact_id"]
    # Another fact, opened in the Lab, has its own neurons again.
    visit(at, "fact", fact="P36:france")
    visit(at, "lab", fact="P36:france")
    assert at.session_state["lab_sources"] == ["atlas"]


def test_neurons_are_added_by_name_or_refused_in_a_sentence(fact, neurons):
    at = lab(fact=fact["fact_id"])
    widget(at.text_input, "lab_names").set_value("L0.N5, L2.N11")
    at.run()
    assert f"suppress {len(set(neurons) | {Neuron(0, 5), Neuron(2, 11)})} neurons" in said(at.markdown)
    widget(at.text_input, "lab_names").set_value("L7.N5")
    at.run()
    assert "has no neuron L7.N5" in said(at.error)
    assert widget(at.text_input, "lab_names").value == "L7.N5"


# The list of changes ---------------------------------------------------------------------------------


def test_changes_are_added_moved_and_removed(fact, neurons, other_answer):
    at = lab(fact=fact["fact_id"])
    press(at, "Add a change")
    one, two = at.session_state["lab_changes"]
    set_kind(at, "edit", two, new=other_answer, add=4.0)
    set_kind(at, "amplify", one, factor=3.0)
    own = [str(neuron) for neuron in neurons[:2]]
    widget(at.toggle, f"lab_whose_{one}").set_value(True)
    at.run()
    widget(at.multiselect, f"lab_its_own_{one}").set_value(own)
    at.run()
    amplify = Amplify(tuple(neurons[:2]), 3.0)
    edit = Edit(neurons, fact["object"], other_answer, 1.0, 4.0)
    assert documents.from_link(link(at)).interventions == (amplify, edit)
    widget(at.button, f"lab_Later_{one}").click().run()
    press(at, RUN)
    assert done(at).experiment.interventions == (edit, amplify)
    widget(at.button, f"lab_remove_change_{two}").click().run()
    assert documents.from_link(link(at)).interventions == (amplify,)


def run_button(at: AppTest):
    return widget(at.button, "lab_run_button")


def test_an_incomplete_change_cannot_be_run_and_the_button_names_the_field(fact, other_answer):
    at = set_kind(lab(fact=fact["fact_id"]), "edit")
    assert run_button(at).disabled
    assert run_button(at).label == f"{RUN} (missing: New answer)"
    assert "x" not in at.query_params
    press(at, "Add a change")
    widget(at.toggle, f"lab_whose_{at.session_state['lab_changes'][1]}").set_value(True)
    at.run()
    widget(at.multiselect, f"lab_its_own_{at.session_state['lab_changes'][1]}").set_value([])
    at.run()
    assert run_button(at).label == f"{RUN} (missing: New answer of change 1, Neurons of change 2)"
    set_kind(at, "edit", new=other_answer)
    widget(at.text_input, f"lab_old_{first_change(at)}").set_value(" ")
    at.run()
    assert run_button(at).label == f"{RUN} (missing: Old answer of change 1, Neurons of change 2)"


@pytest.mark.parametrize(
    ("parameters", "missing"),
    [
        ({}, "A sentence"),
        ({"answer": "Paris"}, "A sentence"),
        ({"prompts": "[Y] or [Y]?", "answer": "Paris"}, "a sentence that the model can read"),
        ({"prompts": "The capital of a country is", "answer": "Paris"}, "Neurons"),
        ({"model": "another model"}, "Model"),
    ],
)
def test_the_run_button_is_there_from_the_start_and_names_what_is_missing(parameters, missing):
    at = lab(**parameters)
    assert run_button(at).disabled
    assert run_button(at).label == f"{RUN} (missing: {missing})"


def test_changed_settings_wait_for_the_button(fact):
    at = press(lab(fact=fact["fact_id"]), RUN)
    before = done(at)
    set_kind(at, "erase")
    assert done(at) == before
    assert "The set-up has changed" in said(at.info)
    assert "run" not in at.query_params
    press(at, RUN)
    assert done(at).outcome != before.outcome
    assert "The set-up has changed" not in said(at.info)


def test_an_earlier_run_is_brought_back_with_its_settings(fact):
    at = press(set_kind(lab(fact=fact["fact_id"]), "amplify", factor=4.0), RUN)
    first = done(at)
    press(set_kind(at, "suppress"), RUN)
    rows = table_with(at, "unrelated_change")
    assert list(rows["changes"]) == [
        f"suppress {len(first.experiment.neurons)} neurons",
        f"multiply {len(first.experiment.neurons)} neurons by 4",
    ]
    assert "Restore a run (missing: a row of the table)" in labels(at)
    key = next(each.key for each in at.dataframe if (each.key or "").startswith("lab_notebook_"))
    at.session_state[key] = {"selection": {"rows": [1], "columns": [], "cells": []}}
    at.run()
    press(at, "Restore run 1")
    assert done(at) == first
    assert documents.from_link(link(at)) == first.experiment
    assert widget(at.number_input, f"lab_factor_{first_change(at)}").value == 4.0


# Links and files -------------------------------------------------------------------------------------


def test_a_link_restores_everything_in_a_new_session_and_gives_the_same_result(fact, neurons):
    at = lab(fact=fact["fact_id"])
    tick(at, [str(neuron) for neuron in neurons[2:]])
    set_kind(at, "amplify", factor=4.0)
    press(at, RUN)
    other = lab(quick=False, x=link(at), run="1")
    assert not other.error
    assert done(other).experiment == done(at).experiment
    assert done(other).outcome == done(at).outcome
    assert link(other) == link(at)
    assert widget(other.selectbox, "lab_fact").value == fact["fact_id"]
    assert widget(other.number_input, f"lab_factor_{first_change(other)}").value == 4.0
    assert other.session_state["lab_off"] == {str(neuron) for neuron in neurons[:2]}


def test_a_link_without_run_waits_for_the_button(fact):
    at = lab(fact=fact["fact_id"])
    other = lab(quick=False, x=link(at))
    assert "lab_run" not in other.session_state
    assert RUN in labels(other)


def test_a_link_asks_its_own_prompts_even_where_the_atlas_has_others(neurons):
    asked = (
        ExperimentPrompt("asked", Prompt("", "", "The capital of France is [Y].", "Paris")),
        ExperimentPrompt("paraphrases", Prompt("", "", "The capital city of France is called [Y].", "Paris")),
        ExperimentPrompt("unrelated", Prompt("P30-x", "t", "Kenya belongs to the continent [Y].", "Africa")),
    )
    experiment = Experiment((Suppress(neurons[:3]),), asked, draws=1, model="pocket-bert")
    at = lab(quick=False, x=documents.to_link(experiment), run="1")
    assert tuple(trial.prompt for trial in done(at).outcome.prompts) == tuple(i.prompt for i in asked)
    assert widget(at.text_input, "lab_sentence").value == "The capital of France is [Y]."
    # From the first change on, it is the set-up's own experiment.
    set_kind(at, "erase")
    press(at, RUN)
    assert [trial.group for trial in done(at).outcome.prompts].count("unrelated") == 1
    assert done(at).outcome.prompts[-1].prompt.text != asked[-1].prompt.text


def test_the_file_holds_the_results_and_opens_in_another_session(fact):
    at = press(lab(fact=fact["fact_id"]), RUN)
    text = documents.to_json(done(at).experiment, done(at).outcome.results)
    other = lab(quick=False)
    other.file_uploader[0].set_value(("experiment.json", text.encode(), "application/json")).run()
    assert not other.exception
    assert not other.error
    press(other, RUN)
    assert done(other).outcome == done(at).outcome


def test_a_file_that_is_not_an_experiment_gets_a_sentence():
    at = lab()
    at.file_uploader[0].set_value(("x.json", json.dumps({"a": 1}).encode(), "application/json")).run()
    assert "is not an experiment" in said(at.error)
    assert not at.exception


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"fact": "P36-nowhere"}, "has no fact"),
        ({"x": "nonsense"}, "link is not an experiment"),
        ({"x": "A" * 400_000}, "characters, more than"),
        ({"model": "no/such/model/../.."}, "neither a folder nor a model"),
        ({"source": "elsewhere"}, ""),
        ({"run": "7"}, ""),
    ],
)
def test_a_bad_permalink_gets_a_sentence_or_the_default(parameters, message):
    at = lab(**parameters)
    assert message in said(at.error)
    assert bool(message) == bool(at.error)


def test_a_broken_link_still_asks_about_its_fact(fact):
    at = lab(fact=fact["fact_id"], x="nonsense", run="1")
    assert "link is not an experiment" in said(at.error)
    assert RUN in labels(at)
    assert not at.run().error
    assert documents.from_link(link(at)).fact_id == fact["fact_id"]


def test_a_link_made_with_other_weights_says_so(fact):
    experiment = documents.from_link(link(lab(fact=fact["fact_id"])))
    at = lab(x=documents.to_link(replace(experiment, weights_sha256="0" * 64)), run="1")
    assert "The link was made with other weights (000000000000)" in said(at.markdown)
    assert done(at).outcome.experiment.weights_sha256 == experiment.weights_sha256


def test_a_link_beyond_the_limits_is_refused(fact, set_limits):
    experiment = documents.from_link(link(lab(fact=fact["fact_id"])))
    set_limits("demo_mode = true\nstrength = 50\n")
    for change in (
        {"draws": 21},
        {"model": ""},
        {"interventions": (Amplify(experiment.neurons, 99.0),)},
        {"interventions": (SetTo(experiment.neurons, -99.0),)},
        {"interventions": (Patch(experiment.neurons, "x" * 500 + "[Y]"),)},
    ):
        with pytest.raises(AtlasError):
            tables.check_limits(replace(experiment, **change))
    tables.check_limits(experiment)


def test_a_link_that_sets_and_patches_activations_opens_in_the_lab(fact, subject):
    experiment = documents.from_link(link(lab(fact=fact["fact_id"])))
    own = experiment.neurons
    changes = (SetTo(own[:2], -1.5), Patch(own, "The capital of *Italy* is [Y]."))
    at = lab(x=documents.to_link(replace(experiment, interventions=changes)), run="1")
    assert done(at).experiment.interventions == changes
    assert done(at).outcome.undo_is_exact
    assert documents.from_link(link(at)).interventions == changes
    assert "set 2 neurons to -1.5, then take" in said(at.markdown)
    assert "from “The capital of *Italy* is [Y].”" in said(at.markdown)
    # Its settings can be changed.
    first, second = at.session_state["lab_changes"]
    set_kind(at, "set", first, value=2.0)
    widget(at.text_input, f"lab_from_prompt_{second}").set_value("").run()
    assert "missing: A prompt of change 2" in run_button(at).label
    set_kind(at, "erase", second)
    assert documents.from_link(link(at)).interventions == (SetTo(own[:2], 2.0), Erase(own))


# Typed prompts and bad input -------------------------------------------------------------------------


def test_typed_prompts_are_experimented_on():
    text = "The capital of France is [MASK].\nThe capital city of France is [Y]."
    at = press(lab(prompts=text, answer="Paris"), "Find them live")
    press(at, RUN)
    outcome = done(at).outcome
    assert [trial.prompt.text for trial in outcome.of_group("asked")] == [
        "The capital of France is [Y].",
        "The capital city of France is [Y].",
    ]
    assert "paris" not in {trial.prompt.answer.lower() for trial in outcome.of_group("unrelated")}
    assert outcome.undo_is_exact


@pytest.mark.parametrize(
    ("prompts", "answer", "message"),
    [
        ("[MASK] or [MASK].", "Paris", "exactly one"),
        ("The capital of France is [Y].", "☃", "outside the vocabulary"),
        ("very " * 99 + "[Y].", "Paris", "tokens"),
        ("The **capital** of [France](http://x) is [Y] [Y].", "Paris", "**capital** of [France]"),
    ],
)
def test_a_bad_prompt_gets_a_sentence_and_what_was_typed_stays(prompts, answer, message):
    at = lab(prompts=prompts, answer=answer)
    assert message in said(at.error)
    assert "**capital**" not in " ".join(box.value for box in at.error)  # never as markdown
    assert widget(at.text_input, "lab_sentence").value == prompts
    assert widget(at.text_input, "lab_answer").value == answer
    widget(at.text_input, "lab_sentence").set_value("The capital of a country is")
    at.run()
    assert not at.error
    assert "Find them live" in labels(at)


def test_an_edit_to_a_word_outside_the_vocabulary_gets_a_sentence(fact):
    at = set_kind(lab(fact=fact["fact_id"]), "edit", new="☃")
    press(at, RUN)
    assert "outside the vocabulary" in said(at.error)
    assert RUN in labels(at)
    assert widget(at.selectbox, f"lab_new_{first_change(at)}").value == "☃"


def test_a_model_that_is_not_on_this_machine_is_offered(fact, tmp_path, monkeypatch):
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path))
    at = lab(atlas="starter-smollm2-135m", fact=fact["fact_id"], model="smollm2-135m")
    assert "Fetch smollm2-135m (93 MB, 542 MB on disk)" in labels(at)
    assert run_button(at).label == f"{RUN} (missing: Model)"


def test_the_lab_offers_the_atlas_s_own_model_first_and_says_what_it_costs(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    at = lab(atlas="pararel-bert-base-uncased")
    assert widget(at.selectbox, "lab_model").value == "another model"
    assert widget(at.text_input, "lab_folder").value == "bert-base-uncased"
    assert "Fetch bert-base-uncased from the hub (440 MB)" in labels(at)


def test_a_public_host_offers_its_own_models_for_any_atlas(demo):
    assert widget(lab(atlas="pararel-bert-base-uncased").selectbox, "lab_model").value == "pocket-bert"


def test_a_model_that_is_not_there_gets_a_sentence(tmp_path):
    at = lab(model="another model")
    widget(at.text_input, "lab_folder").set_value(str(tmp_path))
    at.run()
    assert not at.exception
    assert "no config.json" in said(at.error)


@pytest.mark.parametrize(
    "name", ["x" * 299, "x" * 400, "tests/" + "x" * 280, "~nobody-of-this-name/model", "a\0b"]
)
def test_a_models_name_that_the_system_refuses_gets_a_sentence(name):
    at = lab(model=name)
    assert not at.exception
    assert "cannot be used" in said(at.error)


def test_a_public_host_offers_its_models_only(demo, fact, tmp_path):
    at = lab(fact=fact["fact_id"], model=str(tmp_path))
    assert widget(at.selectbox, "lab_model").options == ["pocket-bert"]
    assert not [each for each in at.text_input if each.key == "lab_folder"]
    experiment = documents.from_link(link(at))
    for model in (str(tmp_path), "smollm2-135m", "bert-base-uncased"):
        refused = lab(x=documents.to_link(replace(experiment, model=model)), run="1")
        assert "This host offers" in said(refused.error)
        assert "lab_run" not in refused.session_state


# One model for all -----------------------------------------------------------------------------------


def test_two_visitors_do_not_see_each_others_changes(subject, fact, other_answer):
    one = press(set_kind(lab(fact=fact["fact_id"]), "edit", new=other_answer), RUN)
    two = press(set_kind(lab(fact=fact["fact_id"]), "amplify", factor=1.0), RUN)
    edited, untouched = done(one).outcome, done(two).outcome
    assert [t.before for t in edited.prompts] == [t.before for t in untouched.prompts]
    # Amplifying by 1 is no change: the second visitor's model is the one on disk.
    assert [t.after for t in untouched.prompts] == [t.before for t in untouched.prompts]
    assert [t.after for t in edited.prompts] != [t.before for t in edited.prompts]
    # The first visitor's page still shows their edit after the second one's run.
    one.run()
    assert done(one).outcome == edited


def test_a_waiting_visitor_sees_the_place_in_line(subject, fact, monkeypatch):
    messages: list[str] = []
    seen = threading.Event()

    def telling(place, title):
        with show_progress(place, title) as progress:

            def tell(share: float, message: str) -> None:
                messages.append(message)
                if message.startswith("Waiting"):
                    seen.set()
                progress(share, message)

            yield tell

    at = lab(fact=fact["fact_id"])
    monkeypatch.setattr("app.lab.run.show_progress", contextmanager(telling))
    held = threading.Event()

    def hold() -> None:
        with subject.lock:
            held.set()
            seen.wait(60)

    holder = threading.Thread(target=hold)
    holder.start()
    held.wait(60)
    press(at, RUN)
    holder.join()
    assert "Waiting in line behind one other" in messages
    assert done(at).outcome.undo_is_exact


def test_what_is_cancelled_leaves_nothing_behind(subject, fact, monkeypatch):
    from streamlit.runtime.scriptrunner import RerunData, RerunException, get_script_run_ctx

    at = lab(fact=fact["fact_id"])
    before = subject.predict([Prompt("", "", "The capital of France is [Y].", "Paris")])
    steps: list[str] = []

    def cancelled(place, title):
        with show_progress(place, title) as progress:

            def stop(share: float, message: str) -> None:
                steps.append(message)
                progress(share, message)
                if len(steps) == 3:
                    # What a click on Cancel does.
                    page = get_script_run_ctx().page_script_hash
                    raise RerunException(RerunData(page_script_hash=page))

            yield stop

    for module in ("run", "neurons"):
        monkeypatch.setattr(f"app.lab.{module}.show_progress", contextmanager(cancelled))
    for button in ("Find them live", RUN):
        steps.clear()
        press(at, button)
        assert len(steps) == 3
        assert not subject.lock.busy
        assert "lab_found" not in at.session_state
        assert "lab_run" not in at.session_state
        assert RUN in labels(at)
    assert subject.predict([Prompt("", "", "The capital of France is [Y].", "Paris")]) == before


# Coming and going ------------------------------------------------------------------------------------


def box_is_open(at: AppTest, label: str) -> bool:
    return next(each for each in at.expander if each.label == label).proto.expanded


def setup_is_open(at: AppTest) -> bool:
    return box_is_open(at, "Neurons")


def test_the_lab_opened_from_a_fact_has_everything_chosen(fact, neurons):
    at = lab(fact=fact["fact_id"])
    assert not setup_is_open(at)
    assert widget(at.text_input, "lab_sentence").value.startswith("The capital")
    experiment = documents.from_link(link(at))
    assert experiment.interventions == (Suppress(neurons),)
    assert experiment.fact_id == fact["fact_id"]
    assert experiment.atlas_id == ATLAS


def test_the_example_of_home_runs_in_one_click(monkeypatch):
    only_atlas(monkeypatch, DATA / ATLAS)
    at = AppTest.from_file(str(MAIN), default_timeout=120)
    at.query_params["atlas"] = ATLAS
    press(at.run(), "Do it live")
    assert done(at).outcome.undo_is_exact
    assert AGAIN in labels(at)


def test_the_lab_opened_without_a_question_offers_a_random_fact():
    at = press(lab(), "Take a random fact")
    assert RUN in labels(at)


def test_another_model_than_the_atlas_was_made_from_opens_the_set_up_and_finds_its_own_neurons(fact):
    other = next(name for name in bundled() if name != ATLAS)
    at = lab(atlas=other, fact=fact["fact_id"], model="pocket-bert")
    assert setup_is_open(at)
    assert "not of pocket-bert. Find the neurons live." in said(at.info)
    press(at, "Find them live")
    press(at, RUN)
    assert done(at).experiment.model == "pocket-bert"
    assert done(at).experiment.atlas_id == other
    assert "The atlas does not say which prompts pocket-bert answers right." in said(at.caption)


def test_settings_survive_other_pages_and_another_fact_starts_over(atlas, fact):
    at = set_kind(lab(fact=fact["fact_id"]), "amplify", factor=7.0)
    visit(at, "neuron", neuron="L0.N1")
    visit(at, "lab")
    assert "by 7" in said(at.markdown)
    other = atlas.query_one(
        "SELECT fact_id FROM facts WHERE n_neurons > 0 AND fact_id <> $f ORDER BY fact_id",
        {"f": fact["fact_id"]},
    )
    visit(at, "lab", fact=other["fact_id"])
    assert documents.from_link(link(at)).fact_id == other["fact_id"]
    assert isinstance(documents.from_link(link(at)).interventions[0], Suppress)
