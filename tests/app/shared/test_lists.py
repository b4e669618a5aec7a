"""Neuron lists: what a link, a file and the browser's storage may put into the tray."""

from __future__ import annotations

import json

import pytest
from streamlit.testing.v1 import AppTest

from app.shared import limits, lists
from app.shared.lists import NeuronList
from atlas.errors import AtlasError
from atlas.neuron import Neuron
from atlas.store.manifest import ModelRecord
from tests.app.pages import labels, page, press, words

MODEL = ModelRecord("a-model", weights_sha256="0" * 64, n_layers=3, n_neurons=512)


def a_list(*neurons: str, **changed) -> NeuronList:
    named = {"name": "Capitals", "note": "", "model": MODEL.name, "weights_sha256": MODEL.weights_sha256}
    return NeuronList(**(named | changed), neurons=dict.fromkeys(neurons, "a fact"))


def held(app: AppTest) -> dict[str, str]:
    """The neurons of the only tray, with their sources."""
    (inside,) = app.session_state["trays"].values() or [{}]
    return {str(neuron): source for neuron, source in inside.items()}


# A list ----------------------------------------------------------------------------------------------


def test_a_list_gives_the_neurons_of_its_model_with_their_sources():
    assert a_list("L2.N23", "L0.N511").neurons_in(MODEL) == {
        Neuron(2, 23): "a fact",
        Neuron(0, 511): "a fact",
    }


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        (
            a_list("L2.N23", model="another", weights_sha256=None),
            "neurons in another, and the atlas",
        ),
        (a_list("L2.N23", weights_sha256="1" * 64), "Choose an atlas of that model first"),
        (a_list("L3.N1"), "a-model has no neuron L3.N1"),
        (a_list("L0.N512"), "a-model has no neuron L0.N512"),
        (a_list("nine"), "'nine' is not a neuron"),
        (a_list("L" + "9" * 5_000 + ".N1"), "is not a neuron"),
        (a_list(*(f"L0.N{n}" for n in range(201))), "The list has 201 neurons. The tray holds at most 200."),
    ],
)
def test_a_list_that_does_not_fit_gets_a_sentence(given, sentence):
    with pytest.raises(AtlasError, match=sentence):
        given.neurons_in(MODEL)


def test_a_file_holds_the_whole_list():
    given = a_list("L2.N23", note="=1+1")
    assert lists._ONE.validate_json(lists._json(given)) == given
    assert lists._csv(given).splitlines() == ["\ufefflayer,neuron,source", "2,23,a fact"]


# A link ----------------------------------------------------------------------------------------------


def test_a_link_fills_the_tray_once(only_sample):
    link = {"list": "L0.N7,L2.N14", "list_name": "Capitals", "list_note": "*note*"}
    app = page("search", **link)
    assert held(app) == dict.fromkeys(("L0.N7", "L2.N14"), "a link")
    assert app.text_input(key="list-name").value == "Capitals"
    assert app.text_area(key="list-note").value == "*note*"
    press(app, "Empty the tray")
    assert app.run().session_state["trays"] == {}


@pytest.mark.parametrize("neurons", ["nine", "L99.N1", ",", "L0.N" + "9" * 5_000, "<b>"])
def test_a_bad_link_gets_a_sentence_and_fills_nothing(only_sample, neurons):
    app = page("search", list=neurons, list_name="x" * 5_000)
    assert len(app.error) == 1
    assert app.title[0].value == "Search"
    assert "trays" not in app.session_state or not app.session_state["trays"]


# The browser's storage -------------------------------------------------------------------------------


def test_a_list_is_kept_under_its_name_opened_again_and_forgotten(only_sample):
    app = page("search", list="L0.N7,L2.N14")
    assert "Keep (missing: a name)" in labels(app)
    app.text_input(key="list-name").input("Capitals & [x](http://a)").run()
    app.text_area(key="list-note").input("what they push").run()
    press(app, "Keep")
    (kept,) = json.loads(app.session_state["list-kept"])
    assert (kept["note"], kept["neurons"]) == ("what they push", dict.fromkeys(("L0.N7", "L2.N14"), "a link"))
    press(app, "Keep")  # under the same name: again one list
    press(app, "Empty the tray")
    press(app, "Capitals & [x](http://a)")
    assert list(held(app)) == ["L0.N7", "L2.N14"]
    press(app, "Forget")
    assert json.loads(app.session_state["list-kept"]) == []


@pytest.mark.parametrize("text", ["", "{", "[1]", "null", '[{"name": 1}]', '"x"'])
def test_a_storage_that_holds_something_else_holds_no_lists(only_sample, text):
    app = page("search")
    app.session_state["list-kept"] = text
    app.run()
    assert not app.exception
    assert "No list of neurons in sample-model." in words(app)


def test_lists_of_other_models_stay_in_the_storage_and_are_not_offered(only_sample):
    app = page("search", list="L0.N7")
    app.session_state["list-kept"] = lists._ALL.dump_json(
        [a_list("L2.N23", weights_sha256="1" * 64)]
    ).decode()
    app.text_input(key="list-name").input("Mine").run()
    assert "Capitals" not in labels(app)
    press(app, "Keep")
    assert [each["name"] for each in json.loads(app.session_state["list-kept"])] == ["Capitals", "Mine"]


def test_a_browser_keeps_no_more_than_the_limits_say(only_sample, set_limits):
    set_limits("lists_length = 300")
    app = page("search", list="L0.N7", list_name="Mine", list_note="x" * 400)
    press(app, "Keep")
    assert "more than 300 characters (lists_length)" in words(app)
    assert "list-kept" not in app.session_state
    assert limits.current().lists_length == 300
