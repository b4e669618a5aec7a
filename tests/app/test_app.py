"""The browsing pages, driven as Streamlit runs them: real Parquet, real DuckDB, no model, no torch."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys

import pytest

from app.shared.words import NOT_MEASURED, escape
from atlas.store import atlas as store
from atlas.store.atlas import Atlas
from tests import ROOT
from tests.app.pages import MAIN, page, press, words
from tests.sample_atlas import OPTIONAL_TABLES

BROWSING = {
    "home": {},
    "search": {"q": "oslo"},
    "fact": {"fact": "P36-00001"},
    "relation": {"relation": "P36"},
    "neuron": {"neuron": "L0.N7"},
    "compare": {"kind": "facts", "a": "P36-00001", "b": "P36-00002"},
    "planted": {},
    "evidence": {},
    "atlases": {},
}


# Pages -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", BROWSING)
def test_every_page_opens_by_its_permalink_and_ends_with_its_provenance(only_sample, name):
    app = page(name, atlas="sample", **BROWSING[name])
    assert not app.error
    assert app.title
    text = words(app)
    for part in (
        *("Atlas sample", "model sample-model at 1", "weights 000000000000"),
        *("integrated gradients, rule certified", "tolerance 0.01", "dataset sample (000000000000)"),
        *("CC0-1.0", "code 0.1.0", "Whole manifest"),
    ):
        assert part in text, part


@pytest.mark.parametrize("name", ["fact", "relation", "neuron"])
def test_every_page_has_something_to_say_without_parameters(only_sample, name):
    app = page(name)
    assert not app.error
    assert "Atlas sample" in words(app)


def test_home_leads_to_search_with_the_words_typed(only_sample):
    app = page()
    app.text_input[1].input("oslo")
    press(app, "Search")
    assert app.title[0].value == "Search"
    assert app.query_params["q"] == "oslo"
    assert "→ Oslo" in words(app)


def test_a_random_fact_has_neurons(only_sample):
    app = page()
    press(app, "Random fact")
    assert Atlas(only_sample).query_one(
        "SELECT n_neurons FROM facts WHERE fact_id = ?", [app.query_params["fact"]]
    )["n_neurons"]


# Bad input -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "parameters", "sentence"),
    [
        ("fact", {"fact": "P0-nothing"}, "has no fact 'P0-nothing'"),
        ("fact", {"fact": "'; DROP TABLE facts; --"}, "has no fact"),
        ("relation", {"relation": "P0"}, "has no relation 'P0'"),
        ("neuron", {"neuron": "nine"}, "'nine' is not a neuron"),
        ("neuron", {"neuron": "L" + "9" * 5000 + ".N1"}, "is not a neuron"),
        ("neuron", {"neuron": "L99.N1"}, "has no neuron L99.N1"),
        ("fact", {"fact": "P36-00001", "atlas": "elsewhere"}, "There is no atlas 'elsewhere' here"),
        ("fact", {"fact": "P36-00001", "atlas": "/etc"}, "There is no atlas '/etc' here"),
    ],
)
def test_a_bad_link_gets_a_sentence(only_sample, name, parameters, sentence):
    app = page(name, **parameters)
    assert len(app.error) == 1
    assert sentence in words(app)


def test_without_an_atlas_every_page_says_how_to_get_one(only_sample, monkeypatch):
    monkeypatch.delenv(store.ENVIRONMENT_VARIABLE)
    for name, parameters in BROWSING.items():
        app = page(name, **parameters)
        assert not app.exception
        assert "python -m build run" in app.error[0].value.replace("\\", "")


def test_a_broken_atlas_gets_a_sentence(another_atlas):
    folder = another_atlas()
    (folder / "facts.parquet").write_bytes(b"PAR1")
    app = page()
    assert "truncated" in app.error[0].value


def test_a_variable_that_names_no_atlas_gets_a_sentence(tmp_path, monkeypatch):
    monkeypatch.setenv(store.ENVIRONMENT_VARIABLE, str(tmp_path / "nowhere"))
    app = page()
    assert "neither a folder nor the id of an atlas" in words(app)


def test_tables_that_were_not_measured_say_so(another_atlas):
    another_atlas(leave_out=OPTIONAL_TABLES)
    for name, parameters in BROWSING.items():
        app = page(name, **parameters)
        assert not app.exception
        assert not app.error
        if name in ("fact", "relation", "neuron"):
            assert words(app).lower().count(NOT_MEASURED) == 1


def test_text_from_data_is_never_markdown():
    hostile = "![x](http://a/b) <b>`$\\alpha$` :red[no] **bold**\n# title"
    escaped = escape(hostile)
    assert "\n" not in escaped
    assert re.sub(r"\\([^\w\s])", r"\1", escaped) == " ".join(hostile.split())
    assert not re.search(r"(?<!\\)[*_`\[\]<>$#:!]", escaped.replace("\\\\", ""))


# No model --------------------------------------------------------------------------------------------


def test_browsing_imports_no_torch(only_sample):
    program = f"""
import json, sys
from streamlit.testing.v1 import AppTest
for name, parameters in json.loads(sys.argv[1]).items():
    app = AppTest.from_file({str(MAIN)!r}, default_timeout=60).run()
    app.switch_page(f"{{name}}/page.py")
    app.query_params.update(parameters)
    app.run()
    assert not app.exception and not app.error and app.title, name
    loaded = [m for m in ("torch", "transformers") if m in sys.modules]
    assert not loaded, (name, loaded)
"""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), store.ENVIRONMENT_VARIABLE: str(only_sample)}
    done = subprocess.run(
        [sys.executable, "-c", program, json.dumps(BROWSING)],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=180,
    )
    assert done.returncode == 0, done.stderr[-2000:]


def test_cache_decorators_are_in_one_place():
    for path in (ROOT / "app").rglob("*.py"):
        if path.name != "resources.py":
            assert "st.cache_" not in path.read_text(encoding="utf-8"), path
