"""Repeats an experiment of the Lab from its file: are the results reproduced?

    python -m build experiment experiment.json --device cpu --json again.json

1. *Read.* The whole file is checked before torch is imported.
2. *Model.* By the name in the file, or `--model`; other weights are refused unless `--any-weights`.
3. *Run.* Before, after and random, as in the Lab.
4. *Compare.* With the results in the file, if any, up to the differences between processors.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from atlas.errors import BuildError
from atlas.experiments.documents import MAX_FILE_BYTES, Document, read_document, to_json
from atlas.experiments.experiment import Agreement, compare_results
from atlas.experiments.reading import one_line
from atlas.interventions import Amplify, Edit, Erase, Intervention, Patch, SetTo
from atlas.models import locate, same_model
from atlas.models.device import check_device
from atlas.neuron import PROMPT_GROUPS
from build.output.writer import open_output

if TYPE_CHECKING:
    from atlas.experiments.outcome import GroupSummary, Outcome


@dataclass(frozen=True)
class Replay:
    """A repeated experiment: its outcome, and how it agrees with the file's results."""

    outcome: Outcome
    agreement: Agreement | None
    other_weights: bool

    @property
    def passed(self) -> bool:
        """Whether the model is unchanged afterwards, and the file's results, if any, are reproduced."""
        return self.outcome.undo_is_exact and (self.agreement is None or self.agreement.holds)

    def __str__(self) -> str:
        return "\n".join(_lines(self))


def replay_experiment(
    file: Path,
    *,
    model: str | None = None,
    device: str = "auto",
    json_file: Path | None = None,
    any_weights: bool = False,
    progress: Callable[[float, str], None] | None = None,
) -> Replay:
    """Repeat the experiment in a file; write it with its new results to `json_file`, if given.

    Raises an `AtlasError` for a file, a model or weights that do not fit.
    """
    check_device(device)
    # Step 1: read.
    kept = _read(file)
    if json_file is not None and json_file.exists():
        raise BuildError(f"{json_file} exists already. Give --json the name of a new file.")
    if json_file is not None and not json_file.parent.is_dir():
        raise BuildError(f"There is no folder {json_file.parent} to write to. Create it first.")
    # Step 2: model.
    located = locate(model or kept.experiment.model)
    other = bool(kept.experiment.weights_sha256) and not same_model(kept.experiment, located)
    if other and not any_weights:
        made_with = kept.experiment
        raise BuildError(
            f"The experiment was made with other weights of {one_line(made_with.model)} "
            f"({made_with.weights_sha256[:12]}…), or another config, than {one_line(located.name)} has "
            f"({located.weights_sha256[:12]}…). Give --model the right ones, or --any-weights to use these."
        )
    # Step 3: run.
    from atlas.experiments.run import run
    from atlas.surgery.subject import load_subject

    outcome = run(load_subject(str(located.name), device=device), kept.experiment, progress=progress)
    # Step 4: compare.
    compared = None if kept.results is None else compare_results(kept.results, outcome.results)
    if json_file is not None:
        with open_output(json_file) as target:
            target.write(to_json(outcome.experiment, outcome.results).encode() + b"\n")
    return Replay(outcome, compared, other)


def _read(file: Path) -> Document:
    """The experiment in a file, with its results, if any."""
    try:
        with file.open("rb") as handle:
            content = handle.read(MAX_FILE_BYTES + 1)
    except FileNotFoundError:
        raise BuildError(f"There is no file {file}. Give an experiment's JSON.") from None
    except OSError as error:
        raise BuildError(f"{file} cannot be read ({error.strerror}). Give an experiment's JSON.") from None
    try:
        return read_document(content.decode("utf-8-sig"))
    except UnicodeDecodeError:
        raise BuildError(f"{file} is not UTF-8 text. Give an experiment's JSON.") from None


# As text ---------------------------------------------------------------------------------------------


def _lines(replay: Replay) -> Iterator[str]:
    outcome = replay.outcome
    experiment = outcome.experiment
    weights = f"weights {experiment.weights_sha256[:12]}…, {outcome.device}"
    yield f"model       {one_line(experiment.model)} ({weights})"
    if replay.other_weights:
        yield "            not the weights that the experiment was made with"
    for number, item in enumerate(experiment.interventions):
        yield f"{'change' if number == 0 else '':<11} {describe_intervention(item)}"
    n_random = len(outcome.random_neurons[0])
    drawn = f"{experiment.draws} draws, seed {experiment.seed}"
    yield f"random      {n_random:,} neurons of the same layers, {drawn}"
    yield ""
    yield from _table(outcome.summary())
    yield from _new_answer(outcome.new_summary(), outcome.experiment.new_answer)
    yield ""
    yield "undo        " + (
        "exact" if outcome.undo_is_exact else "not exact: the probabilities differ from before"
    )
    yield "file        " + _compared(replay)


def describe_intervention(item: Intervention) -> str:
    """One intervention in words."""
    n = len(item.neurons)
    neurons = f"{n:,} neuron{'' if n == 1 else 's'}"
    match item:
        case Amplify():
            return f"amplify {neurons} by {item.factor:g}"
        case SetTo():
            return f"set {neurons} to {item.value:g}"
        case Patch():
            return f"take {neurons} from '{one_line(item.from_prompt, 60)}'"
        case Erase():
            return f"erase {neurons} with {item.value}"
        case Edit():
            words = f"{one_line(item.old)} → {one_line(item.new)}"
            return f"edit {neurons}: {words}, strengths ({item.remove:g}, {item.add:g})"
    return f"suppress {neurons}"


def _table(groups: Sequence[GroupSummary]) -> Iterator[str]:
    yield "mean probability       prompts   before    after  change   random  change   at rank 1"
    for each in groups:
        yield _row(each, f"{each.change:+.1%}", f"{each.random_change:+.1%}")


def _new_answer(groups: Sequence[GroupSummary], answer: str) -> Iterator[str]:
    """The same rows without percentages, which have many digits where the probability starts near zero."""
    if groups:
        yield f"the new answer, {one_line(answer, 60)}"
    for each in groups:
        yield _row(each, "", "")


def _row(each: GroupSummary, change: str, random_change: str) -> str:
    ranks = f"{each.rank_1_before} → {each.rank_1_after}, random {each.rank_1_random:.1f}"
    return (
        f"{PROMPT_GROUPS[each.group]:<22} {each.n_prompts:>7} {each.before:>8.4f} {each.after:>8.4f} "
        f"{change:>7} {each.random:>8.4f} {random_change:>7}   {ranks}"
    )


def _compared(replay: Replay) -> str:
    found = replay.agreement
    if found is None:
        return "no results to compare with"
    if found.holds:
        apart = f"at most {found.largest:.1g} apart" if found.largest else "bit for bit"
        return f"the same results: {found.n_values:,} probabilities, {apart}"
    asked = replay.outcome.experiment.prompts[found.prompt]
    return (
        f"different results: {found.n_apart:,} of {found.n_values:,} probabilities differ, by up to "
        f"{found.largest:.4f} ({found.what}, '{one_line(asked.prompt.text, 60)}')"
    )
