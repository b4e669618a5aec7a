"""Who visits: what a visitor holds is theirs, and goes when they leave; a lost connection finds all of it."""

from __future__ import annotations

import gc
from types import SimpleNamespace
from weakref import ref

import pytest
from streamlit.runtime.app_session import AppSession
from streamlit.testing.v1 import AppTest

from app.shared import limits, visitors
from app.shared.visitors import Visitor
from atlas.line import FairLine, Place
from tests.app.pages import page, words


class Served:
    """Streamlit's runtime, as far as visitors ask it: who is connected, and who was closed."""

    def __init__(self) -> None:
        self.connected: set[str] = set()
        self.closed: list[str] = []
        loop = SimpleNamespace(call_soon_threadsafe=lambda call, *arguments: call(*arguments))
        self.stopped = SimpleNamespace(get_loop=lambda: loop)

    def is_active_session(self, session: str) -> bool:
        return session in self.connected

    def close_session(self, session: str) -> None:
        self.closed.append(session)


@pytest.fixture
def served(monkeypatch, demo) -> Served:
    served = Served()
    monkeypatch.setattr(visitors.runtime, "exists", lambda: True)
    monkeypatch.setattr(visitors.runtime, "get_instance", lambda: served)
    monkeypatch.setattr(visitors, "_known", {})
    monkeypatch.setattr(visitors, "_start_to_look", lambda: None)
    return served


def visit(served: Served, session: str) -> Visitor:
    """A visitor who is connected."""
    served.connected.add(session)
    visitors._known[session] = Visitor()
    return visitors._known[session]


# What they hold --------------------------------------------------------------------------------------


def test_a_value_is_held_until_another_one_takes_its_name():
    visitor, released = Visitor(), []
    visitor.hold("query", "first", release=lambda: released.append("first"))
    assert visitor.held("query") == "first"
    visitor.hold("query", "second", release=lambda: released.append("second"))
    assert (visitor.held("query"), released) == ("second", ["first"])
    visitor.drop("query")
    visitor.drop("query")
    assert (visitor.held("query"), released) == (None, ["first", "second"])


def test_each_session_is_another_visitor_and_stays_the_same_one():
    def script() -> None:
        import streamlit as st

        from app.shared import visitors

        st.session_state["seen"] = visitors.here()

    first, second = (AppTest.from_function(script).run() for _ in range(2))
    assert first.session_state["seen"] is first.run().session_state["seen"]
    assert first.session_state["seen"] is not second.session_state["seen"]


def test_outside_a_page_there_is_one_visitor_for_all():
    assert visitors.here() is visitors.here()


def test_what_a_page_asks_for_is_its_visitors_in_every_line():
    with visitors.asking():
        place = Place(FairLine())
    assert place.owner is visitors.here()


# When they leave -------------------------------------------------------------------------------------


def test_what_a_visitor_holds_is_released_as_soon_as_they_have_left(served):
    stays, leaves = visit(served, "stays"), visit(served, "leaves")
    released = []
    for visitor in (stays, leaves):
        visitor.hold("query", "running", release=lambda visitor=visitor: released.append(visitor))
    served.connected.discard("leaves")
    visitors.look(0.0)
    assert released == [leaves]
    assert stays.held("query") == "running"
    assert leaves.held("query") is None
    assert served.closed == []


def test_what_cannot_be_released_keeps_nothing_else(served, caplog):
    visitor, released = visit(served, "leaves"), []
    visitor.hold("broken", 1, release=lambda: 1 / 0)
    visitor.hold("query", 2, release=lambda: released.append(2))
    served.connected.clear()
    visitors.look(0.0)
    assert released == [2]
    assert "broken could not be released" in caplog.text


def test_a_session_is_closed_once_its_visitor_has_been_gone_for_so_many_seconds(served):
    visit(served, "leaves")
    served.connected.clear()
    gone = limits.current().gone_seconds
    visitors.look(100.0)
    visitors.look(100.0 + gone - 0.1)
    assert served.closed == []
    visitors.look(100.0 + gone)
    assert served.closed == ["leaves"]
    assert visitors._known == {}


def test_a_visitor_whose_connection_comes_back_keeps_the_session(served):
    visit(served, "blinks")
    gone = limits.current().gone_seconds
    for start in (0.0, gone):  # absent twice, and together for longer than `gone`
        served.connected.clear()
        visitors.look(start)
        served.connected.add("blinks")
        visitors.look(start + gone - 1)
    assert served.closed == []


def test_a_session_that_comes_back_at_the_last_moment_is_not_closed(served):
    visit(served, "blinks")
    visitors._close("blinks")
    assert served.closed == []
    assert "blinks" in visitors._known


def test_what_the_script_of_a_closed_session_still_holds_is_released(served):
    visitor = visit(served, "leaves")
    served.connected.clear()
    visitors._close("leaves")
    visitors._known["leaves"] = visitor  # as `here` does
    released = []
    visitor.hold("query", "late", release=lambda: released.append("late"))
    visitors.look(0.0)
    assert released == ["late"]


def test_memory_given_back_includes_what_was_alive_when_modules_were_frozen():
    class Page:
        pass

    circle = Page()
    circle.itself = circle
    gone = ref(circle)
    gc.collect()
    gc.freeze()
    del circle
    gc.collect()
    assert gone() is not None
    visitors.give_memory_back()
    assert gone() is None
    gc.unfreeze()


# How many --------------------------------------------------------------------------------------------


def test_a_full_host_says_so_and_takes_the_next_one_when_somebody_leaves(sample, set_limits, monkeypatch):
    set_limits("visitors = 1")
    other = Visitor()
    other.keep_place()
    monkeypatch.setattr(visitors, "_known", {"other": other})
    app = page("search")
    assert words(app).startswith("This host serves at most 1 visitors at once (visitors).")
    assert not app.text_input
    del visitors._known["other"]
    assert page("search").text_input


def test_a_visitor_who_asks_for_nothing_gives_up_the_place(monkeypatch):
    visitor = Visitor()
    visitor.keep_place()
    assert visitor.has_place
    now = visitors.time.monotonic()
    monkeypatch.setattr(visitors.time, "monotonic", lambda: now + visitors.IDLE_SECONDS + 1)
    assert not visitor.has_place


@pytest.mark.parametrize(("setting", "watches"), [("none", False), ("auto", True)])
def test_a_session_that_is_found_again_watches_files_only_if_the_setting_says_so(
    setting, watches, monkeypatch
):
    watch = AppSession.register_file_watchers
    monkeypatch.setattr(AppSession, "register_file_watchers", watch)
    monkeypatch.setattr(visitors.config, "get_option", {"server.fileWatcherType": setting}.get)
    visitors.watch_no_files()
    assert (AppSession.register_file_watchers is watch) == watches
    if not watches:
        session = object.__new__(AppSession)
        session._local_sources_watcher = None
        session.register_file_watchers()
        assert session._local_sources_watcher is None
