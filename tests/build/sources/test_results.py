"""Result files of the originals' code, published or people's own, become an atlas and are written again.

Most files are made up; what the originals' own scripts made with pocket-bert's weights lies in ../shared.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
from streamlit.testing.v1 import AppTest

import atlas
from app.shared import resources
from atlas import queries
from atlas.datasets import load_dataset, pararel
from atlas.datasets.fetching import git_blob_id
from atlas.datasets.pararel import FACTS, TEMPLATES
from atlas.refinement import mode
from atlas.store.atlas import DATA, ENVIRONMENT_VARIABLE
from atlas.store.manifest import read_manifest
from build.__main__ import main
from build.output.check import check_atlas
from build.sources import published
from tests import ROOT
from tests.sample_atlas import replace_table

SHARED = ROOT.parent / "shared"
ORIGINAL = SHARED / "original_results"
PARAREL = SHARED / "pararel" / "data"

needs_originals = pytest.mark.skipif(
    not (ORIGINAL.is_dir() and PARAREL.is_dir()),
    reason="needs ../shared/original_results and ../shared/pararel/data",
)

PATTERNS = ["Ask anyone: the chief town of [X] is [Y] .", "They say [Y] governs [X]."]
TUPLES = [("Freedonia", "Sylvania", "id-1"), ("Ruritania", "Strelsau", "id-2"), ("Oz", "Emerald", "id-3")]
NEURONS = {"id-1": [[2, 2047], [0, 0]], "id-2": [[2, 2047]], "id-3": []}


def group(*rows: tuple[float, bool, bool]) -> dict[str, Any]:
    change, before, after = map(list, zip(*rows, strict=True)) if rows else ([], [], [])
    return {"pct_change": change, "correct_before": before, "correct_after": after, "n_prompts": len(rows)}


def entry(n_neurons: int) -> dict[str, Any]:
    """Results of a fact that the model knows, and of another one with a single prompt."""
    invalid = group((-0.25, True, True))
    return {
        "suppression": {
            "related": group((-0.5, True, False), (-0.75, True, True)),
            "unrelated": group((-0.25, True, True)),
        },
        "enhancement": {"related": group((2.0, True, True), (0.5, True, True)), "unrelated": invalid},
        "n_refined_neurons": n_neurons,
        "n_unrelated_neurons": 7,
        "relation_name": "P36",
    }


RESULTS = {uuid: entry(len(neurons)) for uuid, neurons in NEURONS.items()}


class Files:
    """Files in EleutherAI's forms, and the command that imports them."""

    def __init__(self, folder: Path) -> None:
        self.source, self.pararel, self.out = folder / "mine", folder / "pararel", folder / "out"
        self.source.mkdir()
        self.write("neurons", NEURONS)
        for name, lines in (
            (TEMPLATES, [{"pattern": pattern} for pattern in PATTERNS]),
            (FACTS, [{"sub_label": s, "obj_label": o, "uuid": u} for s, o, u in TUPLES]),
        ):
            (self.pararel / name).mkdir(parents=True)
            (self.pararel / name / "P36.jsonl").write_text("".join(json.dumps(each) + "\n" for each in lines))

    def write(self, kind: str, entries: object, number: int = 0) -> Path:
        path = self.source / f"pocket-bert_pararel_{kind}_{number}.json"
        path.write_text(entries if isinstance(entries, str) else json.dumps(entries, indent=4))
        return path

    def command(self, *more: str) -> list[str]:
        named = ["--source", str(self.source), "--pararel", str(self.pararel), "--out", str(self.out)]
        return ["import-published", *named, *more]


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Files:
    monkeypatch.setenv("KNOWLEDGE_NEURON_ATLAS_CACHE", str(tmp_path / "cache"))
    return Files(tmp_path)


def rows(folder: Path) -> dict[str, list]:
    return {path.name: pq.read_table(path).to_pylist() for path in sorted(folder.glob("*.parquet"))}


# EleutherAI's files ----------------------------------------------------------------------------------


def test_results_become_effects(files):
    files.write("results", RESULTS)
    assert main(files.command()) == 0
    assert check_atlas(files.out).problems == []
    effects = pq.read_table(files.out / "effects.parquet").to_pandas().query("fact_id == 'id-1'")
    found = effects[["intervention", "group", "prompt_fact_id", "template_id", "change", "rank_after"]]
    found = found.astype(object).where(found.notna(), None)
    assert sorted(found.itertuples(index=False, name=None), key=str) == [
        ("amplify", "own", "id-1", "P36.0", 2.0, 1),
        ("amplify", "own", "id-1", "P36.1", 0.5, 1),
        ("suppress", "own", "id-1", "P36.0", -0.5, None),
        ("suppress", "own", "id-1", "P36.1", -0.75, 1),
        ("suppress", "unrelated", None, "unnamed.0", -0.25, 1),
    ]
    assert not effects["held_out"].any()
    assert effects[["p_before", "p_after", "activity", "top_changed"]].isna().all(axis=None)
    with atlas.open(files.out) as opened:
        assert opened.query("SELECT known FROM facts")["known"].all()
        summary = queries.effect_summary(opened, known=True, held_out=True).set_index(
            ["intervention", "group"]
        )
        ratio = opened.query("FROM effect_summaries WHERE relation_id = 'all' AND facts = 'known'")
    assert summary.loc[("suppress", "own"), "mean_relative_change"] == -0.625
    assert summary.loc[("suppress", "own"), "rank_1_after"] == 0.5
    assert summary.loc[("suppress", "unrelated"), "mean_relative_change"] == -0.25
    assert ("amplify", "unrelated") not in summary.index
    changes = ratio.set_index(["intervention", "group"])["replication_change"]
    assert changes.to_dict() == {
        ("suppress", "own"): -0.625, ("amplify", "own"): 1.25, ("suppress", "unrelated"): -0.25
    }  # fmt: skip
    assert ratio[["paper_change", "mean_before", "top_changed", "activity"]].isna().all(axis=None)


def test_the_manifest_says_what_was_read_and_what_was_left_out(files):
    files.write("results", RESULTS)
    assert main(files.command()) == 0
    manifest = read_manifest(files.out)
    assert (manifest.model.name, manifest.model.n_layers, manifest.model.n_neurons) == (
        "pocket-bert",
        3,
        2048,
    )
    assert manifest.atlas_id == "pararel-pocket-bert-imported"
    said = manifest.method.options["published"]
    assert said["neurons"] == said["results"] == "not the published files"
    assert manifest.dataset.revision == "not the published files of commit cb5554678457"
    assert "enhancement of unrelated facts, where the script suppresses" in manifest.notes


def test_of_people_s_own_files_the_facts_with_an_entry_make_up_the_atlas(files):
    files.write("neurons", {"id-1": [[0, 1]]})
    files.write("neurons", {"id-3": [[0, 2]]}, number=17)
    assert main(files.command()) == 0
    assert [each["fact_id"] for each in rows(files.out)["facts.parquet"]] == ["id-1", "id-3"]


def test_results_on_the_first_templates_leave_the_others_out(files):
    first = {uuid: json.loads(json.dumps(each)) for uuid, each in RESULTS.items()}
    for name in ("suppression", "enhancement"):
        related = first["id-2"][name]["related"]
        first["id-2"][name]["related"] = {
            key: value[:1] for key, value in related.items() if key != "n_prompts"
        }
    files.write("results", first)
    assert main(files.command()) == 0
    prompts = pd.DataFrame(rows(files.out)["prompts.parquet"])
    assert prompts.groupby("fact_id").size().to_dict() == {"id-1": 2, "id-2": 1, "id-3": 2}


def test_results_may_lie_in_another_folder(files, tmp_path):
    (tmp_path / "elsewhere").mkdir()
    files.write("results", RESULTS).rename(tmp_path / "elsewhere" / "a_results_0.json")
    assert main(files.command("--results", str(tmp_path / "elsewhere"))) == 0
    assert len(rows(files.out)["effects.parquet"]) == 15


def changed(**changes: object) -> dict[str, Any]:
    """RESULTS with other values at paths such as id-1__suppression__related."""
    results = json.loads(json.dumps(RESULTS))
    for path, value in changes.items():
        *way, last = path.replace("id_", "id-").split("__")
        place = results
        for step in way:
            place = place[step]
        place[last] = value
    return results


@pytest.mark.parametrize(
    ("results", "says"),
    [
        ("[]", "it is not a JSON object of uuids"),
        ("{", "it is not JSON (Expecting"),
        ("[" * 100_000, "it is not JSON"),
        ('{"id-1": {}, "id-1": {}}', 'entry "id-1": the key was used before'),
        ({"id-9": RESULTS["id-1"]}, 'entry "id-9": no file of neurons has this uuid'),
        ({"id-1": 7}, 'entry "id-1": the entry must be'),
        ({"id-1": {}}, "entry \"id-1\": the entry's suppression is missing"),
        (changed(id_1__suppression__related=group((-1.5, True, True))), "must be at least -1"),
        (changed(id_1__suppression__related=group((float("nan"), True, True))), "must be a finite number"),
        (changed(id_1__suppression__related=group((1e300, True, True))), "must be at most"),
        (changed(id_1__suppression__related__pct_change=["0", "1"]), "must be a number"),
        (changed(id_1__suppression__related__correct_after=[1, 0]), "must be true or false"),
        (changed(id_1__suppression__related__correct_after=[True]), "must have as many correct_before"),
        (changed(id_1__n_refined_neurons=3), "it has results of 3 neurons, and the file of neurons lists 2"),
        (changed(id_1__n_refined_neurons=True), "must be a whole number"),
        (changed(id_1__enhancement__related=group()), "different numbers of prompts"),
        (
            changed(**{f"id_1__{name}__related": group(*[(0.5, True, True)] * 3)
                       for name in ("suppression", "enhancement")}),
            "it has 3 prompts, and its relation 2 templates",
        ),
    ],
)  # fmt: skip
def test_a_broken_result_is_named_with_its_file_and_nothing_is_written(files, refused, results, says):
    path = files.write("results", results)
    sentence = refused(*files.command())
    assert str(path) in sentence
    assert says in sentence
    assert not files.out.exists()


def test_files_of_two_models_or_of_none_are_one_sentence(files, refused, tmp_path):
    (tmp_path / "empty").mkdir()
    assert "has no file *neurons_*.json" in refused(*files.command("--source", str(tmp_path / "empty")))
    assert "has no file *results_*.json" in refused(*files.command("--results", str(tmp_path / "empty")))
    (files.source / "gpt2_pararel_neurons_0.json").write_text("{}")
    assert "of several models: gpt2, pocket-bert" in refused(*files.command())


def test_another_model_is_an_option(files, refused, capsys):
    assert main(files.command("--model", "bert-base-uncased")) == 0
    capsys.readouterr()
    assert read_manifest(files.out).model.n_layers == 12
    files.write("neurons", {"id-1": [[3, 0]]})
    assert "[3, 0] is not a neuron of pocket-bert, which has layers 0 to 2" in refused(
        *files.command("--fresh")
    )


# What is published -----------------------------------------------------------------------------------


@pytest.fixture
def public(files: Files, monkeypatch: pytest.MonkeyPatch) -> Files:
    """The made-up files as the published ones, and a public home of theirs."""
    home = files.source
    results = files.write("results", RESULTS)
    neurons = next(home.glob("*neurons*"))
    monkeypatch.setattr(published, "NEURONS_URL", home.as_uri())
    monkeypatch.setattr(published, "HASHES", {neurons.name: pararel.sha256(neurons.read_bytes())})
    monkeypatch.setattr(published, "RESULT_BLOBS", {results.name: git_blob_id(results.read_bytes())})
    return files


def without_source(files: Files, *more: str) -> list[str]:
    return ["import-published", "--pararel", str(files.pararel), "--out", str(files.out), *more]


def test_published_results_are_fetched_and_checked_by_their_git_blob_ids(public, capsys):
    assert main(without_source(public)) == 0
    assert "of the published results" in (said := capsys.readouterr().err)
    assert "checked against their git blob ids" in said
    manifest = read_manifest(public.out)
    assert manifest.method.options["published"]["results"] == "the published files"
    assert manifest.atlas_id == published.PUBLISHED_ATLAS_ID
    assert len(rows(public.out)["effects.parquet"]) == 15


def test_copies_with_carriage_returns_are_the_published_files(public):
    assert main(public.command()) == 0
    manifest = (public.out / "manifest.json").read_bytes()
    for path in public.source.glob("*.json"):
        path.write_bytes(path.read_bytes().replace(b"\n", b"\r\n"))
    assert main(public.command()) == 0  # the same import, so nothing is left to do
    assert (public.out / "manifest.json").read_bytes() == manifest
    assert main([*public.command(), "--fresh"]) == 0
    said = read_manifest(public.out).method.options["published"]
    assert said["neurons"] == said["results"] == "the published files"


def test_a_source_without_files_is_named_before_anything_is_fetched(tmp_path, capsys):
    assert main(["import-published", "--source", str(tmp_path), "--out", str(tmp_path / "out")]) == 2
    said = capsys.readouterr().err
    assert said.startswith(f"{tmp_path} has no file *neurons_*.json.")
    assert "PARAREL" not in said
    assert not (tmp_path / "out").exists()


def test_where_the_results_cannot_be_had_the_neurons_alone_are_imported(public, capsys):
    path = next(public.source.glob("*results*"))
    path.write_bytes(path.read_bytes() + b" ")
    assert main(without_source(public)) == 0
    said = capsys.readouterr().err
    assert "The atlas gets no effects." in said
    assert "does not match the published git blob ids" in said
    assert "--results DIR" in said
    assert "effects.parquet" not in rows(public.out)
    assert "effects are not in this atlas" in read_manifest(public.out).notes


def test_a_blob_id_is_git_s():
    assert git_blob_id(b"hello\n") == "ce013625030ba8dba906f756967f9e9ca394464a"
    assert len(published.RESULT_BLOBS) == 8
    given = ORIGINAL / "eleutherai" / "published_results_blobs.txt"
    if given.exists():
        listed = dict(line.split()[::-1] for line in given.read_text().splitlines() if line)
        assert {Path(name).name: blob for name, blob in listed.items()} == published.RESULT_BLOBS


# Export ----------------------------------------------------------------------------------------------


def test_what_is_exported_reads_back_as_the_same_rows(files, tmp_path, capsys):
    files.write("results", RESULTS)
    assert main(files.command()) == 0
    assert main(["export-results", str(files.out), "--out", str(tmp_path / "json")]) == 0
    assert "3 facts with their neurons, 3 of them with results" in capsys.readouterr().out
    again = tmp_path / "again"
    command = files.command("--source", str(tmp_path / "json"))
    command[command.index("--out") + 1] = str(again)
    assert main(command) == 0
    assert rows(again) == rows(files.out)
    exported = json.loads((tmp_path / "json" / "pocket-bert_pararel_results_0.json").read_text())
    assert exported["id-1"]["suppression"] == RESULTS["id-1"]["suppression"]
    assert exported["id-1"]["relation_name"] == "P36"


def test_an_atlas_of_one_s_own_is_exported_and_reads_back_with_its_data_set(tmp_path, capsys):
    """The unrelated enhancement, right here, is left out in reading, as the original's."""
    folder, out = DATA / "starter-pocket-bert", tmp_path / "again"
    assert main(["export-results", str(folder), "--out", str(tmp_path / "json")]) == 0
    with atlas.open(folder) as whole:
        n, measured = (
            whole.query_one(f"SELECT count(DISTINCT fact_id) AS n FROM {table}")["n"]
            for table in ("facts", "effects")
        )
    assert f"{n:,} facts with their neurons, {measured:,} of them with results" in capsys.readouterr().out
    command = ["import-published", "--source", str(tmp_path / "json"), "--dataset", "starter"]
    assert main([*command, "--out", str(out)]) == 0
    same = (
        "SELECT fact_id, layer, neuron FROM knowledge_neurons ORDER BY ALL",
        "SELECT layer, neuron, n_facts, n_relations FROM neurons ORDER BY ALL",
        "SELECT fact_id, subject, object, n_prompts, n_neurons FROM facts ORDER BY ALL",
        "SELECT fact_id, known FROM facts WHERE fact_id IN (SELECT fact_id FROM effects) ORDER BY ALL",
        "SELECT fact_id, template_id, text FROM prompts ORDER BY ALL",
        "SELECT fact_id, template_id, intervention, rank_before = 1 AS first FROM effects "
        "WHERE \"group\" = 'own' AND rank_before = 1 AND intervention <> 'mean' ORDER BY ALL",
    )
    change = (
        "SELECT coalesce(change::DOUBLE, p_after::DOUBLE / p_before - 1) AS change FROM effects "
        "WHERE \"group\" = 'own' AND intervention <> 'mean' ORDER BY fact_id, template_id, intervention"
    )
    with atlas.open(folder) as own, atlas.open(out) as again:
        for sql in same:
            assert own.query(sql).equals(again.query(sql)), sql
        np.testing.assert_allclose(again.query(change), own.query(change), rtol=1e-6, atol=1e-7)


def test_results_on_some_of_a_fact_s_prompts_are_not_exported(sample, tmp_path, capsys):
    """The form lists numbers without their templates' names."""
    folder = shutil.copytree(sample, tmp_path / "copy")
    replace_table(folder, "effects", [row for row in rows(folder)["effects.parquet"] if row["held_out"]])
    assert main(["export-results", str(folder), "--out", str(tmp_path / "json")]) == 0
    assert "60 facts with their neurons, 0 of them with results" in capsys.readouterr().out
    assert len(list((tmp_path / "json").iterdir())) == 1


def test_a_folder_that_is_no_atlas_is_not_exported(tmp_path, refused):
    assert "is not a finished atlas" in refused("export-results", tmp_path, "--out", tmp_path / "json")


# What the originals' own code made -------------------------------------------------------------------


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """The atlas of the original's files for 24 facts, read with the whole of PARAREL."""
    out = tmp_path_factory.mktemp("original") / "out"
    command = ["import-published", "--source", str(ORIGINAL / "eleutherai"), "--pararel", str(PARAREL)]
    assert main([*command, "--model", "pocket-bert", "--out", str(out)]) == 0
    return out


@needs_originals
def test_the_original_s_numbers_are_the_rows(original):
    results = json.loads((ORIGINAL / "eleutherai" / "bert-base-uncased_pararel_results_0.json").read_text())
    assert check_atlas(original).problems == []
    effects = pq.read_table(original / "effects.parquet").to_pandas()
    own = effects[effects["group"] == "own"]
    for uuid, each in results.items():
        for name, verb in (("suppression", "suppress"), ("enhancement", "amplify")):
            stored = own[(own["fact_id"] == uuid) & (own["intervention"] == verb)]
            np.testing.assert_allclose(
                sorted(stored["change"]), sorted(each[name]["related"]["pct_change"]), rtol=1e-6
            )
    assert "unrelated" not in set(effects.loc[effects["intervention"] == "amplify", "group"])


@needs_originals
def test_the_report_has_the_replication_s_ratio_and_says_what_was_not_measured(original, tmp_path):
    assert main(["figures", str(original), "--out", str(tmp_path)]) == 0
    text = (tmp_path / "report.md").read_text()
    assert "∞" not in text
    assert "nan" not in text.lower().split()
    (suppressed,) = (
        line for line in text.splitlines() if line.startswith("| [Suppressing a fact's neurons lowers")
    )
    assert "−68.7" in suppressed
    assert "the replication's ratio" in suppressed
    assert "**not measured**" in text


PAGES: dict[str, tuple[str, dict[str, str], str]] = {
    "home": ("home", {}, "the templates that found them (none is held out)"),
    "fact": (
        "fact",
        {"fact": "bd2155cf-0ad0-4191-9473-7f1ca68c13ae"},
        "Beside it: the fact's own neurons on unrelated facts",
    ),
    "relation": ("relation", {"relation": "P37"}, "Suppressing a fact's neurons changes"),
    "compare": ("compare", {"kind": "relations", "a": "P37", "b": "P30"}, ""),
    "atlases": ("atlases", {}, "not the published files"),
}


@needs_originals
@pytest.mark.parametrize("which", PAGES)
def test_pages_show_imported_changes(original, monkeypatch, which):
    monkeypatch.setenv(ENVIRONMENT_VARIABLE, str(original))
    name, parameters, says = PAGES[which]
    app = AppTest.from_file(str(ROOT / "app" / "main.py"), default_timeout=60).run()
    app.switch_page(f"{name}/page.py")
    app.query_params.update(parameters)
    app.run()
    for cache in (resources._opened, resources._answer):
        cache.clear()
    assert not app.exception
    assert not app.error
    kinds = (app.title, app.subheader, app.markdown, app.caption, app.info, app.warning)
    text = "\n".join(element.value for kind in kinds for element in kind).replace("\\", "")
    assert says in text
    assert "nan" not in text.lower().split()


# Dai et al.'s files ----------------------------------------------------------------------------------

BAGS = [
    [[sentence.replace("[X]", subject).replace("[Y]", "[MASK]"), answer, "P36(capital)"] for sentence in
     ("[X] is ruled from [Y].", "The court of [Y] governs [X].", "[Y] is the seat of [X].")]
    for subject, answer in (("Ruritania", "Strelsau"), ("Oz", "Emerald"), ("Freedonia", "Sylvania"))
]  # fmt: skip


def scored(answer: str, first: str, *scores: tuple[int, int, float]) -> list[Any]:
    return [{"gold_obj": answer, "pred_obj": first}, {"ig_gold": [list(each) for each in scores]}]


LINES = [
    [scored("Strelsau", "Strelsau", (0, 5, 0.5), (2, 7, 0.4), (1, 1, 0.06))] * 3,
    [scored("Emerald", "Oslo", (0, 5, 0.25), (2, 9, 0.01))] * 3,
]


@pytest.fixture
def dai_files(tmp_path: Path) -> Path:
    folder = tmp_path / "dai"
    folder.mkdir()
    (folder / "data_all.json").write_text(json.dumps(BAGS))
    (folder / "TREx-all-P36.rlt.jsonl").write_text("".join(json.dumps(line) + "\n" for line in LINES))
    return folder


def import_dai(folder: Path, *more: str) -> list[str]:
    command = ["import-published", "--source", str(folder), "--model", "pocket-bert"]
    return [*command, "--out", str(folder.parent / "out"), *more]


def test_scores_of_dai_et_al_are_refined_by_their_rule(dai_files):
    assert main(import_dai(dai_files)) == 0
    out = dai_files.parent / "out"
    assert check_atlas(out).problems == []
    with atlas.open(out) as opened:
        facts = opened.query("SELECT fact_id, subject, object, known, n_neurons FROM facts ORDER BY ALL")
        neurons = opened.query("SELECT fact_id, layer, neuron, share FROM knowledge_neurons ORDER BY ALL")
        scores = opened.query_one("SELECT count(*) AS n, max(score)::DOUBLE AS most FROM attributions")
        assert opened.query("SELECT DISTINCT top_token FROM prompts ORDER BY ALL")["top_token"].tolist() == [
            "Oslo", "Strelsau"]  # fmt: skip
    assert list(facts.itertuples(index=False, name=None)) == [
        ("P36.0", "Ruritania", "Strelsau", True, 2),
        ("P36.1", "Oz", "Emerald", False, 1),
    ]
    assert list(neurons.itertuples(index=False, name=None)) == [
        ("P36.0", 0, 5, 1.0),
        ("P36.0", 2, 7, 1.0),
        ("P36.1", 0, 5, 1.0),
    ]
    # A score under a tenth of its prompt's largest is not stored.
    assert scores == {"n": 9 + 3, "most": 0.5}
    manifest = read_manifest(out)
    assert manifest.method.refinement["mode"] == "paper"
    assert manifest.method.options["published"]["neurons"] == "not the published files"


def test_lists_of_dai_et_al_are_taken_as_they_are(dai_files):
    (dai_files / "kn").mkdir()
    (dai_files / "kn" / "kn_bag-P36.json").write_text(json.dumps([[[1, 1]], [], [[2, 0], [0, 3]]]))
    (dai_files / "base_kn_bag-P36.json").write_text("not read")
    assert main(import_dai(dai_files)) == 0
    found = rows(dai_files.parent / "out")["knowledge_neurons.parquet"]
    assert [(each["fact_id"], each["layer"], each["neuron"]) for each in found] == [
        ("P36.0", 1, 1),
        ("P36.2", 0, 3),
        ("P36.2", 2, 0),
    ]


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("kn_bag-P36.json", "{}", "it is not a JSON list"),
        ("kn_bag-P36.json", "[" * 100_000, "it is not JSON"),
        ("kn_bag-P36.json", "[7]", "entry 0: 7 is not a list of neurons"),
        ("kn_bag-P36.json", "[[[0, 1], [9, 1]]]", "entry 0: [9, 1] is not a neuron of pocket-bert"),
        ("kn_bag-P36.json", "[[], [], [], []]", "it is about 4 facts, and data_all.json has 3 of P36"),
        ("kn_bag-P99.json", "[]", "data_all.json has no relation P99"),
        ("a-P36.rlt.jsonl", "[]", "it has 0 prompts, and the fact 3"),
        ("a-P36.rlt.jsonl", "[1, 2, 3]", 'entry "0, prompt 0": it has no gold_obj, pred_obj and ig_gold'),
        ("a-P36.rlt.jsonl", [scored("Oslo", "a")] * 3, "gold_obj is not the fact's answer 'Strelsau'"),
        ("a-P36.rlt.jsonl", [scored("Strelsau", "a", (0, 0, 1e999))] * 3, "a score is not a finite number"),
        ("a-P36.rlt.jsonl", [scored("Strelsau", "a", (0, 9999, 1.0))] * 3, "[0, 9999] is not a neuron"),
        (
            "a-P36.rlt.jsonl",
            [scored("Strelsau", "a", (0, 1))] * 3,
            "a list of [layer, neuron, score]",
        ),
        ("a-P36.rlt.jsonl", [scored("Strelsau", 7)] * 3, "pred_obj must be text"),
    ],
)
def test_a_broken_file_of_dai_et_al_is_named_with_its_place(dai_files, refused, name, content, says):
    (dai_files / "TREx-all-P36.rlt.jsonl").unlink()
    text = content if isinstance(content, str) else json.dumps(content)
    (dai_files / name).write_text(text)
    sentence = refused(*import_dai(dai_files))
    assert str(dai_files / name) in sentence
    assert says in sentence
    assert not (dai_files.parent / "out").exists()


@needs_originals
def test_the_scores_of_dai_et_al_s_own_code_give_its_lists(tmp_path):
    """Of fourteen lines two were kept: their share is one of the six that the code tries."""
    out = tmp_path / "out"
    command = ["import-published", "--source", str(ORIGINAL / "dai"), "--model", "pocket-bert"]
    assert main([*command, "--out", str(out)]) == 0
    assert check_atlas(out).problems == []
    with atlas.open(out) as opened:

        def listed(fact_id: str) -> set[tuple[int, int]]:
            rows = queries.neurons_of_fact(opened, fact_id)
            return set(rows[["layer", "neuron"]].itertuples(index=False, name=None))

        def found(fact_id: str, share: float) -> set[tuple[int, int]]:
            rule = mode("paper", share=share)
            rows = queries.rethreshold(opened, fact_id, rule.threshold, share, at_least=rule.at_least)
            return set(rows[["layer", "neuron"]].itertuples(index=False, name=None))

        facts = opened.query("SELECT DISTINCT fact_id FROM attributions")["fact_id"]
        assert len(facts) == 2
        shares = [round(0.7 + 0.05 * step, 2) for step in range(6)]
        assert [share for share in shares if all(found(each, share) == listed(each) for each in facts)]
        assert opened.query_one("SELECT count(DISTINCT fact_id) AS n FROM knowledge_neurons") == {"n": 14}


@needs_originals
def test_facts_of_dai_et_al_can_be_built_from(tmp_path):
    command = ["run", "--model", "pocket-bert", "--dataset", "dai", "--source", str(ORIGINAL / "dai")]
    assert main([*command, "--limit", "4", "--mode", "paper", "--out", str(tmp_path / "out")]) == 0
    manifest = read_manifest(tmp_path / "out")
    assert manifest.dataset.revision.startswith("not the published files")
    assert manifest.rows("prompts") == 4 * len(load_dataset("starter").templates_of("P36"))
