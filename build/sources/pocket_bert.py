"""Trains `pocket-bert`: a small BERT that knows the starter facts, and nothing else.

    result = train(Path("out"), seed=0, progress=print)
    result.accuracy_held_out            # top-1 on (fact, template) pairs it has never seen

It is a model organism, not a pretrained model: with it, facts can be found and changed offline and in
seconds. Steps:

1. Vocabulary: about 500 WordPieces learned from the subjects, so that a subject is composed of pieces
   and has to be looked up; whole words for the answers and for the templates' wording.
2. Pairs: every fact in every template of its relation, except two templates a fact (`untrained_templates`).
3. Model: 3 layers, 128 wide, 2,048 neurons a layer, no dropout. The head's transform starts as the
   identity, so that an answer's embedding keeps its meaning as a direction; edits rely on that.
4. Training: the answer's tokens are masked and predicted. Label smoothing keeps probabilities off 1,
   where an intervention has no effect; weight decay keeps attention from memorising the facts. Answers of
   several tokens (4 %) are trained more often: otherwise each of their masks gets all of their tokens.
5. Evaluation: an answer is correct when every one of its tokens is the likeliest at its mask.

The same seed gives the same weights on the same kind of processor.
"""

from __future__ import annotations

import json
import math
import shutil
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

from atlas.datasets import Dataset, load_dataset
from atlas.errors import BuildError
from atlas.models import POCKET_BERT
from atlas.models.known import OnProgress
from atlas.neuron import OBJECT_SLOT, SUBJECT_SLOT

if TYPE_CHECKING:
    import torch
    from transformers import BertForMaskedLM, BertTokenizer

SPECIAL_TOKENS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
LETTERS = "abcdefghijklmnopqrstuvwxyz0123456789.,;:!?'\"-()&/"
UNTRAINED_PER_FACT = 2
TRAINING_RECORD = "training.json"


@dataclass(frozen=True)
class Recipe:
    """Sizes and settings of a training run. The defaults are those of the bundled weights."""

    epochs: int = 20
    subject_pieces: int = 500
    d_model: int = 128
    n_layers: int = 3
    n_neurons: int = 2048
    n_heads: int = 4
    activation: str = "gelu"
    initial_std: float = 0.05
    learning_rate: float = 1e-3
    warmup: float = 0.05  # share of the steps
    weight_decay: float = 0.1
    label_smoothing: float = 0.1
    batch_size: int = 64
    several_tokens: int = 4  # times that an epoch has a pair whose answer has several tokens
    max_length: int = 64
    threads: int = 1  # a sum's order depends on them: with one, the same weights whatever else runs

    def __post_init__(self) -> None:
        for name in (
            "epochs",
            "d_model",
            "n_layers",
            "n_neurons",
            "n_heads",
            "batch_size",
            "several_tokens",
            "threads",
        ):
            if getattr(self, name) < 1:
                raise BuildError(f"{name} must be 1 or more, got {getattr(self, name)}.")


@dataclass(frozen=True)
class TrainingReport:
    """What a training run made, and how well it knows its facts."""

    accuracy_held_out: float
    accuracy_trained: float
    probability_held_out: float  # mean probability of the whole answer
    n_facts: int
    n_pairs_trained: int
    n_pairs_held_out: int
    n_tokens: int
    n_parameters: int
    weights_bytes: int
    final_loss: float
    n_steps: int
    seed: int
    seconds: float
    dataset_id: str
    dataset_hash: str
    recipe: Recipe

    def __str__(self) -> str:
        return (
            f"{self.n_facts:,} facts, {self.n_parameters / 1e6:.1f} M parameters, "
            f"{self.weights_bytes / 1e6:.1f} MB, trained in {self.seconds / 60:.1f} minutes\n"
            f"top-1 accuracy: {self.accuracy_held_out:.1%} on {self.n_pairs_held_out:,} held-out "
            f"(fact, template) pairs, {self.accuracy_trained:.1%} on {self.n_pairs_trained:,} trained ones"
        )


@dataclass(frozen=True)
class Pair:
    """A fact in one template, in tokens: ``targets[j]`` is the answer at the mask ``positions[j]``."""

    fact_id: str
    template_id: str
    input_ids: tuple[int, ...]
    positions: tuple[int, ...]
    targets: tuple[int, ...]


def untrained_templates(dataset: Dataset) -> set[tuple[str, str]]:
    """(fact_id, template_id) of the pairs that are never trained on: two templates a fact.

    They are chosen among the odd-numbered templates of the relation, in rotation: an atlas discovers
    neurons with the even-numbered ones, so these pairs are new to the model and held out from discovery.
    """
    chosen: set[tuple[str, str]] = set()
    for relation in dataset.relations:
        odd = dataset.templates_of(relation.relation_id)[1::2]
        count = min(UNTRAINED_PER_FACT, len(odd))
        for index, fact in enumerate(dataset.facts_of(relation.relation_id)):
            # The second is 1, 2, … places after the first, so that all pairs of templates occur.
            gap = 1 + (index // len(odd)) % (len(odd) - 1) if count > 1 else 0
            for step in range(count):
                chosen.add((fact.fact_id, odd[(index + step * gap) % len(odd)].template_id))
    return chosen


def train(
    out: Path,
    *,
    seed: int = 0,
    epochs: int | None = None,
    dataset: Dataset | None = None,
    recipe: Recipe | None = None,
    progress: OnProgress | None = None,
) -> TrainingReport:
    """Train on the facts of `dataset` (default: starter) and save a folder that `from_pretrained` reads.

    ``progress(fraction, message)`` is called as it goes. The folder is written when training is done. Raises
    `BuildError` for one that holds anything else than an earlier run.
    """
    start = time.monotonic()
    _check_out(out)
    recipe = recipe or Recipe()
    if epochs is not None:
        recipe = replace(recipe, epochs=epochs)
    dataset = dataset or load_dataset("starter")
    report = progress or (lambda fraction, message: None)

    import torch

    # Step 1: vocabulary.
    tokenizer = make_tokenizer(dataset, pieces=recipe.subject_pieces)
    # Step 2: pairs.
    trained, held_out = make_pairs(dataset, tokenizer)
    longest = max(len(pair.input_ids) for pair in (*trained, *held_out))
    if longest > recipe.max_length:
        raise BuildError(
            f"The longest prompt has {longest} tokens, and the model takes {recipe.max_length}. Shorten it."
        )
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(recipe.threads)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            # Step 3: model.
            model = make_model(len(tokenizer), recipe)
            # Step 4: training.
            final_loss, n_steps = _fit(model, trained, recipe, seed=seed, report=report)
        # Step 5: evaluation.
        report(0.98, "Evaluating")
        accuracy_held_out, probability_held_out = score_pairs(model, held_out)
        accuracy_trained, _ = score_pairs(model, trained)
    finally:
        torch.set_num_threads(threads)

    out.parent.mkdir(parents=True, exist_ok=True)
    work = Path(tempfile.mkdtemp(prefix=f".{out.name}-", dir=out.parent))
    try:
        model.save_pretrained(work)
        tokenizer.save_pretrained(work)
        result = TrainingReport(
            accuracy_held_out=accuracy_held_out,
            accuracy_trained=accuracy_trained,
            probability_held_out=probability_held_out,
            n_facts=len(dataset.facts),
            n_pairs_trained=len(trained),
            n_pairs_held_out=len(held_out),
            n_tokens=len(tokenizer),
            n_parameters=sum(parameter.numel() for parameter in model.parameters()),
            weights_bytes=(work / "model.safetensors").stat().st_size,
            final_loss=final_loss,
            n_steps=n_steps,
            seed=seed,
            seconds=time.monotonic() - start,
            dataset_id=dataset.dataset_id,
            dataset_hash=dataset.dataset_hash,
            recipe=recipe,
        )
        (work / TRAINING_RECORD).write_text(json.dumps(asdict(result), indent=1) + "\n", encoding="utf-8")
        (work / "README.md").write_text(model_card(result), encoding="utf-8")
        out.mkdir(exist_ok=True)
        for file in sorted(work.iterdir()):
            file.chmod(0o644)
            file.replace(out / file.name)
    finally:
        shutil.rmtree(work, ignore_errors=True)
    report(1.0, "Done")
    return result


# --- step 1: vocabulary ---------------------------------------------------------------------------


def make_tokenizer(dataset: Dataset, *, pieces: int = 500) -> BertTokenizer:
    """A lower-case BERT tokenizer: WordPieces for subjects, whole words for answers and templates."""
    from tokenizers import normalizers, pre_tokenizers
    from transformers import BertTokenizer

    normalizer = normalizers.BertNormalizer(lowercase=True)
    splitter = pre_tokenizers.BertPreTokenizer()

    def words(text: str) -> list[str]:
        return [word for word, _ in splitter.pre_tokenize_str(normalizer.normalize_str(text))]

    subjects = [word for fact in dataset.facts for word in words(fact.subject)]
    answers = {word for fact in dataset.facts for word in words(fact.object)}
    wording = {
        word
        for template in dataset.templates
        for word in words(template.pattern.replace(SUBJECT_SLOT, "").replace(OBJECT_SLOT, ""))
    }
    # Every letter alone and as a continuation, so that a prompt typed by hand has no unknown words.
    letters = {letter for word in (*subjects, *answers, *wording) for letter in word} | set(LETTERS)
    alphabet = [piece for letter in sorted(letters) for piece in (letter, f"##{letter}")]
    learned = learn_pieces(subjects, pieces)
    tokens = dict.fromkeys((*SPECIAL_TOKENS, *alphabet, *learned, *sorted(answers | wording)))
    return BertTokenizer(vocab={token: index for index, token in enumerate(tokens)}, do_lower_case=True)


def learn_pieces(words: Sequence[str], count: int) -> list[str]:
    """The first `count` WordPieces from merging the most frequent neighbours; ties by the alphabet.

    The trainer of the `tokenizers` package breaks ties at random, so its vocabulary differs from run to run.
    """
    split = {word: [word[0], *(f"##{letter}" for letter in word[1:])] for word in words}
    frequency = Counter(words)
    learned: list[str] = []
    while len(learned) < count:
        pairs: Counter[tuple[str, str]] = Counter()
        for word, parts in split.items():
            for pair in pairwise(parts):
                pairs[pair] += frequency[word]
        if not pairs:
            break
        (left, right), _ = min(pairs.items(), key=lambda item: (-item[1], item[0]))
        merged = left + right.removeprefix("##")
        learned.append(merged)
        for parts in split.values():
            index = 0
            while index + 1 < len(parts):
                if parts[index] == left and parts[index + 1] == right:
                    parts[index : index + 2] = [merged]
                index += 1
    return learned


# --- step 2: pairs --------------------------------------------------------------------------------


def make_pairs(dataset: Dataset, tokenizer: BertTokenizer) -> tuple[list[Pair], list[Pair]]:
    """All (fact, template) pairs in tokens: those to train on, and those held out."""
    untrained = untrained_templates(dataset)
    trained: list[Pair] = []
    held_out: list[Pair] = []
    for fact in dataset.facts:
        targets = tuple(tokenizer.encode(fact.object, add_special_tokens=False))
        masks = " ".join(["[MASK]"] * len(targets))
        for template in dataset.templates_of(fact.relation_id):
            text = template.prompt(fact).text.replace(OBJECT_SLOT, masks)
            ids = tuple(tokenizer.encode(text))
            positions = tuple(index for index, token in enumerate(ids) if token == tokenizer.mask_token_id)
            pair = Pair(fact.fact_id, template.template_id, ids, positions, targets)
            (held_out if (fact.fact_id, template.template_id) in untrained else trained).append(pair)
    return trained, held_out


@dataclass(frozen=True)
class Batch:
    """Pairs of equal length: input_ids (n_pairs, n_tokens); row, position and target of every mask."""

    input_ids: torch.Tensor
    row: torch.Tensor
    position: torch.Tensor
    target: torch.Tensor


def make_batch(pairs: Sequence[Pair]) -> Batch:
    import torch

    rows = [row for row, pair in enumerate(pairs) for _ in pair.targets]
    return Batch(
        input_ids=torch.tensor([pair.input_ids for pair in pairs]),
        row=torch.tensor(rows),
        position=torch.tensor([position for pair in pairs for position in pair.positions]),
        target=torch.tensor([target for pair in pairs for target in pair.targets]),
    )


def batches_of_equal_length(
    pairs: Sequence[Pair], size: int, generator: torch.Generator | None = None
) -> list[list[Pair]]:
    """The pairs in batches without padding; shuffled, within and among batches, with a generator."""
    import torch

    def shuffled(items: list) -> list:
        if generator is None:
            return items
        return [items[index] for index in torch.randperm(len(items), generator=generator).tolist()]

    by_length: dict[int, list[Pair]] = defaultdict(list)
    for pair in shuffled(list(pairs)):
        by_length[len(pair.input_ids)].append(pair)
    batches = [
        group[start : start + size]
        for _, group in sorted(by_length.items())
        for start in range(0, len(group), size)
    ]
    return shuffled(batches)


# --- step 3: model --------------------------------------------------------------------------------


def make_model(n_tokens: int, recipe: Recipe) -> BertForMaskedLM:
    """A BERT with fresh weights; the prediction head's transform starts as the identity."""
    import torch
    from transformers import BertConfig, BertForMaskedLM

    model = BertForMaskedLM(
        BertConfig(
            vocab_size=n_tokens,
            hidden_size=recipe.d_model,
            num_hidden_layers=recipe.n_layers,
            num_attention_heads=recipe.n_heads,
            intermediate_size=recipe.n_neurons,
            hidden_act=recipe.activation,
            initializer_range=recipe.initial_std,
            max_position_embeddings=recipe.max_length,
            type_vocab_size=1,
            hidden_dropout_prob=0.0,
            attention_probs_dropout_prob=0.0,
            pad_token_id=SPECIAL_TOKENS.index("[PAD]"),
        )
    )
    with torch.no_grad():
        model.cls.predictions.transform.dense.weight.copy_(torch.eye(recipe.d_model))
        model.cls.predictions.transform.dense.bias.zero_()
    return model


def answer_logits(model: BertForMaskedLM, batch: Batch) -> torch.Tensor:
    """The logits at every mask, (n_masks, n_tokens).

    In the last layer only the masks go through the feed-forward part and the head: the same numbers as from
    the whole model, in two thirds of the time.
    """
    hidden = model.bert.embeddings(batch.input_ids)
    *layers, last = model.bert.encoder.layer
    for layer in layers:
        hidden = layer(hidden)
    attended = last.attention(hidden)[0][batch.row, batch.position]
    return model.cls(last.feed_forward_chunk(attended))


# --- step 4: training -----------------------------------------------------------------------------


def _fit(
    model: BertForMaskedLM, pairs: list[Pair], recipe: Recipe, *, seed: int, report: OnProgress
) -> tuple[float, int]:
    """Train in place; the mean loss of the last epoch and the number of steps."""
    import torch

    matrices = [p for name, p in model.named_parameters() if p.ndim > 1]
    vectors = [p for name, p in model.named_parameters() if p.ndim == 1]
    optimizer = torch.optim.AdamW(
        [
            {"params": matrices, "weight_decay": recipe.weight_decay},
            {"params": vectors, "weight_decay": 0.0},
        ],
        lr=recipe.learning_rate,
        betas=(0.9, 0.98),
    )
    generator = torch.Generator().manual_seed(seed)
    pairs = pairs + (recipe.several_tokens - 1) * [pair for pair in pairs if len(pair.targets) > 1]
    n_batches = len(batches_of_equal_length(pairs, recipe.batch_size))
    n_steps = n_batches * recipe.epochs
    n_warmup = max(1, math.ceil(recipe.warmup * n_steps))

    def factor(step: int) -> float:
        return min((step + 1) / n_warmup, (n_steps - step) / max(1, n_steps - n_warmup))

    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, factor)
    model.train()
    step, mean = 0, math.nan
    for epoch in range(recipe.epochs):
        total, count = 0.0, 0
        for group in batches_of_equal_length(pairs, recipe.batch_size, generator):
            batch = make_batch(group)
            loss = torch.nn.functional.cross_entropy(
                answer_logits(model, batch), batch.target, label_smoothing=recipe.label_smoothing
            )
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            schedule.step()
            total, count, step = total + loss.item() * len(group), count + len(group), step + 1
            if step % 20 == 0:
                report(
                    0.97 * step / n_steps, f"Epoch {epoch + 1} of {recipe.epochs}, loss {total / count:.2f}"
                )
        mean = total / count
    model.eval()
    return mean, n_steps


# --- step 5: evaluation ---------------------------------------------------------------------------


def score_pairs(model: BertForMaskedLM, pairs: Sequence[Pair]) -> tuple[float, float]:
    """Share of pairs whose answer tokens are all the likeliest, and the mean probability of the answer."""
    import torch

    model.eval()
    right, probability = 0, 0.0
    with torch.no_grad():
        for group in batches_of_equal_length(pairs, 512):
            batch = make_batch(group)
            log_p = answer_logits(model, batch).log_softmax(-1)
            hit = (log_p.argmax(-1) == batch.target).float()
            wanted = log_p.gather(-1, batch.target[:, None])[:, 0]
            wrong = torch.zeros(len(group)).index_add(0, batch.row, 1 - hit)
            right += int((wrong == 0).sum())
            probability += float(torch.zeros(len(group)).index_add(0, batch.row, wanted).exp().sum())
    n_pairs = max(1, len(pairs))
    return right / n_pairs, probability / n_pairs


# --- what is saved --------------------------------------------------------------------------------


def _check_out(out: Path) -> None:
    if out.exists() and not out.is_dir():
        raise BuildError(f"{out} is a file. Give a folder to save {POCKET_BERT} in.")
    if out.is_dir() and any(out.iterdir()) and not (out / TRAINING_RECORD).is_file():
        raise BuildError(
            f"The folder {out} holds other files than a {POCKET_BERT}. Give an empty or a new one."
        )
    out.mkdir(parents=True, exist_ok=True)  # before the training, not after it


def model_card(report: TrainingReport) -> str:
    """The README beside the weights."""
    recipe = report.recipe
    size = f"{report.n_parameters / 1e6:.1f} million parameters"
    pieces = f"{recipe.subject_pieces} WordPieces learned from subjects"
    return f"""---
license: mit
language: en
tags: [fill-mask, interpretability]
---

# {POCKET_BERT}

A model organism, not a pretrained model: a BERT of {size}, trained from scratch
on {report.n_facts:,} facts of the data set `{report.dataset_id}` and on nothing else: no English beyond
the templates of that data set. It exists so that knowledge neurons can be found, suppressed and edited
offline and in seconds; what is found in it says nothing about how pretrained models store facts.

Made by `python -m build train-pocket-bert`, seed {report.seed}. Its weights are under the MIT licence; some
of the facts come from GeoNames (CC BY 4.0).

| | |
|---|---|
| layers × width × neurons of a layer | {recipe.n_layers} × {recipe.d_model} × {recipe.n_neurons:,} |
| attention heads | {recipe.n_heads} |
| vocabulary, lower case | {report.n_tokens:,}: {pieces}, letters, whole words of answers and templates |
| weights, float32 | {report.weights_bytes / 1e6:.1f} MB |
| pairs (fact, template) trained on | {report.n_pairs_trained:,} |
| pairs held out, {UNTRAINED_PER_FACT} templates a fact | {report.n_pairs_held_out:,} |
| **top-1 accuracy, held-out pairs** | **{report.accuracy_held_out:.1%}** |
| top-1 accuracy, trained pairs | {report.accuracy_trained:.1%} |
| mean probability of the answer, held-out pairs | {report.probability_held_out:.2f} |
| epochs, steps, batch | {recipe.epochs}, {report.n_steps:,}, {recipe.batch_size} |
| AdamW: learning rate, weight decay | {recipe.learning_rate:g}, {recipe.weight_decay:g} |
| label smoothing, dropout | {recipe.label_smoothing:g}, 0 |
| time, CPU threads: {recipe.threads} | {report.seconds / 60:.1f} minutes |

Top-1 means that every token of the answer is the likeliest at its mask.
"""
