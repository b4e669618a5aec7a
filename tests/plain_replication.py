"""What EleutherAI's `knowledge-neurons` computes for BERT and GPT-2, slowly, with hooks of the tests' own.

    plain = PlainReplication(model, tokenizer)
    plain.scores("the capital of france is [MASK] .", "paris", steps=20)      # (n_layers, n_neurons)

Written on its own, to check `atlas.compat` against: it shares no line with the original, nor with the package
`atlas`, of which it imports nothing.

1. A neuron is one output of a module: BERT's ``intermediate`` (after its nonlinearity), GPT-2's ``mlp.c_fc``
   (before it). The place is the mask, or the last token.
2. Scores: for k = 0 … steps − 1, the module's output at that place is replaced by k / (steps − 1) × what it
   was; gradients of the answer's probability with respect to the replacement are added up, divided by `steps`
   and multiplied by what the output was.
3. Coarse: above a limit. Refined: coarse in more than a share of the prompts.
4. Activations are multiplied at that place; weights are overwritten, and written back.
"""

from __future__ import annotations

from collections import Counter
from contextlib import ExitStack, contextmanager

import numpy as np
import torch
from torch import nn


class PlainReplication:
    """The original's numbers for one model."""

    def __init__(self, model: nn.Module, tokenizer) -> None:
        self.model, self.tokenizer = model.eval(), tokenizer
        self.is_bert = model.config.model_type == "bert"
        if self.is_bert:
            blocks = model.bert.encoder.layer
            self.sites = [block.intermediate for block in blocks]
            self.writers = [block.output.dense for block in blocks]
        else:
            blocks = model.transformer.h
            self.sites = [block.mlp.c_fc for block in blocks]
            self.writers = [block.mlp.c_proj for block in blocks]

    # --- what is asked ---

    def read(self, prompt: str):
        encoded = self.tokenizer(prompt, return_tensors="pt")
        if not self.is_bert:
            return encoded, encoded["input_ids"].shape[1] - 1
        (place,) = (encoded["input_ids"][0] == self.tokenizer.mask_token_id).nonzero()[:, 0].tolist()
        return encoded, place

    def wanted(self, answer: str) -> int:
        if self.is_bert:
            return self.tokenizer.convert_tokens_to_ids(answer)
        (token,) = self.tokenizer(answer)["input_ids"]
        return token

    def probabilities(self, prompt: str) -> torch.Tensor:
        encoded, place = self.read(prompt)
        with torch.no_grad():
            return torch.softmax(self.model(**encoded).logits[0, place], -1)

    def report(self, prompt: str, answer: str) -> dict:
        p = self.probabilities(prompt)
        return {
            "gt_prob": p[self.wanted(answer)].item(),
            "argmax_completion": self.tokenizer.decode([int(p.argmax())]),
            "argmax_prob": p.max().item(),
        }

    # --- scores ---

    def activations(self, prompt: str) -> torch.Tensor:
        """(n_layers, n_neurons)"""
        encoded, place = self.read(prompt)
        found = []
        with ExitStack() as hooks, torch.no_grad():
            for site in self.sites:
                keep = site.register_forward_hook(lambda m, i, output: found.append(output[0, place].clone()))
                hooks.callback(keep.remove)
            self.model(**encoded)
        return torch.stack(found)

    def scores(self, prompt: str, answer: str, *, steps: int) -> torch.Tensor:
        """(n_layers, n_neurons)"""
        encoded, place = self.read(prompt)
        target, rows = self.wanted(answer), []
        for site, activation in zip(self.sites, self.activations(prompt), strict=True):
            total = torch.zeros_like(activation)
            for k in range(steps):
                point = (activation * (k / max(steps - 1, 1))).requires_grad_()

                def put(module, inputs, output, point=point):
                    output = output.clone()
                    output[0, place] = point
                    return output

                hook = site.register_forward_hook(put)
                p = torch.softmax(self.model(**encoded).logits[0, place], -1)[target]
                hook.remove()
                total += torch.autograd.grad(p, point)[0]
            rows.append(activation * total / steps)
        return torch.stack(rows)

    # --- neurons ---

    @staticmethod
    def coarse(scores: torch.Tensor, *, threshold=None, adaptive=None, percentile=None) -> list[list[int]]:
        if adaptive is not None:
            threshold = adaptive * float(scores.max())
        if percentile is not None:
            threshold = float(np.percentile(scores.numpy(), percentile))
        return [
            [layer, neuron]
            for layer, row in enumerate(scores.tolist())
            for neuron, score in enumerate(row)
            if score > threshold
        ]

    def refined(self, prompts, answer, *, p, steps, **limit) -> list[list[int]]:
        counts: Counter = Counter()
        for prompt in prompts:
            counts.update(map(tuple, self.coarse(self.scores(prompt, answer, steps=steps), **limit)))
        return [list(neuron) for neuron, count in counts.items() if count > p * len(prompts)]

    # --- changes ---

    @contextmanager
    def scaled(self, prompt: str, neurons, factor: float):
        """Inside, the neurons' outputs at this prompt's place are multiplied, once for each mention.

        The place stays where it is in other prompts: BERT's is the mask's number, GPT-2's the last token.
        """
        place = self.read(prompt)[1] if self.is_bert else -1
        with ExitStack() as hooks:
            for layer, neuron in neurons:

                def scale(module, inputs, output, neuron=neuron):
                    output = output.clone()
                    output[:, place, neuron] *= factor
                    return output

                hooks.callback(self.sites[layer].register_forward_hook(scale).remove)
            yield

    @contextmanager
    def overwritten(self, neurons, change):
        """Inside, ``change(vector, layer, neuron)`` stands in the weights for each neuron's value vector."""
        saved = [writer.weight.detach().clone() for writer in self.writers]
        try:
            with torch.no_grad():
                for layer, neuron in neurons:
                    weight = self.writers[layer].weight
                    vectors = weight.T if isinstance(self.writers[layer], nn.Linear) else weight
                    vectors[neuron] = change(vectors[neuron].clone(), layer, neuron)
            yield
        finally:
            with torch.no_grad():
                for writer, weight in zip(self.writers, saved, strict=True):
                    writer.weight.copy_(weight)

    def embedding(self, token: int) -> torch.Tensor:
        return self.model.get_input_embeddings().weight[token].detach()

    def suppressed(self, prompt: str, answer: str, neurons, factor: float = 0.0) -> dict:
        before = self.report(prompt, answer)
        with self.scaled(prompt, neurons, factor):
            return {"before": before, "after": self.report(prompt, answer)}

    def erased(self, prompt: str, answer: str, neurons, value: str) -> dict:
        before = self.report(prompt, answer)
        unknown = self.tokenizer.unk_token_id
        new = (lambda v, *of: 0 * v) if value == "zero" else (lambda v, *of: self.embedding(unknown))
        with self.overwritten(neurons, new):
            return {"before": before, "after": self.report(prompt, answer)}

    def edited(self, prompt: str, target: str, neurons, *, signed: bool = False) -> dict:
        """signed: with the sign of the activation, which the original does not know of."""
        before, signs = self.report(prompt, target), self.activations(prompt).sign()
        old = self.embedding(int(self.probabilities(prompt).argmax()))
        new = self.embedding(self.wanted(target))

        def change(v, layer, neuron):
            strength = 2 * (signs[layer, neuron] if signed else 1)
            return v - strength * old + strength * new

        with self.overwritten(neurons, change):
            return {"before": before, "after": self.report(prompt, target)}
