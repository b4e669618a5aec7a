"""Pages of the map of BERT, which measured little: one sentence says so, and nothing is drawn empty."""

from __future__ import annotations

import pytest

from app.shared.words import NOT_MEASURED
from atlas.queries.search import facts_matching
from atlas.store.atlas import Atlas, bundled
from tests.app.pages import page, words

BERT = "pararel-bert-base-uncased"
FOLDER = bundled()[BERT]
LACKS = {
    "fact": "whether the model knows a fact, the answers' probabilities, what it would say after each layer, "
    "attribution scores, the effects of changing neurons, what neurons promote",
    "relation": "whether the model knows a fact, the effects of changing neurons, what neurons promote, the "
    "effects of erasing neurons, the effects of edits",
    "neuron": "attribution scores, what neurons promote, which prompts activate neurons",
}
CAPTIONS = ("What the model says", "What changing its neurons does", "What its value vector promotes")


@pytest.fixture(scope="module")
def france() -> str:
    with Atlas(FOLDER) as atlas:
        return facts_matching(atlas, "France Paris", relation="P36").rows["fact_id"].iloc[0]


@pytest.mark.parametrize("name", LACKS)
def test_a_page_says_once_what_was_not_measured_and_draws_nothing_empty(name, france):
    parameters = {
        "fact": {"fact": france},
        "relation": {"relation": "P36"},
        "neuron": {"neuron": "L10.N2484"},
    }
    app = page(name, atlas=BERT, **parameters.get(name, {}))
    assert not app.error
    text = words(app)
    assert f"{NOT_MEASURED.capitalize()}: {LACKS[name]}." in text
    assert text.lower().count(NOT_MEASURED) == 1
    assert not [caption for caption in CAPTIONS if caption in text]
    assert not [frame for frame in app.dataframe if frame.value.isna().all().any()]
    assert "nan" not in text.lower().split()


def test_a_fact_shows_sentences_of_this_project_and_says_whence_its_neurons_are(france):
    app = page("fact", atlas=BERT, fact=france)
    prompts = app.dataframe[0].value
    assert list(prompts.columns) == ["prompt"]
    assert len(prompts) == 8
    assert prompts["prompt"].str.contains("France").all()
    assert "Its neurons were found on other sentences." in words(app)


def test_search_finds_its_facts_and_the_lab_asks_them(france):
    assert "France → Paris" in words(page("search", atlas=BERT, q="France Paris", relation="P36"))
    app = page("lab", atlas=BERT, fact=france, model="pocket-bert")
    assert not app.error
    assert "asked in 4 wordings and 4 held-out paraphrases" in words(app)


def test_home_says_that_the_lab_can_fetch_its_model(monkeypatch, tmp_path):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    text = words(page("home", atlas=BERT))
    assert "bert-base-uncased is not on this machine yet: the Lab fetches it first (440 MB)" in text


def test_the_page_of_atlases_says_where_it_is_from_and_that_it_is_not_for_commerce():
    text = words(page("atlases", atlas=BERT))
    assert "EleutherAI/knowledge-neurons · be1a84adafd6 · MIT" in text
    assert "LAMA (CC BY-NC 4.0)" in text
    assert ":orange-badge[non-commercial]" in text
