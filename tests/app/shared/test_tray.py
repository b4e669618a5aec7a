"""The tray: filled on one page, kept in the session, one a model, shown in the sidebar."""

import pytest
from streamlit.testing.v1 import AppTest

from atlas.neuron import Neuron

NEURONS = tuple(Neuron(layer, index) for layer, index in ((0, 7), (2, 14), (1, 300)))


def page() -> None:
    """A page of the app that offers three neurons, one by one and together."""
    import streamlit as st

    from app.shared import layout, tray
    from atlas.neuron import Neuron

    chosen = [Neuron(0, 7), Neuron(2, 14), Neuron(1, 300)]
    with st.sidebar:
        layout.choose_atlas()
        tray.show_tray()
    tray.add_button(chosen, key="all", source="a *fact*")
    tray.add_button(chosen[:1], key="first")


@pytest.fixture
def at() -> AppTest:
    return AppTest.from_function(page, default_timeout=30).run()


def button(at: AppTest, key: str):
    return next(each for each in at.button if each.key and each.key.startswith(f"tray-{key}"))


def held(at: AppTest) -> tuple[Neuron, ...]:
    return tuple(neuron for each in at.session_state["trays"].values() for neuron in each)


def test_an_empty_tray_shows_nothing(at):
    assert not at.exception
    assert not at.sidebar.expander


def test_neurons_go_in_once_in_their_order_and_are_counted_in_the_sidebar(at):
    button(at, "first").click().run()
    button(at, "all").click().run()
    assert held(at) == NEURONS
    assert at.sidebar.expander[0].label == "Tray: 3 neurons"
    assert list(at.sidebar.multiselect[0].value) == [str(neuron) for neuron in NEURONS]


def test_the_button_says_what_is_in_and_takes_it_out_again(at):
    assert button(at, "first").label == "Add to the tray"
    assert button(at, "all").label == "Add 3 neurons to the tray"
    button(at, "all").click().run()
    assert button(at, "first").label == "In the tray"
    button(at, "first").click().run()
    assert held(at) == NEURONS[1:]
    assert button(at, "first").label == "Add to the tray"


def test_a_neuron_is_taken_out_in_the_sidebar_and_all_by_emptying(at):
    button(at, "all").click().run()
    at.sidebar.multiselect[0].set_value([str(NEURONS[0]), str(NEURONS[2])]).run()
    assert held(at) == (NEURONS[0], NEURONS[2])
    next(each for each in at.sidebar.button if each.label == "Empty the tray").click().run()
    assert held(at) == ()
    assert not at.sidebar.expander


def test_the_last_neuron_can_be_taken_out(at):
    button(at, "first").click().run()
    at.sidebar.multiselect[0].set_value([]).run()
    assert held(at) == ()
    assert not at.exception


def test_where_a_neuron_came_from_is_kept_as_it_was_first(at):
    button(at, "all").click().run()
    button(at, "first").click().run()
    button(at, "first").click().run()
    (inside,) = at.session_state["trays"].values()
    assert inside[NEURONS[1]] == "a *fact*"
    assert inside[NEURONS[0]] == ""  # taken out and put back by the button that names no source


def test_each_model_has_its_own_tray(at):
    button(at, "all").click().run()
    at.query_params["atlas"] = "starter-smollm2-135m"
    at.run()
    assert not at.sidebar.expander
    button(at, "first").click().run()
    next(each for each in at.sidebar.button if each.label == "Empty the tray").click().run()
    at.query_params["atlas"] = "starter-pocket-bert"
    assert at.run().sidebar.expander[0].label == "Tray: 3 neurons"
    assert held(at) == NEURONS


def test_a_full_tray_takes_no_more_and_says_so():
    def visit() -> None:
        from app.shared import limits, tray
        from atlas.neuron import Neuron

        tray.add([Neuron(0, index) for index in range(150)])
        tray.add_button([Neuron(1, index) for index in range(60)], key="more")
        tray.add([Neuron(1, index) for index in range(60)])
        assert len(tray.neurons()) == limits.current().tray
        assert tray.neurons()[:150] == tuple(Neuron(0, index) for index in range(150))

    at = AppTest.from_function(visit).run()
    assert not at.exception
    assert at.button[0].disabled
