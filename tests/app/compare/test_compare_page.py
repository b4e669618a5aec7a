"""Compare as visitors use it: permalinks of every kind, numbers that are the library's, bad links."""

from __future__ import annotations

import shutil
from functools import partial
from pathlib import Path
from urllib.parse import parse_qsl

import pytest
from streamlit.testing.v1 import AppTest

from app.shared.words import NOT_MEASURED, escape, plural
from atlas import queries
from atlas.neuron import Neuron
from atlas.numbers import signed_percent
from atlas.queries import comparison
from atlas.store import atlas as store
from atlas.store.atlas import Atlas, bundled, open_atlas
from tests.app.pages import links, measures, page, replace_tables, words
from tests.sample_atlas import OPTIONAL_TABLES, write_sample_atlas

PERMALINKS = {
    "facts": {"kind": "facts", "a": "P36-00001", "b": "P36-00002"},
    "relations": {"kind": "relations", "a": "P36", "b": "P30"},
    "neurons": {"kind": "neurons", "a": "L0.N7", "b": "L3.N11"},
    "atlases": {"kind": "atlases", "a": "P36-00001", "other": "second"},
}


@pytest.fixture(scope="session")
def two(tmp_path_factory) -> Path:
    """A folder with two atlases: the second has other neurons, scores and fewer facts."""
    folder = tmp_path_factory.mktemp("two")
    write_sample_atlas(folder / "sample")
    write_sample_atlas(folder / "second", n_facts=40, atlas_id="second", seed=1)
    return folder


@pytest.fixture(autouse=True)
def only_these(two, monkeypatch):
    monkeypatch.setattr(store, "DATA", two)
    monkeypatch.delenv(store.ENVIRONMENT_VARIABLE, raising=False)


@pytest.fixture
def atlas(two):
    with Atlas(two / "sample") as opened:
        yield opened


compare = partial(page, "compare", atlas="sample")


def link(app: AppTest, label: str) -> dict[str, str]:
    """The query parameters of the first link with these words."""
    found = next(each for each in app.get("page_link") if label in each.label.replace("\\", ""))
    return dict(parse_qsl(found.proto.query_string))


# Permalinks ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", PERMALINKS)
def test_every_kind_opens_by_its_permalink(kind):
    app = compare(**PERMALINKS[kind])
    assert not app.error
    assert len(measures(app)) >= 5
    assert "Atlas sample" in words(app)
    assert "Measures (" in words(app)  # the export


def test_a_link_to_compare_restores_what_it_names():
    def visit() -> None:
        import streamlit as st

        from app.shared import links

        st.session_state["atlas_id"] = "sample"
        assert links.here(kind="facts", a="x", b=None) == {"atlas": "sample", "kind": "facts", "a": "x"}

    assert not AppTest.from_function(visit).run().exception
    app = compare()
    label = "The same relation, another answer"
    shown = compare(**{k: v for k, v in link(app, label).items() if k != "atlas"})
    assert measures(shown)["Relation"][0] == measures(shown)["Relation"][1]


def test_swapping_changes_sides_and_nothing_else():
    app = compare(**PERMALINKS["facts"])
    swapped = compare(**link(app, "Swap A and B"))
    assert {k: v[::-1] for k, v in measures(app).items()} == measures(swapped)


def test_another_kind_forgets_the_ids():
    app = compare(**PERMALINKS["facts"])
    app.segmented_control(key="compare-kind").set_value("neurons").run()
    assert app.query_params == {"atlas": "sample", "kind": "neurons"}
    assert "Choose two neurons" in words(app)


def test_choosing_two_facts_puts_them_into_the_url():
    app = compare(kind="facts")
    app.text_input(key="compare-search-a").input("norway oslo").run()
    app.selectbox(key="choice-a").select("P36-00008").run()
    assert app.query_params["a"] == "P36-00008"
    # With nothing typed, the other side offers the facts that share neurons with the first.
    offered = app.selectbox(key="choice-b").options
    assert offered
    app.selectbox(key="choice-b").select_index(0).run()
    assert not app.error
    assert "Neurons in common" in words(app)
    again = compare(**app.query_params)
    assert measures(again) == measures(app)


# Numbers ---------------------------------------------------------------------------------------------


def test_two_facts_show_the_librarys_overlap(atlas):
    app = compare(**PERMALINKS["facts"])
    rows = comparison.neurons_of_facts(atlas, "P36-00001", "P36-00002")
    found = comparison.overlap(rows, size=atlas.manifest.model.n_neurons, by="layer")
    assert found.both > 0
    text = words(app)
    assert f"**{found.both} of {found.either} neurons in both** (Jaccard {found.jaccard:.1%})" in text
    assert f"{found.only_a} in A only, {found.only_b} in B only" in text
    assert f"{found.chance:.1f} ± {found.spread:.1f} in common" in text
    facts = [queries.fact(atlas, PERMALINKS["facts"][side]) for side in "ab"]
    assert measures(app)["Knowledge neurons"] == [str(fact["n_neurons"]) for fact in facts]
    own = [comparison.suppression(atlas, fact=fact["fact_id"])["own"] for fact in facts]
    assert measures(app)["Suppress its neurons"] == [signed_percent(change) for change in own]


def test_a_relations_least_share_is_a_choice_in_the_url(atlas):
    app = compare(**PERMALINKS["relations"])
    for least in ("0.5", "0.25"):
        app.segmented_control(key="one-of-least").set_value(least).run()
        assert app.query_params["least"] == least
        rows = comparison.neurons_of_relations(atlas, "P36", "P30", least=float(least))
        both, either = (rows["where"] == "both").sum(), len(rows)
        if either:
            assert f"**{both} of {either} neuron" in words(app)
    again = compare(**app.query_params)
    assert again.segmented_control(key="one-of-least").value == "0.25"


def test_two_neurons_list_the_facts_that_use_both(atlas):
    app = compare(**PERMALINKS["neurons"])
    rows = comparison.facts_of_neurons(atlas, Neuron(0, 7), Neuron(3, 11))
    found = comparison.overlap(rows, size=comparison.n_facts_with_neurons(atlas))
    assert f"**{found.both} of {found.either} facts in both**" in words(app)
    assert "Use L0.N7 only" in words(app)
    first = rows[rows["where"] == "a"].iloc[0]
    assert link(app, f"{first['subject']} → {first['object']}")["fact"] == first["fact_id"]


def test_shared_neurons_go_into_the_tray(atlas):
    app = compare(**PERMALINKS["facts"])
    rows = comparison.neurons_of_facts(atlas, "P36-00001", "P36-00002")
    both = rows[rows["where"] == "both"]
    label = f"Add {plural(len(both), 'shared neuron')} to the tray"
    next(button for button in app.button if button.label == label).click().run()
    (held,) = app.session_state["trays"].values()
    assert set(held) == {Neuron(int(row.layer), int(row.neuron)) for row in both.itertuples()}


def test_a_fact_in_two_atlases_shows_both_models_answers(atlas, two):
    app = compare(**PERMALINKS["atlases"])
    with Atlas(two / "second") as other:
        twin = comparison.same_fact(atlas, other, "P36-00001")
        facts = [queries.fact(atlas, "P36-00001"), queries.fact(other, twin)]
    assert measures(app)["Knowledge neurons"] == [str(fact["n_neurons"]) for fact in facts]
    assert measures(app)["Answer's probability (mean)"] == [f"{f['mean_probability']:.3f}" for f in facts]
    rows = app.dataframe[0].value
    assert rows[["probability_a", "probability_b"]].notna().all(axis=None)
    # The sample's models carry the same hash of their weights.
    assert "Both atlases are of the same model" in words(app)


def test_neurons_of_different_models_are_not_matched(monkeypatch):
    monkeypatch.undo()
    app = compare(atlas="starter-pocket-bert", kind="atlases", a="P36:france", other="starter-smollm2-135m")
    assert not app.error
    assert "L2.N23 of one is not L2.N23 of the other" in words(app)
    assert measures(app)["Layers × neurons"] == ["3 × 2,048", "30 × 1,536"]


def test_a_side_without_effects_says_why(monkeypatch, atlas):
    silent = atlas.query_one("SELECT fact_id FROM facts WHERE n_neurons = 0")["fact_id"]
    app = compare(kind="facts", a="P36-00001", b=silent)
    own, nothing = measures(app)["Suppress its neurons"]
    assert own.endswith("%")
    assert nothing == "it has no neurons"
    monkeypatch.undo()
    with open_atlas(bundled()["starter-smollm2-135m"]) as real:
        relations = queries.relations(real).set_index("relation_id")["known_share"]
    unknown, known = relations.idxmin(), relations.idxmax()
    assert relations[unknown] == 0
    app = compare(atlas="starter-smollm2-135m", kind="relations", a=known, b=unknown)
    own, nothing = measures(app)["Suppress its neurons"]
    assert own.endswith("%")
    assert nothing == "the model knows none of its facts"


# Empty states and bad links --------------------------------------------------------------------------


@pytest.mark.parametrize("kind", PERMALINKS)
def test_an_empty_page_has_an_example_that_works(kind):
    app = compare(kind=kind)
    assert not app.error
    assert "Choose" in app.info[0].value
    examples = links(app, "compare", "kind")
    assert examples
    for each in examples:
        shown = compare(**each)
        assert not shown.error
        assert not shown.info
        assert measures(shown)


@pytest.mark.parametrize(
    ("kind", "one"), [("facts", "P36-00001"), ("relations", "P36"), ("neurons", "L0.N7")]
)
def test_with_one_chosen_those_that_share_most_with_it_are_offered(kind, one):
    for side in "ab":
        app = compare(kind=kind, **{side: one})
        assert not app.error
        offered = [each for each in links(app, "compare", "a", "b") if each["a"] == one]
        assert offered
        shown = compare(**offered[0])
        assert not shown.error
        assert measures(shown)


def test_an_unknown_kind_means_two_facts():
    app = compare(kind="<b>models</b>")
    assert app.segmented_control(key="compare-kind").value == "facts"


@pytest.mark.parametrize(
    ("parameters", "says"),
    [
        ({"kind": "facts", "a": "P0-nothing", "b": "P36-00001"}, "has no fact 'P0-nothing'"),
        ({"kind": "facts", "a": "'; DROP TABLE facts; --"}, "has no fact"),
        ({"kind": "facts", "a": "P36-00001", "b": "P36-00001"}, "A and B are the same"),
        ({"kind": "facts", "a": "x" * 100_000}, "has no fact"),
        ({"kind": "relations", "a": "P0", "b": "P36"}, "has no relation 'P0'"),
        ({"kind": "relations", "a": "P36", "b": "P36"}, "A and B are the same"),
        ({"kind": "neurons", "a": "nine", "b": "L0.N7"}, "'nine' is not a neuron"),
        ({"kind": "neurons", "a": "L99.N1", "b": "L0.N7"}, "has no neuron L99.N1"),
        ({"kind": "neurons", "a": "L" + "9" * 9000 + ".N1"}, "is not a neuron"),
        ({"kind": "neurons", "a": "L0.N7", "b": "L0.N7"}, "A and B are the same"),
        ({"kind": "atlases", "a": "P36-00001", "other": "/etc"}, "There is no other atlas '/etc' here"),
        ({"kind": "atlases", "a": "P36-00001", "other": "sample"}, "There is no other atlas 'sample' here"),
        ({"kind": "atlases", "a": "P0-nothing", "other": "second"}, "has no fact 'P0-nothing'"),
    ],
)
def test_a_bad_link_gets_a_sentence_and_the_page_goes_on(parameters, says):
    app = compare(**parameters)
    assert len(app.error) == 1
    assert says in words(app)
    assert app.segmented_control(key="compare-kind").value == parameters["kind"]
    assert "code 0.1.0" in words(app)  # the footer


def test_a_fact_that_the_other_atlas_lacks_says_so():
    app = compare(kind="atlases", a="P36-00014", other="second")
    assert not app.error
    assert "lacks the fact" in words(app)


def test_with_one_atlas_there_is_nothing_to_compare_it_with(two, monkeypatch, tmp_path):
    monkeypatch.setattr(store, "DATA", tmp_path / "none")
    monkeypatch.setenv(store.ENVIRONMENT_VARIABLE, str(two / "sample"))
    assert "only one atlas here" in words(compare(kind="atlases"))


def test_an_atlas_that_measured_little_compares_what_it_has(tmp_path, monkeypatch):
    write_sample_atlas(tmp_path / "sample", leave_out=OPTIONAL_TABLES)
    write_sample_atlas(tmp_path / "second", leave_out=OPTIONAL_TABLES, atlas_id="second")
    monkeypatch.setattr(store, "DATA", tmp_path)
    for parameters in PERMALINKS.values():
        app = compare(**parameters)
        assert not app.error
        assert measures(app)
    assert NOT_MEASURED in words(compare(**PERMALINKS["atlases"]))


def test_names_of_data_are_never_markdown(two, atlas, tmp_path, monkeypatch):
    hostile = "![x](http://a/b) <b>`$\\alpha$` :red[no]"
    folder = Path(shutil.copytree(two / "sample", tmp_path / "sample"))
    facts = atlas.query("FROM facts")
    facts.loc[facts["fact_id"] == "P36-00001", "subject"] = hostile
    replace_tables(folder, facts=facts)
    monkeypatch.setattr(store, "DATA", tmp_path)
    app = compare(**PERMALINKS["facts"])
    assert escape(hostile) in app.table[0].value.columns[0]
    shown = [each.value for each in [*app.markdown, *app.caption]]
    shown += [each.label for each in app.get("page_link")]
    assert not any("![x](" in text or "<b>" in text for text in shown)
