"""Sides are compared fairly: the same sums, every side timed as often, seconds divided by prompts."""

from __future__ import annotations

import json

import numpy as np
import pytest

from atlas.attribution import attribution
from atlas.attribution.attribution import relative_difference
from build.bench import floor, machine, main, sides
from build.bench.models import named_subject
from build.bench.prompts import bench_prompts, prompts_of_length

EVERY_SIDE = (*sides.ONE_BY_ONE, *sides.TOGETHER)
FIGURES = (
    "plain loop",
    "same 20 points",
    "peak memory",
    "points a layer",
    "one prompt at a time",
    "4 prompts in one call",
    "percent of the floor",
)


def ignore(line: str) -> None: ...


@pytest.fixture(scope="module")
def measured(subject):
    """A subject, three prompts, and their seconds and results."""
    prompts = bench_prompts(subject.family.kind, 3)
    return subject, prompts, *sides.time_sides(subject, prompts, prompts, ignore, steps=20, tolerance=0.01)


def test_every_side_scores_every_prompt_as_often(measured):
    _, prompts, seconds, results = measured
    assert set(seconds) == set(results) == set(EVERY_SIDE)
    for side in EVERY_SIDE:
        assert len(results[side]) == len(prompts)
        assert len(seconds[side]) == 3
        assert min(seconds[side]) > 0


def test_the_same_points_give_the_same_scores(measured):
    _, _, _, results = measured
    for side in ("same", "same, batched"):
        for found, plain in zip(results[side], results["plain"], strict=True):
            assert relative_difference(found.scores, plain) < 1e-5


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
        sides.plain_attribution(subject, prompts[0], 20)
    finally:
        handle.remove()
    assert seen == [(1, 10)] + [(20, 10)] * subject.n_layers


def test_a_call_of_many_prompts_is_timed_by_the_prompt(monkeypatch):
    """A clock that ticks once for each prompt attributed: every side of the staircase takes one a prompt."""
    real, ticks = attribution.attribute, [0]

    def ticking(subject, prompts, **options):
        ticks[0] += len(prompts)
        return real(subject, prompts, **options)

    monkeypatch.setattr(attribution, "attribute", ticking)
    monkeypatch.setattr(machine, "now", lambda device: float(ticks[0]))
    many = bench_prompts("masked", 5)
    seconds, results = sides.time_sides(
        named_subject("bert-tiny"), many[:2], many, ignore, steps=3, tolerance=0.1
    )
    assert set(seconds.pop("plain")) == {0.0}
    assert all(set(found) == {1.0} for found in seconds.values())
    assert [len(results[side]) for side in EVERY_SIDE] == [2, 2, 2, 5, 5]


def test_every_side_comes_first_in_its_turn():
    called = []
    calls = {side: lambda side=side: called.append(side) for side in "abc"}
    for turn in range(4):
        assert set(machine.run_in_turn(calls, turn, ignore)) == set("abc")
    assert "".join(called) == "abcbcacababc"


def test_relative_difference_refers_to_the_largest_score():
    assert relative_difference(np.array([1.0, -3.9]), np.array([1.0, -4.0])) == pytest.approx(0.025)


def test_the_first_hundred_prompts_differ():
    prompts = bench_prompts("masked", 101)
    assert len({(prompt.text, prompt.answer) for prompt in prompts[:100]}) == 100
    assert prompts[100].text == prompts[0].text


@pytest.mark.parametrize("length", [8, 9, 33, 40])
def test_longer_prompts_have_exactly_that_many_tokens(subject, length: int):
    longer = prompts_of_length(subject, length, 12)
    assert [len(subject.encode(prompt).input_ids) for prompt in longer] == [length] * 12
    assert len({prompt.text for prompt in longer}) == 10


# --- the command ---


def test_the_command_prints_tables_and_writes_json(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(floor, "SQUARES", {"cpu": (64,)})
    monkeypatch.setattr(floor, "SECONDS_A_SHAPE", 0.01)
    path = tmp_path / "bench.json"
    arguments = ["--shape", "bert-tiny", "--prompts", "2", "--at-once", "4", "--floor-prompts", "2"]
    arguments += ["--threads", "1", "--device", "cpu", "--no-memory", "--json", str(path)]
    assert main(arguments) == 0
    output = capsys.readouterr().out
    assert [figure for figure in FIGURES if figure not in output] == []
    result = json.loads(path.read_text())
    assert list(result) == ["options", "subject", "machine", "compare", "floor"]
    assert result["options"]["tolerance"] == 0.01
    compared = result["compare"]
    assert [side["side"] for side in compared["sides"]] == list(EVERY_SIDE)
    assert min(side["median_seconds"] for side in compared["sides"]) > 0
    assert compared["sides"][0]["speed_up"] == 1
    assert (compared["n_at_once"], len(compared["n_prompt_tokens"])) == (4, 2)
    assert all(side["relative_difference"] < 1e-5 for side in compared["sides"] if "same" in side["side"])
    assert compared["converged_share"] == 1
    here = result["machine"]
    assert (here["threads"], here["dtype"], here["device"]) == (1, "float32", "cpu")
    assert result["subject"]["n_layers"] == 2


def test_memory_is_that_of_a_process_that_runs_one_side(tmp_path):
    arguments = ["--shape", "llama-tiny", "--prompts", "1", "--parts", "compare", "--threads", "1"]
    assert main([*arguments, "--device", "cpu", "--json", str(tmp_path / "bench.json")]) == 0
    for side in json.loads((tmp_path / "bench.json").read_text())["compare"]["sides"]:
        assert side["peak"]["process"] > 50_000_000  # a process with torch in it
        assert side["peak"]["device"] is None


def test_a_model_on_disk_can_be_measured(tiny_llama, capsys):
    arguments = ["--model", str(tiny_llama), "--prompts", "1", "--no-memory", "--threads", "1"]
    assert main([*arguments, "--device", "cpu", "--parts", "compare"]) == 0
    assert "tiny_llama" in capsys.readouterr().out


def test_the_drop_in_is_timed_where_it_finds_the_loops_neurons(tmp_path, capsys):
    arguments = ["--models", "bert-tiny", "gpt2-tiny", "--prompts", "2", "--rounds", "2", "--threads", "1"]
    assert main(["compat", *arguments, "--json", str(tmp_path / "compat.json")]) == 0
    assert "gpt2-tiny shape" in capsys.readouterr().out
    found = json.loads((tmp_path / "compat.json").read_text())
    assert [*found["figures"]] == ["bert-tiny", "gpt2-tiny"]
    assert [len(rounds) for rounds in found["rounds"].values()] == [2, 2]
