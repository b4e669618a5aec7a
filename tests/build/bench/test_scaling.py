"""Growth is fitted exactly, and every point is measured in a process of its own."""

from __future__ import annotations

import json

import pytest

from atlas.attribution import attribution
from build.bench import machine, main, scaling
from build.bench.models import named_subject


def test_a_straight_line_is_found():
    fit = scaling.fit_growth([16, 32, 64, 128], [2 + 0.5 * n for n in (16, 32, 64, 128)])
    assert fit.slope == pytest.approx(0.5)
    assert fit.intercept == pytest.approx(2)
    assert fit.r_squared == pytest.approx(1)
    assert 0 < fit.exponent < 1  # the intercept weighs on the small sizes


@pytest.mark.parametrize("exponent", [-1.0, 0.5, 1.0, 2.0])
def test_a_power_law_is_found(exponent: float):
    fit = scaling.fit_growth([1, 2, 4, 8], [3 * n**exponent for n in (1, 2, 4, 8)])
    assert fit.exponent == pytest.approx(exponent)
    assert fit.r_squared == pytest.approx(1) if exponent == 1 else fit.r_squared < 1


def test_r_squared_is_the_share_of_the_spread_that_a_line_explains():
    """(1, 1), (2, 2), (3, 1): the best line is flat, and explains nothing."""
    fit = scaling.fit_growth([1, 2, 3], [1, 2, 1])
    assert (fit.slope, fit.r_squared) == (pytest.approx(0), pytest.approx(0))
    assert scaling.fit_growth([1, 2, 3], [5, 5, 5]).r_squared == 1


def test_memory_grows_from_the_smallest_to_the_largest():
    axis = scaling.growth_of(
        [
            {"size": size, "seconds": size, "peak": {"process": peak, "device": None}}
            for size, peak in ((1, 100), (2, 120), (4, 150))
        ]
    )
    assert axis["memory_growth"] == pytest.approx(0.5)
    assert axis["time"].exponent == pytest.approx(1)


def test_one_axis_grows_and_nothing_else(monkeypatch):
    """What reaches `attribute` at each point: prompts, their tokens, batch and rule."""
    real, calls = attribution.attribute, []

    def watched(subject, prompts, **options):
        calls.append(([len(subject.encode(p).input_ids) for p in prompts], options))
        return real(subject, prompts, **options)

    monkeypatch.setattr(attribution, "attribute", watched)
    monkeypatch.setattr(scaling, "REPEATS", 1)
    subject = named_subject("bert-tiny")

    def measured(axis: str, size: int):
        calls.clear()
        point = scaling.measure_point(subject, axis, size, smallest=2, tolerance=0.02)
        assert point["size"] == size
        assert point["seconds"] > 0
        assert point["peak"]["process"] > 50_000_000
        return point, calls[1:]  # the first one warms up

    point, seen = measured("prompts", 6)
    assert (point["n_prompts"], [len(lengths) for lengths, _ in seen]) == (6, [2, 2, 2])
    assert all(options == {"tolerance": 0.02, "batch_rows": 2} for _, options in seen)
    point, seen = measured("length", 24)
    assert [lengths for lengths, _ in seen] == [[24] * scaling.PROMPTS_A_POINT]
    assert point["points_per_layer"] == seen[0][1]["steps"]
    _, seen = measured("batch", 4)
    assert [(len(lengths), options["batch_rows"]) for lengths, options in seen] == [(scaling.N_BATCHED, 4)]


def test_seconds_by_length_are_of_one_prompt(monkeypatch):
    """With a clock that ticks once for each token of a base pass, a prompt takes as long as it has tokens."""
    subject, ticks = named_subject("bert-tiny"), [0]
    monkeypatch.setattr(machine, "now", lambda device: float(ticks[0]))

    def tick(module, inputs, output):
        ticks[0] += inputs[0].shape[0] * inputs[0].shape[1]

    handle = subject.family.layer_modules(subject.model)[0].register_forward_hook(tick)
    try:
        assert scaling.seconds_by_length(subject, (8, 128), 4) == [8, 128]
    finally:
        handle.remove()


def test_the_command_measures_an_axis_point_by_point(tmp_path, capsys):
    path = tmp_path / "scaling.json"
    arguments = ["--shape", "gpt2-tiny", "--parts", "scaling", "--threads", "1", "--device", "cpu"]
    assert main([*arguments, "--axes", "layers", "--scaling-layers", "3,1", "--json", str(path)]) == 0
    points = json.loads(path.read_text())["scaling"]["axes"]["layers"]["points"]
    assert [point["size"] for point in points] == [1, 3]
    assert all(point["seconds"] > 0 and point["peak"]["process"] > 50_000_000 for point in points)
    assert [point["n_prompts"] for point in points] == [scaling.PROMPTS_A_POINT] * 2
    output = capsys.readouterr().out
    assert "R²" in output
    assert "at 3 times the layers" in output


def test_a_loaded_model_keeps_its_layers(tiny_bert, capsys):
    arguments = ["--model", str(tiny_bert), "--parts", "scaling", "--threads", "1", "--device", "cpu"]
    assert main([*arguments, "--axes", "layers,batch", "--scaling-batches", "1,64"]) == 0
    output = capsys.readouterr().out
    assert "layers: left out. A loaded model has the layers it has; give --shape." in output
    assert "times as fast as with 1" in output


def test_a_length_that_no_model_reads_is_one_sentence(capsys):
    arguments = ["--shape", "bert-tiny", "--parts", "scaling", "--threads", "1", "--device", "cpu"]
    assert main([*arguments, "--axes", "length", "--scaling-lengths", "900,1000"]) == 2
    error = capsys.readouterr().err
    assert "reads at most 512" in error
    assert len(error.strip().splitlines()) == 1
