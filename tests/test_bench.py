"""The benchmark measures what it says, at toy sizes: never how fast this machine is today."""

from __future__ import annotations

import json
import subprocess
import sys

import numpy as np
import pytest

from build.bench import comparison, main, shapes

FIGURES = ("plain loop", "same 20 points", "certified", "peak memory", "points a layer")


@pytest.fixture(autouse=True)
def torchs_threads():
    """The command sets them for its process, which here is the other tests' too."""
    import torch

    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module", params=["bert-tiny", "gpt2-tiny"])
def measured(request):
    """A subject, three prompts, and what `measure` says about them."""
    subject = shapes.shape_subject(request.param)
    prompts = shapes.bench_prompts(subject.family.kind, 3)
    return subject, prompts, *comparison.measure(subject, prompts, steps=20, tolerance=0.01)


def test_every_side_scores_every_prompt(measured):
    _, prompts, seconds, results = measured
    assert set(seconds) == set(results) == set(comparison.SIDES)
    for side in comparison.SIDES:
        assert len(results[side]) == len(prompts)
        assert len(seconds[side]) == 3
        assert min(seconds[side]) > 0


def test_both_sides_find_the_same_scores(measured):
    _, _, _, results = measured
    for side in ("same", "same, batched"):
        for attribution, plain in zip(results[side], results["plain"], strict=True):
            assert comparison.relative_difference(attribution.scores, plain) < 1e-5


def test_prompts_have_ten_tokens_before_or_around_the_answer(measured):
    subject, prompts, *_ = measured
    assert {len(subject.encode(prompt).input_ids) for prompt in prompts} == {10}
    assert all(len(subject.encode(prompt).targets) == 1 for prompt in prompts)


def test_the_plain_side_makes_one_full_pass_a_layer(measured):
    """All its points of a layer in one batch, every token through the whole model, and one pass to record."""
    subject, prompts, *_ = measured
    seen = []
    handle = subject.family.layer_modules(subject.model)[0].register_forward_hook(
        lambda module, inputs, output: seen.append(tuple(inputs[0].shape[:2]))
    )
    try:
        comparison.run_plain(subject, prompts[0], 20)
    finally:
        handle.remove()
    assert seen == [(1, 10)] + [(20, 10)] * subject.n_layers


def test_relative_difference_refers_to_the_largest_score():
    assert comparison.relative_difference(np.array([1.0, -3.9]), np.array([1.0, -4.0])) == pytest.approx(
        0.025
    )


def test_the_command_prints_a_table_and_writes_json(tmp_path, capsys):
    path = tmp_path / "bench.json"
    arguments = ["--shape", "bert-tiny", "--prompts", "2", "--threads", "1", "--json", str(path)]
    assert main(arguments) == 0
    output = capsys.readouterr().out
    assert all(figure in output for figure in FIGURES)
    result = json.loads(path.read_text())
    assert [side["side"] for side in result["sides"]] == list(comparison.SIDES)
    for side in result["sides"]:
        assert side["peak_bytes"] > 50_000_000  # a process with torch in it
        assert side["median_seconds"] > 0
    assert result["sides"][0]["speed_up"] == 1
    assert result["machine"]["threads"] == 1
    assert result["machine"]["torch"]
    assert result["converged_share"] == 1


def test_a_model_on_disk_can_be_measured(tiny_llama, capsys):
    arguments = ["--model", str(tiny_llama), "--prompts", "1", "--no-memory", "--threads", "1"]
    assert main(arguments) == 0
    assert "tiny_llama" in capsys.readouterr().out


@pytest.mark.parametrize(
    "arguments",
    [
        ["--prompts", "0"],
        ["--prompts", "-3"],
        ["--steps", "1"],
        ["--tolerance", "0"],
        ["--tolerance", "nan"],
        ["--threads", "0"],
        ["--json", "no/such/folder/bench.json"],
    ],
)
def test_absurd_options_end_with_status_2_before_torch_is_imported(arguments):
    code = "import sys; from build import bench; status = bench.main(sys.argv[1:]); " + (
        "print('torch' in sys.modules); raise SystemExit(status)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert done.stdout.strip() == "False"
    assert len(done.stderr.strip().splitlines()) == 1
    assert done.stderr.strip().endswith(".")


def test_a_model_that_is_not_there_ends_with_status_2(tmp_path, capsys):
    assert main(["--model", str(tmp_path / "nothing"), "--no-memory"]) == 2
    error = capsys.readouterr().err
    assert "Traceback" not in error
    assert len(error.strip().splitlines()) == 1
