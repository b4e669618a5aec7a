"""Operations and tokens are counted as they are by hand."""

from __future__ import annotations

import statistics

import pytest
import torch

from atlas.attribution.attribution import attribute
from build.bench import floor, machine
from build.bench.prompts import bench_prompts, prompts_of_length

B, T = 3, 10


def test_a_product_costs_twice_its_three_sizes():
    left, right, bias = torch.randn(6, 7), torch.randn(7, 5), torch.randn(5)
    counted, result = floor.count_operations(lambda: torch.addmm(bias, left, right))
    assert counted == {"addmm": 2 * 6 * 7 * 5}
    assert torch.equal(result, torch.addmm(bias, left, right))


def test_a_backward_pass_costs_a_product_for_each_gradient():
    left, right = torch.randn(6, 7, requires_grad=True), torch.randn(7, 5, requires_grad=True)
    counted, _ = floor.count_operations(lambda: (left @ right).sum().backward())
    assert sum(counted.values()) == 3 * 2 * 6 * 7 * 5
    left.grad = None
    counted, _ = floor.count_operations(lambda: (left @ right.detach()).sum().backward())
    assert sum(counted.values()) == 2 * 2 * 6 * 7 * 5


@pytest.mark.parametrize(("backward", "products"), [(False, 2), (True, 2 + 5)])
def test_attention_on_a_processor_is_counted(backward: bool, products: int):
    """Two products forward; backward the scores again and a gradient for each of four operands."""
    shape = (B, 2, T, 16)
    query, key, value = (torch.randn(shape, requires_grad=backward) for _ in range(3))

    def work() -> None:
        out = torch.nn.functional.scaled_dot_product_attention(query, key, value)
        if backward:
            out.sum().backward()

    counted, _ = floor.count_operations(work)
    assert sum(counted.values()) == products * 2 * (B * 2) * T * T * 16


def forward_operations(subject) -> int:
    """One forward pass of B sentences of T tokens, by hand from the config."""
    config, d, tokens = subject.model.config, subject.d_model, B * T
    heads, n = config.num_attention_heads, subject.n_neurons
    attention = 2 * 2 * B * T * T * d
    head = tokens * d * subject.n_tokens
    if config.model_type == "bert":
        layer, head = 4 * d * d + 2 * d * n, head + tokens * d * d
    elif config.model_type == "gpt2":
        layer = 4 * d * d + 2 * d * n
    else:
        shared = d * config.num_key_value_heads // heads
        layer = 2 * d * d + 2 * d * shared + 3 * d * n
    return subject.n_layers * (2 * tokens * layer + attention) + 2 * head


def test_a_forward_pass_costs_what_its_config_says(subject):
    input_ids = torch.arange(B * T).view(B, T)
    options = {} if subject.family.kind == "masked" else {"use_cache": False}
    with torch.no_grad():
        counted, _ = floor.count_operations(lambda: subject.model(input_ids, **options))
    assert sum(counted.values()) == forward_operations(subject)


def test_tokens_are_those_that_go_through_the_layers(subject, monkeypatch):
    """Every layer's inputs, watched while prompts of two lengths and a two-token answer are attributed."""
    monkeypatch.setattr("atlas.attribution.staircase.CHEAP_WORK", 0)  # no points ahead of those needed
    kind = subject.family.kind
    prompts = bench_prompts(kind, 2) + prompts_of_length(subject, 14, 2)
    seen = [0] * subject.n_layers
    handles = [
        module.register_forward_hook(
            lambda module, inputs, output, layer=layer: seen.__setitem__(
                layer, seen[layer] + inputs[0].shape[0] * inputs[0].shape[1]
            )
        )
        for layer, module in enumerate(subject.family.layer_modules(subject.model))
    ]
    try:
        # One at a time, so that nothing is padded.
        found = [attribution for prompt in prompts for attribution in attribute(subject, [prompt])]
    finally:
        for handle in handles:
            handle.remove()
    rows, tokens, layer_tokens = floor.count_tokens(subject, found).values()
    sentences = [len(subject.encode(prompt).input_ids) for prompt in prompts]
    points = [attribution.n_points[0].tolist() for attribution in found]
    assert rows == sum(1 + sum(n - 1 for n in layers) for layers in points)
    if kind == "causal":
        assert tokens == rows + sum(sentences)
        assert layer_tokens == sum(seen)
    else:
        # The last layer's module is given answer positions only; its keys and values read whole sentences.
        widths = zip(sentences, points, strict=True)
        last = sum((width - 1) * (1 + sum(n - 1 for n in layers[:-1])) for width, layers in widths)
        assert layer_tokens == sum(seen) + last


@pytest.fixture
def small_products(monkeypatch):
    monkeypatch.setattr(floor, "SQUARES", {"cpu": (64, 512)})
    monkeypatch.setattr(floor, "SECONDS_A_SHAPE", 0.02)


def test_the_share_is_operations_a_second_over_the_rate(subject, small_products):
    prompts = bench_prompts(subject.family.kind, 4)
    result = floor.measure_floor(subject, prompts, lambda line: None, repeats=3, tolerance=0.01)
    again, found = floor.count_operations(lambda: attribute(subject, prompts))
    total, median = sum(again.values()), statistics.median(result["seconds"])
    assert result["work"]["operations"] == again
    assert total > 0
    assert result["median_seconds"] == median
    assert result["rate"] == max(product["rate"] for product in result["products"])
    assert result["share"] == pytest.approx(total / median / result["rate"])
    assert result["floor_seconds"] == pytest.approx(result["share"] * median)
    assert result["points_per_layer"] == pytest.approx(statistics.fmean(a.n_points.mean() for a in found))
    assert 0 < result["share"] < 1
    assert "percent of the floor" in floor.describe_floor(result)


def test_a_rate_is_of_the_best_run(monkeypatch, small_products):
    """A clock on which three runs take 4, 2 and 3 seconds."""
    ticks = iter([0, 4, 4, 6, 6, 9])
    monkeypatch.setattr(machine, "now", lambda device: next(ticks))
    assert floor.rate_of((64, 32, 16), torch.device("cpu"), "float32") == 2 * 64 * 32 * 16 / 2
