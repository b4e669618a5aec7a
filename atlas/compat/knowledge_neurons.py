"""The class `KnowledgeNeurons` of EleutherAI's package, on this library.

    kn = KnowledgeNeurons(model, tokenizer, model_type="bert")
    neurons = kn.get_refined_neurons(prompts, "paris", p=0.5, steps=20)
    results, unpatch_fn = kn.suppress_knowledge(prompts[0], "paris", neurons)

Methods, arguments, defaults and results are the original's (Sid Black, 2021, after Dai et al., ACL 2022);
docs/drop-in.md lists what differs. `atlas.attribution` and `atlas.compat.scores` score neurons,
`atlas.compat.kept` changes them.
"""

from __future__ import annotations

import math
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from functools import partial
from operator import index
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn
from tqdm import tqdm

from atlas.attribution.attribution import METHODS, RULES, attribute
from atlas.attribution.staircase import answer_tokens
from atlas.compat.kept import KeptChanges, Undo, changes_in, layers_are_shared
from atlas.compat.models import as_studied
from atlas.compat.prompts import complete, encode
from atlas.compat.scores import before_nonlinearity, inner_activations, layer_scores, nonlinearity
from atlas.errors import AtlasError, ModelError, PromptError
from atlas.interventions import Erase, Suppress
from atlas.neuron import Neuron
from atlas.surgery.hooks import attached, by_row
from atlas.surgery.interventions import check_interventions, value_changer
from atlas.surgery.loading import check_no_adapters
from atlas.surgery.subject import Encoded, Subject, subject_of

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

Pairs = Sequence[Sequence[int] | Neuron]
BeforeAfter = dict[str, dict[str, float | str]]

# The original's names of methods, and the library's.
_METHODS = {"integrated_grads": "integrated_gradients", "max_activations": "activation"}
_ADAPTIVE = 0.3
_FACTORS = {"suppress": 0.0, "enhance": 2.0}
_EDIT_STRENGTH = 2.0


class KnowledgeNeurons:
    """Find the neurons that carry a fact, and change them.

    model, tokenizer: of any supported family, which is read from the model; `model_type` is ignored. The
    model is moved to `device` (None: a GPU where there is one) and to float32. rule: "endpoints", the
    original's fixed sum of `steps` points; "left" or "right", other fixed sums; "certified", as many points
    as an error of `tolerance` × a prompt's largest score needs; `steps` is ignored. strict_replication: the
    original's numbers of BERT, GPT-2 and GPT-Neo, errors included.

    Each change runs a prompt before and after it, and returns both results and a function that undoes it.
    With undo_modification=False the change stays in the model until that function is called.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        model_type: str = "bert",
        device: str | torch.device | None = None,
        *,
        strict_replication: bool = False,
        rule: str = "endpoints",
        tolerance: float = 0.01,
    ) -> None:
        if rule not in RULES:
            raise AtlasError(f"rule must be one of {', '.join(RULES)}, got '{rule}'.")
        if not 0 < _number("tolerance", tolerance) < 1:
            raise AtlasError(f"tolerance must be between 0 and 1, got {tolerance}.")
        if strict_replication and rule != "endpoints":
            raise AtlasError(f"The original has no rule '{rule}'. Leave out strict_replication or the rule.")
        self.tokenizer = tokenizer
        self.strict_replication, self.rule, self.tolerance = strict_replication, rule, tolerance
        with as_studied(model):
            self.subject = subject_of(model, tokenizer, device=device)
        if strict_replication and self.model_type not in ("bert", "gpt2", "gpt_neo"):
            raise ModelError(
                f"The original does not support models of type '{self.model_type}'. "
                "Leave out strict_replication."
            )

    @property
    def model(self) -> PreTrainedModel:
        """The model, with the changes that are kept in it."""
        return self.subject.model

    @model.setter
    def model(self, model: PreTrainedModel) -> None:
        if model is not self.subject.model:
            with as_studied(model):
                self.subject = subject_of(model, self.tokenizer, device=self.device)

    @property
    def device(self) -> torch.device:
        """Where the model's weights are."""
        return next(self.model.parameters()).device

    @property
    def model_type(self) -> str:
        """The type in the model's config: "bert", "gpt2", "gpt_neo", "llama" …"""
        return self.model.config.model_type

    def n_layers(self) -> int:
        """The number of layers with a feed-forward part."""
        return self.subject.n_layers

    def intermediate_size(self) -> int:
        """The number of neurons of a layer."""
        return self.subject.n_neurons

    @property
    def _before_nonlinearity(self) -> bool:
        return self.strict_replication and self.subject.family.kind == "causal"

    @property
    def _changes(self) -> KeptChanges:
        return changes_in(self.subject)

    @contextmanager
    def _studied(self) -> Iterator[Subject]:
        self.subject.device = self.device  # the model may have been moved
        with as_studied(self.model):
            yield self.subject

    def _encode(self, prompt: str, answer: str, encoded_input: Mapping | None = None) -> Encoded:
        strict = self.strict_replication
        check_no_adapters(self.model, self.subject.name)  # the caller's model, which may have got some
        return encode(self.subject, prompt, answer, strict=strict, encoded_input=encoded_input)

    def _module(self, layer: int) -> nn.Module:
        """The module whose inputs are the layer's neurons."""
        if self._before_nonlinearity:
            return nonlinearity(self.subject, layer)
        return self.subject.family.down(self.model, layer)

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
        """Every neuron's score for the answer, (n_layers, n_neurons), the mean over its tokens.

        attribution_method: "integrated_grads", "max_activations" (the activation itself), or a method of
        `atlas.surgery.attribute`. batch_size and pbar are ignored: memory decides how many points are
        computed at once. Raises `PromptError` for a prompt that the model cannot answer.
        """
        return self._scores([self._encode(prompt, ground_truth)], steps, attribution_method)[0]

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
        layer_idx = self._layer(layer_idx)
        encoded = self._encode(prompt, ground_truth, encoded_input)
        fixed = _METHODS.get(attribution_method) == "integrated_gradients" and self.rule != "certified"
        if not fixed or self._changes.n_scalings:
            return self._scores([encoded], steps, attribution_method)[0][layer_idx]
        with self._studied() as subject:
            tokens = answer_tokens(encoded, subject.family.kind)
            if self._before_nonlinearity:
                return before_nonlinearity(subject, tokens[0], steps=steps, layers=[layer_idx])[0]
            options: dict[str, Any] = {"layer": layer_idx, "steps": steps, "rule": self.rule}
            return torch.stack([layer_scores(subject, token, **options) for token in tokens]).mean(0)

    def _scores(
        self, prompts: Sequence[Encoded], steps: int, method: str, progress: Callable | None = None
    ) -> list[Tensor]:
        name = _METHODS.get(method, method)
        if name not in METHODS:
            known = ", ".join([*_METHODS, *(each for each in METHODS if each not in _METHODS.values())])
            raise AtlasError(f"attribution_method must be one of {known}, got '{method}'.")
        options: dict[str, Any] = {"rule": self.rule, "steps": steps, "tolerance": self.tolerance}
        kept, found = self._changes, []
        with self._studied() as subject:
            if self._before_nonlinearity:
                tokens = [answer_tokens(each, "causal")[0] for each in prompts]
                if name == "activation":
                    return [inner_activations(subject, token) for token in tokens]
                if name == "integrated_gradients":
                    every = range(subject.n_layers)
                    return [before_nonlinearity(subject, each, steps=steps, layers=every) for each in tokens]
            for batch in [[each] for each in prompts] if kept.n_scalings else [prompts]:
                with kept.at(batch[0].positions if batch else ()):
                    found += attribute(subject, batch, method=name, progress=progress, **options)
            return [torch.from_numpy(each.scores).to(self.device) for each in found]

    def get_baseline_with_activations(
        self, encoded_input: Mapping, layer_idx: int, mask_idx: int
    ) -> tuple[Any, Tensor]:
        """The model's output and the layer's activations at the answer, (n_rows, n_neurons)."""
        recorded: list[Tensor] = []
        module = self._module(self._layer(layer_idx))
        handle = module.register_forward_pre_hook(lambda _, args: recorded.append(args[0]))
        with attached(lambda handles: handles.append(handle)):
            outputs = self.model(**encoded_input)
        return outputs, by_row(recorded[0], len(encoded_input["input_ids"]))[:, mask_idx]

    @staticmethod
    def scaled_input(activations: Tensor, steps: int = 20, device: str | torch.device = "cpu") -> Tensor:
        """The points of a path to the activations, (n_rows, n_neurons): (steps · n_rows, n_neurons)."""
        return (torch.linspace(0, 1, steps, device=device)[:, None, None] * activations).flatten(0, 1)

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
        """[layer, neuron] of the neurons whose score is above `threshold`, or `adaptive_threshold` × the
        largest score, or the `percentile` of all scores. Raises `AtlasError` unless exactly one is given."""
        above = _above_limit(threshold, adaptive_threshold, percentile)
        return above(self.get_scores(prompt, ground_truth, batch_size, steps, attribution_method, pbar))

    def get_refined_neurons(
        self,
        prompts: list[str],
        ground_truth: str,
        negative_examples: list[str] | None = None,
        p: float = 0.5,
        batch_size: int = 10,
        steps: int = 20,
        coarse_adaptive_threshold: float | None = _ADAPTIVE,
        coarse_threshold: float | None = None,
        coarse_percentile: float | None = None,
        quiet: bool = False,
    ) -> list[list[int]]:
        """[layer, neuron] of neurons that are coarse in more than p of the prompts and no negative example.

        A coarse_threshold or coarse_percentile takes the place of the default coarse_adaptive_threshold.
        """
        for name, texts in (("prompts", prompts), ("negative_examples", negative_examples or [])):
            if isinstance(texts, str) or not isinstance(texts, Sequence):
                raise PromptError(f"{name} must be a list of texts, got {texts!r}.")
        if not 0 <= _number("p", p) < 1:
            raise AtlasError(f"p must be at least 0 and below 1, got {p}.")
        if coarse_adaptive_threshold == _ADAPTIVE and (coarse_threshold, coarse_percentile) != (None, None):
            coarse_adaptive_threshold = None
        above = _above_limit(coarse_threshold, coarse_adaptive_threshold, coarse_percentile)
        negative = list(negative_examples or ())
        if negative and self.strict_replication:
            warnings.warn(
                "Negative examples have no effect in the original, nor with strict_replication.", stacklevel=2
            )
            negative = []
        encoded = [self._encode(prompt, ground_truth) for prompt in (*prompts, *negative)]
        with tqdm(total=len(encoded), desc="Scoring prompts", unit="prompt", disable=quiet) as bar:
            method, progress = "integrated_grads", lambda done, _: bar.update(done - bar.n)
            scores = self._scores(encoded, steps, method, progress)
        coarse = [[tuple(neuron) for neuron in above(each)] for each in scores]
        counts = Counter(neuron for neurons in coarse[: len(prompts)] for neuron in neurons)
        excluded = {neuron for neurons in coarse[len(prompts) :] for neuron in neurons}
        needed = len(prompts) * p
        refined = [list(n) for n, count in counts.items() if count > needed and n not in excluded]
        if not quiet:
            print(f"{counts.total()} coarse neurons in {len(prompts)} prompts; {len(refined)} are shared.")
        return refined

    # --- changes ---

    def suppress_knowledge(
        self,
        prompt: str,
        ground_truth: str,
        neurons: Pairs,
        undo_modification: bool = True,
        quiet: bool = False,
    ) -> tuple[BeforeAfter, Callable]:
        """Set the neurons' activations at the answer to zero."""
        return self.modify_activations(prompt, ground_truth, neurons, "suppress", undo_modification, quiet)

    def enhance_knowledge(
        self,
        prompt: str,
        ground_truth: str,
        neurons: Pairs,
        undo_modification: bool = True,
        quiet: bool = False,
    ) -> tuple[BeforeAfter, Callable]:
        """Double the neurons' activations at the answer."""
        return self.modify_activations(prompt, ground_truth, neurons, "enhance", undo_modification, quiet)

    def edit_knowledge(
        self,
        prompt: str,
        target: str,
        neurons: Pairs,
        undo_modification: bool = True,
        quiet: bool = False,
    ) -> tuple[BeforeAfter, Callable]:
        """Move the neurons' value vectors from the model's own answer to `target`."""
        return self.modify_weights(prompt, neurons, target, "edit", "zero", undo_modification, quiet)

    def erase_knowledge(
        self,
        prompt: str,
        neurons: Pairs,
        erase_value: str = "zero",
        target: str | None = None,
        undo_modification: bool = True,
        quiet: bool = False,
    ) -> tuple[BeforeAfter, Callable]:
        """Replace the neurons' value vectors with zero, or the unknown token's embedding ("unk").

        target: the answer whose probability is returned; None: the model's own answer before the change.
        """
        return self.modify_weights(prompt, neurons, target, "erase", erase_value, undo_modification, quiet)

    def modify_activations(
        self,
        prompt: str,
        ground_truth: str,
        neurons: Pairs,
        mode: str = "suppress",
        undo_modification: bool = True,
        quiet: bool = False,
    ) -> tuple[BeforeAfter, Callable]:
        """Suppress or enhance, by mode, as `suppress_knowledge` and `enhance_knowledge` do."""
        if mode not in _FACTORS:
            raise AtlasError(f"mode must be one of {', '.join(_FACTORS)}, got '{mode}'.")
        encoded, chosen = self._encode(prompt, ground_truth), self._parse_neurons(neurons)
        if chosen and not undo_modification and layers_are_shared(self.subject):
            raise ModelError(
                f"The layers of {self.subject.name} share one module, so a suppression or enhancement "
                "of one layer cannot be kept. Leave out undo_modification=False."
            )
        # The original doubles a neuron twice that is named twice.
        times = Counter(chosen if self.strict_replication else set(chosen))
        factors = {neuron: _FACTORS[mode] ** n for neuron, n in times.items()}
        before = self._complete(encoded)[0]
        # The original keeps the place of this prompt's mask, and a causal model's last token.
        fixed = self.strict_replication and self.subject.family.kind == "masked"
        place = encoded.positions[0] if fixed else None
        change = partial(self._changes.scale, self.subject, factors, self._module, place=place)
        return self._measured(encoded, before, change, undo_modification, quiet)

    def modify_weights(
        self,
        prompt: str,
        neurons: Pairs,
        target: str | None,
        mode: str = "edit",
        erase_value: str = "zero",
        undo_modification: bool = True,
        quiet: bool = False,
    ) -> tuple[BeforeAfter, Callable]:
        """Edit or erase, by mode, as `edit_knowledge` and `erase_knowledge` do."""
        if mode not in ("edit", "erase"):
            raise AtlasError(f"mode must be edit or erase, got '{mode}'.")
        if mode == "edit" and target is None:
            raise PromptError("An edit needs a new answer. Give target.")
        any_token = self.tokenizer.mask_token or self.tokenizer.eos_token
        encoded = self._encode(prompt, any_token if target is None else target)
        chosen = self._parse_neurons(neurons)
        if not self.strict_replication:  # in the original a vector that is named twice is changed twice
            down = self.subject.family.down
            vectors = {(down(self.model, n.layer), n.neuron): n for n in reversed(chosen)}
            chosen = [*reversed(vectors.values())]
        new_vector = self._erased(erase_value)
        before, own = self._complete(encoded)
        if target is None:
            encoded = replace(encoded, targets=own)
            before = self._complete(encoded)[0]
        if mode == "edit":
            new_vector = self._edited(encoded, own)
        change = partial(self._changes.rewrite, self.subject, chosen, new_vector)
        return self._measured(encoded, before, change, undo_modification, quiet)

    def _erased(self, value: str) -> Callable[[Neuron, Tensor], Tensor]:
        changed = value_changer(self.subject, Erase((), value))  # type: ignore[arg-type]
        if value == "unk" and self.strict_replication:
            unknown = self._embeddings()[self.tokenizer.unk_token_id]
            return lambda neuron, vector: unknown
        return lambda neuron, vector: changed(vector)

    def _edited(self, encoded: Encoded, own: tuple[int, ...]) -> Callable[[Neuron, Tensor], Tensor]:
        """Add twice the difference of the new answer's embedding and the old one's to a value vector.

        In models other than BERT, which the original does not edit, the sum is multiplied by the sign of the
        neuron's activation: in gated layers, negative activations would push towards the old answer.
        """
        embeddings = self._embeddings()
        old, new = (embeddings[list(tokens)].mean(0) for tokens in (own, encoded.targets))
        signs = torch.ones(self.n_layers(), self.intermediate_size())
        if self.model_type != "bert":
            with self._studied() as subject, self._changes.at(encoded.positions):
                signs[subject.activations([encoded])[0] < 0] = -1

        def change(neuron: Neuron, vector: Tensor) -> Tensor:
            strength = _EDIT_STRENGTH * float(signs[neuron.layer, neuron.neuron])
            return vector - strength * old + strength * new

        return change

    def _embeddings(self) -> Tensor:
        """The token embeddings, (n_tokens, d_model): the head's; with strict_replication, the input's."""
        if self.strict_replication:
            return self.model.get_input_embeddings().get_parameter("weight").detach().float()
        return self.subject.family.token_embeddings(self.model).detach().float()

    def _measured(
        self, encoded: Encoded, before: dict, change: Callable[[], Undo], undo_modification: bool, quiet: bool
    ) -> tuple[BeforeAfter, Callable]:
        """Make a change, complete the prompt, and undo the change unless it stays."""
        with self.subject.lock, ExitStack() as stack:
            undo = change()
            stack.callback(undo)
            results = {"before": before, "after": self._complete(encoded)[0]}
            if not undo_modification:
                stack.pop_all()
        if not quiet:
            for when, each in results.items():
                print(
                    f"{when:6}  answer {each['gt_prob']:.3g}, likeliest {each['argmax_completion']!r} "
                    f"{each['argmax_prob']:.3g}"
                )
        return results, (lambda *args: args) if undo_modification else (lambda *args: undo())

    def _complete(self, encoded: Encoded) -> tuple[dict[str, float | str], tuple[int, ...]]:
        with self._studied() as subject:
            return complete(subject, encoded, self._changes.at)

    def _parse_neurons(self, neurons: Pairs) -> list[Neuron]:
        try:
            pairs = [(n.layer, n.neuron) if isinstance(n, Neuron) else n for n in neurons]
            named = [self._neuron(*map(index, pair)) for pair in pairs]  # index refuses 1.5
        except TypeError:
            raise AtlasError(
                f"Neurons must be pairs of layer and index, got {neurons!r}. Write [[9, 2141], [10, 3]]."
            ) from None
        check_interventions(self.subject, [Suppress(tuple(named))])
        return named

    def _neuron(self, layer: int, neuron: int) -> Neuron:
        """The neuron, counted from the end where a number is negative."""
        n_layers, n_neurons = self.n_layers(), self.intermediate_size()
        return Neuron(
            layer + n_layers if -n_layers <= layer < 0 else layer,
            neuron + n_neurons if -n_neurons <= neuron < 0 else neuron,
        )

    def _layer(self, layer_idx: int) -> int:
        if not hasattr(layer_idx, "__index__"):
            raise AtlasError(f"layer_idx must be a whole number, got {layer_idx!r}.")
        return self._parse_neurons([[layer_idx, 0]])[0].layer


def _above_limit(
    threshold: float | None, adaptive: float | None, percentile: float | None
) -> Callable[[Tensor], list[list[int]]]:
    """The function from scores, (n_layers, n_neurons), to the [layer, neuron] above the one limit given."""
    given = {"threshold": threshold, "adaptive_threshold": adaptive, "percentile": percentile}
    limits = [_number(name, each) for name, each in given.items() if each is not None]
    if len(limits) != 1:
        raise AtlasError("Give exactly one of threshold, adaptive_threshold and percentile.")
    if percentile is not None and not 0 <= limits[0] <= 100:
        raise AtlasError(f"percentile must be between 0 and 100, got {percentile}.")

    def above(scores: Tensor) -> list[list[int]]:
        limit = limits[0]
        if adaptive is not None:
            limit *= scores.max().item()
        elif percentile is not None:
            limit = np.percentile(scores.cpu().numpy(), percentile)
        return torch.nonzero(scores > limit).tolist()

    return above


def _number(name: str, value: Any) -> float:
    """An argument as a number; `AtlasError` where it is none."""
    try:
        if not isinstance(value, str) and not math.isnan(found := float(value)):
            return found
    except (TypeError, ValueError):
        pass
    raise AtlasError(f"{name} must be a number, got {value!r}.")
