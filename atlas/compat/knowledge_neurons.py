"""The class `KnowledgeNeurons` of EleutherAI's package: its methods, on this library.

    kn = KnowledgeNeurons(model, tokenizer, model_type="bert")
    neurons = kn.get_refined_neurons(prompts, "paris", p=0.5, steps=20)
    results, unpatch_fn = kn.suppress_knowledge(prompts[0], "paris", neurons)

What each does is the original's (Sid Black, 2021, after Dai et al., ACL 2022); where that is broken, it is
what was promised. docs/drop-in.md has the table.

1. *Finding* neurons is in `atlas.compat.finding`.
2. *Suppress, enhance* for the length of a measurement are the library's interventions.
3. What is kept, and what changes value vectors, goes through `atlas.compat.kept`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from operator import index

import torch
from torch import Tensor

from atlas.compat.finding import Finding
from atlas.compat.kept import Rewrite
from atlas.compat.models import as_studied
from atlas.compat.questions import Said, said
from atlas.errors import AtlasError, PromptError
from atlas.interventions import Amplify, Erase, Suppress
from atlas.neuron import Neuron
from atlas.surgery.interventions import activation_factors, changing, check_interventions, value_changer
from atlas.surgery.subject import Encoded

Neurons = Sequence[Sequence[int] | Neuron]
Results = dict[str, dict[str, float | str]]

EDIT_STRENGTH = 2.0


class KnowledgeNeurons(Finding):
    """Find the neurons that carry a fact, and change them; `Finding` has the constructor.

    Each change asks a prompt before and after it, and gives the results and a function that takes the change
    back. With undo_modification=False it stays until that is called, in whatever the model is asked.
    """

    def suppress_knowledge(
        self,
        prompt: str,
        ground_truth: str,
        neurons: Neurons,
        undo_modification: bool = True,
        quiet: bool = False,
    ) -> tuple[Results, Callable]:
        """Ask the prompt before and after the neurons' activations at the answer become zero."""
        return self.modify_activations(prompt, ground_truth, neurons, "suppress", undo_modification, quiet)

    def enhance_knowledge(
        self,
        prompt: str,
        ground_truth: str,
        neurons: Neurons,
        undo_modification: bool = True,
        quiet: bool = False,
    ) -> tuple[Results, Callable]:
        """Ask the prompt before and after the neurons' activations at the answer are doubled."""
        return self.modify_activations(prompt, ground_truth, neurons, "enhance", undo_modification, quiet)

    def edit_knowledge(
        self,
        prompt: str,
        target: str,
        neurons: Neurons,
        undo_modification: bool = True,
        quiet: bool = False,
    ) -> tuple[Results, Callable]:
        """Ask the prompt before and after the neurons' value vectors move from the model's own answer to
        `target`."""
        return self.modify_weights(
            prompt, neurons, target, mode="edit", undo_modification=undo_modification, quiet=quiet
        )

    def erase_knowledge(
        self,
        prompt: str,
        neurons: Neurons,
        erase_value: str = "zero",
        target: str | None = None,
        undo_modification: bool = True,
        quiet: bool = False,
    ) -> tuple[Results, Callable]:
        """Ask the prompt before and after the neurons' value vectors become zero or the unknown token's.

        target: the answer whose probability is given; None: the one that the model gives before.
        """
        return self.modify_weights(prompt, neurons, target, "erase", erase_value, undo_modification, quiet)

    def modify_activations(
        self,
        prompt: str,
        ground_truth: str,
        neurons: Neurons,
        mode: str = "suppress",
        undo_modification: bool = True,
        quiet: bool = False,
    ) -> tuple[Results, Callable]:
        """What `suppress_knowledge` and `enhance_knowledge` do, by mode."""
        if mode not in ("suppress", "enhance"):
            raise AtlasError(f"Activations cannot be changed by '{mode}'. There are: suppress, enhance.")
        asked, named = self._question(prompt, ground_truth), self._named(neurons)
        if mode == "suppress":
            changes = [Suppress(tuple(named))]
        elif self.strict_replication:  # there, one that is named twice is doubled twice
            changes = [Amplify((neuron,)) for neuron in named]
        else:
            changes = [Amplify(tuple(named))]
        before = self._said(asked)
        if undo_modification and not self._hooks_first_projection:
            return _reported(before, self._said(asked, changes), quiet), _nothing_to_undo
        undo = self._kept.scale(activation_factors(changes), before_nonlinearity=self._hooks_first_projection)
        return self._measured(asked, before, undo, undo_modification, quiet)

    def modify_weights(
        self,
        prompt: str,
        neurons: Neurons,
        target: str | None,
        mode: str = "edit",
        erase_value: str = "zero",
        undo_modification: bool = True,
        quiet: bool = False,
    ) -> tuple[Results, Callable]:
        """What `edit_knowledge` and `erase_knowledge` do, by mode."""
        if mode not in ("edit", "erase"):
            raise AtlasError(f"Value vectors cannot be changed by '{mode}'. There are: edit, erase.")
        named = self._named(neurons)
        if not self.strict_replication:  # there, one that is named twice is changed twice
            vector = {(self.subject.family.down(self.model, n.layer), n.neuron): n for n in reversed(named)}
            named = list(reversed(vector.values()))
        Erase((), erase_value)  # refuses another value before anything is asked
        if target is None:
            if mode == "edit":
                raise PromptError("An edit needs the answer to write. Give a target.")
            asked = self._asked_for_its_own(prompt)
        else:
            asked = self._question(prompt, target)
        before = self._said(asked)
        change = self._erasure(erase_value) if mode == "erase" else self._edit(asked, before.own_tokens)
        undo = self._kept.rewrite(named, change)
        return self._measured(asked, before, undo, undo_modification, quiet)

    def _erasure(self, value: str) -> Rewrite:
        if value == "unk" and self.strict_replication:
            unknown = self._embeddings()[self.tokenizer.unk_token_id]
            return lambda neuron, vector: unknown
        vector_after = value_changer(self.subject, Erase((), value))
        return lambda neuron, vector: vector_after(vector)

    def _embeddings(self) -> Tensor:
        """The tokens' rows, (n_tokens, d_model): the head's, but strictly those that are read."""
        if self.strict_replication:
            return self.model.get_input_embeddings().weight.detach().float()
        return self.subject.family.token_embeddings(self.model).detach().float()

    def _edit(self, asked: Encoded, old_tokens: tuple[int, ...]) -> Rewrite:
        """Twice the way from the old answer's embedding to the new one's is added to a value vector.

        In models other than BERT, which the original refuses to edit, with the sign of the neuron's
        activation: those of gated layers are negative as often, and would push towards the old answer.
        """
        embeddings = self._embeddings()
        old, new = (embeddings[list(tokens)].mean(0) for tokens in (old_tokens, asked.targets))
        signs = torch.ones(self.n_layers(), self.intermediate_size())
        if self.model_type != "bert":
            with as_studied(self.subject), self._kept.at(asked.positions):
                signs[self.subject.activations([asked])[0] < 0] = -1

        def change(neuron: Neuron, vector: Tensor) -> Tensor:
            strength = EDIT_STRENGTH * float(signs[neuron.layer, neuron.neuron])
            return vector - strength * old + strength * new

        return change

    def _measured(
        self, asked: Encoded, before: Said, undo: Callable[[], None], undo_modification: bool, quiet: bool
    ) -> tuple[Results, Callable]:
        """The results of a change that is in force; taken back afterwards, unless it is to stay."""
        try:
            after = self._said(asked)
        except BaseException:
            undo()
            raise
        if undo_modification:
            undo()

        def unpatch_fn(*args: object) -> None:
            """Take the change back; a second time does nothing."""
            undo()

        return _reported(before, after, quiet), unpatch_fn

    def _said(self, asked: Encoded, changes: Sequence[Suppress | Amplify] = ()) -> Said:
        @contextmanager
        def in_force(positions: tuple[int, ...]) -> Iterator[None]:
            where = torch.tensor([positions], device=self.subject.device)
            with self._kept.at(positions), changing(self.subject, [changes], where, torch.ones_like(where)):
                yield

        with as_studied(self.subject):
            return said(self.subject, asked, in_force)

    def _asked_for_its_own(self, prompt: str) -> Encoded:
        """The prompt, with the model's likeliest token as the answer asked for."""
        tokenizer = self.tokenizer
        masked = self.subject.family.kind == "masked"
        # Any one token will do to have a place for an answer.
        asked = self._question(prompt, tokenizer.mask_token if masked else tokenizer.eos_token)
        return replace(asked, targets=self._said(asked).own_tokens)

    def _named(self, neurons: Neurons) -> list[Neuron]:
        try:
            named = [
                each if isinstance(each, Neuron) else Neuron(*map(index, each))  # index: 1.5 is no place
                for each in neurons
            ]
        except TypeError:
            raise AtlasError(
                "Neurons are pairs of a layer and a place in it. Give a list such as [[9, 2141], [10, 3]]."
            ) from None
        check_interventions(self.subject, [Suppress(tuple(named))])
        return named


def _reported(before: Said, after: Said, quiet: bool) -> Results:
    if not quiet:
        for when, each in (("before", before), ("after", after)):
            print(
                f"{when:6}  answer {each.probability:.3g}, likeliest {each.own_answer!r} "
                f"{each.own_probability:.3g}"
            )
    return {"before": before.plain, "after": after.plain}


def _nothing_to_undo(*args: object) -> None:
    """What was changed for one measurement is as it was already."""
