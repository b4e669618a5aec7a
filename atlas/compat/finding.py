"""Which neurons carry an answer: the half of `KnowledgeNeurons` that looks and does not touch.

    found = Finding(model, tokenizer)
    found.get_scores("The capital of France is [MASK]", "paris")         # (n_layers, n_neurons)
    found.get_refined_neurons(prompts, "paris")                          # [[layer, neuron], …]

1. *Scores* come from `atlas.surgery.attribute`: by the original's fixed sum, or, with ``rule="certified"``,
   by as many points as each path needs.
2. *Coarse, refined*: the original's comparisons, on the same tensors, so that equal scores give equal sets.
"""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor, nn

from atlas.attribution.attribution import METHODS, RULES, attribute
from atlas.attribution.staircase import answer_tokens
from atlas.compat.kept import first_projection, kept_in
from atlas.compat.models import as_studied, subject_in_use
from atlas.compat.questions import question
from atlas.compat.scores import before_nonlinearity, inner_activations, layer_scores
from atlas.errors import AtlasError, ModelError, PromptError
from atlas.surgery.subject import Encoded

# The original's names of methods, and the library's.
_METHODS = {"integrated_grads": "integrated_gradients", "max_activations": "activation"}
DEFAULT_SHARE = 0.3


class Finding:
    """Find the neurons that carry a fact.

    model, tokenizer: of any supported family; the family is read from the model, whatever `model_type` says.
    The model is moved to `device` (None: a GPU where there is one) and to float32.
    rule: "endpoints", the original's fixed sum of `steps` points; "left" or "right", other fixed sums; or
    "certified": as many points as it takes for an error of `tolerance` × a prompt's largest score, whatever
    `steps` says. strict_replication: the original's numbers, errors included, of BERT, GPT-2 and GPT-Neo.
    """

    def __init__(
        self,
        model: nn.Module,
        tokenizer: object,
        model_type: str = "bert",
        device: str | torch.device | None = None,
        *,
        strict_replication: bool = False,
        rule: str = "endpoints",
        tolerance: float = 0.01,
    ) -> None:
        if rule not in RULES:
            raise AtlasError(f"No rule is called '{rule}'. There are: {', '.join(RULES)}.")
        if strict_replication and rule != "endpoints":
            raise AtlasError(f"The original has no rule '{rule}'. Leave out strict_replication, or the rule.")
        self.tokenizer = tokenizer
        self.strict_replication = strict_replication
        self.rule = rule
        self.tolerance = tolerance
        self.subject = subject_in_use(model, tokenizer, device=device)
        self._kept = kept_in(self.subject)
        if strict_replication and self.model_type not in ("bert", "gpt2", "gpt_neo"):
            raise ModelError(
                f"The original knows no models of type '{self.model_type}', so there are no numbers to "
                "replicate. Leave out strict_replication."
            )

    @property
    def model(self) -> nn.Module:
        """The model, with the changes that are kept in it."""
        return self.subject.model

    @model.setter
    def model(self, model: nn.Module) -> None:
        if model is not self.subject.model:
            self.subject = subject_in_use(model, self.tokenizer, device=self.device)
            self._kept = kept_in(self.subject)

    @property
    def device(self) -> torch.device:
        """Where the model's weights are."""
        return next(self.model.parameters()).device

    @property
    def model_type(self) -> str:
        """As the model's config has it: "bert", "gpt2", "gpt_neo", "llama" …"""
        return self.model.config.model_type

    def n_layers(self) -> int:
        """The number of layers with a feed-forward part."""
        return self.subject.n_layers

    def intermediate_size(self) -> int:
        """The number of neurons of a layer."""
        return self.subject.n_neurons

    # --- scores ---

    def get_scores(
        self,
        prompt: str,
        ground_truth: str,
        batch_size: int = 10,
        steps: int = 20,
        attribution_method: str = "integrated_grads",
        pbar: bool = True,
    ) -> Tensor:
        """Every neuron's score for the answer, (n_layers, n_neurons); of several tokens, their mean.

        attribution_method: "integrated_grads", "max_activations" (the activation itself), or a method of
        `atlas.surgery.attribute`. batch_size changes nothing: the library takes what memory allows. pbar: one
        prompt takes no time worth a bar. Raises `PromptError` for a prompt that cannot be asked.
        """
        return self._scores([self._question(prompt, ground_truth)], steps, attribution_method)[0]

    def get_scores_for_layer(
        self,
        prompt: str,
        ground_truth: str,
        layer_idx: int,
        batch_size: int = 10,
        steps: int = 20,
        encoded_input: Mapping | None = None,
        attribution_method: str = "integrated_grads",
    ) -> Tensor:
        """The scores of one layer, (n_neurons,). encoded_input: the prompt as the tokenizer gave it."""
        self._check_layer(layer_idx)
        asked = self._question(prompt, ground_truth, encoded_input)
        fixed = _METHODS.get(attribution_method) == "integrated_gradients" and self.rule != "certified"
        if not fixed or self._kept.n_scalings:
            return self._scores([asked], steps, attribution_method)[0][layer_idx]
        with as_studied(self.subject):
            tokens = answer_tokens(asked, self.subject.family.kind)
            if self._hooks_first_projection:
                return self._strictly([asked], steps, [layer_idx])[0][0]
            found = [
                layer_scores(self.subject, token, layer=layer_idx, steps=steps, rule=self.rule)
                for token in tokens
            ]
        return torch.stack(found).mean(0)

    def get_baseline_with_activations(
        self, encoded_input: Mapping, layer_idx: int, mask_idx: int
    ) -> tuple[object, Tensor]:
        """What the model gives, and the layer's activations at that place, (n_rows, n_neurons)."""
        self._check_layer(layer_idx)
        recorded: list[Tensor] = []
        if self._hooks_first_projection:
            module = first_projection(self.subject.family, self.model, layer_idx)
            handle = module.register_forward_hook(lambda _, args, output: recorded.append(output))
        else:
            module = self.subject.family.down(self.model, layer_idx)
            handle = module.register_forward_pre_hook(lambda _, args: recorded.append(args[0]))
        try:
            outputs = self.model(**encoded_input)
        finally:
            handle.remove()
        n_rows, n_tokens = torch.as_tensor(encoded_input["input_ids"]).shape
        return outputs, recorded[0].view(n_rows, n_tokens, -1)[:, mask_idx, :]

    @staticmethod
    def scaled_input(activations: Tensor, steps: int = 20, device: str | torch.device = "cpu") -> Tensor:
        """The points of a path to the activations, (n_rows, n_neurons): (steps · n_rows, n_neurons)."""
        alphas = torch.linspace(0, 1, steps, device=device)
        return (alphas[:, None, None] * activations).flatten(0, 1)

    @property
    def _hooks_first_projection(self) -> bool:
        return self.strict_replication and self.subject.family.kind == "causal"

    def _check_layer(self, layer: int) -> None:
        if not 0 <= layer < self.n_layers():
            raise AtlasError(
                f"{self.subject.name} has no layer {layer}: its layers are 0–{self.n_layers() - 1}. "
                "Choose one within."
            )

    def _question(self, prompt: str, answer: str, encoded_input: Mapping | None = None) -> Encoded:
        return question(
            self.subject, prompt, answer, strict=self.strict_replication, encoded_input=encoded_input
        )

    def _scores(
        self, asked: Sequence[Encoded], steps: int, method: str, progress: Callable | None = None
    ) -> list[Tensor]:
        name = _METHODS.get(method, method)
        if name not in METHODS:
            known = ", ".join([*_METHODS, *(each for each in METHODS if each not in _METHODS.values())])
            raise AtlasError(f"No attribution method is called '{method}'. There are: {known}.")
        options = {"method": name, "rule": self.rule, "steps": steps, "tolerance": self.tolerance}
        with as_studied(self.subject):
            if self._hooks_first_projection:
                if self._kept.n_scalings and name != "activation":
                    raise ModelError(
                        "A suppression or enhancement is kept in the model; scores before the nonlinearity "
                        "cannot be had then. Call its unpatch_fn first."
                    )
                if name == "activation":
                    tokens = [answer_tokens(each, "causal")[0] for each in asked]
                    return [inner_activations(self.subject, token) for token in tokens]
                if name == "integrated_gradients":
                    return self._strictly(asked, steps, range(self.n_layers()))
            if not self._kept.n_scalings:
                found = attribute(self.subject, asked, progress=progress, **options)
                return [torch.from_numpy(each.scores).to(self.device) for each in found]
            return [self._one_by_one(each, options) for each in asked]

    def _strictly(self, asked: Sequence[Encoded], steps: int, layers: Sequence[int]) -> list[Tensor]:
        tokens = [answer_tokens(each, "causal")[0] for each in asked]
        return [before_nonlinearity(self.subject, token, steps=steps, layers=layers) for token in tokens]

    def _one_by_one(self, asked: Encoded, options: Mapping) -> Tensor:
        """With kept changes of activations, whose hooks must know which place is asked about."""
        found = []
        for token in answer_tokens(asked, self.subject.family.kind):
            alone = Encoded(asked.prompt, token.input_ids, (token.position,), (token.target,))
            with self.subject.lock, self._kept.at(asked.positions):
                found.append(torch.from_numpy(attribute(self.subject, [alone], **options)[0].scores))
        return torch.stack(found).mean(0).to(self.device)

    # --- neurons ---

    def get_coarse_neurons(
        self,
        prompt: str,
        ground_truth: str,
        batch_size: int = 10,
        steps: int = 20,
        threshold: float | None = None,
        adaptive_threshold: float | None = None,
        percentile: float | None = None,
        attribution_method: str = "integrated_grads",
        pbar: bool = True,
    ) -> list[list[int]]:
        """[layer, neuron] of those whose score is above `threshold`, or `adaptive_threshold` × the largest
        score, or the `percentile` of all scores. Raises `AtlasError` unless exactly one is given."""
        _check_thresholds(threshold, adaptive_threshold, percentile)
        scores = self.get_scores(prompt, ground_truth, batch_size, steps, attribution_method, pbar)
        return coarse(scores, threshold, adaptive_threshold, percentile)

    def get_refined_neurons(
        self,
        prompts: list[str],
        ground_truth: str,
        negative_examples: list[str] | None = None,
        p: float = 0.5,
        batch_size: int = 10,
        steps: int = 20,
        coarse_adaptive_threshold: float | None = DEFAULT_SHARE,
        coarse_threshold: float | None = None,
        coarse_percentile: float | None = None,
        quiet: bool = False,
    ) -> list[list[int]]:
        """[layer, neuron] of those that are coarse in more than p of the prompts, and in no negative example.

        A coarse_threshold or coarse_percentile takes the place of the default coarse_adaptive_threshold.
        """
        if isinstance(prompts, str) or not isinstance(prompts, Sequence):
            raise PromptError("The prompts of a fact are a list of texts. Give several wordings in a list.")
        if isinstance(negative_examples, str):
            raise PromptError("Negative examples are a list of texts. Give the one in a list.")
        if not 0 <= p < 1:
            raise AtlasError(f"A share p of {p} cannot be passed. Give one from 0 up to, but not, 1.")
        others = (coarse_threshold, coarse_percentile)
        if coarse_adaptive_threshold == DEFAULT_SHARE and any(each is not None for each in others):
            coarse_adaptive_threshold = None
        limits = (coarse_threshold, coarse_adaptive_threshold, coarse_percentile)
        _check_thresholds(*limits)
        negative = list(negative_examples or ())
        if negative and self.strict_replication:
            warnings.warn(
                "Negative examples have no effect in the original, nor with strict_replication.", stacklevel=2
            )
            negative = []
        asked = [self._question(prompt, ground_truth) for prompt in (*prompts, *negative)]
        with _bar(len(asked), quiet=quiet) as progress:
            scores = self._scores(asked, steps, "integrated_grads", progress)
        found = [coarse(each, *limits) for each in scores]
        own, theirs = found[: len(prompts)], found[len(prompts) :]
        counts = Counter(tuple(neuron) for neurons in own for neuron in neurons)
        excluded = {tuple(neuron) for neurons in theirs for neuron in neurons}
        needed = len(prompts) * p
        refined = [list(n) for n, count in counts.items() if count > needed and n not in excluded]
        if not quiet:
            print(
                f"{sum(map(len, own))} coarse neurons in {len(prompts)} prompts; {len(refined)} are shared."
            )
        return refined


def coarse(
    scores: Tensor, threshold: float | None, adaptive_threshold: float | None, percentile: float | None
) -> list[list[int]]:
    """[layer, neuron] of the scores, (n_layers, n_neurons), above the one limit that is given."""
    if adaptive_threshold is not None:
        threshold = scores.max().item() * adaptive_threshold
    elif percentile is not None:
        threshold = np.percentile(scores.detach().cpu().numpy(), percentile)
    return torch.nonzero(scores > threshold).tolist()


def _check_thresholds(
    threshold: float | None, adaptive_threshold: float | None, percentile: float | None
) -> None:
    if sum(each is not None for each in (threshold, adaptive_threshold, percentile)) != 1:
        raise AtlasError("Give one, and one only, of threshold, adaptive_threshold and percentile.")
    if percentile is not None and not 0 <= percentile <= 100:
        raise AtlasError(f"There is no percentile {percentile}. Give one from 0 to 100.")


@contextmanager
def _bar(total: int, *, quiet: bool) -> Iterator[Callable[[int, int], None]]:
    """A callback (prompts done, prompts) that draws a bar, unless quiet."""
    from tqdm import tqdm

    with tqdm(total=total, desc="Scoring prompts", unit="prompt", disable=quiet) as bar:
        yield lambda done, _: bar.update(done - bar.n)
