"""Who visits: each session of the app, what it holds, and when it has left.

    with visitors.asking():                      # around a page: its work counts as this visitor's
        visitors.take_place()                    # LimitsError where the host is full
        with visitors.drawing(): ...             # two pages at once, in turn
            with visitors.away(): ...            # what takes long and is no drawing
    visitor = visitors.here()
    visitor.hold("sql", query, release=stop)     # until another one takes this name, or the visitor leaves
    visitor.held("sql"), visitor.drop("sql")

A thread looks twice a second which visitors have left:

1. *Release.* What they hold is released at once, so that their queries end with them.
2. *Close.* After `gone_seconds` Streamlit closes the session; until then a lost connection finds it again.
3. *Give back.* The system gets the memory that Python, Arrow and the C library keep.
"""

from __future__ import annotations

import ctypes
import gc
import logging
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import pyarrow
import streamlit as st
from streamlit import config, runtime
from streamlit.runtime.app_session import AppSession
from streamlit.runtime.scriptrunner import get_script_run_ctx

from app.shared import limits
from app.shared.limits import LimitsError
from atlas import line
from atlas.line import FairLine, Place

LOOK_EVERY_SECONDS = 0.5
# Memory is given back for a while after somebody has left: Streamlit's loop lets go of the last session late.
GIVE_BACK_EVERY_SECONDS, GIVE_BACK_FOR_SECONDS = 5.0, 60.0
# Visiting every object, the frozen ones too, stops all pages for about 0.2 seconds.
VISIT_ALL_EVERY_SECONDS = 30.0
# A visitor who asks for nothing for so long gives up the place.
IDLE_SECONDS = 300.0

# Held while a copy of the server works (`apart`): to visit an object writes to it, and what is written by one
# of the two is no longer shared.
sharing_memory = threading.Lock()

_VISITOR = "visitor"
_M_ARENA_MAX = -8  # malloc.h
_log = logging.getLogger(__name__)


class Visitor:
    """One session, and what it holds that is large or runs."""

    def __init__(self) -> None:
        self.left_at: float | None = None
        self._place_until = 0.0
        self._held: dict[str, tuple[Any, Callable[[], object] | None]] = {}

    def hold(self, name: str, value: Any, release: Callable[[], object] | None = None) -> None:
        """Keep a value for this visitor; `release()` is called when another one takes its name, or it is
        dropped, or the visitor has left."""
        self.drop(name)
        self._held[name] = value, release

    def held(self, name: str) -> Any:
        """The value of that name; None where there is none, or it was released."""
        value, _ = self._held.get(name, (None, None))
        return value

    def drop(self, name: str) -> None:
        """Release what is held by that name, if anything is."""
        _, release = self._held.pop(name, (None, None))
        if release is not None:
            release()

    def drop_all(self) -> bool:
        """Release everything; whether there was anything."""
        names = list(self._held)
        for name in names:
            try:
                self.drop(name)
            except Exception:
                _log.exception("%s could not be released", name)
        return bool(names)

    @property
    def has_place(self) -> bool:
        """Whether this visitor was let in, is still here and has asked for something lately."""
        return self.left_at is None and time.monotonic() < self._place_until

    def keep_place(self) -> None:
        """Have a place until `IDLE_SECONDS` from now."""
        self._place_until = time.monotonic() + IDLE_SECONDS


_OUTSIDE = Visitor()
_known: dict[str, Visitor] = {}  # by Streamlit's session id
_guard = threading.Lock()


def here() -> Visitor:
    """The visitor whose page runs; outside a page, one for all."""
    context = get_script_run_ctx(suppress_warning=True)
    if context is None:
        return _OUTSIDE
    visitor = st.session_state.setdefault(_VISITOR, Visitor())
    # Also again: the script of a session that was closed may still run.
    with _guard:
        _known[context.session_id] = visitor
    _start_to_look()
    return visitor


@contextmanager
def asking() -> Iterator[None]:
    """What is asked for in this block counts as this visitor's in every line (`atlas.line`).

    All sessions of one network address count as one; without an address, on this machine, each for itself.
    """
    visitor = here()
    address = st.context.ip_address if runtime.exists() else None
    with line.asking(address or visitor):
        yield


# Pages -----------------------------------------------------------------------------------------------

# Python draws one page at a time; of many at once, each waits for all.
_drawing = FairLine(at_once=2)
_here = threading.local()


@contextmanager
def drawing() -> Iterator[None]:
    """Draw a page when it is this visitor's turn; who has had much less of it goes first.

    Where the visitor leaves meanwhile, the page is not drawn.
    """
    if not runtime.exists():
        yield
        return
    _here.place = place = Place(_drawing)
    try:
        _take_turn(place)
        yield
    finally:
        place.leave()


@contextmanager
def away() -> Iterator[None]:
    """Let other pages be drawn while this one waits in this block."""
    place = getattr(_here, "place", None)
    if place is None or not place.served:
        yield
        return
    place.leave()
    yield
    _take_turn(place)


def _take_turn(place: Place) -> None:
    place.join()
    place.wait(on_wait=_stop_if_left)


def _stop_if_left(ahead: int) -> None:
    context = get_script_run_ctx(suppress_warning=True)
    if context is not None and not runtime.get_instance().is_active_session(context.session_id):
        st.stop()


# Places ----------------------------------------------------------------------------------------------


def take_place() -> None:
    """Raise `LimitsError` where the host is full, or where the session holds too much text."""
    visitor, allowed = here(), limits.current()
    if not visitor.has_place:
        look(time.monotonic())
        with _guard:
            n_here = sum(each.has_place for each in _known.values())
        if n_here >= allowed.visitors:
            raise LimitsError(
                f"This host serves at most {allowed.visitors:,} visitors at once (visitors). "
                "Try again in a minute."
            )
    visitor.keep_place()
    # Each field has a longest text; the URL has none, and fields of changes that were removed stay.
    texts = [*st.session_state.values(), *st.query_params.values()]
    if sum(len(each) for each in texts if isinstance(each, str)) > allowed.session_characters:
        raise LimitsError(
            f"This session holds more than {allowed.session_characters:,} characters of text "
            "(session_characters). Open the app without parameters to begin anew."
        )


def forget_uploads() -> None:
    """Drop the files that this visitor has handed in; once read, they are of no use."""
    if (context := get_script_run_ctx(suppress_warning=True)) is not None:
        runtime.get_instance().uploaded_file_mgr.remove_session_files(context.session_id)


# Those who have left ---------------------------------------------------------------------------------


def look(now: float) -> bool:
    """Release what visitors hold who have left, and close those who left long ago; whether there were any."""
    if not runtime.exists():
        return False
    served = runtime.get_instance()
    with _guard:
        known = dict(_known)
    found = False
    for session, visitor in known.items():
        if served.is_active_session(session):
            visitor.left_at = None
            continue
        visitor.left_at = visitor.left_at or now
        found |= visitor.drop_all()
        if now - visitor.left_at >= limits.current().gone_seconds:
            # Streamlit's sessions are changed on its event loop only, which is closed when the server ends.
            with suppress(RuntimeError):
                served.stopped.get_loop().call_soon_threadsafe(_close, session)
            found = True
    return found


def _close(session: str) -> None:
    """Close a session that nobody is connected to: its state, messages, files and media go."""
    served = runtime.get_instance()
    if served.is_active_session(session):
        return
    served.close_session(session)
    with _guard:
        _known.pop(session, None)


def give_memory_back(*, visit_all: bool = True) -> None:
    """Free what no session holds any more, and let the system have it.

    visit_all: also what was alive when `resources.spare_the_collector` froze the modules, sessions included.
    """
    if visit_all:
        gc.unfreeze()
    gc.collect()
    if visit_all:
        gc.freeze()
    _c_library("malloc_trim", 0)


def spend_memory_sparingly() -> None:
    """Have memory allocated so that what is freed can be given back.

    By default each page's thread has a heap of its own, and Arrow keeps those of threads that have ended: ten
    answers of 30 MB leave 150 MB behind.
    """
    pyarrow.set_memory_pool(pyarrow.system_memory_pool())
    _c_library("mallopt", _M_ARENA_MAX, 2)


def watch_no_files() -> None:
    """Have a session that is found again watch files only if the setting says so, as a new one does.

    Streamlit's `WebsocketSessionManager.connect_session` starts to watch them whatever `fileWatcherType` is.
    Each run of the session then reads the path of every module, 0.3 s of the one loop of all sessions: five
    visitors who reconnect again and again take three quarters of its time.
    """
    if config.get_option("server.fileWatcherType") == "none":
        AppSession.register_file_watchers = lambda self: None  # type: ignore[method-assign]


def _c_library(function: str, *numbers: int) -> None:
    """Call a function that only the GNU C library has."""
    with suppress(AttributeError, OSError, TypeError):
        getattr(ctypes.CDLL(None), function)(*numbers)


_looking: threading.Thread | None = None


def _start_to_look() -> None:
    global _looking
    with _guard:
        if _looking is None:
            spend_memory_sparingly()
            watch_no_files()
            _looking = threading.Thread(target=_look_again_and_again, name="visitors", daemon=True)
            _looking.start()


def _look_again_and_again() -> None:
    give_back_until = gave_back_at = visited_all_at = 0.0
    while True:
        time.sleep(LOOK_EVERY_SECONDS)
        now = time.monotonic()
        try:
            if now < give_back_until and now - gave_back_at > GIVE_BACK_EVERY_SECONDS:
                due = now - visited_all_at > VISIT_ALL_EVERY_SECONDS
                visit_all = due and sharing_memory.acquire(blocking=False)
                try:
                    give_memory_back(visit_all=visit_all)
                finally:
                    if visit_all:
                        sharing_memory.release()
                gave_back_at, visited_all_at = now, now if visit_all else visited_all_at
            if look(now):
                give_back_until = now + GIVE_BACK_FOR_SECONDS
        except LimitsError:
            pass  # every page says it
        except Exception:
            _log.exception("The visitors could not be looked after")
