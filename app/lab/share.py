"""An experiment to take away and to bring back: as a link, as a file, from an earlier run.

share(experiment, outcome)               # a popover: the link, the JSON, how to do it again
open_file(atlas)                         # a popover: a JSON file becomes the set-up
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode

import streamlit as st

from app.lab import state, tables
from app.lab.run import Run
from app.shared import limits, links
from app.shared.exports import file_name
from app.shared.words import escape
from atlas.errors import AtlasError
from atlas.experiments import documents
from atlas.experiments.experiment import Experiment
from atlas.store.atlas import Atlas

if TYPE_CHECKING:
    from atlas.experiments.outcome import Outcome

# A document with its results is this many times as large as the experiment alone, at most.
RESULTS_FACTOR = 20


def link_to(experiment: Experiment) -> str:
    """The address that restores the experiment and runs it, in any session."""
    page = str(getattr(st.context, "url", None) or "").partition("?")[0]
    query = links.here(x=tables.encode(experiment), run="1")
    return f"{page}?{urlencode(query)}"


def share(experiment: Experiment, outcome: Outcome | None) -> None:
    with st.popover("Share", icon=":material/share:"):
        st.markdown("**As a link** that restores everything and runs it:")
        st.code(link_to(experiment), language=None, wrap_lines=True, height=110)
        st.markdown("**As a file**" + (", with its results:" if outcome else ", without results yet:"))
        name = file_name("experiment", experiment.model, experiment.asked[0].prompt.answer, ending="json")
        st.download_button(
            "Download as JSON",
            partial(as_file, experiment, outcome),
            file_name=name,
            mime="application/json",
            icon=":material/download:",
            on_click="ignore",
        )
        st.markdown("The file can be run again, and compared, without the app:")
        st.code(f"python -m build experiment {name}", language="bash")


def as_file(experiment: Experiment, outcome: Outcome | None) -> str:
    """The document of `python -m build experiment`, made when it is downloaded."""
    return documents.to_json(experiment, outcome.results if outcome else None)


def open_file(atlas: Atlas) -> None:
    """A file that `share` made becomes the set-up."""
    with st.popover("Open a file", icon=":material/folder_open:"):
        st.file_uploader(
            "Experiment (JSON)",
            type="json",
            key=f"lab_file_{state.get('files', 0)}",
            on_change=_file_chosen,
            args=(atlas,),
        )
        if state.get("file_error"):
            st.error(escape(state.get("file_error")))


def _file_chosen(atlas: Atlas) -> None:
    given: Any = st.session_state.get(f"lab_file_{state.get('files', 0)}")
    state.put("file_error", None)
    if given is None:
        return
    try:
        text = given.getvalue().decode("utf-8", "replace")
        experiment = documents.from_json(text, most=RESULTS_FACTOR * limits.current().experiment_bytes)
        tables.check(experiment)
    except AtlasError as error:
        state.put("file_error", str(error))
        return
    # An uploader with a new key is empty again.
    state.put("files", state.get("files", 0) + 1)
    state.restore(experiment, atlas)
    state.put("said", "The experiment is set up as in the file.")


def bring_back(run: Run, atlas: Atlas) -> None:
    """The settings and results of an earlier run, on the screen again."""
    state.restore(run.experiment, atlas)
    state.put("run", run)
