"""What a host can rely on: the configuration, silence about errors, and that nothing typed is a path."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
import tomllib
from contextlib import contextmanager
from dataclasses import fields
from pathlib import Path

import pytest
from streamlit import config
from streamlit.testing.v1 import AppTest

from app.shared import layout, limits, resources
from atlas import models
from atlas.errors import ModelError, StoreError
from atlas.store import atlas as store
from tests import ROOT
from tests.app.pages import DEMO, MAIN, page, words
from tests.sample_atlas import write_sample_atlas

APP = ROOT / "app"
CONFIG = ROOT / ".streamlit" / "config.toml"
PAGES = sorted(path.parent.name for path in APP.glob("*/page.py"))


@pytest.fixture
def sample(tmp_path, monkeypatch) -> Path:
    folder = write_sample_atlas(tmp_path / "sample")
    monkeypatch.setattr(store, "DATA", tmp_path)
    monkeypatch.delenv(store.ENVIRONMENT_VARIABLE, raising=False)
    return folder


# The configuration -----------------------------------------------------------------------------------


def test_the_configuration_suits_a_host():
    written = tomllib.loads(CONFIG.read_text(encoding="utf-8"))
    assert written["server"]["fileWatcherType"] == "none"
    assert written["server"]["runOnSave"] is False
    assert written["server"]["showEmailPrompt"] is False
    assert written["server"]["maxUploadSize"] == 1
    assert written["server"]["maxWidgetStateSize"] == 1
    assert written["server"]["maxCacheDataSize"] == "64mb"
    assert written["browser"]["gatherUsageStats"] is False
    assert written["client"]["showErrorDetails"] == "none"
    assert written["client"]["toolbarMode"] == "minimal"


def test_every_option_of_the_configuration_is_one_that_streamlit_knows():
    known = set(config.get_config_options())
    for section, options in tomllib.loads(CONFIG.read_text(encoding="utf-8")).items():
        for name, value in options.items():
            keys = (
                [f"{section}.{name}.{each}" for each in value]
                if isinstance(value, dict)
                else [f"{section}.{name}"]
            )
            assert set(keys) <= known, keys


def test_an_experiment_fits_into_an_upload():
    upload = tomllib.loads(CONFIG.read_text(encoding="utf-8"))["server"]["maxUploadSize"] * 2**20
    assert limits.current().experiment_bytes <= upload


# Errors ----------------------------------------------------------------------------------------------


@contextmanager
def error_details(value: object):
    before = config.get_option("client.showErrorDetails")
    config.set_option("client.showErrorDetails", value)
    try:
        yield
    finally:
        config.set_option("client.showErrorDetails", before)


# False is what Streamlit Community Cloud sets.
@pytest.mark.parametrize("details", ["none", False, "false"])
def test_a_bug_shows_visitors_no_details(sample, monkeypatch, details, caplog):
    def broken(*_, **__):
        raise ValueError("password in /srv/secrets")

    monkeypatch.setattr("atlas.queries.facts_matching", broken)
    monkeypatch.setattr("atlas.queries.search.facts_matching", broken, raising=False)
    with error_details(details):
        app = page("search", fails=True, q="oslo")
        (shown,) = app.exception
    assert "password" not in shown.message
    assert not shown.proto.type
    assert not shown.stack_trace
    assert "password" not in words(app)


def test_a_developer_can_ask_for_all_of_it(sample, monkeypatch):
    monkeypatch.setattr("app.shared.address.text_box", lambda *_, **__: 1 / 0)
    with error_details("full"):
        (shown,) = page("search", fails=True).exception
    assert "division by zero" in shown.message
    assert shown.stack_trace


@pytest.mark.parametrize(
    ("said", "shown"),
    [
        ("/srv/apps/atlas/facts.parquet is truncated.", "facts.parquet is truncated."),
        ("The folder /home/me/my-model has no config.json.", "The folder my-model has no config.json."),
        ("'/srv/x/y' is neither a folder nor an atlas.", "'y' is neither a folder nor an atlas."),
        ("Read https://example.org/a/b about it.", "Read https://example.org/a/b about it."),
        ("Give 1/2 or 3/4.", "Give 1/2 or 3/4."),
    ],
)
def test_sentences_of_a_demo_keep_the_hosts_folders_to_themselves(demo, said, shown):
    assert layout.error_text(StoreError(said)) == shown


def test_at_home_sentences_name_the_folder(monkeypatch):
    monkeypatch.delenv(limits.LIMITS_VARIABLE, raising=False)
    said = "The folder /home/me/my-model has no config.json."
    assert layout.error_text(StoreError(said)) == said


def test_wrong_limits_stop_every_page_with_a_sentence(sample, set_limits):
    set_limits("demo_mode = 'perhaps'")
    for name in ("search", "compare", "atlases", "lab"):
        app = page(name)
        assert not app.exception
        assert "host.toml: demo_mode must be true or false, got 'perhaps'." in words(app), name
        assert not app.text_input, name


# Models of a demo ------------------------------------------------------------------------------------

FORBIDDEN = ["smollm2-135m", "bert-base-uncased", "/etc", "../..", "~", ".", "file:///etc", "org/model"]


@pytest.mark.parametrize("name", FORBIDDEN)
def test_a_demo_looks_for_no_model_that_it_does_not_offer(demo, monkeypatch, name):
    for module in (models, models.location, resources):
        monkeypatch.setattr(module, "locate", lambda *_, **__: pytest.fail("it was looked for"))
    monkeypatch.setattr(resources, "fetch_model", lambda *_, **__: pytest.fail("it was fetched"))
    with pytest.raises(ModelError, match="This host offers"):
        resources.subject(name)
    with pytest.raises(ModelError, match="This host offers"):
        resources.fetch(name)


def test_a_demo_loads_an_offered_model_only_from_this_machine(set_limits, monkeypatch, tmp_path):
    set_limits("demo_mode = true")
    monkeypatch.setenv(models.CACHE_VARIABLE, str(tmp_path / "no cache"))
    monkeypatch.setattr(resources, "_subject", lambda name: pytest.fail(f"{name} would be fetched"))
    with pytest.raises(ModelError, match="has not been fetched"):
        resources.subject("smollm2-135m")


@pytest.mark.parametrize("name", [*FORBIDDEN, "another model"])
def test_the_lab_of_a_demo_takes_no_model_from_its_url(demo, monkeypatch, name):
    pytest.importorskip("torch")
    asked = []
    located = models.locate
    monkeypatch.setattr(models.location, "locate", lambda name, **o: asked.append(name) or located(name, **o))
    for module in ("app.lab.choose", "app.shared.resources"):
        monkeypatch.setattr(
            f"{module}.locate", lambda name, **options: asked.append(name) or located(name, **options)
        )
    app = page("lab", atlas="starter-pocket-bert", model=name, folder=name)
    assert set(asked) <= {"pocket-bert"}
    assert [box.options for box in app.selectbox if box.label == "Model"] == [["pocket-bert"]]


def test_visitors_share_one_model():
    pytest.importorskip("torch")

    def visit() -> None:
        import streamlit as st

        from app.shared import resources

        st.session_state["weights"] = id(resources.subject("pocket-bert").model)

    first, second = (AppTest.from_function(visit, default_timeout=60).run() for _ in range(2))
    assert not first.exception
    assert first.session_state["weights"] == second.session_state["weights"]


# What is typed ---------------------------------------------------------------------------------------

MARK = "zzyzx"
_TOUCHED: list[str] | None = None


def _audit(event: str, arguments: tuple) -> None:
    watched = ("open", "os.listdir", "os.scandir", "subprocess.Popen", "os.system")
    if _TOUCHED is not None and event in watched:
        _TOUCHED.append(f"{event} {arguments!r}")


@pytest.fixture
def touched(monkeypatch):
    """Every path that Python opens, lists or asks about, and every command it starts."""
    global _TOUCHED
    _TOUCHED = []
    if not getattr(sys, "_hosting_audited", False):
        sys.addaudithook(_audit)
        sys._hosting_audited = True
    stat = os.stat
    monkeypatch.setattr(
        os, "stat", lambda path, *a, **k: _TOUCHED.append(f"stat {path!r}") or stat(path, *a, **k)
    )
    yield _TOUCHED
    _TOUCHED = None


def test_the_watch_on_paths_sees_them(touched, tmp_path):
    (tmp_path / f"{MARK}.txt").write_text("seen")
    assert (tmp_path / f"{MARK}2").exists() is False
    assert len([each for each in touched if MARK in each]) >= 2


@pytest.mark.parametrize("name", PAGES)
def test_nothing_in_a_url_becomes_a_path_or_a_command(demo, touched, name):
    if name == "lab":
        pytest.importorskip("torch")
    parameters = (
        *("atlas", "fact", "relation", "neuron", "q", "page", "sort", "kind", "a", "b", "other", "least"),
        *("model", "folder", "ask", "prompts", "answer", "x", "template", "known", "layer", "t", "p"),
        *("text", "lens", "related", "view", "asked", "sharing", "evidence"),
        *("list", "list_name", "list_note", "sql", "change", "source", "run"),
    )
    for text in (MARK, f"/{MARK}/../etc", f"$({MARK})", f"~{MARK}", f"{MARK}.parquet"):
        app = page(name, **dict.fromkeys(parameters, text))
        assert not app.exception
        app = page(name, **{**dict.fromkeys(parameters, text), "atlas": "starter-pocket-bert"})
        assert not app.exception
    assert [each for each in touched if MARK in each] == []


@pytest.mark.parametrize("name", [name for name in PAGES if name != "lab"])
def test_nothing_typed_into_a_box_becomes_a_path_or_a_command(demo, touched, name):
    app = page(name, atlas="starter-pocket-bert", fact="P36:france", neuron="L2.N23", kind="facts")
    for box in [*app.text_input, *app.text_area]:
        box.input(f"../{MARK}; touch {MARK}")
    app.run()
    for button in app.button:
        if "tray" not in (button.key or ""):
            button.click()
    app.run()
    assert not app.exception
    assert [each for each in touched if MARK in each] == []


def calls(path: Path) -> list[tuple[str, ast.Call]]:
    """The dotted names that a file calls."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    return [(ast.unparse(node.func), node) for node in ast.walk(tree) if isinstance(node, ast.Call)]


def test_the_app_starts_no_commands_but_the_import_runs_no_text_and_writes_no_html():
    forbidden = re.compile(
        r"(os\.(system|popen|exec\w*|spawn\w*)|subprocess\.\w+|eval|exec|pickle\.loads?|__import__)"
    )
    started = []
    for path in APP.rglob("*.py"):
        for name, call in calls(path):
            if name.startswith("subprocess."):
                # A list of arguments and no shell; that a demo starts none is tested on the page of atlases.
                assert not any(keyword.arg in ("shell", None) for keyword in call.keywords)
                started.append((path.name, name, ast.unparse(call.args[0])))
                continue
            assert not forbidden.fullmatch(name), (path.name, name)
            assert not any(keyword.arg == "unsafe_allow_html" for keyword in call.keywords), path.name
            # What writes HTML escapes all words (tests/app/shared/test_texts.py).
            assert not name.endswith(".html") or path == APP / "shared/texts.py", path.name
    assert started == [("import_published.py", "subprocess.Popen", "command")]


def test_every_text_field_has_a_longest_text():
    # Streamlit cuts what comes to it, in the server too.
    for path in APP.rglob("*.py"):
        for name, call in calls(path):
            if re.search(r"\.(text_input|text_area|chat_input)$", name):
                assert "max_chars" in {keyword.arg for keyword in call.keywords}, ast.unparse(call)


# What the documentation tells hosts -------------------------------------------------------------------------


def hosting() -> str:
    return (ROOT / "docs/hosting.md").read_text(encoding="utf-8")


def test_the_page_on_hosting_names_files_and_variables_that_exist():
    text = hosting()
    for name in re.findall(r"`((?:app/|\.streamlit/)[\w./]+|Dockerfile|requirements\.txt)`", text):
        assert (ROOT / name).is_file(), name
    assert set(re.findall(r"KNOWLEDGE_NEURON_\w+", text)) == {limits.LIMITS_VARIABLE}
    torch = re.search(r"`(torch==\S+)`", text)[1]
    assert torch in (ROOT / "requirements.txt").read_text(encoding="utf-8").splitlines()


def test_the_page_on_hosting_names_limits_and_options_that_exist():
    _, _, table = hosting().partition("| the app itself bounds | limits |")
    named = set(re.findall(r"`(\w+)`", table.partition("\n\n")[0].replace("maxCacheDataSize", "")))
    assert {"visitors", "gone_seconds", "session_characters", "connections", "uploads"} <= named
    assert named <= {each.name for each in fields(limits.Limits)} | {"Dockerfile"}
    container = (ROOT / "Dockerfile").read_text(encoding="utf-8")
    for option in re.findall(r"`(--ws-max-size|--limit-concurrency|MALLOC_ARENA_MAX=2)`", hosting()):
        assert option in container, option


def test_the_proxy_lets_through_what_the_app_takes():
    upload = tomllib.loads(CONFIG.read_text(encoding="utf-8"))["server"]["maxUploadSize"]
    nginx, caddy = (
        re.search(rf"```{name}\n(.+?)```", hosting(), re.DOTALL)[1] for name in ("nginx", "caddy")
    )
    assert int(re.search(r"client_max_body_size (\d+)m", nginx)[1]) > upload
    assert int(re.search(r"max_size (\d+)MB", caddy)[1]) > upload
    port = re.search(r"app_port: (\d+)", hosting())[1]
    assert f"proxy_pass http://127.0.0.1:{port};" in nginx
    assert f"reverse_proxy 127.0.0.1:{port}" in caddy


def test_the_secret_for_hosts_is_a_demo(monkeypatch):
    secrets = tomllib.loads(re.search(r"```toml\n(.+?)```", hosting(), re.DOTALL)[1])
    monkeypatch.chdir(ROOT)
    for name, value in secrets.items():
        monkeypatch.setenv(name, value)
    assert limits.current().demo_mode


def test_the_container_is_a_demo_that_listens_where_the_space_looks():
    text = (ROOT / "Dockerfile").read_text(encoding="utf-8")
    port = re.search(r"app_port: (\d+)", hosting())[1]
    assert f"EXPOSE {port}" in text
    assert f'["uvicorn", "app.hosted:app", "--host=0.0.0.0", "--port={port}"' in text
    assert f"{limits.LIMITS_VARIABLE}=app/{DEMO.name}" in text
    assert "--uid 1000" in text
    assert "torch==" + re.search(r"torch==([\d.]+)", text)[1] in (ROOT / "requirements.txt").read_text(
        encoding="utf-8"
    ).split("\n")


def test_the_lab_with_the_bundled_model_stays_under_a_gigabyte():
    torch = pytest.importorskip("torch")
    if sys.platform != "linux":
        pytest.skip("memory is read from /proc")
    if torch.version.cuda:
        pytest.skip("measured with PyTorch's CPU build, as hosts should use it")
    program = f"""
from pathlib import Path
from streamlit.testing.v1 import AppTest

def visit(name, **parameters):
    app = AppTest.from_file({str(MAIN)!r}, default_timeout=120).run()
    app.switch_page(f"{{name}}/page.py")
    app.query_params.update(atlas="starter-pocket-bert", **parameters)
    app.run()
    assert not app.exception and not app.error, name
    return app

for name in ("home", "search", "relation", "compare", "evidence", "atlases"):
    visit(name)
for fact in ("P36:france", "P36:italy", "P36:japan"):
    visit("fact", fact=fact)
    lab = visit("lab", fact=fact)
    next(button for button in lab.button if button.label == "Run the experiment").click().run(timeout=120)
    assert not lab.exception and not lab.error
status = Path("/proc/self/status").read_text()
print(int(status.partition("VmHWM:")[2].split()[0]) // 1000)
"""
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT), limits.LIMITS_VARIABLE: str(DEMO)},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert int(done.stdout) < 1000
