"""Times attribution against the plain loop on this machine, and weighs the memory of both.

    python -m build bench --shape bert-base --prompts 8 --json bench.json

1. A model is made from a config with random weights (`--shape`; no download), or loaded (`--model`).
2. For each prompt, in an order that rotates from prompt to prompt: the plain loop (`build.plain_loop`: one
   layer at a time, every token through the whole model, one batch of the rule's points a layer), the
   staircase with the same points, and the certified default. In between, three times, the staircase with
   all prompts in one call, as the builder asks: seconds divided by prompts. The plain loop knows no batches.
3. Medians, their ratios, the points a layer needed, and how far the scores lie apart.
4. Peak memory of each side in a process of its own, which loads the same things and runs only that side.

Random weights cost the same time as trained ones, except that the certified rule stops where the paths allow
it: look at `points a layer`, and give `--model` to see a trained one's.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from atlas.errors import AtlasError, BuildError
from atlas.neuron import Prompt

if TYPE_CHECKING:
    from atlas.surgery.subject import Subject

# transformers' config, its options: the public models' sizes, and two for the tests.
SHAPES: dict[str, tuple[str, dict[str, Any]]] = {
    "bert-base": ("bert", {}),
    "gpt2": ("gpt2", {}),
    "bert-tiny": (
        "bert",
        {"vocab_size": 500, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
        | {"intermediate_size": 64},
    ),
    "gpt2-tiny": ("gpt2", {"vocab_size": 500, "n_embd": 32, "n_layer": 2, "n_head": 2}),
}
ONE_BY_ONE = ("plain", "same", "certified")
TOGETHER = ("same, batched", "certified, batched")
SIDES = ONE_BY_ONE + TOGETHER
BATCH_REPEATS = 3
SUBJECTS = ("france", "italy", "japan", "peru", "kenya", "norway", "egypt", "chile", "nepal", "ghana")
ANSWERS = ("paris", "rome", "tokyo", "lima", "nairobi", "oslo", "cairo", "santiago", "kathmandu", "accra")
PATTERNS = {
    "masked": "the capital of {} is called [Y] .",  # ten tokens with [CLS] and [SEP]
    "causal": "on this old map the capital of {} is called [Y]",  # ten tokens before the answer
}
SEED = 20220308


@dataclass(frozen=True)
class SideResult:
    """One side's figures; seconds are of one prompt, memory the peak of a process that ran only this side."""

    side: str
    seconds: tuple[float, ...]
    median_seconds: float
    speed_up: float
    points_per_layer: float
    relative_difference: float | None
    peak_bytes: int | None


@dataclass(frozen=True)
class BenchResult:
    """What `python -m build bench` prints and writes."""

    subject: str
    n_parameters: int
    n_layers: int
    n_prompt_tokens: tuple[int, ...]
    steps: int
    tolerance: float
    converged_share: float
    max_gap: float
    machine: dict[str, Any]
    sides: tuple[SideResult, ...]


# --- the model ---


def shape_subject(shape: str) -> Subject:
    """A subject of that shape, with transformers' own random weights and a tokenizer of whole words."""
    import torch
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForMaskedLM, PreTrainedTokenizerFast

    from atlas.surgery.families import family_of
    from atlas.surgery.subject import Subject

    model_type, sizes = SHAPES[shape]
    family = family_of(model_type)
    words = sorted({*" ".join(PATTERNS.values()).replace("[Y]", "").split(), *SUBJECTS, *ANSWERS} - {"{}"})
    specials = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
    config = AutoConfig.for_model(model_type, **sizes)
    vocabulary = {token: index for index, token in enumerate((*specials, *words))}
    vocabulary |= {f"[unused{index}]": index for index in range(len(vocabulary), config.vocab_size)}
    backend = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    names = {"pad_token": "[PAD]", "unk_token": "[UNK]"}
    if family.kind == "masked":
        ends = [(token, vocabulary[token]) for token in ("[CLS]", "[SEP]")]
        backend.post_processor = processors.TemplateProcessing(single="[CLS] $A [SEP]", special_tokens=ends)
        names |= {"cls_token": "[CLS]", "sep_token": "[SEP]", "mask_token": "[MASK]"}

    torch.manual_seed(SEED)
    auto = AutoModelForMaskedLM if family.kind == "masked" else AutoModelForCausalLM
    model = auto.from_config(config)
    return Subject(
        name=f"{shape} shape, random weights",
        revision="",
        weights_sha256="",
        model=model.float().eval().requires_grad_(False),
        tokenizer=PreTrainedTokenizerFast(tokenizer_object=backend, **names),
        family=family,
        device=torch.device("cpu"),
        dtype="float32",
    )


def _subject(options: argparse.Namespace) -> Subject:
    import torch

    torch.set_num_threads(options.threads)
    if options.model is None:
        return shape_subject(options.shape)
    from atlas.surgery.subject import load_subject

    return load_subject(options.model, device="cpu")


def bench_prompts(kind: str, n: int) -> list[Prompt]:
    """`n` prompts of ten tokens (of whole-word tokenizers)."""
    pairs = [(SUBJECTS[i % len(SUBJECTS)], ANSWERS[i % len(ANSWERS)]) for i in range(n)]
    return [Prompt(f"{i}", "bench", PATTERNS[kind].format(*pair), pair[1]) for i, pair in enumerate(pairs)]


# --- the two sides ---


def run_plain(subject: Subject, prompt: Prompt, steps: int) -> Any:
    """The plain loop over the answer's tokens: mean scores, (n_layers, n_neurons)."""
    import torch

    from build.plain_loop import endpoints, plain_scores

    encoded = subject.encode(prompt)
    causal = subject.family.kind == "causal"
    total = 0
    for position, target in zip(encoded.positions, encoded.targets, strict=True):
        input_ids = torch.tensor(encoded.input_ids[: position + 1] if causal else encoded.input_ids)
        total = total + plain_scores(
            subject.model, input_ids, position, target, rule=endpoints(steps), rows=steps
        )
    return (total / len(encoded.targets)).numpy()


def run_side(subject: Subject, prompts: list[Prompt], side: str, *, steps: int, tolerance: float) -> list:
    """Scores arrays (plain) or `Attribution`s of the prompts."""
    from atlas.surgery.attribution import attribute

    if side == "plain":
        return [run_plain(subject, prompt, steps) for prompt in prompts]
    rule = "endpoints" if side.startswith("same") else "certified"
    return attribute(subject, prompts, rule=rule, steps=steps, tolerance=tolerance)


def measure(
    subject: Subject,
    prompts: list[Prompt],
    *,
    steps: int,
    tolerance: float,
    progress: Callable[[str], None] = lambda line: None,
) -> tuple[dict[str, list[float]], dict[str, list]]:
    """Seconds a prompt and results of each side; results are the prompts' own, in order."""
    seconds: dict[str, list[float]] = {side: [] for side in SIDES}
    results: dict[str, list] = {side: [] for side in SIDES}

    def timed(side: str, chosen: list[Prompt]) -> list:
        start = time.perf_counter()
        found = run_side(subject, chosen, side, steps=steps, tolerance=tolerance)
        seconds[side].append((time.perf_counter() - start) / len(chosen))
        progress(f"{side}: {seconds[side][-1]:.2f} s a prompt")
        return found

    n = len(prompts)
    batch_after = {round((k + 1) * n / BATCH_REPEATS) - 1 for k in range(BATCH_REPEATS)}
    subject.predict(prompts[:1])  # what a first forward pass allocates is nobody's time
    for index, prompt in enumerate(prompts):
        progress(f"prompt {index + 1}/{n}")
        turn = index % len(ONE_BY_ONE)
        for side in ONE_BY_ONE[turn:] + ONE_BY_ONE[:turn]:
            results[side] += timed(side, [prompt])
        if index in batch_after:
            for side in TOGETHER:
                results[side] = timed(side, prompts)
    return seconds, results


def relative_difference(scores: Any, reference: Any) -> float:
    """Largest difference of a score, as a fraction of the largest |score| of the reference."""
    return float(abs(scores - reference).max() / abs(reference).max())


# --- memory ---


def peak_bytes() -> int:
    """The most memory this process ever held.

    Linux's VmHWM: ru_maxrss also counts what the process that started this one held.
    """
    status = Path("/proc/self/status")
    if status.exists():
        for line in status.read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def _peak_of(side: str, options: argparse.Namespace) -> int:
    """Peak memory of `side` in a fresh process."""
    command = [sys.executable, "-m", "build.bench", "--only", side, "--steps", str(options.steps)]
    command += [
        "--prompts",
        str(options.prompts),
        "--threads",
        str(options.threads),
        "--tolerance",
        str(options.tolerance),
    ]
    command += ["--model", options.model] if options.model else ["--shape", options.shape]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(path or os.getcwd() for path in sys.path)}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise BuildError(f"The memory of '{side}' could not be measured: {last} Try --no-memory.")
    return int(done.stdout.split()[-1])


def _only(options: argparse.Namespace) -> int:
    """Run one side and print this process's peak memory."""
    subject = _subject(options)
    prompts = bench_prompts(subject.family.kind, options.prompts if options.only in TOGETHER else 1)
    run_side(subject, prompts, options.only, steps=options.steps, tolerance=options.tolerance)
    print(peak_bytes())
    return 0


# --- the report ---


def machine(threads: int) -> dict[str, Any]:
    """What the figures were taken on."""
    import torch
    import transformers

    name = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        lines = [line for line in cpuinfo.read_text().splitlines() if line.startswith("model name")]
        name = lines[0].split(":", 1)[1].strip() if lines else name
    return {
        "cpu": name,
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "threads": threads,
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "dtype": "float32",
    }


def bench(options: argparse.Namespace, progress: Callable[[str], None]) -> BenchResult:
    """Measure memory first, while this process is small, then time."""
    peaks: dict[str, int | None] = dict.fromkeys(SIDES)
    if options.memory:
        for side in SIDES:
            peaks[side] = _peak_of(side, options)
            progress(f"memory · {side}: {peaks[side] / 1e9:.2f} GB")
    subject = _subject(options)
    prompts = bench_prompts(subject.family.kind, options.prompts)
    seconds, results = measure(
        subject, prompts, steps=options.steps, tolerance=options.tolerance, progress=progress
    )

    medians = {side: statistics.median(values) for side, values in seconds.items()}
    points = {"plain": float(options.steps)}
    difference: dict[str, float] = {}
    for side in SIDES[1:]:
        points[side] = statistics.mean(float(a.n_points.mean()) for a in results[side])
        if side.startswith("same"):
            difference[side] = max(
                relative_difference(a.scores, b) for a, b in zip(results[side], results["plain"], strict=True)
            )
    certified = results["certified"] + results["certified, batched"]
    return BenchResult(
        subject=subject.name,
        n_parameters=sum(parameter.numel() for parameter in subject.model.parameters()),
        n_layers=subject.n_layers,
        n_prompt_tokens=tuple(len(subject.encode(prompt).input_ids) for prompt in prompts),
        steps=options.steps,
        tolerance=options.tolerance,
        converged_share=statistics.mean(float(a.converged.mean()) for a in certified),
        max_gap=max(a.max_gap for a in certified),
        machine=machine(options.threads),
        sides=tuple(
            SideResult(
                side=side,
                seconds=tuple(seconds[side]),
                median_seconds=medians[side],
                speed_up=medians["plain"] / medians[side],
                points_per_layer=points[side],
                relative_difference=difference.get(side),
                peak_bytes=peaks[side],
            )
            for side in SIDES
        ),
    )


def report(result: BenchResult) -> str:
    """The result as people read it."""
    names = {
        "plain": f"plain loop, {result.steps} points",
        "same": f"staircase, same {result.steps} points",
        "certified": f"certified, tolerance {result.tolerance:g}",
        "same, batched": f"same points, {len(result.n_prompt_tokens)} prompts at once",
        "certified, batched": f"certified, {len(result.n_prompt_tokens)} prompts at once",
    }
    here, tokens = result.machine, sorted(set(result.n_prompt_tokens))
    length = f"{tokens[0]}" if len(tokens) == 1 else f"{tokens[0]}–{tokens[-1]}"
    prompts = f"{len(result.n_prompt_tokens)} prompt{'s' if len(result.n_prompt_tokens) > 1 else ''}"
    lines = [
        f"{result.subject}: {result.n_parameters / 1e6:.1f} M parameters, {result.n_layers} layers",
        f"{here['cpu']}, {here['cores']} cores, {here['threads']} threads, torch {here['torch']}, "
        f"{here['dtype']}; medians over {prompts} of {length} tokens",
        "",
        f"{'':<32}{'s a prompt':>11}{'speed-up':>10}{'points a layer':>16}{'peak memory':>13}",
    ]
    for side in result.sides:
        memory = "" if side.peak_bytes is None else f"{side.peak_bytes / 1e9:.2f} GB"
        lines.append(
            f"{names[side.side]:<32}{side.median_seconds:>11.3f}{side.speed_up:>9.1f}×"
            f"{side.points_per_layer:>16.1f}{memory:>13}"
        )
    difference = max(side.relative_difference or 0 for side in result.sides)
    lines += [
        "",
        f"same points: scores within {difference:.1e} of the plain loop's (relative to the largest)",
        f"certified: {result.converged_share:.1%} of layers converged, "
        f"largest gap {result.max_gap:.1e} of the largest |score|",
    ]
    return "\n".join(lines)


# --- the command line ---


def parser() -> argparse.ArgumentParser:
    p = argparse.ArgumentParser(prog="python -m build bench", description=__doc__.splitlines()[0])
    what = p.add_mutually_exclusive_group()
    what.add_argument("--shape", choices=SHAPES, default="bert-base", help="random weights of these sizes")
    what.add_argument("--model", help="a model's name or folder instead")
    p.add_argument("--prompts", type=int, default=8, help="how many prompts (default 8)")
    p.add_argument("--steps", type=int, default=20, help="points of the fixed rule (default 20)")
    p.add_argument("--tolerance", type=float, default=0.01, help="of the certified rule (default 0.01)")
    p.add_argument(
        "--threads", type=int, default=min(2, os.cpu_count() or 1), help="torch's threads (default 2)"
    )
    p.add_argument("--json", type=Path, metavar="FILE", help="also write the figures there")
    p.add_argument("--no-memory", dest="memory", action="store_false", help="skip the memory measurements")
    p.add_argument("--only", choices=SIDES, help=argparse.SUPPRESS)
    return p


def check(options: argparse.Namespace) -> None:
    """Everything that can be refused before torch is imported."""
    if options.prompts < 1:
        raise BuildError(f"--prompts {options.prompts} leaves nothing to measure. Give 1 or more.")
    if options.steps < 2:
        raise BuildError(f"--steps {options.steps} is no path. Give 2 or more.")
    if not 0 < options.tolerance < 1:
        raise BuildError(f"--tolerance {options.tolerance:g} is absurd. Give one between 0 and 1.")
    if options.threads < 1:
        raise BuildError(f"--threads {options.threads} runs nothing. Give 1 or more.")
    if options.json is not None and not options.json.resolve().parent.is_dir():
        raise BuildError(f"The folder of {options.json} does not exist. Make it first.")


def main(argv: list[str] | None = None) -> int:
    """`python -m build bench`: 0 when measured, 2 with a sentence when something was asked wrongly."""
    options = parser().parse_args(argv)
    try:
        check(options)
        if options.only:
            return _only(options)
        result = bench(options, lambda line: print(line, file=sys.stderr, flush=True))
        if options.json is not None:
            options.json.write_text(json.dumps(asdict(result), indent=2) + "\n")
    except AtlasError as error:
        print(error, file=sys.stderr)
        return 2
    except OSError as error:
        print(f"{error.filename or 'A file'} cannot be written: {error.strerror}.", file=sys.stderr)
        return 2
    print(report(result))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
