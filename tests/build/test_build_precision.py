"""A build in less than float32 says how far its scores are off, and is not begun where that is too far."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from atlas import datasets
from atlas.attribution.attribution import attribute
from atlas.errors import BuildError, ModelError
from atlas.store.manifest import read_manifest
from atlas.surgery.subject import load_subject
from build.jobs.machine import Machine
from build.output.check import check_atlas
from build.output.summary import describe_atlas
from build.plan import BuildOptions, make_plan
from build.run import run_build
from tests.build.test_build import options, tiny_dataset

CPU = Machine(device="cpu")


@pytest.fixture(autouse=True)
def _tiny_dataset(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(datasets.LOADERS, "tiny", lambda source: tiny_dataset())


def test_whatever_is_left_to_the_device_is_tf32_and_large_shards_on_a_gpu(tiny_bert):
    left = BuildOptions(model=str(tiny_bert), dataset="tiny")
    assert (left.on("cpu").dtype, left.on("cpu").shard_size) == ("float32", 25)
    assert (left.on("cuda").dtype, left.on("cuda").shard_size) == ("tf32", 200)
    chosen = replace(left, dtype="float32", shard_size=7)
    assert chosen.on("cuda") == chosen
    assert CPU.kind == "cpu"


@pytest.mark.parametrize("device", ["cuda:7", "no such device"])
def test_a_device_that_is_not_at_hand_is_refused_before_the_folder_is_begun(device, tiny_bert, tmp_path):
    """Else its precision would keep the folder from the device that is there."""
    if device == "cuda:7" and torch.cuda.is_available():
        assert Machine(device=device).kind == "cuda"
        return
    with pytest.raises(ModelError, match=r"Use .*cpu"):
        run_build(options(tiny_bert), out=tmp_path / "atlas", machine=Machine(device=device))
    assert not (tmp_path / "atlas").exists()


def test_a_build_on_a_processor_is_float32s_and_has_nothing_to_sample(tiny_bert, tmp_path):
    run_build(options(tiny_bert, shard_size=None, limit=2), out=tmp_path / "atlas", machine=CPU)
    manifest = read_manifest(tmp_path / "atlas")
    parameters = manifest.method.options["parameters"]
    assert manifest.model.dtype == parameters["dtype"] == "float32"
    assert parameters["shard_size"] == 25
    assert "precision" not in manifest.method.options
    assert "precision" not in describe_atlas(tmp_path / "atlas")


def test_the_manifest_says_how_far_scores_are_off_float32s(tiny_bert, tmp_path):
    """Found again by attributing the same prompts twice."""
    chosen = options(tiny_bert, dtype="bfloat16", tolerance=0.03)
    said = run_build(chosen, out=tmp_path / "atlas", machine=CPU)
    assert check_atlas(tmp_path / "atlas").passed
    plan = make_plan(chosen)
    prompts = [
        next(prompt for prompt, held_out in plan.prompts_of(fact) if not held_out)
        for fact in plan.facts
        if fact.object != "łł"
    ]
    rounded, exact = (
        attribute(load_subject(str(tiny_bert), device="cpu", dtype=dtype), prompts, tolerance=0.03)
        for dtype in ("bfloat16", "float32")
    )
    off = [
        np.abs(a.scores - b.scores).max() / np.abs(b.scores).max()
        for a, b in zip(rounded, exact, strict=True)
    ]
    found = read_manifest(tmp_path / "atlas").method.options["precision"]
    assert found["prompts"] == len(prompts)
    assert found["largest_difference"] == pytest.approx(max(off), rel=1e-3)
    assert found["median_difference"] == pytest.approx(np.median(off), rel=1e-3)
    assert 0 < max(off) < chosen.tolerance
    points = sum(a.n_points.sum() for a in rounded) / sum(b.n_points.sum() for b in exact)
    assert found["points_to_float32s"] == pytest.approx(points, abs=1e-3)
    assert f"bfloat16: scores of {len(prompts)} sampled prompts within {max(off):.2%} of float32's" in said


def test_a_precision_that_spoils_scores_beyond_the_tolerance_is_refused(tiny_bert, tmp_path):
    """A fixed sum cannot begin again what rounding spoils; the sample sees it."""
    chosen = options(tiny_bert, dtype="bfloat16", rule="left", tolerance=0.001)
    with pytest.raises(BuildError, match=r"more than the tolerance of 0.10%. Use --dtype float32"):
        run_build(chosen, out=tmp_path / "atlas", machine=CPU)
    run_build(replace(chosen, dtype="float32"), out=tmp_path / "atlas", machine=CPU, fresh=True)
    assert check_atlas(tmp_path / "atlas").passed
