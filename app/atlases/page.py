"""Atlases: those on this machine and what each was made from; models for the Lab.

1. *Atlases.* A card for each: model × dataset, sizes, and a link that brings it into view.
2. *Published.* The import of the replication's published neurons, where it is allowed.
3. *Manifest.* What the atlas in view was made from, its files, and a check of their hashes.
4. *Models.* Those that the Lab offers; the missing ones can be fetched where that is allowed.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from typing import Any

import pandas as pd
import streamlit as st
from streamlit.column_config import NumberColumn, TextColumn

from app.atlases.import_published import PUBLISHED_ID, Import, builder
from app.shared import exports, layout, limits, links, resources
from app.shared.words import escape, formatted, joined, plural
from atlas import queries
from atlas.errors import ModelError
from atlas.models import KNOWN_MODELS, KnownModel, locate
from atlas.models.families import FAMILIES
from atlas.store.atlas import ENVIRONMENT_VARIABLE, Atlas
from atlas.store.manifest import Manifest, verify

MEGABYTE = 1_000_000
IMPORT = "published-import"
LOCAL_FILES = {
    "source": "folder with the replication's eight JSON files",
    "pararel": "folder with a copy of PARAREL's repository, or its data folder",
}


def main() -> None:
    st.title("Atlases", anchor=False)
    st.markdown(
        "An atlas holds one model's knowledge neurons for one dataset, found by one method: a folder "
        "of Parquet files."
    )
    in_view = None
    with layout.errors_as_sentences():
        in_view = layout.current_atlas()
    show_atlases()
    if limits.current().may_import:
        show_import()
    if in_view is not None:
        with layout.errors_as_sentences():
            show_manifest(in_view)
    show_models()


# Atlases ---------------------------------------------------------------------------------------------


def show_atlases() -> None:
    with st.container(horizontal=True, gap="small"):
        for atlas_id, folder in resources.atlases().items():
            with st.container(border=True, width=340, height="stretch", gap="small"):
                st.markdown(f"**{escape(atlas_id)}**")
                with layout.errors_as_sentences():
                    card(atlas_id, *resources.glance(folder, queries.atlas_summary))
    st.caption(
        "To add an atlas, build it with `python -m build run` and start the app with "
        f"`{ENVIRONMENT_VARIABLE}` set to its folder."
    )


def card(atlas_id: str, m: Manifest, summary: queries.Summary) -> None:
    known = "" if summary.n_known is None else f", {summary.n_known / max(summary.n_facts, 1):.0%} known"
    st.caption(escape(f"{m.model.name} × {m.dataset.id}"))
    st.caption(
        escape(
            f"{plural(summary.n_facts, 'fact')} of "
            f"{plural(summary.n_relations, 'relation')}{known}; "
            f"{formatted(summary.mean_neurons, '.1f')} neurons per fact; {megabytes(m)}"
        )
    )
    if "non-commercial" in (m.dataset.licence or ""):
        st.badge("non-commercial", color="orange", help=escape(m.dataset.licence))
    if atlas_id == st.session_state.get("atlas_id"):
        st.badge("in view", icon=":material/check:", color="blue")
        st.page_link(links.HOME, label="Open", icon=":material/home:", query_params={"atlas": atlas_id})
    else:
        st.page_link(
            links.ATLASES,
            label="Switch to this atlas",
            icon=":material/swap_horiz:",
            query_params={"atlas": atlas_id},
        )


def megabytes(m: Manifest) -> str:
    return f"{sum(record.bytes for record in m.files.values()) / MEGABYTE:.1f} MB"


# Published -------------------------------------------------------------------------------------------


def show_import() -> None:
    """The import: offered, running, or done."""
    st.subheader("The published neurons", anchor=False)
    running: Import | None = st.session_state.get(IMPORT)
    with st.container(border=True):
        st.caption(
            "The replication's authors published the neurons of all 27,610 PARAREL facts in "
            "bert-base-uncased: the map of BERT that comes with the project. The import makes another atlas "
            "of them, with PARAREL's own sentences and with what suppressing and enhancing the neurons does. "
            "It downloads and checks some 60 MB, once. Scores and probabilities were not published."
        )
        if running is not None and running.state == "running":
            watch(running)
            return
        if running is not None and running.state == "failed":
            st.error(escape(layout.error_text(running.error)), icon=":material/error:")
        if running is not None and running.state == "cancelled":
            layout.nothing("The import was cancelled. It left no atlas.")
        if running is not None and running.state == "done":
            st.success(f"Imported in {running.seconds:.0f} s.", icon=":material/check:")
        is_here = PUBLISHED_ID in resources.atlases()
        if is_here and st.button("Open", key="open-import", type="primary", icon=":material/home:"):
            st.switch_page(links.HOME, query_params={"atlas": PUBLISHED_ID})
        if builder() is None:
            st.caption(
                "Only the library is installed here. In a clone of the project, run "
                "`python -m build import-published --out DIR`."
            )
            return
        offer_to_import(running, again=is_here)


@st.fragment(run_every=0.5)
def watch(running: Import) -> None:
    """The progress of the import; the whole page runs again when it ends."""
    if running.state != "running":
        st.rerun()
    st.progress(running.share, text=escape(f"{running.text} …"))
    st.button("Cancel", key="cancel-import", icon=":material/stop_circle:", on_click=running.cancel)


def offer_to_import(last: Import | None, *, again: bool) -> None:
    failed = last is not None and last.state == "failed"
    with st.expander("Use local files", icon=":material/folder_open:", expanded=failed):
        for option, folder in LOCAL_FILES.items():
            st.text_input(
                f"--{option}: {folder}",
                value="" if last is None else getattr(last, option),
                key=f"import-{option}",
                max_chars=1000,
                placeholder="downloaded if empty",
            )
    st.button(
        "Import again" if again else "Import",
        key="begin-import",
        icon=":material/download:",
        on_click=begin_import,
    )


def begin_import() -> None:
    """Start the import, unless this visitor's last one still runs."""
    running: Import | None = st.session_state.get(IMPORT)
    if running is None or running.state != "running":
        with layout.errors_as_sentences():
            folders = {option: st.session_state.get(f"import-{option}", "") for option in LOCAL_FILES}
            st.session_state[IMPORT] = Import.start(**folders)


# Manifest --------------------------------------------------------------------------------------------


def show_manifest(atlas: Atlas) -> None:
    m = atlas.manifest
    st.subheader(f"What {escape(m.atlas_id)} was made from", anchor=False)
    left, right = st.columns(2, gap="medium")
    with left:
        show_record("Model", model_rows(m))
        show_hash("sha256 of the weights", m.model.weights_sha256)
        dataset = m.dataset
        record = {"Name": dataset.id, "Revision": dataset.revision, "Licence": dataset.licence}
        show_record("Dataset", record)
        show_hash("sha256 of the facts and prompts", dataset.hash)
    with right:
        show_record("Method", method_rows(m))
        show_record("Build", build_rows(m))
    if m.notes:
        st.caption(escape(m.notes))
    show_files(atlas)


def show_record(title: str, rows: Mapping[str, Any]) -> None:
    """Names and values; empty values are "not recorded"."""
    st.markdown(f"**{title}**")
    values = [escape("not recorded" if value in (None, "") else value) for value in rows.values()]
    frame = pd.DataFrame({title: values}, index=pd.Index([escape(name) for name in rows], name=""))
    st.table(frame, border="horizontal", hide_header=True, alt=f"{title} of this atlas")


def show_hash(title: str, digest: str | None) -> None:
    """A whole hash, ready to copy."""
    if digest:
        st.caption(title)
        st.code(digest, language=None, wrap_lines=True)


def model_rows(m: Manifest) -> dict[str, Any]:
    model = m.model
    shape = f"{model.n_layers} × {model.n_neurons:,}" if model.n_layers and model.n_neurons else None
    return {
        "Name": model.name,
        "Revision": model.revision,
        "Family": model.family,
        "Layers × neurons": shape,
        "Activation function": model.activation_function,
        "Number format": model.dtype,
    }


def method_rows(m: Manifest) -> dict[str, Any]:
    method = m.method
    refinement = dict(method.refinement)
    reaches = "≥" if refinement.get("inclusive", True) else ">"
    names = {"threshold": f"score {reaches}", "share": f"share {reaches}", "at_least": "prompts ≥"}
    published = method.options.get("published") or {}
    revision = str(published.get("revision") or "")[:12]
    source = [published.get("repository"), revision, published.get("licence")]
    rule = ", ".join(
        f"{name} {refinement[key]}" for key, name in names.items() if refinement.get(key) is not None
    )
    return {
        **({"Imported from": joined(*map(str, filter(None, source)))} if published else {}),
        "Scores": method.name.replace("_", " "),
        "Integration rule": method.rule,
        "Tolerance": method.tolerance,
        "Maximum of points": method.max_points,
        "Knowledge neurons": " · ".join(part for part in (refinement.get("mode"), rule) if part),
        "Stored scores (× the prompt's maximum)": method.stored_fraction,
        "Held out": method.held_out,
        "Seed": method.seed,
    }


def build_rows(m: Manifest) -> dict[str, Any]:
    return {
        "Created": m.created,
        "Code": m.code_version,
        "Device": m.device,
        "Time": None if m.seconds is None else f"{m.seconds:,.0f} s",
        "Prompts per second": m.prompts_per_second,
        "Schema": f"version {m.schema_version}",
    }


def show_files(atlas: Atlas) -> None:
    m = atlas.manifest
    rows = pd.DataFrame(
        {
            "table": [name.removesuffix(".parquet") for name in m.files],
            "rows": [record.rows for record in m.files.values()],
            "megabytes": [record.bytes / MEGABYTE for record in m.files.values()],
            "sha256": [record.sha256 for record in m.files.values()],
        }
    )
    st.markdown("**Files**")
    st.dataframe(
        rows,
        hide_index=True,
        alt="Tables of this atlas with their rows, sizes and hashes",
        column_config={
            "table": TextColumn("Table", pinned=True),
            "rows": NumberColumn("Rows", format="localized", width="small"),
            "megabytes": NumberColumn("Size (MB)", format="%.2f", width="small"),
            "sha256": TextColumn("sha256", width="large"),
        },
    )
    with st.container(horizontal=True, gap="small"):
        st.download_button(
            "Manifest",
            lambda: json.dumps(m.to_dict(), indent=2, ensure_ascii=False),
            file_name="manifest.json",
            mime="application/json",
            icon=":material/download:",
            on_click="ignore",
        )
        exports.offer(m.atlas_id, files=rows)
        pressed = st.button("Check the hashes", icon=":material/verified:")
    if pressed:
        begun = time.perf_counter()
        with layout.errors_as_sentences():
            verify(atlas.path)
            seconds = time.perf_counter() - begun
            st.success(
                f"All {len(rows)} files match the manifest ({seconds:.1f} s).", icon=":material/check:"
            )


# Models ----------------------------------------------------------------------------------------------


def show_models() -> None:
    st.subheader("Models for the Lab", anchor=False)
    allowed = limits.current()
    for name in allowed.models:
        with st.container(border=True), layout.errors_as_sentences():
            show_model(name)
    if not allowed.demo_mode:
        st.caption(
            "The Lab also takes a local folder or a hub id of a model with safetensors weights and one of "
            f"these types: {', '.join(FAMILIES)}."
        )


def show_model(name: str) -> None:
    known = KNOWN_MODELS.get(name)
    st.markdown(f"**{escape(name)}**")
    if known is not None:
        st.caption(escape(known.description))
        st.caption(escape(sizes(known)))
    try:
        located = locate(name, allow_download=False)
    except ModelError as missing:
        fetch_button(name, missing)
        return
    with st.container(horizontal=True, vertical_alignment="center", gap="small"):
        st.badge("ready", icon=":material/check:", color="blue")
        st.caption(escape(f"weights {located.weights_sha256[:12]}"))
        st.page_link(
            links.LAB,
            label="Use it in the Lab",
            icon=":material/science:",
            query_params=links.here(model=name),
        )


def sizes(known: KnownModel) -> str:
    fetched = "comes with the project" if known.download_mb == 0 else f"{known.download_mb} MB download"
    return (
        f"{known.kind}, {known.n_layers} layers of {known.n_neurons:,} neurons · {known.licence} · "
        f"{fetched}, {known.disk_mb} MB on disk"
    )


def fetch_button(name: str, missing: ModelError) -> None:
    if not limits.current().may_download(name):
        layout.nothing("This host does not fetch models for visitors.")
        return
    if st.button(f"Fetch {escape(name)}", key=f"fetch-{name}", icon=":material/download:"):
        resources.fetch(name)
    st.caption(escape(missing))


main()
