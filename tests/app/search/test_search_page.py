"""The Search page as a visitor uses it: typos, filters, orders, pages, counts that can be clicked."""

import io
import re

import pandas as pd
import pyarrow as pa
import pytest

from app.shared import exports
from atlas.queries import search
from atlas.store import atlas as store
from atlas.store.atlas import Atlas
from tests.app.pages import links, page, press, replace_tables, unmarked, words
from tests.chart_clicks import chart, click_mark, send_selection
from tests.sample_atlas import sample_tables

HITS = "Hits by relation"
POCKET = "starter-pocket-bert"


def total(app) -> int:
    return int(re.search(r"([\d,]+) facts? ·", words(app))[1].replace(",", ""))


def listed(app) -> list[str]:
    """The facts on the page, in their order."""
    return [label for link in app.get("page_link") if "→" in (label := unmarked(link.label))]


# Typos -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("typed", "meant"), [("Azerbajan", "azerbaijan"), ("Pariss", "paris")])
def test_a_typo_shows_what_was_searched_instead(typed, meant):
    app = page("search", atlas=POCKET, q=typed)
    assert f"“{typed}”: showing **{meant}**" in words(app)
    assert total(app) == search.facts_matching(Atlas(store.DATA / POCKET), meant).total
    assert any(meant in name.lower() for name in listed(app))


def test_an_exact_match_says_nothing_of_typos():
    app = page("search", atlas=POCKET, q="azerbaijan")
    assert "showing" not in words(app)
    assert "Did you mean" not in words(app)


def test_a_word_found_inside_others_comes_with_an_offer_that_can_be_followed(only_sample):
    app = page("search", q="amer wording")
    assert "Did you mean" in words(app)
    (link,) = [link for link in app.get("page_link") if "omer" in link.label]
    assert "q=omer+wording" in link.proto.query_string or "q=omer%20wording" in link.proto.query_string


# Filters, orders, pages ------------------------------------------------------------------------------


def test_the_order_is_in_the_url_and_holds_over_pages(only_sample):
    app = page("search")
    app.selectbox(key="choice-sort").select("-probability").run()
    assert app.query_params["sort"] == "-probability"
    with Atlas(only_sample) as atlas:
        expected = atlas.query("SELECT subject, object FROM facts ORDER BY mean_probability, subject")
    names = [f"{row.subject} → {row.object}" for row in expected.itertuples()]
    assert listed(page("search", sort="-probability")) == names[:20]
    assert listed(page("search", sort="-probability", page="2")) == names[20:40]


def test_an_unknown_order_means_the_best_match(only_sample):
    assert listed(page("search", sort="nonsense")) == listed(page("search"))


def test_a_new_filter_begins_at_the_first_page(only_sample):
    app = page("search", page="3")
    app.selectbox(key="choice-relation").select("P36").run()
    assert "page" not in app.query_params


def test_filters_that_leave_nothing_can_be_taken_away(only_sample):
    app = page("search", q="oslo", relation="P103")
    assert "No fact passes the filters" in words(app)
    press(app, "Remove the filters")
    assert "relation" not in app.query_params
    assert app.query_params["q"] == "oslo"
    assert total(app) > 0


def test_an_atlas_that_measured_no_knowledge_offers_no_filter_by_it(another_atlas):
    folder = another_atlas()
    facts = [{**fact, "known": None} for fact in sample_tables(60)["facts"]]
    replace_tables(folder, facts=facts)
    app = page("search", known="known")
    assert app.selectbox(key="choice-known").disabled
    assert total(app) == 60


# Counts by relation ----------------------------------------------------------------------------------


def test_a_click_on_a_relation_keeps_its_facts_and_a_second_click_brings_all_back(only_sample):
    app = page("search", q="wording", page="2")
    everything = total(app)
    click_mark(app, HITS, relation_id="P36")
    assert not app.exception
    assert app.query_params == {"q": "wording", "relation": "P36"}
    assert app.selectbox(key="choice-relation").value == "P36"
    assert total(app) == 15
    click_mark(app, HITS, relation_id="P36")
    assert app.query_params == {"q": "wording"}
    assert total(app) == everything == 60


def test_what_a_browser_says_was_clicked_is_not_trusted(only_sample):
    for selection in ({}, {"click": []}, {"click": "P36"}, {"click": [5]}, {"click": [{"other": 1}]}):
        app = send_selection(page("search"), HITS, selection)
        assert not app.exception
        assert not app.query_params
    app = click_mark(page("search"), HITS, relation_id="'; DROP TABLE facts; --")
    assert not app.exception
    assert total(app) == 60


def test_counts_of_all_relations_stay_beside_the_chosen_one(only_sample):
    (rows,) = {item.data.data for item in chart(page("search", relation="P36"), HITS).datasets}
    drawn = pa.ipc.open_stream(io.BytesIO(rows)).read_pandas()
    assert {"P36", "P103", "P30", "P176"} <= set(drawn["relation_id"])


# The rest --------------------------------------------------------------------------------------------


def test_a_fact_found_by_its_prompt_shows_the_prompt(only_sample):
    app = page("search", q='"wording 3: the capital of norway 2"')
    assert total(app) == 1
    assert "“Wording 3: the capital of Norway 2 is" in words(app)


@pytest.mark.parametrize("typed", ["xyzzy", "![x](http://a) <script>alert(1)</script>"])
def test_a_search_without_hits_says_what_to_do(only_sample, typed):
    assert "No fact matches" in words(page("search", q=typed))


def test_the_export_holds_all_hits_in_their_order(only_sample):
    with Atlas(only_sample) as atlas:
        later = exports.Later(60, lambda: search.facts_matching(atlas, "", sort="-neurons", limit=60).rows)
        assert len(later) == 60
        read = pd.read_csv(io.StringIO(exports._file(exports.FORMATS["csv"][1], later)))
    assert len(read) == 60
    assert read["n_neurons"].is_monotonic_increasing
    formats = [button.proto.label for button in page("search").get("download_button")]
    assert formats == ["CSV", "JSON", "Parquet"] * 2


def test_the_choice_of_relations_says_how_many_hits_each_has(only_sample):
    options = page("search", q="oslo").selectbox(key="choice-relation").options
    assert "capital (P36): 3" in options
    assert "native language (P103): 0" in options


def test_a_page_beyond_the_last_says_so(only_sample):
    app = page("search", page="99")
    assert "fewer pages" in words(app)
    assert total(app) == 60


# Neurons and other atlases -----------------------------------------------------------------------------


def test_a_name_of_a_neuron_finds_it(only_sample):
    text = words(page("search", q="l0.n7"))
    assert "L0.N7" in text
    assert "No fact matches" in text


def test_a_label_and_a_token_find_the_neurons_that_have_them(a):
    for text, of in (("capital", "label"), ("up3", "promoted")):
        hits = search.neurons_matching(a, text, limit=6)
        assert hits.total > 4, of
        app = page("search", q=text)
        assert f"**{hits.total} neurons**" in words(app)
        found = [f"L{row.layer}.N{row.neuron}" for row in hits.rows.itertuples()]
        assert [link["neuron"] for link in links(app, "neuron", "neuron")] == found
        assert f"capital · up0, up1 ({found[0]})" in words(app) or of == "promoted"


def test_a_corrected_word_finds_neurons_too(a):
    assert f"**{search.neurons_matching(a, 'capital').total} neurons**" in words(page("search", q="captial"))


def test_other_atlases_show_their_first_hits_and_lead_into_them(sample, monkeypatch):
    monkeypatch.setenv(store.ENVIRONMENT_VARIABLE, str(sample))
    app = page("search", q="oslo", atlas="sample")
    with Atlas(store.bundled()[POCKET]) as pocket:
        hits = search.facts_matching(pocket, "oslo")
    of_pocket = [link["fact"] for link in links(app, "fact", "fact") if link["atlas"] == POCKET]
    assert of_pocket == list(hits.rows["fact_id"][:3])
    assert {"atlas": POCKET, "q": "oslo"} in links(app, "search", "q")
    assert f"All {hits.total} facts" in words(app)


def test_an_empty_search_opens_no_other_atlas(sample, monkeypatch):
    monkeypatch.setenv(store.ENVIRONMENT_VARIABLE, str(sample))
    text = words(page("search", atlas="sample"))
    assert "In other atlases" not in text
    assert "neurons**" not in text


# Words, filters and pages ------------------------------------------------------------------------------


def test_search_finds_a_fact_and_counts_the_hits(only_sample):
    app = page("search")
    assert "60 facts" in words(app)
    app.text_input[0].input("norway oslo").run()
    assert "1 fact ·" in words(app)
    assert "Norway 8 → Oslo" in words(app)


def test_search_filters_add_up(only_sample):
    app = page("search")
    app.selectbox(key="choice-relation").select("P36")
    app.selectbox(key="choice-known").select("not known").run()
    assert "3 facts" in words(app)
    assert "not known" in words(app)


def test_a_search_is_restored_from_its_url_in_a_fresh_session(only_sample):
    first = page("search")
    first.text_input[0].input("wording")
    first.selectbox(key="choice-relation").select("P103")
    first.selectbox(key="choice-layer").select("0").run()
    assert first.query_params == {"q": "wording", "relation": "P103", "layer": "0"}
    again = page("search", **first.query_params)
    assert again.text_input[0].value == "wording"
    assert again.selectbox(key="choice-relation").value == "P103"
    assert again.selectbox(key="choice-layer").value == "0"
    hits = re.compile(r"\d+ facts")
    assert hits.search(words(again))[0] == hits.search(words(first))[0] != "60 facts"


def test_the_second_page_of_a_search_lists_other_facts(only_sample):
    first, second = (
        set(re.findall(r"\S+ \d+ → \S+", words(page("search", page=number)))) for number in ("1", "2")
    )
    assert len(first) == len(second) == 20
    assert not first & second


def test_a_page_that_is_not_a_number_means_the_first(only_sample):
    for number in ("x", "-3", "0", "²", "9" * 5000):
        app = page("search", page=number)
        assert not app.exception
        assert not app.error
