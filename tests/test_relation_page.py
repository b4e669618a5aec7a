"""The Relation page as a visitor uses it: cells and bars that can be clicked, facts behind them, effects."""

import re

import pytest

from app import charts, layout
from atlas import queries, sharing, store
from atlas.store import Atlas
from tests.chart_clicks import chart, click_mark
from tests.sample_atlas import write_sample_atlas
from tests.test_app import page, words

MATRIX = "Neurons shared, by pairs of relations"
CLOSEST = "Neurons shared with the relations closest to it"
LAYERS = "Its neurons by layer"
NEURONS = "Neurons most of its facts share"
HISTOGRAM = "How many of its neurons are shared by how many of its facts"


@pytest.fixture
def a(only_sample):
    with Atlas(only_sample) as opened:
        yield opened


# All relations ---------------------------------------------------------------------------------------


def test_all_relations_are_listed_with_links(a):
    text = words(page("relation"))
    for row in queries.relations(a).itertuples():
        assert row.label in text
        assert f"{row.relation_id} · {row.n_facts} facts" in text


def test_a_click_on_a_cell_shows_the_facts_behind_it(a):
    app = click_mark(page("relation"), MATRIX, relation_a="P36", relation_b="P176")
    assert not app.exception
    assert app.query_params == {"a": "P36", "b": "P176"}
    shows_pairs(app, sharing.closest_pairs(a, "P36", "P176", limit=10))
    again = page("relation", a="P36", b="P176")
    shows_pairs(again, sharing.closest_pairs(a, "P36", "P176", limit=10))


def shows_pairs(app, pairs) -> None:
    text = words(app)
    assert len(pairs)
    for row in pairs.itertuples():
        assert f"{row.subject_a} → {row.object_a}" in text
        assert f"{row.subject_b} → {row.object_b}" in text
        assert f"{row.n_shared} in common, of {row.n_neurons_a} and {row.n_neurons_b}" in text


@pytest.mark.parametrize("pair", [{"a": "P36"}, {"a": "P36", "b": "P0"}, {"a": "<b>", "b": "'"}])
def test_a_cell_that_is_none_is_left_out(only_sample, pair):
    app = page("relation", **pair)
    assert not app.exception
    assert not app.error
    assert "Click a cell" in words(app)


# One relation ----------------------------------------------------------------------------------------


def test_a_relation_shows_its_sharing_and_its_facts(a):
    app = page("relation", relation="P36")
    assert not app.exception
    assert not app.error
    for picture in (CLOSEST, LAYERS, NEURONS, HISTOGRAM):
        assert chart(app, picture).spec
    (mean,) = a.query("SELECT mean_shared FROM relation_overlap WHERE relation_a = 'P36' AND within")[
        "mean_shared"
    ]
    assert f"{mean:.2f}" in words(app)
    shows_pairs(app, sharing.closest_pairs(a, "P36", "P36", limit=10))
    assert words(app).count("→") >= 15


def test_a_click_on_a_layer_keeps_its_neurons_and_a_second_brings_all_back(a):
    app = page("relation", relation="P36")
    everything = list(app.dataframe[0].value["neuron"])
    layer = queries.relation_neurons(a, "P36")["layer"].mode()[0]
    click_mark(app, LAYERS, layer=int(layer))
    assert app.query_params == {"relation": "P36", "layer": str(layer)}
    shown = list(app.dataframe[0].value["neuron"])
    assert shown == list(charts.neuron_names(queries.relation_neurons(a, "P36", layer=int(layer))))
    assert 0 < len(shown) < len(everything)
    click_mark(app, LAYERS, layer=int(layer))
    assert app.query_params == {"relation": "P36"}
    assert list(app.dataframe[0].value["neuron"]) == everything


@pytest.mark.parametrize("layer", ["99", "-1", "x", "1.0", "9" * 5000])
def test_a_layer_that_is_none_means_all(only_sample, layer):
    app = page("relation", relation="P36", layer=layer)
    assert not app.exception
    assert not app.error
    assert list(app.dataframe[0].value["neuron"]) == list(
        page("relation", relation="P36").dataframe[0].value["neuron"]
    )


def test_a_click_on_a_neuron_goes_to_its_page(a, went_to):
    name = charts.neuron_names(queries.relation_neurons(a, "P36")).iloc[0]
    app = click_mark(page("relation", relation="P36"), NEURONS, name=name)
    assert not app.exception
    assert went_to == [(layout.NEURON, {"atlas": "sample", "neuron": name})]


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


def test_a_relation_s_effects_stand_beside_their_controls(a):
    app = page("relation", relation="P36")
    assert chart(app, "Effects of changing each fact's neurons, beside controls").spec
    known = queries.effect_summary(a, known=True, held_out=True, relation="P36")
    assert f"its {known['n_facts'].max()} known facts" in words(app)
    assert f"Erasing the neurons that all its facts share: {layout.NOT_MEASURED}" in words(app)


def test_effects_that_were_not_measured_are_said_to_be(tmp_path, monkeypatch):
    folder = write_sample_atlas(
        tmp_path / "bare", leave_out=("effects", "neurons", "prompts", "attributions")
    )
    monkeypatch.setattr(store, "DATA", tmp_path / "none")
    monkeypatch.setenv(store.ENVIRONMENT_VARIABLE, str(folder))
    app = page("relation", relation="P36")
    assert not app.exception
    assert not app.error
    assert f"Suppressing and amplifying: {layout.NOT_MEASURED}" in words(app)


def test_its_most_shared_neurons_go_into_the_tray(a):
    app = page("relation", relation="P36")
    (button,) = [each for each in app.button if "to the tray" in each.label]
    button.click().run()
    n = int(re.search(r"Add (\d+) neurons", button.label)[1])
    assert n == min(20, len(queries.relation_neurons(a, "P36")))
    assert any(f"Tray: {n} neurons" in each.label for each in app.expander)


def test_a_relation_links_to_its_comparison_and_its_search(only_sample):
    links = page("relation", relation="P36").get("page_link")
    queries_of = {re.sub(r":blue\[|\]", "", link.label): link.proto.query_string for link in links}
    assert "kind=relations" in queries_of["Compare with another"]
    assert "a=P36" in queries_of["Compare with another"]
    assert "relation=P36" in queries_of["Search its facts"]


def test_the_other_relation_can_be_chosen_without_a_click_on_the_chart(a):
    app = page("relation", relation="P36")
    app.selectbox(key="choice-other").select("P176").run()
    assert app.query_params == {"relation": "P36", "other": "P176"}
    shows_pairs(app, sharing.closest_pairs(a, "P36", "P176", limit=10))
