"""The builder's command line: one sentence for what a person got wrong, before torch is imported."""

from __future__ import annotations

import io
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from build.__main__ import main
from build.evidence import ALIASES, STUDIES
from build.progress import ProgressBar
from tests import ROOT

PARAREL = ROOT.parent / "shared" / "pararel" / "data"
RUN = ["run", "--model", "pocket-bert", "--dataset", "starter", "--out", "never-made"]

needs_pararel = pytest.mark.skipif(
    not PARAREL.is_dir(), reason="needs PARAREL's data folder at ../shared/pararel/data"
)


@pytest.fixture(autouse=True)
def nothing_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.chdir(tmp_path)
    yield
    assert not (tmp_path / "never-made").exists()


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--limit", "0"], "--limit must be 1 or more, got 0."),
        (["--limit", "-5"], "--limit must be 1 or more, got -5."),
        (["--tolerance", "1"], "--tolerance must be between 0 and 1, got 1."),
        (["--tolerance", "0"], "--tolerance must be between 0 and 1, got 0."),
        (["--tolerance", "-0.1"], "--tolerance must be between 0 and 1, got -0.1."),
        (["--tolerance", "nan"], "--tolerance must be between 0 and 1, got nan."),
        (["--mode", "magic"], "--mode cannot be 'magic'. Choose one of: default, paper, replication."),
        (["--rule", "simpson"], "--rule cannot be 'simpson'"),
        (["--attribute", "some"], "--attribute cannot be 'some'"),
        (["--dtype", "int8"], "--dtype cannot be 'int8'"),
        (["--threads", "0"], "--threads must be 1 or more, got 0."),
        (["--batch-rows", "-1"], "--batch-rows must be 1 or more, got -1."),
        (["--shard-size", "0"], "--shard-size must be 1 or more, got 0."),
        (["--steps", "0"], "--steps must be 1 or more, got 0."),
        (["--seed", "-1"], "--seed must be 0 or more, got -1."),
        (["--negatives", "-1"], "--negatives must be 0 or more, got -1."),
        (["--relations", "P36,P999999"], "has no relation P999999"),
        (["--relations", ","], "--relations names no relation"),
        (["--dataset", "wikipedia"], "There is no data set 'wikipedia'"),
        (["--source", "no-such-folder"], "There is no folder or file no-such-folder"),
        (["--model", "./no/such/folder"], "'./no/such/folder' is neither a folder nor a model's name"),
    ],
)
def test_a_bad_option_is_one_sentence(refused, arguments, sentence):
    assert sentence in refused(*RUN, *arguments)


def test_plan_refuses_what_run_refuses(refused):
    assert "--limit must be" in refused(
        "plan", "--model", "pocket-bert", "--dataset", "starter", "--limit", "0"
    )


def test_a_value_that_is_not_a_number_is_refused_with_the_usage(capsys):
    assert main([*RUN, "--limit", "many"]) == 2
    errors = capsys.readouterr().err
    assert "Usage: python -m build run" in errors
    assert "Invalid value for '--limit'" in errors
    assert "valid integer" in errors


def test_a_model_of_an_unknown_family_is_one_sentence(refused, tmp_path):
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "config.json").write_text('{"model_type": "t5"}')
    (folder / "model.safetensors").write_bytes(b"")
    (folder / "tokenizer.json").write_text("{}")
    sentence = refused("run", "--model", str(folder), "--dataset", "starter", "--out", "never-made")
    assert "Models of type 't5' are not supported" in sentence


def test_bad_options_are_found_before_torch_is_imported():
    code = (
        "import sys; from build.__main__ import main; "
        "status = main(sys.argv[1:]); "
        "assert not {'torch', 'transformers'} & set(sys.modules); sys.exit(status)"
    )
    result = run_python("-c", code, *RUN, "--relations", "P999999")
    assert result.returncode == 2, result.stderr
    result = run_python("-c", code, "plan", "--model", "pocket-bert", "--dataset", "starter")
    assert result.returncode == 0, result.stderr


def run_python(*arguments: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=300,
    )


# --- plan ---


@needs_pararel
@pytest.mark.parametrize(("model", "prompts"), [("pocket-bert", "224,674"), ("smollm2-135m", "144,325")])
def test_plan_reports_pararels_figures(capsys, model, prompts):
    assert main(["plan", "--model", model, "--dataset", "pararel", "--source", str(PARAREL)]) == 0
    lines = dict(re.split(r"\s{2,}", line, maxsplit=1) for line in capsys.readouterr().out.splitlines())
    assert (lines["relations"], lines["facts"], lines["prompts"]) == ("39", "27,610", prompts)
    assert {"disk", "rows", "time"} <= set(lines)


def test_plan_says_where_its_time_comes_from(capsys, tiny_bert):
    assert main(["plan", "--model", str(tiny_bert), "--dataset", "starter", "--limit", "9"]) == 0
    output = capsys.readouterr().out
    assert "unknown until measured" in output
    assert re.search(r"^facts +9$", output, re.MULTILINE)


def test_plan_needs_no_weights_of_a_known_model(capsys):
    assert main(["plan", "--model", "bert-base-uncased", "--dataset", "starter"]) == 0
    assert "masked: all templates" in capsys.readouterr().out


# --- run ---


def test_run_ends_with_a_summary_and_check_agrees(capsys, tiny_llama, tmp_path):
    command = ["run", "--model", str(tiny_llama), "--dataset", "starter", "--out", str(tmp_path / "out")]
    command += ["--relations", "P36,P37", "--limit", "4", "--threads", "1"]
    assert main(command) == 0
    captured = capsys.readouterr()
    assert "starter-tiny_llama is finished" in captured.out
    assert "attribute: " in captured.err
    assert re.search(r"converged +\d+\.\d\d%", captured.out)
    assert main(["check", str(tmp_path / "out")]) == 0
    assert ": ok" in capsys.readouterr().out
    assert main(command) == 0
    assert "Nothing was left to do" in capsys.readouterr().out


def test_pocket_bert_builds_an_atlas_of_facts_it_knows(capsys, tmp_path):
    out = tmp_path / "out"
    assert (
        main(["run", "--model", "pocket-bert", "--dataset", "starter", "--limit", "20", "--out", str(out)])
        == 0
    )
    summary = capsys.readouterr().out
    known = int(re.search(r"the model knows (\d+)", summary)[1])
    assert known >= 15
    assert re.search(r"suppress +own +-", summary)
    assert main(["check", str(out)]) == 0


def test_ctrl_c_says_how_to_go_on(tiny_bert, tmp_path):
    out = tmp_path / "out"
    command = ["run", "--model", str(tiny_bert), "--dataset", "starter", "--out", str(out)]
    process = subprocess.Popen(
        [sys.executable, "-m", "build", *command, "--shard-size", "1", "--threads", "1"],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # Shells start background jobs deaf to Ctrl+C, and what they start inherits that.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    try:
        deadline = time.monotonic() + 120
        while not (out / "work" / "attribute-00000.parquet").exists():
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.01)
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 130
    assert "Give the same command again to go on" in errors
    assert "Traceback" not in errors
    assert (out / "work" / "attribute-00000.parquet").exists()
    assert not list(out.rglob("*.partial"))


def test_a_folder_in_use_by_another_model_is_refused(refused, tiny_bert, tmp_path):
    folder = tmp_path / "mine"
    folder.mkdir()
    (folder / "notes.txt").write_text("mine")
    sentence = refused("run", "--model", str(tiny_bert), "--dataset", "starter", "--out", str(folder))
    assert "notes.txt" in sentence


# --- check ---


def test_check_reports_each_folder_and_fails_for_one(capsys, tmp_path):
    empty = tmp_path / "empty"
    empty.mkdir()
    assert main(["check", str(empty), str(tmp_path / "nowhere")]) == 2
    errors = capsys.readouterr().err
    assert "has no manifest.json" in errors
    assert "There is no folder" in errors
    assert "Traceback" not in errors


# --- the other commands ---


def test_the_help_of_evaluate_says_what_each_experiment_measures(capsys):
    assert main(["evaluate", "--help"]) == 0
    text = " ".join(capsys.readouterr().out.split())
    for study in STUDIES.values():
        assert f" {study.name} {study.sentence}" in text
    for name in set(ALIASES) - {"all"}:
        assert f" {name} the same as {', '.join(ALIASES[name])}" in text


def test_training_refuses_impossible_options(refused, tmp_path):
    out = str(tmp_path / "out")
    assert "--epochs must be" in refused("train-pocket-bert", "--epochs", "0", "--out", out)
    assert "--seed must be" in refused("train-pocket-bert", "--seed", "-1", "--out", out)


def test_fetching_an_unknown_model_is_one_sentence(refused):
    assert "neither a folder nor a model's name" in refused("fetch-model", "no model!")


# --- progress ---


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_progress_is_a_bar_on_a_terminal(monkeypatch):
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    with ProgressBar("attribute", total=10, done=2) as progress:
        progress.advance(8)
    assert "10/10" in terminal.getvalue()
    assert "attribute" in terminal.getvalue()


def test_progress_is_a_plain_line_now_and_then_elsewhere(monkeypatch):
    now = 0.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    errors = io.StringIO()
    monkeypatch.setattr(sys, "stderr", errors)
    with ProgressBar("attribute", total=1000, done=100) as progress:
        for _ in range(20):
            now += 1.0
            progress.advance(10)
    assert errors.getvalue().splitlines() == [
        "attribute: 200 of 1,000 prompts, 10.0 a second, 1 min left",
        "attribute: 300 of 1,000 prompts, 10.0 a second, 1 min left",
    ]
