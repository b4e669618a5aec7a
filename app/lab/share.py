"""Save an experiment and restore it: as a link, as a file, from an earlier run.

share_popover(experiment, outcome)       # the link, the JSON, how to repeat it
file_popover(atlas)                      # a JSON file becomes the set-up
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode

import streamlit as st

from app.lab import state
from app.lab.run import Run
from app.lab.tables import check_limits
from app.shared import limits, links, visitors
from app.shared.exports import export_name
from app.shared.words import escape
from atlas.errors import AtlasError
from atlas.experiments import documents
from atlas.experiments.experiment import Experiment
from atlas.store.atlas import Atlas

if TYPE_CHECKING:
    from atlas.experiments.outcome import Outcome

# A document with results is at most this many times as large as the experiment alone.
RESULTS_FACTOR = 20


def link_to(experiment: Experiment, atlas: Atlas) -> str:
    """The URL that restores the experiment and runs it, in any session."""
    page = str(getattr(st.context, "url", None) or "").partition("?")[0]
    query = links.here(**state.address_of(experiment, atlas), run="1")
    return f"{page}?{urlencode(query)}"


def share_popover(experiment: Experiment, atlas: Atlas, outcome: Outcome | None) -> None:
    with st.popover("Share", icon=":material/share:"):
        st.markdown("**As a link** that restores everything and runs it:")
        st.code(link_to(experiment, atlas), language=None, wrap_lines=True)
        st.markdown("**As a file**" + (", with its results:" if outcome else ", without results yet:"))
        name = export_name("experiment", experiment.model, experiment.prompts[0].prompt.answer, ending="json")
        st.download_button(
            "Download as JSON",
            partial(documents.to_json, experiment, outcome.results if outcome else None),
            file_name=name,
            mime="application/json",
            icon=":material/download:",
            on_click="ignore",
        )
        st.markdown("Run the file again and compare the results, without the app:")
        st.code(f"python -m build experiment {name}", language="bash")


def file_popover(atlas: Atlas) -> None:
    """A file that `share_popover` made becomes the set-up."""
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
        visitors.forget_uploads()
        experiment = documents.from_json(text, most=RESULTS_FACTOR * limits.current().experiment_bytes)
        check_limits(experiment)
    except AtlasError as error:
        state.put("file_error", str(error))
        return
    # A new key empties the uploader.
    state.put("files", state.get("files", 0) + 1)
    state.restore(experiment, atlas)
    state.put("toast", "The experiment is set up as in the file.")


def restore_run(run: Run, atlas: Atlas) -> None:
    """Restore the settings and results of an earlier run."""
    state.restore(run.experiment, atlas)
    state.put("run", run)
