"""A visitor's own text on the Neuron page, and neurons by value vector: the library's numbers, live."""

from __future__ import annotations

import re
from html import unescape

import pytest

from app.shared import limits
from atlas.neuron import Neuron
from atlas.surgery.readout import nearest_values
from atlas.surgery.subject import load_subject
from atlas.surgery.tokens import read_text
from tests.app.pages import html, linked, page, words

ATLAS, NEURON = "starter-pocket-bert", Neuron(2, 23)
TEXT = "The capital of <b>France</b> is [MASK]."


def neuron_page(**parameters: str):
    return page("neuron", atlas=ATLAS, neuron=str(NEURON), **parameters)


def test_its_activation_is_shown_at_each_token_of_an_own_text():
    app = neuron_page()
    app.text_input(key="box-text").set_value(TEXT).run(timeout=120)
    assert not app.error
    assert app.query_params["text"] == TEXT
    read = read_text(load_subject("pocket-bert"), TEXT, NEURON)
    block = next(each for each in html(app) if each.startswith('<p class="words"'))
    values = [float(value.replace("−", "-")) for value in re.findall(r'data-value="([^"]*)"', block)]
    assert values == pytest.approx(read.activations, abs=0.006)
    assert [unescape(each) for each in re.findall(r"<bdi>([^<]*)</bdi>", block)] == [
        token.removeprefix("##") for token in read.tokens
    ]
    assert block.count('class="answer"') == 1
    # A link restores it.
    assert block in html(neuron_page(text=TEXT))


def test_neurons_like_it_can_be_those_of_the_nearest_value_vectors():
    (shown,) = [frame.value for frame in neuron_page(related="cosine").dataframe if "cosine" in frame.value]
    found = nearest_values(load_subject("pocket-bert"), NEURON)
    assert linked(shown["cell"], "neuron") == [str(says.neuron) for says, _ in found]
    assert shown["cosine"].to_list() == pytest.approx([cosine for _, cosine in found], abs=1e-5)
    assert shown["promoted"].notna().all()


def test_a_text_is_cut_to_the_host_s_limit(demo):
    app = neuron_page(text="paris " * 1000)
    assert len(app.text_input(key="box-text").value) == demo.prompt_length


def test_a_host_offers_no_text_for_a_model_that_it_does_not_offer(demo):
    app = page("neuron", atlas="pararel-bert-base-uncased", neuron="L9.N2141", text=TEXT)
    assert not app.error
    assert "Try your own text" not in words(app)
    assert not [box for box in app.text_input if box.key == "box-text"]
    assert "fetched" not in str([each.label for each in app.expander])
    assert limits.current() is demo
