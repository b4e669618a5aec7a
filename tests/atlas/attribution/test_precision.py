"""Rounded products keep the certificate; sweeps never wait for the device and fit its memory."""

from __future__ import annotations

import json
from contextlib import suppress
from itertools import pairwise

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from atlas.attribution import staircase
from atlas.attribution.attribution import attribute, buckets
from atlas.attribution.staircase import Rows, answer_tokens, base_pass, sweep
from atlas.neuron import Prompt
from atlas.surgery.precision import PRECISIONS, products
from atlas.surgery.subject import load_subject
from build.bench.precision import measure_rounding, rounded

PROMPTS = (
    Prompt("f1", "t1", "the capital of france is [Y] .", "paris"),
    Prompt("f2", "t2", "the largest city of america is [Y] .", "new york"),
    Prompt("f3", "t3", "the capital of italy , not of france , is [Y] .", "rome"),
    Prompt("f4", "t4", "people in rome speak [Y]", "japanese"),
)
DEVICES = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]
FAMILIES = ["tiny_bert", "tiny_gpt2", "tiny_llama"]


@pytest.fixture(scope="module", params=FAMILIES)
def folder(request, tiny):
    return str(tiny(request.param))


@pytest.fixture(scope="module", params=DEVICES)
def device(request):
    return request.param


@pytest.fixture
def exact(folder, device):
    return load_subject(folder, device=device)


def difference(scores: np.ndarray, reference: np.ndarray) -> float:
    return float(np.abs(scores - reference).max() / np.abs(reference).max())


# --- precision ---


@pytest.mark.parametrize("precision", ["tf32", "bfloat16"])
def test_rounded_products_still_settle_within_the_tolerance_of_exact_scores(folder, device, exact, precision):
    """The tolerance is below bfloat16's rounding, so most paths restart."""
    subject = load_subject(folder, device=device, dtype=precision)
    for tolerance in (0.01, 0.001):
        reference = attribute(exact, PROMPTS, tolerance=tolerance / 10)
        for result, other in zip(attribute(subject, PROMPTS, tolerance=tolerance), reference, strict=True):
            assert result.converged.all()
            assert result.max_gap <= tolerance
            assert difference(result.scores, other.scores) < 2 * tolerance


def test_bfloat16_differs_from_float32_and_takes_more_points(folder, exact):
    bfloat16 = load_subject(folder, device=str(exact.device), dtype="bfloat16")
    one, other = (attribute(subject, PROMPTS, tolerance=0.001) for subject in (exact, bfloat16))
    assert any((a.scores != b.scores).any() for a, b in zip(one, other, strict=True))
    assert sum(b.n_points.sum() for b in other) > sum(a.n_points.sum() for a in one)


def test_a_fixed_rule_in_bfloat16_is_near_float32_and_its_gap_shows_the_error(folder, exact):
    bfloat16 = load_subject(folder, device=str(exact.device), dtype="bfloat16")
    for a, b in zip(*(attribute(s, PROMPTS, rule="endpoints") for s in (exact, bfloat16)), strict=True):
        assert 0 < difference(b.scores, a.scores) < 0.1
        change = (b.p_one - b.p_zero)[0] if len(b.gap) == 1 else None
        if change is not None:
            assert np.allclose(b.gap[0], np.abs(b.scores.sum(1) - change), atol=1e-6)


@pytest.mark.parametrize("precision", PRECISIONS)
def test_only_the_sweep_uses_the_precision(folder, exact, precision):
    subject = load_subject(folder, device=str(exact.device), dtype=precision)
    assert {parameter.dtype for parameter in subject.model.parameters()} == {torch.float32}
    assert subject.predict(PROMPTS) == exact.predict(PROMPTS)
    assert torch.equal(subject.activations(PROMPTS), exact.activations(PROMPTS))
    predictions = [result.prediction for result in attribute(subject, PROMPTS)]
    assert predictions == [result.prediction for result in attribute(exact, PROMPTS)]


def test_a_precision_holds_inside_its_block_only():
    before = torch.get_float32_matmul_precision()
    left, right = torch.randn(64, 64), torch.randn(64, 64)
    with products("tf32", torch.device("cpu")):
        assert torch.get_float32_matmul_precision() == "high"
        with products("bfloat16", torch.device("cpu")):
            assert (left @ right).dtype == torch.bfloat16
            with products("float32", torch.device("cpu")):
                assert torch.get_float32_matmul_precision() == "highest"
                assert (left @ right).dtype == torch.float32
    with suppress(ZeroDivisionError), products("tf32", torch.device("cpu")):
        raise ZeroDivisionError
    assert torch.get_float32_matmul_precision() == before
    assert (left @ right).dtype == torch.float32


def test_tf32_and_bfloat16_are_imitated_as_hardware_rounds_them():
    numbers = torch.tensor([1.0, 1 + 2**-10, 1 + 2**-11, 1 + 2**-12, -3.14159265, 1e-30])
    assert torch.equal(rounded(numbers, 7), numbers.bfloat16().float())
    tf32 = rounded(numbers, 10)
    assert tf32[:4].tolist() == [1.0, 1 + 2**-10, 1 + 2**-10, 1.0]
    assert ((tf32 - numbers).abs() <= numbers.abs() * 2**-11).all()


def test_the_cost_of_rounding_is_measured_in_points(capsys, tmp_path):
    measure_rounding(["bert-tiny", "gpt2-tiny"], 2, tmp_path / "rounding.json")
    printed = capsys.readouterr().out
    for name, rows in json.loads((tmp_path / "rounding.json").read_text()).items():
        assert name in printed
        assert [*rows] == ["float32", "tf32", "bfloat16", "tf32, not repeated"]
        for precision in ("float32", "tf32", "bfloat16"):
            assert rows[precision]["converged_share"] == 1
            assert rows[precision]["points_per_layer"] >= 3


# --- memory ---


@pytest.fixture
def scarce(monkeypatch):
    """Memory for six rows; returns the sizes that were tried."""
    tried: list[int] = []
    original = staircase._sweep_part

    def part(subject, base, rows, base_items):
        tried.append(len(rows) + len(base_items))
        if tried[-1] > 6:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return original(subject, base, rows, base_items)

    monkeypatch.setattr(staircase, "_sweep_part", part)
    return tried


def test_a_sweep_that_does_not_fit_is_halved_and_the_size_is_kept(folder, device, scarce):
    subject = load_subject(folder, device=device)
    results = attribute(subject, PROMPTS)
    assert max(scarce) > 6
    scarce.clear()
    again = attribute(subject, PROMPTS)
    assert max(scarce) <= 12  # a row of a late layer keeps less, so a part may hold more of them
    assert sum(size > 6 for size in scarce) <= 3
    for one, other in zip(results, again, strict=True):
        assert difference(one.scores, other.scores) < 1e-5
        assert np.array_equal(one.n_points, other.n_points)


def test_a_halved_sweep_equals_one_sweep(folder, device, exact, monkeypatch):
    whole = attribute(exact, PROMPTS)
    for limit in (1.0, 30_000.0, 300_000.0):
        monkeypatch.setattr(exact, "sweep_bytes", limit)
        for one, other in zip(attribute(exact, PROMPTS), whole, strict=True):
            assert difference(one.scores, other.scores) < 1e-5
            assert np.array_equal(one.n_points, other.n_points)


def test_one_row_that_does_not_fit_raises_torchs_error(exact, monkeypatch):
    def never(*_: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory.")

    monkeypatch.setattr(staircase, "_sweep_part", never)
    with pytest.raises(torch.OutOfMemoryError):
        attribute(exact, PROMPTS[:1])


# --- never waiting ---


class Waits(TorchDispatchMode):
    """Records the operations that wait for all earlier work of a GPU."""

    def __init__(self) -> None:
        super().__init__()
        self.operations: list[str] = []

    def __torch_dispatch__(self, operation, types, args=(), kwargs=None):
        name = operation.overloadpacket.__name__
        waits = ("_local_scalar_dense", "item", "nonzero", "masked_select", "equal", "is_nonzero", "unique")
        masks = name.startswith("index") and any(
            isinstance(index, torch.Tensor) and index.dtype in (torch.bool, torch.uint8)
            for argument in args
            if isinstance(argument, (list, tuple))
            for index in argument
        )
        if name.startswith(waits) or masks:
            self.operations.append(name)
        return operation(*args, **(kwargs or {}))


def test_a_sweep_never_waits_for_its_device(exact):
    """Tested on a CPU: each of these operations would wait for a GPU."""
    items = [token for p in PROMPTS for token in answer_tokens(exact.encode(p), exact.family.kind)]
    base = base_pass(exact, items)
    n = exact.n_layers
    rows = Rows(torch.zeros(2 * n, dtype=torch.long), torch.arange(n).repeat_interleave(2), torch.rand(2 * n))
    staircase._sweep_bytes(exact)
    with Waits() as mode:
        torch.ones(3).nonzero()
    assert mode.operations == ["nonzero"]
    with products("float32", exact.device), Waits() as mode:
        staircase._sweep_part(exact, base, rows, range(len(items)))
    assert mode.operations == []
    assert sweep(exact, base, rows, with_base=True).probability.shape == (2 * n,)


def test_attention_is_fused(exact):
    assert exact.model.config._attn_implementation == "sdpa"


# --- buckets ---


def test_buckets_hold_every_row_once_in_order_of_length_and_pad_little():
    lengths = [int(n) for n in np.random.default_rng(7).integers(5, 40, 500)]
    found = list(buckets(lengths, 64, padded=1.1))
    assert sorted(place for batch in found for place in batch) == list(range(500))
    for batch in found:
        own = [lengths[place] for place in batch]
        assert len(batch) <= 64
        assert own == sorted(own)
        assert max(own) * len(own) <= 1.1 * sum(own)
    ends = [(lengths[batch[0]], lengths[batch[-1]]) for batch in found]
    assert all(one[1] <= other[0] for one, other in pairwise(ends))


def test_rows_of_one_length_fill_whole_buckets_in_their_own_order():
    assert list(buckets([9] * 10, 4, padded=1.0)) == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]
    assert list(buckets([], 4, padded=1.0)) == []
