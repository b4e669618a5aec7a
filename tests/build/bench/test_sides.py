"""The benchmark measures what it says, at toy sizes: never how fast this machine is today."""

from __future__ import annotations

import json
import subprocess
import sys

import numpy as np
import pytest
from build.bench.memory import Peak, alone

from atlas.attribution.attribution import relative_difference
from build.bench import comparison, floor, main, prompts, shapes
from build.bench.cli import parser
from build.bench.parts import PARTS

FIGURES = (
    "plain loop",
    "same 20 points",
    "peak memory",
    "points a layer",
    "one prompt at a time",
    "4 prompts in one call",
    "percent of the floor",
)

# What the models' publishers say of them: parameters, layers, width, neurons a layer, vocabulary.
PUBLISHED = {
    "bert-base": (109_514_298, 12, 768, 3072, 30_522),
    "bert-large": (335_174_458, 24, 1024, 4096, 30_522),
    "gpt2": (124_439_808, 12, 768, 3072, 50_257),
    "llama-1b": (1_235_814_400, 16, 2048, 8192, 128_256),
}


@pytest.fixture(autouse=True)
def torchs_threads():
    """The command sets them for its process, which here is the other tests' too."""
    import torch

    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module", params=["bert-tiny", "gpt2-tiny", "llama-tiny"])
def measured(request):
    """A subject, three prompts, and what `measure` says about them."""
    subject = shapes.shape_subject(request.param)
    asked = prompts.bench_prompts(subject.family.kind, 3)
    return subject, asked, *comparison.measure(subject, asked, steps=20, tolerance=0.01)


def test_every_side_scores_every_prompt(measured):
    _, asked, seconds, results = measured
    assert set(seconds) == set(results) == set(comparison.SIDES)
    for side in comparison.SIDES:
        assert len(results[side]) == len(asked)
        assert len(seconds[side]) == 3
        assert min(seconds[side]) > 0


def test_both_sides_find_the_same_scores(measured):
    _, _, _, results = measured
    for side in ("same", "same, batched"):
        for attribution, plain in zip(results[side], results["plain"], strict=True):
            assert relative_difference(attribution.scores, plain) < 1e-5


def test_prompts_have_ten_tokens_before_or_around_the_answer(measured):
    subject, asked, *_ = measured
    assert {len(subject.encode(prompt).input_ids) for prompt in asked} == {10}
    assert all(len(subject.encode(prompt).targets) == 1 for prompt in asked)


def test_the_plain_side_makes_one_full_pass_a_layer(measured):
    """All its points of a layer in one batch, every token through the whole model, and one pass to record."""
    subject, asked, *_ = measured
    seen = []
    handle = subject.family.layer_modules(subject.model)[0].register_forward_hook(
        lambda module, inputs, output: seen.append(tuple(inputs[0].shape[:2]))
    )
    try:
        comparison.run_plain(subject, asked[0], 20)
    finally:
        handle.remove()
    assert seen == [(1, 10)] + [(20, 10)] * subject.n_layers


def test_a_call_of_many_prompts_is_timed_by_the_prompt(monkeypatch):
    """A clock that ticks once for each prompt attributed: every side of the staircase takes one a prompt."""
    from atlas.attribution import attribution

    real, ticks = attribution.attribute, [0]

    def ticking(subject, asked, **options):
        ticks[0] += len(asked)
        return real(subject, asked, **options)

    monkeypatch.setattr(attribution, "attribute", ticking)
    monkeypatch.setattr(comparison, "now", lambda device: float(ticks[0]))
    subject = shapes.shape_subject("bert-tiny")
    many = prompts.bench_prompts("masked", 5)
    seconds, results = comparison.measure(subject, many[:2], steps=3, tolerance=0.1, together=many)
    assert set(seconds["plain"]) == {0.0}
    assert all(set(seconds[side]) == {1.0} for side in comparison.SIDES if side != "plain")
    assert {side: len(found) for side, found in results.items()} == {
        "plain": 2,
        "same": 2,
        "certified": 2,
        "same, batched": 5,
        "certified, batched": 5,
    }


def test_relative_difference_refers_to_the_largest_score():
    assert relative_difference(np.array([1.0, -3.9]), np.array([1.0, -4.0])) == pytest.approx(0.025)


def test_the_first_hundred_prompts_differ():
    asked = prompts.bench_prompts("masked", 101)
    assert len({(prompt.text, prompt.answer) for prompt in asked[:100]}) == 100
    assert asked[100].text == asked[0].text


@pytest.mark.parametrize("length", [8, 9, 40])
def test_longer_prompts_have_exactly_that_many_tokens(measured, length: int):
    subject, *_ = measured
    longer = prompts.prompts_of_length(subject, length, 12)
    assert [len(subject.encode(prompt).input_ids) for prompt in longer] == [length] * 12
    assert len({prompt.text for prompt in longer}) == 10


# --- shapes ---


@pytest.mark.parametrize("shape", PUBLISHED)
def test_a_shape_has_the_published_sizes(shape: str):
    """Counted on the meta device, where weights take no memory."""
    import torch
    from transformers import AutoModelForCausalLM, AutoModelForMaskedLM

    from atlas.models.families import family_of

    config = shapes.shape_config(shape)
    family = family_of(config.to_dict())
    auto = AutoModelForMaskedLM if family.kind == "masked" else AutoModelForCausalLM
    with torch.device("meta"):
        model = auto.from_config(config)
    n_neurons, width = family.value_vectors(model, 0).shape
    n_tokens = family.token_embeddings(model).shape[0]
    found = (
        sum(parameter.numel() for parameter in model.parameters()),
        len(family.layer_modules(model)),
        width,
        n_neurons,
        n_tokens,
    )
    assert found == PUBLISHED[shape]


def test_the_llama_shape_shares_keys_and_ties_its_embeddings():
    config = shapes.shape_config("llama-1b")
    assert (config.num_attention_heads, config.num_key_value_heads, config.head_dim) == (32, 8, 64)
    assert config.tie_word_embeddings
    model = shapes.shape_subject("llama-tiny").model
    assert model.lm_head.weight is model.model.embed_tokens.weight


def test_a_quick_initialisation_has_the_usual_distribution():
    """The Llama shape writes its own random weights; transformers' have the same spread, and norms of one."""
    import torch
    from transformers import AutoModelForCausalLM

    quick = shapes.shape_subject("llama-tiny").model
    usual = AutoModelForCausalLM.from_config(shapes.shape_config("llama-tiny"))
    for (name, ours), (_, theirs) in zip(quick.named_parameters(), usual.named_parameters(), strict=True):
        assert ours.shape == theirs.shape
        if ours.ndim == 1:
            assert torch.equal(ours, theirs), name
        else:
            assert float(ours.std()) == pytest.approx(float(theirs.detach().std()), rel=0.2), name
            assert abs(float(ours.mean())) < 0.005, name


def test_a_shape_is_the_same_each_time():
    import torch

    for shape in ("bert-tiny", "llama-tiny"):
        first, second = (shapes.shape_subject(shape).model.state_dict() for _ in range(2))
        assert all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize("shape", ["bert-tiny", "gpt2-tiny", "llama-tiny"])
def test_a_shape_can_have_other_layers(shape: str):
    subject = shapes.shape_subject(shape, layers=5)
    assert subject.n_layers == 5
    [prompt] = prompts.bench_prompts(subject.family.kind, 1)
    [found] = comparison.run_side(subject, [prompt], "certified", steps=20, tolerance=0.01)
    assert found.scores.shape == (5, subject.n_neurons)


# --- the command ---


def test_the_command_prints_tables_and_writes_json(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(floor, "SQUARES", {"cpu": (64,)})
    monkeypatch.setattr(floor, "SECONDS_A_SHAPE", 0.01)
    path = tmp_path / "bench.json"
    arguments = ["--shape", "bert-tiny", "--prompts", "2", "--at-once", "4", "--floor-prompts", "2"]
    arguments += ["--threads", "1"]
    assert main([*arguments, "--device", "cpu", "--no-memory", "--json", str(path)]) == 0
    output = capsys.readouterr().out
    assert [figure for figure in FIGURES if figure not in output] == []
    result = json.loads(path.read_text())
    assert list(result) == ["options", "subject", "machine", "compare", "floor"]
    assert result["options"]["tolerance"] == 0.01
    compared = result["compare"]
    assert [side["side"] for side in compared["sides"]] == list(comparison.SIDES)
    for side in compared["sides"]:
        assert side["median_seconds"] > 0
    assert compared["sides"][0]["speed_up"] == 1
    assert (compared["n_at_once"], len(compared["n_prompt_tokens"])) == (4, 2)
    assert all(side["relative_difference"] < 1e-5 for side in compared["sides"] if "same" in side["side"])
    assert compared["converged_share"] == 1
    assert result["machine"]["threads"] == 1
    assert result["machine"]["dtype"] == "float32"
    assert result["machine"]["device"] == "cpu"
    assert result["machine"]["torch"]
    assert result["subject"]["n_layers"] == 2


def test_memory_is_that_of_a_process_that_runs_one_side(tmp_path):
    options = parser().parse_args(["--shape", "llama-tiny", "--threads", "1", "--device", "cpu"])
    peak = alone(options, "--only", "certified, batched")
    assert peak["process"] > 50_000_000  # a process with torch in it
    assert peak["device"] is None
    assert Peak(**peak).shown == f"{peak['process'] / 1e9:.2f} GB"
    assert Peak(5_000_000_000, 7_000_000_000).shown == "7.00 GB"


def test_a_model_on_disk_can_be_measured(tiny_llama, capsys):
    arguments = ["--model", str(tiny_llama), "--prompts", "1", "--no-memory", "--threads", "1"]
    assert main([*arguments, "--device", "cpu", "--parts", "compare"]) == 0
    assert "tiny_llama" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--prompts", "0"], "--prompts 0"),
        (["--prompts", "-3"], "--prompts -3"),
        (["--at-once", "0"], "--at-once 0"),
        (["--prompts", "some"], "Argument --prompts"),
        (["--steps", "1"], "--steps 1"),
        (["--tolerance", "0"], "tolerance"),
        (["--tolerance", "nan"], "tolerance"),
        (["--threads", "0"], "--threads 0"),
        (["--json", "no/such/folder/bench.json"], "no/such/folder"),
        (["--shape", "bert-huge"], "bert-huge"),
        (["--shape", "gpt2", "--model", "pocket-bert"], "--model"),
        (["--device", "tpu"], "tpu"),
        (["--dtype", "int8"], "int8"),
        (["--parts", "speed"], "'speed'"),
        (["--parts", ","], "'nothing'"),
        (["--axes", "width"], "'width'"),
        (["--floor-prompts", "0"], "--floor-prompts 0"),
        (["--repeats", "0"], "--repeats 0"),
        (["--sample", "0"], "--sample 0"),
        (["--groups", "1"], "--groups 1"),
        (["--batch-rows", "-1"], "--batch-rows -1"),
        (["--source", "no/such/folder"], "no/such/folder"),
        (["--scaling-prompts", "16"], "two sizes or more"),
        (["--scaling-lengths", "0,8"], "each 1 or more"),
        (["--scaling-batches", "a,b"], "no list of sizes"),
        (["--parts", "projection", "--source", "tests"], "Point --source at PARAREL's data folder"),
        (["--parts", "projection", "--model", "no/such/model"], "no/such/model"),
    ],
)
def test_absurd_options_end_with_status_2_before_torch_is_imported(arguments, says):
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
    assert capsys.readouterr().err == "No CUDA device is at hand. Use --device cpu.\n"


def test_every_part_has_a_name():
    assert PARTS == ("compare", "floor", "projection", "scaling")
