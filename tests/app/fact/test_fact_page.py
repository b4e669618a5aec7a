"""The Fact page as Streamlit runs it: thresholds, a chosen neuron, facts that share; all of it in the URL."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from urllib.parse import unquote

import pandas as pd
import pytest
from streamlit.testing.v1 import AppTest

from app.fact import evidence as fact_evidence
from app.shared import thresholds
from app.shared.words import NOT_MEASURED, escape
from atlas import queries
from atlas.charts import effects as effect_charts
from atlas.charts import neurons as neuron_charts
from atlas.charts.look import CLICK, clickable, neuron_names
from atlas.neuron import Neuron
from atlas.numbers import signed_percent
from atlas.queries import evidence
from atlas.queries.subsets import half_effect
from atlas.refinement import mode, refine
from atlas.store.atlas import Atlas
from atlas.store.manifest import read_manifest, record_files, write_manifest
from tests.app.pages import html, linked, links, page, press, press_tray, replace_tables, words
from tests.chart_clicks import chart
from tests.sample_atlas import write_table

FACT = "P36-00001"
SUMMARY = re.compile(r"(\d+) neurons?(?:: (.*))?$", re.MULTILINE)


def fact_page(**parameters: str) -> AppTest:
    return page("fact", **{"fact": FACT, **parameters})


def table(app: AppTest) -> pd.DataFrame:
    """The table of its neurons, with the codes that its links lead to."""
    (found,) = [frame.value for frame in app.dataframe if "cell" in frame.value]
    return found.assign(neuron=linked(found["cell"], "neuron"))


def pairs(rows: pd.DataFrame) -> set[str]:
    return set(neuron_names(rows))


# Thresholds ------------------------------------------------------------------------------------------


def test_the_sliders_begin_where_the_atlas_was_made(a):
    app = fact_page()
    assert (app.slider(key="slider-t").value, app.slider(key="slider-p").value) == (0.2, 0.5)
    assert "t" not in app.query_params
    assert "change" not in table(app)
    assert set(table(app)["neuron"]) == pairs(queries.neurons_of_fact(a, FACT))


@pytest.mark.parametrize(("t", "p"), [(0.1, 0.25), (0.6, 0.75), (0.2, 1.0), (1.0, 1.0)])
def test_moving_a_slider_shows_which_neurons_come_and_go(t, p, a):
    app = fact_page()
    app.slider(key="slider-t").set_value(t)
    app.slider(key="slider-p").set_value(p).run()
    assert not app.exception
    before = pairs(queries.neurons_of_fact(a, FACT))
    after = pairs(queries.rethreshold(a, FACT, t, p))
    expected = {"kept": before & after, "added": after - before, "removed": before - after}
    told = [text.strip("*") for text in words(app).split("\n") if text.startswith("**")]
    ((total, parts),) = [match.groups() for text in told if (match := SUMMARY.match(text))]
    assert int(total) == len(after)
    counts = dict(reversed(part.split()) for part in parts.split(", ")) if parts else {}
    assert {k: int(n) for k, n in counts.items()} == {k: len(v) for k, v in expected.items() if v}
    if before | after:
        rows = table(app)
        assert {change: set(rows.loc[rows["change"] == change, "neuron"]) for change in expected} == expected
    assert app.query_params == {"fact": FACT} | ({} if t == 0.2 else {"t": f"{t:g}"}) | (
        {} if p == 0.5 else {"p": f"{p:g}"}
    )


def test_negative_examples_leave_out_what_other_facts_have_as_well(a):
    app = fact_page()
    app.slider(key="slider-n").set_value(2.0).run()
    assert app.query_params == {"fact": FACT, "n": "2"}
    before, after = (
        pairs(queries.neurons_of_fact(a, FACT)),
        pairs(queries.rethreshold(a, FACT, 0.2, 0.5, negatives=2)),
    )
    assert after < before
    rows = table(app)
    assert set(rows.loc[rows["change"] == "removed", "neuron"]) == before - after
    again = fact_page(n="2")
    assert table(again).equals(rows)


def test_an_atlas_made_with_strict_thresholds_gains_neurons(another_atlas):
    """The sample's own thresholds lose neurons when moved; these are moved the other way."""
    folder = another_atlas()
    with Atlas(folder) as loose:
        tables = [loose.query(f"FROM {table}") for table in ("attributions", "prompts", "facts")]
    rule = mode("default", threshold=0.6, share=0.75)
    write_table(folder, "knowledge_neurons", refine(*tables, rule).rows)
    manifest = read_manifest(folder)
    method = replace(manifest.method, refinement=rule.to_dict())
    write_manifest(folder, replace(manifest, method=method, files=record_files(folder)))
    with Atlas(folder) as strict:
        before = pairs(queries.neurons_of_fact(strict, FACT))
        after = pairs(queries.rethreshold(strict, FACT, 0.2, 0.5))
    assert before < after
    app = fact_page()
    assert (app.slider(key="slider-t").value, app.slider(key="slider-p").value) == (0.6, 0.75)
    app.slider(key="slider-t").set_value(0.2)
    app.slider(key="slider-p").set_value(0.5).run()
    rows = table(app)
    assert set(rows.loc[rows["change"] == "added", "neuron"]) == after - before
    assert "removed" not in set(rows["change"])


def test_the_sliders_stand_where_the_mode_found_the_relation_s_neurons(another_atlas):
    """The mode `paper` fits its share to each relation; `replication` takes what is more than a threshold."""
    folder = another_atlas()
    manifest = read_manifest(folder)
    for rule, shares in ((mode("paper"), {"P36": 0.85}), (mode("replication"), {})):
        recorded = {**rule.to_dict(), "shares": shares}
        changed = replace(manifest, method=replace(manifest.method, refinement=recorded))
        own = thresholds.atlas_thresholds(changed, "P36")
        assert (own.threshold, own.share) == (rule.threshold, shares.get("P36", rule.share))
        assert (own.at_least, own.inclusive) == (rule.at_least, rule.inclusive)
        assert thresholds.atlas_thresholds(changed, "P30").share == rule.share


def test_the_sample_s_thresholds_lose_neurons_when_moved(a):
    """Otherwise the test above would compare a set with itself."""
    stored = queries.neurons_of_fact(a, FACT)
    rows = thresholds.mark_changes(stored, queries.rethreshold(a, FACT, 0.6, 0.75))
    assert set(rows["change"]) == {"kept", "removed"}


def test_the_way_back_to_the_atlas_s_thresholds(a):
    app = press(fact_page(t="0.6", p="0.9"), "Back to the atlas's 0.2 and 0.5")
    assert app.query_params == {"fact": FACT}
    assert app.slider(key="slider-t").value == 0.2
    assert "change" not in table(app)


def test_the_page_is_restored_in_a_fresh_session(a):
    neuron = neuron_names(queries.rethreshold(a, FACT, 0.1, 0.25))[0]
    asked = {"t": "0.1", "p": "0.25", "view": "prompts", "neuron": neuron, "sharing": "others"}
    app = fact_page(**asked)
    assert (app.slider(key="slider-t").value, app.slider(key="slider-p").value) == (0.1, 0.25)
    controls = {group.label: group.value for group in app.get("button_group")}
    assert controls["Scores"] in ("prompts", ["prompts"])
    assert controls["Facts of"] in ("others", ["others"])
    assert neuron in [each["neuron"] for each in links(app, "neuron", "neuron")]
    assert app.query_params == {"fact": FACT, **asked}


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("t", "nan"),
        ("t", "abc"),
        ("t", "-1"),
        ("t", "1e400"),
        ("p", "7"),
        ("p", ""),
        ("n", "nan"),
        ("n", "1e9"),
        ("view", "<b>"),
        ("sharing", "x"),
    ],
)
def test_a_bad_parameter_is_ignored(name, value, a):
    app = fact_page(**{name: value})
    assert not app.error
    assert 0.1 <= app.slider(key="slider-t").value <= 1
    assert 0 <= app.slider(key="slider-p").value <= 1


@pytest.mark.parametrize(
    ("name", "sentence"), [("nine", "'nine' is not a neuron"), ("L99.N1", "has no neuron L99.N1")]
)
def test_a_neuron_the_model_lacks_gets_one_sentence_and_the_page_goes_on(name, sentence, a):
    app = fact_page(neuron=name)
    assert len(app.error) == 1
    assert sentence in words(app)
    assert len(table(app)) == len(queries.neurons_of_fact(a, FACT))


def test_an_atlas_without_scores_has_no_sliders(another_atlas):
    folder = another_atlas(leave_out=("attributions", "effects", "neurons"))
    neuron = neuron_names(queries.neurons_of_fact(Atlas(folder), FACT))[0]
    app = fact_page(t="0.5", neuron=neuron)
    assert not app.slider
    assert not app.error
    missing = "attribution scores, the effects of changing neurons, what neurons promote"
    assert f"{NOT_MEASURED.capitalize()}: {missing}." in words(app)
    assert words(app).lower().count(NOT_MEASURED) == 1
    assert neuron in set(table(app)["neuron"])
    assert "promoted" not in table(app)


def test_a_contested_fact_says_so_and_why_it_has_no_effects(a, another_atlas):
    folder = another_atlas()
    facts = a.query("FROM facts")
    facts.loc[facts["fact_id"] == FACT, "contested"] = True
    replace_tables(folder, facts=facts, effects=a.query(f"FROM effects WHERE fact_id <> '{FACT}'"))
    said = "Effects of changing its neurons: it is contested, and experiments leave it out."
    assert said in words(fact_page())


# A chosen neuron -------------------------------------------------------------------------------------


def test_a_chosen_neuron_shows_its_score_in_each_prompt(a):
    row = queries.neurons_of_fact(a, FACT).iloc[0]
    neuron = Neuron(int(row["layer"]), int(row["neuron"]))
    app = fact_page(neuron=str(neuron))
    expected = a.query(
        "SELECT score FROM attributions WHERE fact_id = ? AND layer = ? AND neuron = ? ORDER BY template_id",
        [FACT, neuron.layer, neuron.neuron],
    )
    (scores,) = [frame.value for frame in app.dataframe if "counts" in frame.value]
    assert scores["score"].to_list() == pytest.approx(expected["score"].to_list())
    counted = round(row["share"] * 4)
    assert (
        f"It is a knowledge neuron of this fact: its score reaches 20% of the largest in {counted} of 4 "
        "discovery prompts; 2 are needed." in words(app)
    )


def test_a_neuron_of_too_few_prompts_says_how_many_it_lacks(a):
    scores = queries.attributions_of_fact(a, FACT)
    few = scores[(~scores["is_knowledge_neuron"]) & (scores["n_prompts"] == 1)].iloc[0]
    app = fact_page(neuron=f"L{few['layer']}.N{few['neuron']}")
    assert re.search(
        r"It is not a knowledge neuron of this fact: its score reaches 20% of the largest in [01] of 4 disc",
        words(app),
    )


def test_a_chosen_neuron_can_be_closed(a):
    neuron = neuron_names(queries.neurons_of_fact(a, FACT))[0]
    app = press(fact_page(neuron=neuron), "Close")
    assert "neuron" not in app.query_params
    assert not [frame for frame in app.dataframe if "counts" in frame.value]


def test_the_chart_tells_the_name_of_the_mark_that_was_clicked(a):
    scores = queries.attributions_of_fact(a, FACT)
    name = neuron_names(scores)[0]
    for drawn in (
        neuron_charts.score_map(scores, n_layers=4, n_neurons=256, chosen=name),
        neuron_charts.score_grid(queries.scores_by_prompt(a, FACT), threshold=0.2, chosen=name),
    ):
        spec = clickable(drawn, "name").to_dict()
        (click,) = spec["layer"][0]["params"]
        assert (click["name"], click["select"]["fields"]) == (CLICK, ["name"])
        assert not any("params" in layer for layer in spec["layer"][1:])
        rows = [row for data in spec["datasets"].values() for row in data]
        assert name in {row["name"] for row in rows}


# Prompt by prompt ------------------------------------------------------------------------------------


def test_scores_by_prompt_are_the_stored_ones_of_the_largest_neurons(a):
    stored = a.query("SELECT * FROM attributions WHERE fact_id = ?", [FACT])
    largest = stored.groupby("template_id")["score"].max()
    every = queries.scores_by_prompt(a, FACT, limit=1000)
    assert len(every) == len(stored)
    for row in every.itertuples():
        assert row.relative == pytest.approx(row.score / largest[row.template_id])
        assert (
            row.text
            == a.query_one(
                "SELECT text FROM prompts WHERE fact_id = ? AND template_id = ?", [FACT, row.template_id]
            )["text"]
        )
    few = queries.scores_by_prompt(a, FACT, limit=4)
    kept = few.drop_duplicates(["layer", "neuron"])
    assert len(kept) == 4
    known = pairs(queries.neurons_of_fact(a, FACT))
    assert len(pairs(kept) & known) == min(4, len(known))
    neuron = Neuron(int(few["layer"][0]), int(few["neuron"][0]))
    only = queries.scores_by_prompt(a, FACT, only=neuron)
    assert pairs(only) == {str(neuron)}
    assert len(only) == ((stored["layer"] == neuron.layer) & (stored["neuron"] == neuron.neuron)).sum()


# Facts that share, ways on ---------------------------------------------------------------------------


@pytest.mark.parametrize(("which", "same"), [("any", None), ("same", True), ("others", False)])
def test_facts_that_share_can_be_those_of_one_kind(which, same, a):
    app = fact_page(sharing=which)
    expected = queries.facts_sharing_neurons(a, FACT, same_relation=same, limit=50)
    assert len(expected)
    if same is not None:
        assert (expected["same_relation"] == same).all()
    (sharing,) = [frame.value for frame in app.dataframe if "n_shared" in frame.value]
    assert linked(sharing["fact"], "fact") == expected["fact_id"].to_list()
    assert linked(sharing["compare"], "b") == expected["fact_id"].to_list()
    assert sharing["n_shared"].to_list() == expected["n_shared"].to_list()


def test_it_leads_to_the_lab_the_comparison_and_the_tray(a):
    app = fact_page()
    at_once = [{"change": change, "run": "1"} for change in ("suppress", "amplify:3")]
    to_complete = [{"change": change} for change in ("edit", "set", "patch")]
    asked = [{"atlas": "sample", "fact": FACT, **each} for each in at_once + to_complete]
    assert links(app, "lab", "fact") == asked
    silent = a.query_one("SELECT fact_id FROM facts WHERE n_neurons = 0")["fact_id"]
    assert links(page("fact", fact=silent), "lab", "fact") == [{"atlas": "sample", "fact": silent}]
    assert links(app, "compare", "kind")[0] == {"atlas": "sample", "kind": "facts", "a": FACT}
    assert press_tray(app, "fact") == pairs(queries.neurons_of_fact(a, FACT))


def test_the_tray_gets_the_neurons_of_the_thresholds_in_force(a):
    app = fact_page(t="0.6", p="0.75")
    wanted = pairs(queries.rethreshold(a, FACT, 0.6, 0.75))
    assert wanted
    assert wanted != pairs(queries.neurons_of_fact(a, FACT))
    assert press_tray(app, "fact") == wanted


def test_every_table_of_the_page_can_be_exported(a):
    text = words(fact_page())
    titles = ("Prompts", "Neurons", "Effects", "Scores", "Facts that share neurons")
    for title in (*titles, "Subsets", "Stability", "Contexts", "Edits"):
        assert re.search(rf"{title} \(\d+ rows?\)", text)


# What experiments found ------------------------------------------------------------------------------

EFFECTS = "Probability of the answer before and after, beside {}, {} prompts: suppress"
TURNED_UP = "Probability of the answer before and after, beside {}, {} prompts: amplify"
FEWER = "Probability of the answer with some of its neurons suppressed"
WORDINGS = "Neurons in common with those found on other templates"
ACTIVE = "Activation of its neurons on its own prompts and elsewhere"
EDITED = "Prompts asked about the edits, with the probabilities before and after"


@pytest.mark.parametrize(("which", "held_out"), [(None, True), ("held-out", True), ("discovery", False)])
def test_effects_are_of_held_out_prompts_or_of_those_that_found_the_neurons(which, held_out, a):
    app = fact_page(**({} if which is None else {"asked": which}))
    effects = queries.effects_of_fact(a, FACT)
    rows = effects[effects["held_out"] == held_out]
    others = {group for group in evidence.ASKED_GROUPS if group != "same_answer"} if held_out else set()
    assert set(rows["group"]) == {"own", *evidence.CONTROLS, *others}
    shown = next(frame.value for frame in app.dataframe if "what" in frame.value)
    assert len(shown) == len(rows)
    assert shown["before"].to_list() == pytest.approx(rows["p_before"].to_list())
    title = "held-out" if held_out else "discovery"
    for beside in ("other neurons", "other facts") if held_out else ("the controls",):
        assert json.loads(chart(app, EFFECTS.format(beside, title)).spec)["title"].startswith("Switched off")
        assert json.loads(chart(app, TURNED_UP.format(beside, title)).spec)["title"].startswith("Turned up")
    means = effect_charts.effect_moves(rows, title="").to_dict()
    drawn = {row["what"]: row for data in means["datasets"].values() for row in data}
    own = rows[(rows["intervention"] == "suppress") & (rows["group"] == "own")]
    assert drawn["suppressed, own neurons"]["after"] == pytest.approx(own["p_after"].mean())
    assert drawn["suppressed, own neurons"]["n"] == len(own) == 4


def test_an_atlas_with_held_out_prompts_only_offers_no_choice(a, another_atlas):
    folder = another_atlas(leave_out=evidence.LOADED)
    rows = a.query("""FROM effects WHERE held_out AND "group" IN ('own', 'random', 'unrelated')""")
    replace_tables(folder, effects=rows)
    app = fact_page(asked="discovery")
    assert chart(app, EFFECTS.format("the controls", "held-out")).spec
    text = words(app)
    assert "as many random neurons of the same layers" in text
    assert "activation-matched" not in text
    assert "What experiments found" not in text
    assert "Discovery prompts" not in str(app.get("button_group"))


def test_the_first_experiment_in_view_is_fewer_neurons(a):
    app = fact_page()
    assert "What experiments found" in words(app)
    assert chart(app, FEWER).spec
    halves = half_effect(a)
    mine = halves[halves["fact_id"] == FACT].set_index("order")
    n, k = int(mine["n_neurons"].iloc[0]), int(mine.loc["score", "k_half"])
    fall = signed_percent(-mine["fall_all"].iloc[0])
    text = words(app)
    assert f"Suppressing all {n} neurons changes the answer's probability by **{fall}**" in text
    assert f"Half of that takes **{k}** by largest score" in text


def test_the_held_out_templates_find_some_of_the_neurons_again(a):
    app = fact_page(evidence="stability")
    found = evidence.stability_of_fact(a, FACT)
    text = words(app)
    assert f"find **{found['shared']} of {found['n_discovery']} neurons** again" in text
    assert (
        f"to **{found['p_discovery']:.2f}**, suppressing those of the held-out templates to "
        f"**{found['p_held_out']:.2f}**" in text
    )
    assert chart(app, WORDINGS).spec
    with pytest.raises(AssertionError):
        chart(app, FEWER)


def test_a_stability_no_better_than_another_fact_is_pointed_out():
    found = {
        **{"n_discovery": 4, "n_held_out": 5, "shared": 2, "jaccard": 2 / 7, "jaccard_random": 0.1},
        **{"jaccard_relation": 0.2, "p_before": 0.8, "p_discovery": 0.1, "p_held_out": 0.4},
    }
    assert "Another fact of the relation" not in fact_evidence.describe_stability(found)
    assert "and 3 others." in fact_evidence.describe_stability(found)
    alike = fact_evidence.describe_stability(found | {"jaccard_relation": 0.3})
    assert "**Another fact of the relation shares as many of them.**" in alike
    assert "does not lower its answer: 0.80, then 0.85" in fact_evidence.describe_stability(
        found | {"p_discovery": 0.85}
    )


def test_what_activates_its_neurons_stands_beside_random_ones(a):
    app = fact_page(evidence="contexts")
    rows = evidence.contexts_of_fact(a, FACT).set_index(["group", "context"])["relative"]
    text = words(app)
    assert (
        f"The activation of its neurons is **{rows['own', 'fact']:.2f}** where the fact is asked for" in text
    )
    assert f"As many random neurons are at {rows['random', 'fact']:.2f} there." in text
    assert chart(app, ACTIVE).spec
    elsewhere = evidence.contexts_of_fact(a, FACT)
    elsewhere.loc[elsewhere["context"] == "relation", "relative"] = 2.0
    assert "**They are no more active" in fact_evidence.describe_contexts(elsewhere)
    assert "no more active" not in text


def test_edits_of_it_are_listed_prompt_by_prompt(a):
    app = fact_page(evidence="edits")
    rows = evidence.edits_of_fact(a, FACT)
    (listed,) = [frame for frame in app.dataframe if "strength" in frame.value]
    assert len(listed.value) == len(rows)
    assert list(listed.value["strength"].unique()) == ["1, 8", "1, 2"]
    own = rows[(rows["kind"] == "edited") & (rows["group"] == "own") & (rows["add"] == 8)].iloc[0]
    said = f"its probability {own['p_new_before']:.2f} → **{own['p_new_after']:.2f}**, rank "
    assert f"Edited to **{escape(own['new_object'])}** (λ₁ = 1, λ₂ = 8): {said}" in words(app)


@pytest.mark.parametrize("asked", ["<b>", "methods", ""])
def test_an_unknown_experiment_means_the_first(asked, a):
    assert chart(fact_page(evidence=asked), FEWER).spec


def test_a_fact_outside_every_experiment_has_no_such_section(a, another_atlas):
    folder = another_atlas()
    others = {t: a.query(f"FROM {t} WHERE fact_id <> ?", [FACT]) for t in evidence.FACT_TABLES}
    replace_tables(folder, **others)
    assert "What experiments found" not in words(fact_page())
    assert "What experiments found" in words(fact_page(fact="P36-00002"))


# Sets of neurons -------------------------------------------------------------------------------------


def test_two_sets_are_compared_neuron_by_neuron():
    def rows(*neurons):
        return pd.DataFrame(
            {"layer": [n[0] for n in neurons], "neuron": [n[1] for n in neurons], "share": 1.0}
        )

    found = thresholds.mark_changes(rows((1, 5), (2, 5)), rows((2, 5), (2, 6)))
    assert list(zip(found["layer"], found["neuron"], found["change"], strict=True)) == [
        (2, 5, "kept"),
        (2, 6, "added"),
        (1, 5, "removed"),
    ]
    assert thresholds.count_changes(found) == "2 neurons: 1 kept, 1 added, 1 removed"
    assert thresholds.count_changes(thresholds.mark_changes(rows(), rows())) == "0 neurons"
    assert thresholds.mark_changes(rows((1, 5)), rows())["change"].to_list() == ["removed"]


# The page as a whole ---------------------------------------------------------------------------------


def test_a_fact_shows_its_prompts_neurons_and_effects(a):
    app = page("fact", fact="P36-00001")
    fact = queries.fact(a, "P36-00001")
    neurons = neuron_names(queries.neurons_of_fact(a, "P36-00001"))
    assert words(app).count(f"{fact['subject']} → {fact['object']}") >= 1
    prompts = app.dataframe[0].value
    assert len(prompts) == 8
    assert prompts["prompt"].str.contains(fact["subject"]).all()
    assert prompts["held_out"].sum() == 4
    assert table(app)["neuron"].to_list() == list(neurons)
    assert "integrals within tolerance" in words(app)


def test_every_table_of_prompts_leads_with_the_prompt(a):
    """A phone shows little more than the first column."""
    app = fact_page(neuron=str(neuron_names(queries.neurons_of_fact(a, FACT)).iloc[0]), evidence="edits")
    of_prompts = [list(frame.value.columns) for frame in app.dataframe if "prompt" in frame.value]
    assert [columns[0] for columns in of_prompts] == ["prompt"] * 4


def test_a_fact_without_neurons_says_so(a):
    silent = a.query_one("SELECT fact_id FROM facts WHERE n_neurons = 0")["fact_id"]
    app = page("fact", fact=silent)
    assert "This fact has no knowledge neurons" in words(app)


def test_its_neurons_are_named_and_say_how_they_fire_and_what_they_push_here(a):
    rows, shown = queries.neurons_of_fact(a, FACT), table(fact_page())
    assert shown["mean_activation"].to_list() == pytest.approx(rows["mean_activation"].to_list())
    assert {row["mean_activation"] > 0 for _, row in rows.iterrows()} == {True, False}
    for (_, row), (_, cells) in zip(rows.iterrows(), shown.iterrows(), strict=True):
        code = str(Neuron(int(row["layer"]), int(row["neuron"])))
        name = code if row["label"] is None or pd.isna(row["label"]) else row["label"]
        assert unquote(cells["cell"].split("#")[1]) == name
        assert cells["code"] == code
        assert cells["promoted"].startswith(row["promoted"][0]["token"])
    assert rows["label"].notna().any()


def test_without_a_fact_it_has_a_box_and_three_examples(a):
    app = page("fact")
    examples = queries.example_facts(a)
    assert [each["fact"] for each in links(app, "fact", "fact")] == examples["fact_id"].to_list()
    assert examples["relation_id"].nunique() == len(examples) == 3
    app.text_input[0].set_value("Oslo")
    assert press(app, "Search").title[0].value == "Search"
    assert app.query_params == {"atlas": "sample", "q": "Oslo"}


# Layer by layer, word for word -----------------------------------------------------------------------


def test_the_lens_is_drawn_and_listed_for_one_prompt_at_a_time(a):
    rows = queries.lens_of_fact(a, FACT)
    held_out, discovery = (rows[rows["held_out"] == side] for side in (True, False))
    for app, expected in (
        (fact_page(), held_out),
        (fact_page(lens=discovery["template_id"].iloc[0]), discovery),
        (fact_page(lens="<b>"), held_out),
    ):
        (shown,) = [frame.value for frame in app.dataframe if "says" in frame.value]
        assert shown["layer"].to_list() == expected["layer"].to_list()[::-1]
        assert shown["probability"].to_list() == pytest.approx(expected["probability"].to_list()[::-1])
        assert shown["n_neurons"].sum() == queries.fact(a, FACT)["n_neurons"]
        assert shown["says"].iloc[0].startswith(expected["top"].iloc[-1][0]["token"].strip())
        assert chart(app, "Probability of the answer after each layer").spec
        assert "Early layers are unreliable" in words(app)


def test_what_it_writes_stands_side_by_side_with_the_first_difference_marked(a):
    texts = queries.generations_of_fact(a, FACT).set_index("group")["text"]
    app = fact_page()
    blocks = [block for block in html(app) if 'class="asked"' in block]
    titles = ["As it is", "Without its 4 neurons", "Without 4 random neurons"]
    places = [words(app).find(f"**{title}**") for title in titles]
    assert -1 not in places
    assert places == sorted(places)
    unchanged, own, random, *unrelated = blocks
    assert "<mark" not in unchanged
    assert "<mark" not in random
    first = texts["own"].split()[0]
    assert re.search(rf"<mark[^>]*><bdi> *{first}</bdi></mark>", own)
    assert len(unrelated) == 2


def test_an_atlas_without_lens_and_texts_has_no_such_parts(another_atlas):
    another_atlas(leave_out=("lens", "generations"))
    app = fact_page()
    text = words(app)
    assert "Not measured in this atlas: what it would say after each layer." in text
    assert "How the answer arises" not in text
    assert "What the model writes" not in text
    assert not app.error
