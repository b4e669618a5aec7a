"""The Relation page as a visitor uses it: cells and bars that can be clicked, facts behind them, effects."""

import json
import re
from urllib.parse import quote

import pandas as pd
import pytest

from app.relation import evidence as relation_evidence
from app.shared import evidence as evidence_show
from app.shared.words import NOT_MEASURED
from atlas import queries
from atlas.charts import look as charts
from atlas.numbers import signed_percent
from atlas.queries import evidence, sharing
from atlas.store.atlas import Atlas
from tests.app.pages import linked, page, replace_tables, words
from tests.app.pages import links as page_links
from tests.chart_clicks import chart, click_mark

MATRIX = "Neurons shared, by pairs of relations"
CLOSEST = "Neurons shared with the relations closest to it"
LAYERS = "Its neurons by layer"
MAP = "Where the neurons of each relation lie, by layer"
HISTOGRAM = "How many of its neurons are shared by how many of its facts"


# All relations ---------------------------------------------------------------------------------------


def test_all_relations_are_a_table_of_links(a):
    app, relations = page("relation"), queries.relations(a)
    shown = app.dataframe[0].value
    assert linked(shown["relation"], "relation") == relations["relation_id"].to_list()
    assert [cell.split("#")[1] for cell in shown["relation"]] == relations["label"].map(quote).to_list()
    assert shown["n_facts"].to_list() == relations["n_facts"].to_list()
    assert len(page_links(app, "relation", "relation")) == 3


def test_a_cell_of_relations_and_layers_leads_to_the_relation_and_layer(a):
    app = click_mark(page("relation"), MAP, relation_id="P36", layer=2)
    assert app.query_params == {"relation": "P36", "layer": "2"}
    layers = queries.layers_by_relation(a)
    rows = a.query(
        "SELECT relation_id, layer, count(*) AS n FROM knowledge_neurons GROUP BY ALL ORDER BY ALL"
    )
    by_relation = layers.sort_values(["relation_id", "layer"])
    assert by_relation["n_pairs"].to_list() == rows["n"].to_list()
    assert layers.groupby("relation_id")["pair_share"].sum().to_list() == pytest.approx([1.0] * 4)


def test_a_click_on_a_cell_shows_the_facts_behind_it(a):
    app = click_mark(page("relation"), MATRIX, relation_a="P36", relation_b="P176")
    assert not app.exception
    assert app.query_params == {"a": "P36", "b": "P176"}
    shows_pairs(app, sharing.closest_pairs(a, "P36", "P176", limit=10))
    again = page("relation", a="P36", b="P176")
    shows_pairs(again, sharing.closest_pairs(a, "P36", "P176", limit=10))


def shows_pairs(app, pairs) -> None:
    (shown,) = [frame.value for frame in app.dataframe if "same_object" in frame.value]
    assert len(pairs)
    for side in "ab":
        assert (
            linked(shown[side], "fact") == linked(shown["compare"], side) == pairs[f"fact_{side}"].to_list()
        )
    assert shown["n_shared"].to_list() == pairs["n_shared"].to_list()


def neurons_shown(app) -> list[str]:
    return linked(app.dataframe[0].value["cell"], "neuron")


@pytest.mark.parametrize("pair", [{"a": "P36"}, {"a": "P36", "b": "P0"}, {"a": "<b>", "b": "'"}])
def test_an_unknown_cell_is_ignored(only_sample, pair):
    app = page("relation", **pair)
    assert not app.error
    assert "Click a cell" in words(app)


# One relation ----------------------------------------------------------------------------------------


def test_a_relation_shows_its_sharing_and_its_facts(a):
    app = page("relation", relation="P36")
    assert not app.error
    for picture in (CLOSEST, LAYERS, HISTOGRAM):
        assert chart(app, picture).spec
    (mean,) = a.query("SELECT mean_shared FROM relation_overlap WHERE relation_a = 'P36' AND within")[
        "mean_shared"
    ]
    assert f"{mean:.2f}" in words(app)
    shows_pairs(app, sharing.closest_pairs(a, "P36", "P36", limit=10))
    facts = app.dataframe[len(app.dataframe) - 1].value
    ids = a.query("SELECT fact_id FROM facts WHERE relation_id = 'P36'")["fact_id"]
    assert set(linked(facts["fact"], "fact")) == set(ids)


def test_a_click_on_a_layer_keeps_its_neurons_and_a_second_brings_all_back(a):
    app = page("relation", relation="P36")
    everything = neurons_shown(app)
    layer = queries.relation_neurons(a, "P36")["layer"].mode()[0]
    click_mark(app, LAYERS, layer=int(layer))
    assert app.query_params == {"relation": "P36", "layer": str(layer)}
    shown = neurons_shown(app)
    assert shown == list(charts.neuron_names(queries.relation_neurons(a, "P36", layer=int(layer))))
    assert 0 < len(shown) < len(everything)
    click_mark(app, LAYERS, layer=int(layer))
    assert app.query_params == {"relation": "P36"}
    assert neurons_shown(app) == everything


@pytest.mark.parametrize("layer", ["99", "-1", "x", "1.0", "9" * 5000])
def test_an_unknown_layer_means_all_layers(only_sample, layer):
    app = page("relation", relation="P36", layer=layer)
    assert not app.error
    assert neurons_shown(app) == neurons_shown(page("relation", relation="P36"))


def test_a_click_beside_its_own_row_goes_to_the_other_relation(only_sample, a):
    app = page("relation", relation="P36")
    click_mark(app, CLOSEST, relation_a="P36", relation_b="P176")
    assert app.query_params == {"relation": "P36", "other": "P176"}
    shows_pairs(app, sharing.closest_pairs(a, "P36", "P176", limit=10))
    click_mark(app, CLOSEST, relation_a="P103", relation_b="P36")
    assert app.query_params == {"relation": "P36", "other": "P103"}
    click_mark(app, CLOSEST, relation_a="P103", relation_b="P176")
    assert app.query_params == {"relation": "P103", "other": "P176"}
    assert "native language" in app.title[0].value


# What experiments found ------------------------------------------------------------------------------

EFFECTS = "Effects of changing each fact's neurons, beside controls"
DOSES = "What erasing its most frequent neurons does to its own prompts, by their number"
ELSEWHERE = "What erasing them does to every relation's prompts"
EDITS = "How often edits succeed, beside random neurons"
EVIDENCE = ("effect_summaries", "erasures", "edits")


def drawn(app, alternative: str) -> str:
    """The rows of a chart, as they go to the browser."""
    return str(chart(app, alternative).spec) + str(chart(app, alternative).datasets)


def test_a_relation_s_effects_stand_beside_four_controls_with_intervals(a):
    app = page("relation", relation="P36")
    rows = evidence.effects(a, relation="P36")
    own = rows.set_index(["intervention", "group", "templates"]).loc[("suppress", "own", "held-out")]
    text = words(app)
    assert f"by **{signed_percent(own['paper_change'])}** (95 % interval " in text
    assert f"{signed_percent(own['paper_low'])} to {signed_percent(own['paper_high'])})" in text
    (n,) = set(rows[rows["group"] == "own"]["n_facts"])
    assert f"{n} known facts" in text
    spec = json.loads(chart(app, EFFECTS).spec)
    assert {layer["encoding"]["x2"]["field"] for layer in spec["layer"] if "x2" in layer["encoding"]} == {
        "paper_high"
    }


def test_the_first_pictures_of_effects_have_few_rows_in_plain_words(a):
    app = page("relation", relation="P36")
    for beside, words_of in (
        ("other neurons", "similarly active ones"),
        ("other facts", "facts of its relation"),
    ):
        spec = chart(app, f"Each fact's neurons switched off, beside {beside}").spec
        assert "suppressed, own neurons" in spec
        assert "amplified" not in spec
        assert words_of in spec
        domain = next(
            layer["encoding"]["y"]["scale"]["domain"]
            for layer in json.loads(spec)["layer"]
            if "scale" in layer["encoding"]["y"]
        )
        assert len(domain) <= 5


def test_setting_neurons_to_their_mean_is_not_called_amplifying(another_atlas, a):
    folder = another_atlas()
    rows = a.query("FROM effect_summaries")
    mean = rows[(rows["intervention"] == "suppress") & rows["group"].isin(["own", "random"])]
    replace_tables(folder, effect_summaries=pd.concat([rows, mean.assign(intervention="mean")]))
    said = words(page("relation", relation="P36"))
    assert said.count("Suppressing a fact's neurons changes") == 1
    assert said.count("Amplifying them") == 1


def test_a_relation_says_whose_neurons_they_are(a):
    said = words(page("relation", relation="P36"))
    assert "loses **70%** of its answer's probability: **20%** (16% to 24%) is its own loss" in said
    assert "**30%** comes with the answer, **15%** with the relation, and **5%** any fact loses" in said


def test_the_replication_s_ratio_is_a_choice_in_the_url(a):
    app = page("relation", relation="P36", ratio="replication")
    own = evidence.effects(a, relation="P36", templates="held-out").query(
        "intervention == 'suppress' and group == 'own'"
    )
    assert f"by **{signed_percent(own['replication_change'].iloc[0])}** (95 % interval" in words(app)
    assert "replication_high" in chart(app, EFFECTS).spec
    assert "paper_high" not in chart(app, EFFECTS).spec
    assert "paper_high" in chart(page("relation", relation="P36", ratio="<b>"), EFFECTS).spec


def test_erasing_shows_its_own_prompts_by_dose_and_other_relations(a):
    app = page("relation", relation="P36")
    doses, elsewhere = evidence.erasure_doses(a, "P36"), evidence.erasure_elsewhere(a, "P36")
    own = doses[(doses["group"] == "own") & (doses["n_neurons"] == 20)].iloc[0]
    random = doses[(doses["group"] == "random") & (doses["n_neurons"] == 20)].iloc[0]
    others = elsewhere[(elsewhere["group"] == "own") & (elsewhere["asked_relation_id"] != "P36")]
    text = words(app)
    assert (
        f"Erasing its 20 most frequent neurons leaves **{own['accuracy_after']:.0%}** of its prompts" in text
    )
    assert f"(before {own['accuracy_before']:.0%}; with as many random neurons " in text
    assert f"{random['accuracy_after']:.0%})" in text
    assert f"On other relations' prompts **{others['accuracy_after'].mean():.0%}**" in text
    assert f"{own['n_prompts']} prompts of its own" in text
    assert "accuracy_after" in chart(app, DOSES).spec
    assert chart(app, ELSEWHERE).spec
    perplexity = page("relation", relation="P36", erased="perplexity")
    assert '"field": "perplexity_after", ' in chart(perplexity, DOSES).spec


def test_edits_are_counted_beside_random_neurons(a):
    app = page("relation", relation="P36")
    rates = evidence.edit_rates(a, relation="P36")
    weak = rates[rates["add"] == 2].set_index(["measure", "group"])["share"]["success", "own"]
    rates = rates[rates["add"] == 8].set_index(["measure", "group"])
    share, n = rates["share"], rates["n_edits"]["success", "own"]
    assert f"Of {n} edits, **{share['success', 'own']:.0%}** put the new answer first" in words(app)
    assert f"(random neurons: {share['success', 'random']:.0%})" in words(app)
    assert f"new answer first ({rates['n_prompts']['success', 'own']})" in drawn(app, EDITS)
    assert share["success", "own"] != weak
    weaker = page("relation", relation="P36", strength="2")
    assert f"Of {n} edits, **{weak:.0%}** put the new answer first" in words(weaker)


def test_a_control_that_does_as_much_is_named():
    rows = pd.DataFrame(
        {
            "intervention": ["suppress"] * 2 + ["amplify"] * 2,
            "group": ["own", "matched"] * 2,
            "paper_change": [-0.4, -0.38, -0.05, -0.26],
            "paper_low": [-0.5, -0.5, -0.06, -0.3],
            "paper_high": [-0.3, -0.3, -0.04, -0.2],
        }
    )
    said = evidence_show.verdict(rows, "suppress")
    assert "**A control does about as much:** activation-matched neurons, −38%" in said
    said = evidence_show.verdict(rows, "amplify")
    assert said.startswith("**Amplifying them does not raise it:** **−5%**")
    assert "A control changes it more" in said
    weak = rows.assign(paper_change=[-0.4, -0.02, 0.3, 0.02], paper_low=[-0.5, -0.1, 0.2, -0.1])
    weak["paper_high"] = [-0.3, 0.1, 0.4, 0.1]
    assert "No control comes near" in evidence_show.verdict(weak, "suppress")
    assert "**A control" not in evidence_show.verdict(weak, "amplify")
    assert "does not raise" not in evidence_show.verdict(weak, "amplify")


def test_edits_that_random_neurons_match_or_that_cost_other_facts_are_pointed_out():
    rates = pd.DataFrame(
        {
            "measure": ["success", "success", "paraphrase", "same_relation", "other_relation"],
            "group": ["own", "random", "own", "own", "own"],
            "share": [0.8, 0.1, 0.7, 0.9, 0.95],
            "n_edits": 10,
        }
    )
    said = relation_evidence.describe_edits(rates)
    assert "**80%** put the new answer first (random neurons: 10%)." in said
    assert "On paraphrases 70% do." in said
    assert "stay on 90% of the prompts of the relation and 95% of the prompts of other relations." in said
    alike = pd.DataFrame({"measure": ["same_object"], "group": ["own"], "share": [0.2], "n_edits": 10})
    said = relation_evidence.describe_edits(pd.concat([rates, alike]))
    assert "20% of the prompts with the same answer, 90% of the prompts of the relation and 95%" in said
    assert "**other facts are lost too**" in said
    said = relation_evidence.describe_edits(rates.assign(share=[0.8, 0.5, 0.7, 0.3, 0.95]))
    assert "(random neurons: 50%): **random neurons do much of that**." in said
    assert "95% of the prompts of other relations: **other facts are lost too**." in said
    said = relation_evidence.describe_edits(rates.assign(share=[0.0, 0.1, 0.0, 0.9, 0.95]))
    assert "**0%** put the new answer first (random neurons: 10%): **random neurons do as much**" in said
    nothing = relation_evidence.describe_edits(rates.assign(share=[0.0, 0.0, 0.0, 0.9, 0.95]))
    assert "**random neurons" not in nothing


def test_an_erasure_without_effect_is_called_almost_no_loss():
    doses = pd.DataFrame(
        {
            "group": ["own", "own", "random"],
            "n_neurons": [20, 200, 20],
            "accuracy_before": 1.0,
            "accuracy_after": [0.98, 0.4, 1.0],
        }
    )
    elsewhere = pd.DataFrame(
        {
            "group": ["own"] * 2,
            "n_neurons": 20,
            "itself": [True, False],
            "accuracy_before": [1.0, 0.9],
            "accuracy_after": [0.98, 0.3],
        }
    )
    said = relation_evidence.describe_erasing(doses, elsewhere)
    assert "**That is almost no loss**; erasing 200 leaves 40%." in said
    doses["accuracy_after"] = [0.5, 0.4, 1.0]
    said = relation_evidence.describe_erasing(doses, elsewhere)
    assert "no loss" not in said
    assert "**Other relations lose much too:** 67% of their right answers, this one 50%." in said


def test_a_build_without_evaluation_shows_its_effects_and_what_is_missing(another_atlas):
    folder = another_atlas(leave_out=EVIDENCE)
    app = page("relation", relation="P36")
    assert chart(app, EFFECTS).spec
    with Atlas(folder) as built:
        known = queries.effect_summary(built, known=True, held_out=True, relation="P36")
    assert f"its {known['n_facts'].max()} known facts" in words(app)
    missing = "the effects of erasing neurons, the effects of edits"
    assert f"{NOT_MEASURED.capitalize()}: {missing}." in words(app)
    assert words(app).lower().count(NOT_MEASURED) == 1


def test_a_relation_outside_the_sample_says_so(another_atlas):
    folder = another_atlas()
    with Atlas(folder) as whole:
        erasures = whole.query("FROM erasures WHERE relation_id <> 'P36'")
        edits = whole.query("FROM edits WHERE split_part(fact_id, '-', 1) <> 'P36'")
    replace_tables(folder, erasures=erasures, edits=edits)
    text = words(page("relation", relation="P36"))
    assert "Erasing the neurons that all its facts share: not in the measured sample" in text
    assert "Editing its facts: not in the measured sample" in text
    assert chart(page("relation", relation="P103"), DOSES).spec


def test_missing_effects_are_said_to_be_not_measured(another_atlas):
    absent = ("effects", *EVIDENCE, "neurons", "prompts", "attributions")
    another_atlas(leave_out=absent)
    app = page("relation", relation="P36")
    assert not app.error
    missing = "the effects of changing neurons, what neurons promote, the effects of erasing neurons"
    assert f"{NOT_MEASURED.capitalize()}: {missing}, the effects of edits." in words(app)
    assert "What changing its neurons does" not in words(app)


# Ways on ---------------------------------------------------------------------------------------------


def test_its_most_shared_neurons_go_into_the_tray(a):
    app = page("relation", relation="P36")
    (button,) = [each for each in app.button if "to the tray" in each.label]
    button.click().run()
    n = int(re.search(r"Add (\d+) neurons", button.label)[1])
    assert n == min(20, len(queries.relation_neurons(a, "P36")))
    assert any(f"Tray: {n} neurons" in each.label for each in app.expander)


def test_a_relation_links_to_its_comparison_and_its_search(only_sample):
    app = page("relation", relation="P36")
    assert page_links(app, "compare", "kind")[0] == {"atlas": "sample", "kind": "relations", "a": "P36"}
    assert page_links(app, "search", "relation") == [{"atlas": "sample", "relation": "P36"}]


def test_the_other_relation_can_be_chosen_without_a_click_on_the_chart(a):
    app = page("relation", relation="P36")
    app.selectbox(key="choice-other").select("P176").run()
    assert app.query_params == {"relation": "P36", "other": "P176"}
    shows_pairs(app, sharing.closest_pairs(a, "P36", "P176", limit=10))
