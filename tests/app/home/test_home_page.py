"""The Home page as a visitor meets it: what the atlas is, what changing neurons does, a first experiment."""

import json

import pytest

from app.shared import links
from app.shared.words import NOT_MEASURED
from atlas import models, queries
from atlas.charts.effects import GROUP_NAMES
from atlas.numbers import signed_percent
from atlas.queries import evidence
from atlas.store import atlas as store
from atlas.store.atlas import Atlas
from tests.app.pages import labels, page, press, replace_tables, words
from tests.app.pages import links as page_links
from tests.chart_clicks import chart, click_mark
from tests.sample_atlas import OPTIONAL_TABLES

POCKET, SMOLLM = "starter-pocket-bert", "starter-smollm2-135m"
FIRST = "Suppress them in the Lab"
PICTURES = ("Share of pairs by layer", "Neurons two facts share", "Effects beside their controls")


# What it is ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [POCKET, SMOLLM])
def test_home_says_what_the_atlas_is_in_its_own_numbers(name):
    app = page(atlas=name)
    assert not app.error
    text = words(app)
    with Atlas(store.DATA / name) as atlas:
        summary = queries.atlas_summary(atlas)
        assert f"{atlas.manifest.model.name} × {atlas.manifest.dataset.id}" in text
    assert f"{summary.n_facts:,}" in text
    assert f"{summary.n_known:,} facts: rank 1 on most prompts" in text
    assert f"{summary.n_known / summary.n_facts:.0%}" in text
    assert f"{summary.n_neurons:,}" in text
    for picture in PICTURES:
        assert chart(app, picture).spec


def test_the_sentence_under_each_picture_is_what_it_shows():
    with Atlas(store.DATA / POCKET) as atlas:
        summary, layers = queries.atlas_summary(atlas), queries.layer_histogram(atlas)
    text = words(page(atlas=POCKET))
    top = layers.loc[layers["pair_share"].idxmax()]
    assert top["pair_share"] > 0.5
    assert f"**Layer {int(top['layer'])}** of 3 holds {top['pair_share']:.0%} of the pairs." in text
    assert f"**{summary.within / summary.across:.1f} times**" in text


def test_the_fewest_layers_that_hold_half_are_named():
    with Atlas(store.DATA / SMOLLM) as atlas:
        layers = queries.layer_histogram(atlas).sort_values("pair_share", ascending=False)
    held, named = 0.0, []
    while held < 0.5:
        held += layers["pair_share"].iloc[len(named)]
        named.append(int(layers["layer"].iloc[len(named)]))
    assert len(named) > 1
    names = f"{', '.join(map(str, sorted(named)[:-1]))} and {max(named)}"
    assert f"**Layers {names}** of 30 hold {held:.0%} of the pairs." in words(page(atlas=SMOLLM))


def test_a_click_on_a_layer_searches_its_facts(only_sample, went_to):
    app = click_mark(page(), PICTURES[0], layer=2)
    assert not app.exception
    assert went_to == [(links.SEARCH, {"atlas": "sample", "layer": "2"})]
    assert page("search", layer="2").selectbox(key="choice-layer").value == "2"


# What changing neurons does --------------------------------------------------------------------------

SUPPRESSED = "Suppressing a fact's neurons changes the probability of its answer by **{}** (95 % interval "


def own_of(rows, intervention: str):
    return rows[(rows["intervention"] == intervention) & (rows["group"] == "own")].iloc[0]


@pytest.mark.parametrize("ratio", ["paper", "replication"])
def test_the_headline_is_the_mean_over_relations_with_its_interval(only_sample, ratio):
    with Atlas(only_sample) as atlas:
        rows = evidence.effects(atlas, templates="held-out")
    app = page(**({} if ratio == "paper" else {"ratio": ratio}))
    own = own_of(rows, "suppress")
    text = words(app)
    assert SUPPRESSED.format(signed_percent(own[f"{ratio}_change"])) in text
    assert f"{signed_percent(own[f'{ratio}_low'])} to {signed_percent(own[f'{ratio}_high'])})" in text
    assert (
        f"Amplifying them changes it by **{signed_percent(own_of(rows, 'amplify')[f'{ratio}_change'])}**"
        in text
    )
    assert f"{own['n_relations']} relations" in text
    assert f"{own['n_facts']} known facts, {own['n_prompts']} prompts" in text
    spec = json.loads(chart(app, "Effects beside their controls").spec)
    names = spec["layer"][0]["encoding"]["y"]["scale"]["domain"]
    assert names == [
        *("Suppressed (×0)", *(f"suppressed, {group}" for group in GROUP_NAMES.values())),
        *("Amplified (×2)", *(f"amplified, {group}" for group in GROUP_NAMES.values())),
    ]
    assert spec["layer"][0]["encoding"]["x"]["field"] == f"{ratio}_change"
    ends = {
        (part["encoding"]["x"]["field"], part["encoding"].get("x2", {}).get("field"))
        for part in spec["layer"]
    }
    assert (f"{ratio}_low", f"{ratio}_high") in ends


def test_an_amplification_that_does_not_raise_says_so():
    """The bundled atlas says no to a part of the thesis, and Home says so."""
    with Atlas(store.DATA / POCKET) as atlas:
        own = own_of(evidence.effects(atlas, templates="held-out"), "amplify")
    assert own["paper_high"] < 0
    said = f"**Amplifying them does not raise it:** **{signed_percent(own['paper_change'])}**"
    assert said in words(page(atlas=POCKET))


def test_where_no_fact_is_known_the_headline_is_of_all_and_says_so(another_atlas):
    folder = another_atlas()
    with Atlas(folder) as whole:
        rows = whole.query("FROM effect_summaries WHERE facts <> 'known' OR \"group\" = 'unrelated'")
    replace_tables(folder, effect_summaries=rows)
    text = words(page())
    own = own_of(
        rows[(rows["facts"] == "all") & (rows["relation_id"] == "all") & (rows["templates"] == "held-out")],
        "suppress",
    )
    assert SUPPRESSED.format(signed_percent(own["paper_change"])) in text
    assert "facts (the model knows none of them)" in text


def test_a_build_without_evaluation_shows_its_effects_without_intervals(another_atlas):
    folder = another_atlas(leave_out=evidence.LOADED)
    app = page()
    with Atlas(folder) as atlas:
        own = own_of(queries.atlas_summary(atlas).effects, "suppress")["ratio_of_means"]
    assert own < -0.5
    assert f"changes the mean probability of its answer by **−{abs(own):.0%}**" in words(app)
    assert "95 % interval" not in words(app)
    assert "ratio_of_means" in chart(app, "Effects beside their controls").spec


# The first experiment --------------------------------------------------------------------------------


@pytest.fixture
def no_model_here(monkeypatch, tmp_path):
    """As on a new machine: no model but the one that comes along."""
    monkeypatch.setenv(models.CACHE_VARIABLE, str(tmp_path / "empty"))


def test_the_first_experiment_is_one_click_from_home(went_to):
    app = page(atlas=POCKET)
    with Atlas(store.DATA / POCKET) as atlas:
        fact = queries.telling_fact(atlas)
    text = words(app)
    assert f"says **{fact['object']}**" in text
    assert f"from **{fact['before']:.2f}** to **{fact['after']:.2f}**" in text
    press(app, FIRST)
    assert went_to == [(links.LAB, {"atlas": POCKET, "fact": fact["fact_id"], "run": "1"})]


def test_a_model_that_has_to_be_fetched_says_so_and_offers_another(no_model_here):
    app = page(atlas=SMOLLM)
    assert "smollm2-135m is not on this machine yet: the Lab fetches it first (93 MB)" in words(app)
    assert FIRST in labels(app)
    (link,) = page_links(app, "lab", "fact")
    assert link["atlas"] == POCKET


def test_a_host_that_fetches_nothing_offers_only_what_is_here(no_model_here, demo):
    app = page(atlas=SMOLLM)
    assert "so the Lab cannot run it" in words(app)
    assert FIRST not in labels(app)
    assert len(page_links(app, "lab", "fact")) == 1


def test_an_atlas_of_a_missing_model_offers_another_atlas(only_sample):
    app = page()
    assert "sample-model is not on this machine, so the Lab cannot run it" in words(app)
    assert FIRST not in labels(app)
    assert not page_links(app, "lab", "fact")


def test_an_atlas_without_effects_or_prompts_still_has_a_first_experiment(another_atlas):
    another_atlas(leave_out=OPTIONAL_TABLES)
    app = page()
    assert "sample-model says **" in words(app)
    missing = "attribution scores, the effects of changing neurons, what neurons promote"
    assert f"{NOT_MEASURED.capitalize()}: {missing}." in words(app)
    assert words(app).lower().count(NOT_MEASURED) == 1
