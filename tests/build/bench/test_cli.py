"""Options are checked before torch is imported, and what cannot be had is one sentence."""

from __future__ import annotations

import subprocess
import sys

import pytest

from build.bench import main


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--prompts", "0"], "--prompts"),
        (["--at-once", "0"], "--at-once"),
        (["--prompts", "some"], "--prompts"),
        (["--steps", "1"], "--steps"),
        (["--tolerance", "0"], "--tolerance must be between 0 and 1, got 0."),
        (["--tolerance", "nan"], "got nan"),
        (["--threads", "0"], "--threads"),
        (["--json", "no/such/folder/bench.json"], "no/such/folder"),
        (["--shape", "bert-huge"], "bert-huge"),
        (["--shape", "gpt2", "--model", "pocket-bert"], "--model"),
        (["--device", "tpu"], "tpu"),
        (["--dtype", "int8"], "int8"),
        (["--parts", "speed"], "'speed'"),
        (["--parts", ","], "'nothing'"),
        (["--axes", "width"], "'width'"),
        (["--floor-prompts", "0"], "--floor-prompts"),
        (["--repeats", "0"], "--repeats"),
        (["--sample", "0"], "--sample"),
        (["--groups", "1"], "--groups"),
        (["--batch-rows", "-1"], "--batch-rows"),
        (["--source", "no/such/folder"], "no/such/folder"),
        (["--scaling-prompts", "16"], "Give at least two"),
        (["--scaling-lengths", "0,8"], "each 1 or more"),
        (["--scaling-batches", "a,b"], "is not a list of sizes"),
        (["--parts", "projection", "--source", "tests"], "Point --source at PARAREL's data folder"),
        (["--parts", "projection", "--model", "no/such/model"], "no/such/model"),
        (["compat", "--rounds", "0"], "--rounds"),
        (["executors", "--limit", "0"], "--limit"),
        (["precision", "--prompts", "0"], "--prompts"),
        (["app", "--visits", "0"], "--visits"),
        (["load", "--visitors", "-1"], "--visitors"),
        (["load", "--checkout", "no/such/folder"], "no/such/folder"),
        (["reading", "no/such/folder"], "no/such/folder"),
        (["big-collection", "many", "--facts", "10"], "--facts"),
    ],
)
def test_bad_options_end_with_status_2_before_torch_is_imported(arguments, says):
    code = "import sys; from build import bench; status = bench.main(sys.argv[1:]); " + (
        "print('torch' in sys.modules); raise SystemExit(status)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert done.stdout.strip() == "False"
    assert "Traceback" not in done.stderr
    assert says in done.stderr


def test_a_model_that_is_not_there_ends_with_status_2(tmp_path, capsys):
    assert main(["--model", str(tmp_path / "nothing"), "--no-memory"]) == 2
    error = capsys.readouterr().err
    assert "Traceback" not in error
    assert len(error.strip().splitlines()) == 1


def test_a_gpu_that_is_not_there_is_one_sentence(capsys):
    import torch

    if torch.cuda.is_available():
        pytest.skip("there is one")
    assert main(["--shape", "bert-tiny", "--device", "cuda", "--no-memory"]) == 2
    assert capsys.readouterr().err == "There is no CUDA device. Use --device cpu.\n"
