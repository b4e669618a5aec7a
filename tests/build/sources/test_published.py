"""The published neurons become an atlas with the known figures; whatever cannot be read is one sentence.

The figures are tested on the files themselves, which are no part of this project; all else on made-up ones.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from streamlit.testing.v1 import AppTest

import atlas
from app.shared import resources
from app.shared.words import NOT_MEASURED
from atlas.__main__ import main as ask
from atlas.datasets import pararel
from atlas.datasets.pararel import FACTS, TEMPLATES
from atlas.neuron import MARKS
from atlas.refinement import mode
from atlas.store.atlas import ENVIRONMENT_VARIABLE, Atlas
from atlas.store.manifest import read_manifest
from atlas.store.schema import TABLES
from build.__main__ import main
from build.output.check import check_atlas
from build.sources import published
from tests import ROOT

SHARED = ROOT.parent / "shared"
SOURCE = SHARED / "published_neurons"
PARAREL = SHARED / "pararel" / "data"
SECONDS = 60
BYTES = 1.5e9

needs_published = pytest.mark.skipif(
    not (SOURCE.is_dir() and PARAREL.is_dir()),
    reason="needs ../shared/published_neurons and ../shared/pararel/data",
)


# The published files ---------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def imported(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, float, float]:
    """The atlas of the published files, and the seconds and the bytes of memory that it took."""
    out = tmp_path_factory.mktemp("atlases") / "published"
    begun = time.monotonic()
    command = [sys.executable, "-m", "build", "import-published"]
    command += ["--source", str(SOURCE), "--pararel", str(PARAREL), "--out", str(out)]
    code = (
        "import resource, subprocess, sys; subprocess.run(sys.argv[1:], check=True); "
        "print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)"
    )
    result = subprocess.run(
        [sys.executable, "-c", code, *command], cwd=ROOT, capture_output=True, text=True, check=True
    )
    unit = 1 if sys.platform == "darwin" else 1024
    return out, time.monotonic() - begun, int(result.stdout.split()[-1]) * unit


@pytest.fixture(scope="module")
def figures(imported: tuple[Path, float, float]) -> Iterator[Atlas]:
    with atlas.open(imported[0]) as opened:
        yield opened


@needs_published
def test_it_takes_less_than_a_minute_and_little_memory(imported):
    _, seconds, memory = imported
    assert seconds < SECONDS
    assert memory < BYTES


@needs_published
def test_the_atlas_passes_its_check(imported):
    report = check_atlas(imported[0])
    assert report.problems == report.warnings == []


@needs_published
def test_facts_and_pairs_are_the_published_ones(figures):
    counted = figures.query_one(
        "SELECT count(*) AS facts, count(DISTINCT fact_id) AS uuids, sum(n_neurons)::BIGINT AS pairs, "
        "avg(n_neurons) AS mean, median(n_neurons) AS median, max(n_neurons) AS most FROM facts"
    )
    assert round(counted.pop("mean"), 2) == 11.04
    assert counted == {"facts": 27_610, "uuids": 27_610, "pairs": 304_711, "median": 8, "most": 98}
    assert figures.query_one("SELECT count(*) AS n FROM knowledge_neurons") == {"n": 304_711}
    assert figures.query_one("SELECT count(*) AS n FROM prompts") == {"n": 224_674}


@needs_published
def test_every_pair_of_the_files_is_in_the_atlas(figures):
    stored = figures.query("SELECT fact_id, layer, neuron FROM knowledge_neurons")
    there = set(stored.itertuples(index=False, name=None))
    for path in SOURCE.glob("*.json"):
        entries = json.loads(path.read_bytes())
        there -= {(uuid, *neuron) for uuid, neurons in entries.items() for neuron in neurons}
    assert len(stored) == 304_711
    assert there == set()


@needs_published
def test_the_upper_layers_hold_94_percent_of_the_pairs(figures):
    share = "SELECT sum(pair_share) AS share FROM layer_histogram WHERE layer BETWEEN 7 AND 11"
    assert round(figures.query_one(share)["share"], 2) == 0.94


@needs_published
def test_one_neuron_is_in_a_quarter_of_the_facts(figures):
    hub = figures.query_one("SELECT layer, neuron, n_facts FROM neurons ORDER BY n_facts DESC LIMIT 1")
    assert (hub["layer"], hub["neuron"]) == (10, 2484)
    assert round(hub["n_facts"] / 27_610, 3) == 0.242


@needs_published
def test_nearly_every_fact_has_one_of_the_twenty_commonest_neurons(figures):
    found = figures.query_one("""
        WITH commonest AS (SELECT layer, neuron FROM neurons ORDER BY n_facts DESC, layer, neuron LIMIT 20)
        SELECT count(DISTINCT fact_id) / (SELECT count(*) FROM facts) AS share
        FROM knowledge_neurons SEMI JOIN commonest USING (layer, neuron)
    """)
    assert round(found["share"], 3) == 0.914


@needs_published
def test_facts_share_neurons_within_a_relation_and_hardly_across(figures):
    """Sampled as it was published: relations drawn alike, then a fact of each; and the view agrees."""
    rows = figures.query(
        "SELECT relation_id, fact_id, layer::INT * 3072 + neuron AS n FROM knowledge_neurons"
    )
    neurons = rows.groupby(["relation_id", "fact_id"])["n"].agg(set)
    facts = [group.tolist() for _, group in neurons.groupby(level=0)]
    random = np.random.default_rng(0)
    within, across = [], []
    for _ in range(30_000):
        a, b = random.choice(len(facts), 2, replace=False)
        i, j = random.choice(len(facts[a]), 2, replace=False)
        within.append(len(facts[a][i] & facts[a][j]))
        across.append(len(facts[a][i] & facts[b][random.integers(len(facts[b]))]))
    assert np.mean(within) == pytest.approx(3.22, abs=0.1)
    assert np.mean(across) == pytest.approx(0.38, abs=0.02)
    means = figures.query("SELECT within, avg(mean_shared) AS mean FROM relation_overlap GROUP BY ALL")
    exact = dict(zip(means["within"], means["mean"], strict=True))
    assert exact[True] == pytest.approx(3.22, abs=0.03)
    assert exact[False] == pytest.approx(0.38, abs=0.005)


@needs_published
def test_info_and_sql_read_it(imported, capsys):
    out = str(imported[0])
    assert ask(["info", "--atlas", out]) == 0
    info = capsys.readouterr().out
    assert "bert-base-uncased · bert · 12 layers × 3,072 neurons" in info
    assert "a fact has 11.04 on average (median 8)" in info
    assert info.count("not measured in this atlas") == len(TABLES) - 6
    assert "known to the model" not in info
    assert ask(["sql", "SELECT count(*) AS n FROM neuron_facts", "--atlas", out, "--format", "csv"]) == 0
    assert capsys.readouterr().out == "n\n304711\n"


# What a page says once, at the top, instead of empty places.
LACKS = (
    f"{NOT_MEASURED.capitalize()}: whether the model knows a fact, the answers' probabilities, what it would "
    "say after each layer, attribution scores, the effects of changing neurons, what neurons promote."
)
PAGES: dict[str, tuple[str, dict[str, str], tuple[str, ...]]] = {
    "home": ("home", {}, ("The maps",)),
    "search": ("search", {"q": "capital", "layer": "10", "sort": "probability"}, ()),
    "fact": ("fact", {"fact": "FACT"}, (LACKS, "How it can be asked")),
    "fact, thresholds": ("fact", {"fact": "FACT", "t": "0.4", "p": "0.6", "view": "prompts"}, ()),
    "fact, neuron": (
        "fact",
        {"fact": "FACT", "neuron": "L10.N2484"},
        ("a knowledge neuron of this fact.",),
    ),
    "relations": ("relation", {}, ()),
    "relation": (
        "relation",
        {"relation": "P36", "other": "P17"},
        (
            f"{NOT_MEASURED.capitalize()}: whether the model knows a fact, the effects of changing neurons, "
            "what neurons promote, the effects of erasing neurons, the effects of edits.",
        ),
    ),
    "neurons": ("neuron", {}, ("Neurons of most relations",)),
    "neuron": (
        "neuron",
        {"neuron": "L10.N2484", "sort": "share"},
        (
            f"{NOT_MEASURED.capitalize()}: attribution scores, what neurons promote, which prompts activate "
            "neurons.",
        ),
    ),
    "a neuron that no fact has": ("neuron", {"neuron": "L0.N0"}, ("No fact has it",)),
    "compare facts": (
        "compare",
        {"kind": "facts", "a": "FACT", "b": "OTHER"},
        (f"Mean score: {NOT_MEASURED}",),
    ),
    "compare relations": ("compare", {"kind": "relations", "a": "P36", "b": "P17"}, ()),
    "compare neurons": ("compare", {"kind": "neurons", "a": "L10.N2484", "b": "L9.N2141"}, ()),
    "compare atlases": ("compare", {"kind": "atlases", "a": "FACT"}, ()),
    "sql": ("sql", {"sql": "SELECT * FROM facts LIMIT 3"}, ()),
    "atlases": ("atlases", {}, ()),
    "lab": ("lab", {"fact": "FACT"}, ()),
}


@pytest.fixture
def shown(imported: tuple[Path, float, float], monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The app as it is started with the imported atlas."""
    monkeypatch.setenv(ENVIRONMENT_VARIABLE, str(imported[0]))
    yield
    for cache in (resources._opened, resources._answer):
        cache.clear()


@needs_published
@pytest.mark.parametrize("which", PAGES)
def test_every_page_shows_it_and_says_what_was_not_measured(shown, figures, which):
    name, parameters, says = PAGES[which]
    found = figures.query(
        "SELECT fact_id FROM facts WHERE relation_id = 'P36' ORDER BY n_neurons DESC LIMIT 2"
    )
    names = dict(zip(("FACT", "OTHER"), found["fact_id"], strict=True))
    app = AppTest.from_file(str(ROOT / "app" / "main.py"), default_timeout=60).run()
    app.switch_page(f"{name}/page.py")
    app.query_params.update({key: names.get(value, value) for key, value in parameters.items()})
    app.run()
    assert not app.exception
    assert not app.error
    kinds = (app.title, app.subheader, app.markdown, app.caption, app.info, app.warning)
    text = "\n".join(element.value for kind in kinds for element in kind).replace("\\", "")
    assert "Atlas pararel-bert-base-uncased-published" in text
    if name in ("home", "fact", "relation", "neuron"):
        assert text.lower().count(NOT_MEASURED) <= 1
    for sentence in says:
        assert sentence in text
    assert "nan" not in text.lower().split()


# Made-up files ---------------------------------------------------------------------------------------

PATTERNS = ["Ask anyone: the chief town of [X] is [Y] .", "They say [Y] governs [X]."]
TUPLES = [("Freedonia", "Sylvania", "id-1"), ("Ruritania", "Strelsau", "id-2"), ("Oz", "Emerald", "id-3")]
ENTRIES = [{"id-1": [[10, 3071], [0, 0]], "id-2": [[10, 3071]]}, {"id-3": []}]


class Files:
    """Files in the published forms, and the command that imports them."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.source, self.pararel, self.out = folder / "neurons", folder / "pararel", folder / "out"
        self.source.mkdir()
        for place, entries in enumerate(ENTRIES):
            (self.source / f"neurons_{place}.json").write_text(json.dumps(entries, indent=4))
        for name, lines in (
            (TEMPLATES, [{"pattern": pattern} for pattern in PATTERNS]),
            (FACTS, [{"sub_label": s, "obj_label": o, "uuid": u} for s, o, u in TUPLES]),
        ):
            (self.pararel / name).mkdir(parents=True)
            (self.pararel / name / "P36.jsonl").write_text("".join(json.dumps(each) + "\n" for each in lines))
        self.monkeypatch = monkeypatch
        self.accept()

    def accept(self) -> None:
        """Take the files as they are for the published ones."""
        self.monkeypatch.setattr(published, "HASHES", hashes_of(self.source))
        self.monkeypatch.setattr(published, "RESULT_BLOBS", {})
        hashes = hashes_of(self.pararel)
        self.monkeypatch.setattr(pararel, "published_hashes", lambda: hashes)

    def command(self, *more: str) -> list[str]:
        named = ["--source", str(self.source), "--pararel", str(self.pararel)]
        return ["import-published", *named, "--out", str(self.out), *more]


def hashes_of(folder: Path) -> dict[str, str]:
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*.json*"))
    }


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Files:
    monkeypatch.setenv("KNOWLEDGE_NEURON_ATLAS_CACHE", str(tmp_path / "cache"))
    return Files(tmp_path, monkeypatch)


def test_facts_and_prompts_are_joined_and_what_was_not_published_is_null(files, capsys):
    assert main(files.command()) == 0
    assert "3, not measured which of them the model knows" in capsys.readouterr().out
    assert main(["check", str(files.out)]) == 0
    with atlas.open(files.out) as opened:
        facts = opened.query("SELECT * FROM facts")
        prompts = opened.query("SELECT * FROM prompts")
        pairs = opened.query("SELECT fact_id, layer, neuron FROM knowledge_neurons")
        neurons = opened.query("SELECT layer, neuron, n_facts, n_relations FROM neurons")
        scores = opened.query_one("SELECT count(share) + count(mean_score) AS n FROM knowledge_neurons")
        templates = opened.query("SELECT text, held_out FROM templates ORDER BY template_id")
        assert opened.tables == (
            *("relations", "templates", "facts", "prompts"),
            *("knowledge_neurons", "neurons"),
        )
    assert list(templates["text"]) == PATTERNS
    assert not templates["held_out"].any()
    assert list(
        facts[["fact_id", "subject", "n_prompts", "n_neurons"]].itertuples(index=False, name=None)
    ) == [
        ("id-1", "Freedonia", 2, 2),
        ("id-2", "Ruritania", 2, 1),
        ("id-3", "Oz", 2, 0),
    ]
    assert facts[["known", "mean_probability", *MARKS]].isna().all(axis=None)
    assert "They say [Y] governs Ruritania." in set(prompts["text"])
    assert not prompts["held_out"].any()
    asked = prompts.drop(columns=["fact_id", "template_id", "text", "held_out"])
    assert asked.isna().all(axis=None)
    assert list(pairs.itertuples(index=False, name=None)) == [
        ("id-1", 0, 0),
        ("id-1", 10, 3071),
        ("id-2", 10, 3071),
    ]
    assert list(neurons.itertuples(index=False, name=None)) == [(0, 0, 1, 1), (10, 3071, 2, 1)]
    assert scores == {"n": 0}


def test_the_manifest_says_whose_method_it_was(files):
    assert main(files.command()) == 0
    manifest = read_manifest(files.out)
    assert (manifest.model.name, manifest.model.n_layers, manifest.model.n_neurons) == (
        "bert-base-uncased",
        12,
        3072,
    )
    assert manifest.model.weights_sha256 is None
    assert manifest.method.refinement == mode("replication").to_dict()
    assert (manifest.method.rule, manifest.method.max_points) == ("endpoints", 20)
    assert manifest.method.options["published"]["revision"] == published.NEURONS_REVISION
    assert manifest.dataset.revision == pararel.REVISION


def test_with_own_templates_no_sentence_of_the_data_set_is_kept(files, tmp_path, capsys):
    assert main(files.command("--own-templates")) == 0
    assert main(["check", str(files.out)]) == 0
    assert f"The id {published.MAP_ATLAS_ID} opens" in capsys.readouterr().out
    with atlas.open(files.out) as opened:
        assert opened.tables == ("relations", "templates", "facts", "knowledge_neurons", "neurons")
        assert set(opened.query("SELECT n_prompts FROM facts")["n_prompts"]) == {0}
        templates = opened.query("SELECT text FROM templates ORDER BY template_id")["text"]
        prompts = opened.query("SELECT text, held_out FROM fact_prompts WHERE fact_id = 'id-3'")
        pairs = opened.query_one("SELECT count(*) AS n FROM knowledge_neurons")
    assert list(templates) == [each.pattern for each in pararel.own_templates()["P36"]]
    assert set(prompts["text"]) == {text.replace("[X]", "Oz") for text in templates}
    assert prompts["held_out"].sum() == 4
    assert pairs == {"n": 3}
    written = b"".join(path.read_bytes() for path in files.out.iterdir())
    assert not [pattern for pattern in PATTERNS if pattern.encode() in written]
    manifest = read_manifest(files.out)
    assert manifest.atlas_id == published.MAP_ATLAS_ID
    assert manifest.dataset.licence.startswith("non-commercial")
    assert manifest.created is manifest.code_version is None
    again = tmp_path / "again"
    assert main([*files.command("--own-templates")[:-3], "--out", str(again), "--own-templates"]) == 0
    assert {path.name: path.read_bytes() for path in again.iterdir()} == {
        path.name: path.read_bytes() for path in files.out.iterdir()
    }


@pytest.mark.parametrize("more", [("--dataset", "starter"), ("--results", ".")])
def test_own_templates_are_for_pararel_s_facts_and_neurons_alone(files, refused, more):
    assert "--own-templates is for" in refused(*files.command("--own-templates", *more))
    assert not files.out.exists()


@pytest.mark.parametrize(
    ("entries", "says"),
    [
        ('{"id-3": [[12, 0]]}', 'entry "id-3": [12, 0] is not a neuron of bert-base-uncased'),
        ('{"id-3": [[0, 3072]]}', 'entry "id-3": [0, 3072] is not a neuron'),
        ('{"id-3": [[-1, 5]]}', "[-1, 5] is not a neuron"),
        ('{"id-3": [[1, 5], [true, 5]]}', "[true, 5] is not a neuron"),
        ('{"id-3": [[1.0, 5]]}', "[1.0, 5] is not a neuron"),
        ('{"id-3": [["1", 5]]}', '["1", 5] is not a neuron'),
        ('{"id-3": [[1, 5, 5]]}', "[1, 5, 5] is not a neuron"),
        ('{"id-3": [{"1": 5}]}', '{"1": 5} is not a neuron'),
        ('{"id-3": [7]}', "7 is not a neuron"),
        ('{"id-3": [[1, 5], [1, 5]]}', 'entry "id-3": a neuron is listed twice'),
        ('{"id-3": null}', 'entry "id-3": null is not a list of neurons'),
        ('{"id-3": {"1": 5}}', "is not a list of neurons"),
        ('{"id-9": []}', 'entry "id-9": no fact of PARAREL has this uuid'),
        ('{"id\\n9": []}', 'entry "id\\n9": no fact of PARAREL'),
        ('{"id-3": [], "id-3": [[1, 2]]}', 'entry "id-3": the key was used before.'),
        ('{"id-3": [], "id-1": []}', 'entry "id-1": the uuid was used before in neurons_0.json'),
        ('{"id-3": [[1, 2]', "it is not JSON (Expecting"),
        ("[" * 100_000, "it is not JSON"),
        ("", "it is not JSON (Expecting"),
        ("\udcff", "it is not JSON"),
        ("[]", "is not a JSON object of uuids"),
        ('{"id-3": [[1, 1e999]]}', "[1, Infinity] is not a neuron"),
        ('{"id-3": [[1, ' + "9" * 5_000 + "]]}", "it is not JSON (Exceeds"),
        ('{"id-3": [[1, 99999999999999999999]]}', "is not a neuron of bert-base-uncased"),
    ],
)
def test_a_broken_entry_is_named_with_its_file_and_nothing_is_written(files, refused, entries, says):
    path = files.source / "neurons_1.json"
    path.write_text(entries, errors="surrogateescape")
    sentence = refused(*files.command())
    assert str(path) in sentence
    assert says in sentence
    assert not files.out.exists()


def test_a_fact_without_an_entry_is_named(files, refused):
    (files.source / "neurons_1.json").write_text("{}")
    files.accept()
    assert "have no entry for PARAREL's fact id-3" in refused(*files.command())
    assert not files.out.exists()


@pytest.mark.parametrize(
    ("option", "says"),
    [
        ("--source", "There is no folder nowhere. Give --source"),
        ("--pararel", "There is no folder nowhere. Give --pararel"),
    ],
)
def test_a_missing_folder_is_one_sentence(files, refused, option, says):
    assert says in refused(*files.command(option, "nowhere"))
    assert not files.out.exists()


def test_a_missing_or_foreign_file_names_the_option(files, refused):
    assert "Point --pararel at" in refused(*files.command("--pararel", str(files.source)))
    assert "Point --source at" in refused(*files.command("--source", str(files.pararel)))
    assert not files.out.exists()


# Downloads -------------------------------------------------------------------------------------------


def test_without_folders_it_says_what_it_fetches_and_then_needs_no_network(
    files, monkeypatch, capsys, tmp_path
):
    monkeypatch.setattr(published, "NEURONS_URL", files.source.as_uri())
    monkeypatch.setattr(pararel, "BASE_URL", files.pararel.as_uri())
    assert main(["import-published", "--out", str(files.out)]) == 0
    said = capsys.readouterr().err
    assert f"Fetching 2 files of PARAREL from {files.pararel.as_uri()}" in said
    assert f"Fetching 2 files of the published neurons from {files.source.as_uri()}" in said
    assert said.count("checked against their sha256") == 2
    monkeypatch.setattr(published, "NEURONS_URL", "http://127.0.0.1:9")
    monkeypatch.setattr(pararel, "BASE_URL", "http://127.0.0.1:9")
    again = tmp_path / "again"
    assert main(["import-published", "--out", str(again)]) == 0
    assert capsys.readouterr().err == ""
    assert rows(again) == rows(files.out)


def test_progress_is_told_in_lines_that_only_rise(files, monkeypatch, capsys):
    monkeypatch.setattr(published, "NEURONS_URL", files.source.as_uri())
    monkeypatch.setattr(pararel, "BASE_URL", files.pararel.as_uri())
    assert main(["import-published", "--out", str(files.out), "--progress"]) == 0
    told = [re.fullmatch(r"(\w+): .* \((\d+)%\)", line) for line in capsys.readouterr().err.splitlines()]
    steps = [step.groups() for step in told if step]
    assert list(dict(steps)) == ["read", "fetch", "join", "write", "check"]
    shares = [int(share) for _, share in steps]
    assert shares == sorted(shares)
    assert shares[0] == 0
    assert shares[-1] < 100


def test_the_pinned_commits_are_asked_for():
    assert "/EleutherAI/knowledge-neurons/be1a84adafd6e973ab0ee012527ac1988632a5e8/" in published.NEURONS_URL
    assert "/yanaiela/pararel/cb5554678457beb5ac163d888f1ce8cf174b3f0b/" in pararel.BASE_URL
    assert len(published.HASHES) == 8


@pytest.mark.parametrize(
    ("module", "url", "option"),
    [(published, "NEURONS_URL", "--source"), (pararel, "BASE_URL", "--pararel")],
)
def test_a_network_that_is_not_there_is_one_sentence(files, monkeypatch, capsys, module, url, option):
    monkeypatch.setattr(module, url, "http://127.0.0.1:9")
    command = files.command()
    place = command.index(option)
    begun = time.monotonic()
    assert main(command[:place] + command[place + 2 :]) == 2
    assert time.monotonic() - begun < 5
    said, sentence = capsys.readouterr().err.splitlines()
    assert said.startswith("Fetching ")
    assert "cannot be fetched from its public repository" in sentence
    assert f"with {option} DIR" in sentence
    assert not files.out.exists()


def test_a_download_of_other_files_is_refused(files, monkeypatch, capsys):
    monkeypatch.setattr(published, "NEURONS_URL", files.source.as_uri())
    (files.source / "neurons_0.json").write_text("{}")
    assert main(["import-published", "--pararel", str(files.pararel), "--out", str(files.out)]) == 2
    assert "does not match the published sha256" in capsys.readouterr().err
    assert not files.out.exists()


# The folder ------------------------------------------------------------------------------------------


def rows(folder: Path) -> dict[str, list]:
    return {path.name: pq.read_table(path).to_pylist() for path in sorted(folder.glob("*.parquet"))}


def test_a_finished_import_is_not_done_again_and_fresh_replaces_it(files, capsys):
    assert main(files.command()) == 0
    before = rows(files.out)
    written = (files.out / "manifest.json").stat().st_mtime_ns
    assert main(files.command()) == 0
    assert "Nothing was left to do" in capsys.readouterr().out
    assert (files.out / "manifest.json").stat().st_mtime_ns == written
    assert main(files.command("--fresh")) == 0
    assert (files.out / "manifest.json").stat().st_mtime_ns > written
    assert rows(files.out) == before


def test_another_atlas_in_the_folder_is_refused_and_fresh_replaces_it(files, refused):
    shutil.copytree(ROOT / "atlas" / "data" / "starter-pocket-bert", files.out)
    before = {path.name: path.read_bytes() for path in files.out.iterdir()}
    sentence = refused(*files.command())
    assert "holds a finished atlas with model pocket-bert where this one has bert-base-uncased" in sentence
    assert {path.name: path.read_bytes() for path in files.out.iterdir()} == before
    assert main(files.command("--fresh")) == 0
    assert check_atlas(files.out).passed
    assert sorted(path.suffix for path in files.out.iterdir()) == [".json"] * 2 + [".md"] + [".parquet"] * 6


def test_what_no_build_wrote_is_left_alone(files, refused):
    files.out.mkdir()
    (files.out / "thesis.txt").write_text("two years")
    for more in ([], ["--fresh"]):
        assert "holds files that no build wrote (thesis.txt)" in refused(*files.command(*more))
    assert [path.name for path in files.out.iterdir()] == ["thesis.txt"]


def test_an_import_that_was_stopped_is_no_atlas_and_the_same_command_ends_it(files, monkeypatch, capsys):
    def stop(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(published, "distinct_neurons", stop)
        assert main(files.command()) == 130
    assert not (files.out / "manifest.json").exists()
    assert main(["check", str(files.out)]) == 2
    assert "is not a finished atlas" in capsys.readouterr().err
    assert main(files.command()) == 0
    assert main(["check", str(files.out)]) == 0
    assert sorted(path.suffix for path in files.out.iterdir()) == [".json"] * 2 + [".md"] + [".parquet"] * 6


@needs_published
def test_killed_at_any_moment_it_leaves_no_atlas_or_a_whole_one(tmp_path):
    out = tmp_path / "out"
    command = [sys.executable, "-m", "build", "import-published"]
    command += ["--source", str(SOURCE), "--pararel", str(PARAREL), "--out", str(out)]
    for file in ("work/plan.json", "relations.parquet", "knowledge_neurons.parquet"):
        process = subprocess.Popen(
            command, cwd=ROOT, env=os.environ, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        while not (out / file).exists() and process.poll() is None:
            time.sleep(0.005)
        process.send_signal(signal.SIGKILL)
        process.wait()
        if (out / "manifest.json").exists():
            assert check_atlas(out).passed
        else:
            assert "is not a finished atlas" in check_atlas(out).problems[0]
    subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
    assert check_atlas(out).passed


def test_the_command_imports_no_torch(files):
    code = (
        "import sys; from build.__main__ import main; status = main(sys.argv[1:]); "
        "assert 'build.sources.published' in sys.modules; "
        "assert not {'torch', 'transformers'} & set(sys.modules); sys.exit(status)"
    )
    result = subprocess.run(
        [sys.executable, "-c", code, *files.command()], cwd=ROOT, capture_output=True, text=True
    )
    assert result.returncode == 0, result.stderr
