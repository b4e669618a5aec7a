"""`python -m build experiment FILE`: what comes out again, and what it says of files it cannot use."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from atlas.experiments.documents import read_document, to_json
from atlas.experiments.experiment import Experiment
from atlas.interventions import Amplify, Edit, Erase, Patch, SetTo, Suppress
from atlas.neuron import ExperimentPrompt, Neuron, Prompt
from build.__main__ import main
from tests import ROOT

NEURONS = (Neuron(0, 3), Neuron(1, 5), Neuron(1, 70), Neuron(2, 41))
ASKED = (
    ExperimentPrompt("asked", Prompt("f", "t1", "the capital of france is [Y]", "paris")),
    ExperimentPrompt("paraphrases", Prompt("f", "t2", "in france , the capital is [Y]", "paris")),
    ExperimentPrompt("unrelated", Prompt("g", "t3", "the official language of austria is [Y]", "german")),
)
CHANGES = (
    Suppress(NEURONS[:2]),
    Amplify(NEURONS[:1], 3.0),
    SetTo(NEURONS[1:3], -0.5),
    Patch(NEURONS[:1], "the old town of rome lies in [Y]"),
    Erase(NEURONS[3:], "unk"),
    Edit(NEURONS, old="paris", new="rome", add=4.0),
)

UNSAYABLE = {"kind": "edit", "neurons": ["L0.N1"], "old": "paris", "new": "☃"}


@pytest.fixture(scope="module")
def outcome(tiny_bert: Path):
    pytest.importorskip("torch")
    from atlas.experiments.run import run
    from atlas.surgery import load_subject

    subject = load_subject(str(tiny_bert), device="cpu")
    return run(subject, Experiment(CHANGES, ASKED, seed=4, draws=2))


@pytest.fixture
def file(outcome, tmp_path: Path) -> Path:
    """An experiment with its results, as the Lab gives it."""
    path = tmp_path / "experiment.json"
    path.write_text(to_json(outcome.experiment, outcome.results), encoding="utf-8")
    return path


# --- what comes out again ---


def test_a_replay_prints_before_after_and_random_by_group_and_agrees_with_the_file(file, outcome, capsys):
    assert main(["experiment", str(file), "--device", "cpu"]) == 0
    said = capsys.readouterr().out
    assert f"weights {outcome.experiment.weights_sha256[:12]}…, cpu" in said
    for change in (
        "suppress 2 neurons",
        "amplify 1 neuron by 3",
        "set 2 neurons to -0.5",
        "take 1 neuron from 'the old town of rome lies in [Y]'",
        "erase 1 neuron with unk",
        "edit 4 neurons: paris → rome, strengths (1, 4)",
    ):
        assert change in said
    for each, label in zip(
        outcome.summary(), ["Discovery prompts", "Held-out paraphrases", "Unrelated facts"], strict=True
    ):
        row = next(line for line in said.splitlines() if line.startswith(label))
        numbers = [float(n) for n in re.findall(r"(?<![\d.])\d\.\d{4}", row)]
        assert numbers == pytest.approx([each.before, each.after, each.random], abs=6e-5)
        assert f"{each.change:+.1%}" in row
        assert f"{each.random_change:+.1%}" in row
    rest = said.partition("the new answer, rome\n")[2].splitlines()
    for row, each, label in zip(
        rest, outcome.new_summary(), ["Discovery prompts", "Held-out paraphrases"], strict=False
    ):
        assert row.startswith(label)
        numbers = [float(n) for n in re.findall(r"(?<![\d.])\d\.\d{4}", row)]
        assert numbers == pytest.approx([each.before, each.after, each.random], abs=6e-5)
        assert f"{each.rank_1_before} → {each.rank_1_after}, random {each.rank_1_random:.1f}" in row
    assert rest[2] == ""
    assert "undo        exact" in said
    assert "file        the same results: 20 probabilities, bit for bit" in said


def test_an_experiment_without_results_is_done_too(file, outcome, capsys):
    file.write_text(to_json(outcome.experiment), encoding="utf-8")
    assert main(["experiment", str(file)]) == 0
    assert "no results to compare with" in capsys.readouterr().out


def test_results_that_do_not_come_out_again_are_named_with_exit_status_1(file, outcome, capsys):
    first = outcome.results.prompts[0]
    wrong = replace(first, after=replace(first.after, probability=0.9))
    results = replace(outcome.results, prompts=(wrong, *outcome.results.prompts[1:]))
    file.write_text(to_json(outcome.experiment, results), encoding="utf-8")
    assert main(["experiment", str(file)]) == 1
    said = capsys.readouterr().out
    assert "different results: 1 of 20 probabilities differ, by up to 0." in said
    assert "(after, 'the capital of france is [Y]')" in said


def test_a_file_of_version_1_is_done_again_and_compared_in_what_it_has(file, capsys):
    plain = json.loads(file.read_text(encoding="utf-8")) | {"version": 1}
    for each in plain["results"]["prompts"]:
        each.pop("new_random", None)
        each.pop("new_random_ranks", None)
    file.write_text(json.dumps(plain), encoding="utf-8")
    assert main(["experiment", str(file)]) == 0
    assert "the same results: 16 probabilities, bit for bit" in capsys.readouterr().out


def test_the_new_results_are_written_where_they_are_asked_for(file, outcome, tmp_path, capsys):
    out = tmp_path / "again.json"
    assert main(["experiment", str(file), "--json", str(out)]) == 0
    again = read_document(out.read_text(encoding="utf-8"))
    assert again.experiment == outcome.experiment
    assert again.results == outcome.results
    assert main(["experiment", str(out)]) == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["again.json", "experiment.json"]


def test_other_weights_are_refused_unless_asked_for(file, outcome, tiny, capsys, refused):
    other = tiny("tiny_gpt2")
    sentence = refused("experiment", file, "--model", other)
    assert "made with other weights" in sentence
    assert outcome.experiment.weights_sha256[:12] in sentence
    assert "--any-weights" in sentence
    # Other results are what other weights give; the table says of which they are.
    causal = replace(outcome.experiment, interventions=CHANGES[:2])
    file.write_text(to_json(causal), encoding="utf-8")
    assert main(["experiment", str(file), "--model", str(other), "--any-weights"]) == 0
    assert "not the weights that the experiment was made with" in capsys.readouterr().out


def test_the_same_weights_with_another_config_are_another_model(file, tiny_bert, tmp_path, refused):
    copy = shutil.copytree(tiny_bert, tmp_path / "copy")
    config = (copy / "config.json").read_text()
    (copy / "config.json").write_text(
        config.replace('"num_attention_heads": 4', '"num_attention_heads": 2'), encoding="utf-8"
    )
    assert "or another config" in refused("experiment", file, "--model", copy)


def test_a_copy_of_the_model_elsewhere_is_the_same_model(file, tiny_bert, tmp_path, capsys):
    copy = shutil.copytree(tiny_bert, tmp_path / "copy")
    assert main(["experiment", str(file), "--model", str(copy)]) == 0
    said = capsys.readouterr().out
    assert str(copy) in said
    assert "the same results" in said


# --- what cannot be used ---


def test_a_file_that_cannot_be_read_gets_a_sentence(refused, tmp_path):
    assert "There is no file" in refused("experiment", tmp_path / "nothing.json")
    assert "cannot be read" in refused("experiment", tmp_path)
    (tmp_path / "image.json").write_bytes(b"\x89PNG\xff\xfe")
    assert "is not UTF-8 text" in refused("experiment", tmp_path / "image.json")
    (tmp_path / "notes.json").write_text("once upon a time")
    assert "The text is not JSON" in refused("experiment", tmp_path / "notes.json")
    (tmp_path / "package.json").write_text('{"name": "x"}')
    assert "The JSON is not an experiment" in refused("experiment", tmp_path / "package.json")


def test_a_file_of_a_windows_editor_is_read(file, capsys):
    file.write_bytes(b"\xef\xbb\xbf" + file.read_bytes())
    assert main(["experiment", str(file)]) == 0


def test_a_file_that_is_too_large_is_refused_without_reading_it_whole(refused, tmp_path):
    with (tmp_path / "large.json").open("wb") as handle:
        handle.truncate(10**11)  # takes no room on the disk
    assert "longer than 20,000,000 bytes" in refused("experiment", tmp_path / "large.json")


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"version": 99}, "has version 99"),
        ({"draws": 0}, "draws must be at least 1, got 0"),
        ({"prompts": []}, "has no prompts"),
        (
            {"model": {"name": "./no/such/folder"}},
            "is neither a folder nor a model's name",
        ),
        ({"interventions": [{"kind": "suppress", "neurons": ["L9.N1"]}]}, "has no neuron L9.N1"),
        (
            {"interventions": [{"kind": "edit", "neurons": ["L0.N1"], "old": "paris", "new": "☃"}]},
            "vocabulary",
        ),
        (
            {"prompts": [{"group": "asked", "text": "very " * 90 + "[Y]", "answer": "paris"}]},
            "reads at most 64",
        ),
    ],
)
def test_an_experiment_that_cannot_be_done_gets_a_sentence(file, capsys, change, sentence):
    plain = json.loads(file.read_text(encoding="utf-8")) | change
    plain.pop("results")
    file.write_text(json.dumps(plain), encoding="utf-8")
    assert main(["experiment", str(file)]) == 2
    said = capsys.readouterr().err  # after some lines of progress
    assert sentence in said
    assert "Traceback" not in said


def test_nothing_that_is_there_is_written_over(file, refused, tmp_path):
    before = file.read_bytes()
    assert "exists already" in refused("experiment", file, "--json", file)
    assert file.read_bytes() == before
    assert "There is no folder" in refused("experiment", file, "--json", tmp_path / "no" / "where.json")


def test_a_device_that_does_not_exist_gets_a_sentence(file, refused):
    assert "There is no device 'toaster'" in refused("experiment", file, "--device", "toaster")


def test_what_a_stranger_wrote_moves_no_cursor(file, outcome, capsys):
    plain = json.loads(to_json(outcome.experiment))
    plain["model"]["name"] = "\x1b[2J"
    file.write_text(json.dumps(plain), encoding="utf-8")
    assert main(["experiment", str(file)]) == 2
    assert "\x1b" not in capsys.readouterr().err


def test_a_file_is_checked_before_torch_is_imported(tmp_path):
    (tmp_path / "bad.json").write_text('{"format": "knowledge-neuron-experiment", "version": 1}')
    code = (
        "import sys; from build.__main__ import main; "
        f"status = main(['experiment', {str(tmp_path / 'bad.json')!r}]); "
        "assert status == 2 and not {'torch', 'transformers'} & set(sys.modules), status"
    )
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, timeout=120)
