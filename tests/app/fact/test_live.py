"""A fact of the map of BERT measured on its page, with a random BERT of its size in the hub's cache."""

from __future__ import annotations

import math

import pytest
import torch
from transformers import AutoTokenizer, BertConfig, BertForMaskedLM

from app.shared import resources
from atlas.experiments.measure import asked_of, measure
from atlas.models.location import locate
from atlas.queries.search import facts_matching
from atlas.store.atlas import Atlas, bundled
from atlas.surgery.subject import load_subject
from tests import ROOT
from tests.app.pages import labels, page, words

BERT = "pararel-bert-base-uncased"
MODEL = "bert-base-uncased"
BUTTON = "Measure now"


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    """A hub cache that holds a BERT with base's layers and neurons, narrower, and random."""
    cache = tmp_path_factory.mktemp("hub")
    storage = cache / f"models--{MODEL}"
    snapshot = storage / "snapshots" / ("b" * 40)
    (storage / "refs").mkdir(parents=True)
    (storage / "refs" / "main").write_text("b" * 40)
    tokenizer = AutoTokenizer.from_pretrained(ROOT / "atlas/models/pocket_bert")
    torch.manual_seed(0)
    config = BertConfig(vocab_size=len(tokenizer), hidden_size=48, num_attention_heads=4)
    BertForMaskedLM(config).save_pretrained(snapshot)
    tokenizer.save_pretrained(snapshot)
    return cache


@pytest.fixture
def hub(cache, monkeypatch):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(cache))
    resources._subject.clear()
    yield cache
    resources._subject.clear()


@pytest.fixture(scope="module")
def atlas():
    with Atlas(bundled()[BERT]) as opened:
        yield opened


@pytest.fixture(scope="module")
def france(atlas) -> str:
    return facts_matching(atlas, "France Paris", relation="P36").rows["fact_id"].iloc[0]


def test_a_fact_is_measured_on_its_page_with_the_library_s_numbers(hub, atlas, france):
    assert locate(MODEL, allow_download=False).revision == "b" * 40
    app = page("fact", atlas=BERT, fact=france)
    next(button for button in app.button if button.label == BUTTON).click().run(timeout=120)
    assert not app.error
    measured = measure(load_subject(MODEL), asked_of(atlas, france))
    shown = next(frame.value for frame in app.dataframe if "probability" in frame.value)
    assert list(shown["probability"]) == [each.before.probability for each in measured.own]
    assert list(shown["rank"]) == [each.before.rank for each in measured.own]
    effects = next(frame.value for frame in app.dataframe if "random" in frame.value)
    assert list(effects["after"]) == [each.after for each in measured.outcome.summary()]
    text = words(app)
    assert f"{len(measured.shared)} of the atlas's {len(measured.stored)} neurons" in text
    assert f"{measured.found.n_paths:,} of {measured.found.n_paths:,} integrals within tolerance" in text
    # It is kept for the session.
    assert BUTTON not in labels(app.run())


def test_chance_is_what_random_neurons_of_the_same_layers_share(hub, atlas, france):
    measured = measure(load_subject(MODEL), asked_of(atlas, france), draws=1)
    generator = torch.Generator().manual_seed(0)
    stored = {(each.layer, each.neuron) for each in measured.stored}
    counts = [sum(each.neuron.layer == layer for each in measured.found.neurons) for layer in range(12)]
    drawn = [
        sum(
            (layer, int(neuron)) in stored
            for layer, n in enumerate(counts)
            for neuron in torch.randperm(3072, generator=generator)[:n]
        )
        for _ in range(500)
    ]
    error = math.sqrt(max(measured.chance, 0.01) / 500)
    assert abs(sum(drawn) / 500 - measured.chance) < 5 * error


def test_a_model_that_is_not_here_is_offered_to_be_fetched(monkeypatch, tmp_path, france):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    offered = labels(page("fact", atlas=BERT, fact=france))
    assert BUTTON not in offered
    assert f"Fetch {MODEL} from the hub (440 MB)" in offered


def test_a_fact_of_an_atlas_that_measured_everything_is_not_offered():
    assert BUTTON not in labels(page("fact", atlas="starter-pocket-bert", fact="P36:france"))
