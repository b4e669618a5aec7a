"""What is cached between reruns and shared by all visitors; the only cache decorators of the app.

    atlases()                                    # ids and folders that can be chosen
    a = opened(folder)                           # an Atlas, opened once and again when it is rebuilt
    ask(queries.relation_overlap, a)             # a query whose answer is worth keeping
    KeptChart(partial(layer_bars, rows))         # a chart for Streamlit
    s = subject("pocket-bert")                   # a model for the Lab; imports torch

Everything cached is read-only: a subject changes only inside `with subject.applied(…)`, under its lock.
"""

from __future__ import annotations

import atexit
import gc
import hashlib
import os
import pickle
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import altair as alt
import streamlit as st

from app.shared import limits
from app.shared.words import escape
from atlas.charts import look
from atlas.errors import AtlasError
from atlas.models import fetch_model, locate
from atlas.queries import evidence
from atlas.store.atlas import ENVIRONMENT_VARIABLE, Atlas, at_hand, open_atlas, resolve
from atlas.store.manifest import MANIFEST_NAME, Manifest
from atlas.store.sql_pool import Pool
from atlas.store.sql_size import AnswerSize

if TYPE_CHECKING:
    from atlas.store.sql import Sandbox
    from atlas.surgery.subject import Subject

_T = TypeVar("_T")

# Without `model_process`, a model's thread lets go of Python's interpreter lock at every operation, and waits
# this long to get it back while a page computes: with Python's 5 ms, 2,000 operations waited for ten seconds.
sys.setswitchinterval(0.0002)

_n_modules = 0


def spare_the_collector() -> None:
    """Exclude the modules loaded by now from Python's garbage collection.

    A collection visits every object of pandas, Altair and torch, and no page goes on meanwhile. Modules stay
    anyway; runs again after a page has loaded more.
    """
    global _n_modules
    if len(sys.modules) != _n_modules:
        gc.collect()
        gc.freeze()
        _n_modules = len(sys.modules)


# At exit Python reports frozen objects as leaks.
atexit.register(gc.unfreeze)


# Atlases ---------------------------------------------------------------------------------------------


def atlases() -> dict[str, Path]:
    """Ids and folders of the atlases that can be chosen, the default first.

    The one that KNOWLEDGE_NEURON_ATLAS names, the bundled ones, the imported ones. What a visitor types never
    becomes a path: only these ids are accepted. `configured_error` says where the variable names no atlas.
    """
    found = at_hand()
    folder, _ = _configured()
    if folder is None:
        return found
    atlas_id = folder.name if found.get(folder.name, folder) == folder else f"{folder.name} (local)"
    return {atlas_id: folder, **found}


def configured_error() -> AtlasError | None:
    """What is wrong with KNOWLEDGE_NEURON_ATLAS."""
    return _configured()[1]


def _configured() -> tuple[Path | None, AtlasError | None]:
    """The folder that KNOWLEDGE_NEURON_ATLAS names, or what is wrong with it."""
    if not os.environ.get(ENVIRONMENT_VARIABLE):
        return None, None
    try:
        return resolve(), None
    except AtlasError as error:
        return None, error


def opened(folder: Path) -> Atlas:
    """The atlas in a folder; raises `StoreError` when it is broken."""
    return _opened(str(folder), _version(folder))


@st.cache_resource(max_entries=16, show_spinner=False)
def _opened(folder: str, version: int) -> Atlas:
    atlas = open_atlas(folder, memory=f"{limits.current().atlas_memory_mb}MB")
    # Most pages query these; scores and effects are larger and are read from disk.
    small = [table for table in evidence.LOADED if table in atlas.tables]
    atlas.load("facts", "knowledge_neurons", "neurons", "templates", "prompts", *small)
    return atlas


def glance(folder: Path, query: Callable[[Atlas], _T]) -> tuple[Manifest, _T]:
    """An atlas's manifest and the answer of a query; raises `StoreError` when it is broken.

    No table stays in memory, so that a list of atlases is cheap.
    """
    return _glance(str(folder), _version(folder), query.__name__, query)


def glances(query: Callable[[Atlas], _T]) -> list[tuple[Manifest, _T]]:
    """The same of every atlas at hand that can be opened."""
    found = []
    for folder in atlases().values():
        with suppress(AtlasError):
            found.append(glance(folder, query))
    return found


@st.cache_data(max_entries=64, show_spinner=False)
def _glance(folder: str, version: int, name: str, _query: Callable[[Atlas], _T]) -> tuple[Manifest, _T]:
    with open_atlas(folder) as atlas:
        return atlas.manifest, _query(atlas)


def _version(folder: Path) -> int:
    """Changes whenever the atlas is built again."""
    try:
        return (folder / MANIFEST_NAME).stat().st_mtime_ns
    except OSError:
        return 0


@st.cache_resource(max_entries=1, show_spinner=False)
def _sql_processes(most: int) -> Pool:
    """The processes that run visitors' SQL, whatever their atlas; they end when they are idle."""
    return Pool(most)


@st.cache_resource(max_entries=64, show_spinner=False)
def _sandbox(
    folder: str, version: int, rows: int, seconds: float, memory_mb: int, size: AnswerSize, processes: int
) -> Sandbox:
    return _opened(folder, version).sandboxed(
        max_rows=rows,
        seconds=seconds,
        memory=f"{memory_mb}MB",
        size=size,
        pool=_sql_processes(processes),
    )


def sandbox(atlas: Atlas) -> Sandbox:
    """What runs visitors' SQL on an atlas."""
    allowed = limits.current()
    return _sandbox(
        *(str(atlas.path), _version(atlas.path)),
        *(allowed.sql_rows, allowed.sql_seconds, allowed.sql_memory_mb),
        AnswerSize(allowed.sql_columns, allowed.sql_values, allowed.sql_megabytes, prefix="sql_"),
        allowed.sql_processes,
    )


def ask(query: Callable[..., _T], atlas: Atlas, *arguments: Any, **options: Any) -> _T:
    """The answer of a function of `atlas.queries`, cached until the atlas is built again."""
    key = (str(atlas.path), _version(atlas.path), query.__module__, query.__name__)
    return _answer(key, arguments, tuple(sorted(options.items())), query, atlas)


@st.cache_data(max_entries=512, show_spinner=False)
def _answer(key, arguments, options, _query, _atlas):
    return _query(_atlas, *arguments, **dict(options))


class KeptChart:
    """What `make()` gives, as `st.altair_chart` takes it; made once for all who draw it of the same rows.

    Altair takes as long to make a page's charts as all its queries. With `fields`, marks can be clicked
    (`look.clickable`).
    """

    def __init__(self, make: partial, *fields: str) -> None:
        self._make, self._fields = make, fields

    def to_dict(self) -> dict[str, Any]:
        """The Vega-Lite specification, with the rows in `datasets`."""
        key = hashlib.sha256(pickle.dumps((self._make, self._fields))).digest()
        return _specification(key, self._make, self._fields)


@st.cache_data(max_entries=256, show_spinner=False)
def _specification(key: bytes, _make: partial, _fields: Sequence[str]) -> dict[str, Any]:
    spec = look.clickable(_make(), *_fields).to_dict()
    # Streamlit collects the rows here while it has a chart's specification made, one chart at a time.
    return spec | {"datasets": dict(alt.data_transformers.options.get("datasets", {}))}


# Models ----------------------------------------------------------------------------------------------


def fetch(name: str) -> None:
    """Put a model's files on this machine behind a progress bar, and run the page again.

    Raises `ModelError` where the limits do not let visitors do so.
    """
    limits.current().check_download(name)
    bar = st.progress(0.0, text="Fetching …")
    try:
        fetch_model(name, lambda share, text: bar.progress(min(max(share, 0.0), 1.0), text=escape(text)))
    finally:
        bar.empty()
    st.rerun()


def subject(name: str) -> Subject:
    """The subject model of that name, loaded once for all visitors. The first call imports torch.

    A model that is not on disk is fetched where that is allowed; call `fetch` first to show progress. Raises
    `ModelError` where the limits do not allow it, before the name is looked up.
    """
    allowed = limits.current()
    allowed.check_model(name)
    if not allowed.may_download(name):
        locate(name, allow_download=False)
    return _subject(name)


@st.cache_resource(max_entries=3, show_spinner=False)
def _subject(name: str) -> Subject:
    import torch

    from atlas.surgery.subject import load_subject

    allowed = limits.current()
    torch.set_num_threads(min(allowed.model_threads, torch.get_num_threads()))
    loaded = load_subject(name)
    if loaded.device.type == "cpu":
        loaded.sweep_bytes = 1e6 * allowed.sweep_mb
    return loaded
