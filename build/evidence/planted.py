"""Planted facts: do methods find the neurons that an answer was put into?

Nobody knows which neurons of a pretrained model hold a fact, so that no method can be marked right or wrong.
Here the truth is made (`build.evidence.planting`), with facts that relations take turns to give:

1. *Plant.* Another object of the relation, of one token, is taught to `SIZES` random neurons of all layers on
   the fact's discovery wordings.
2. *Check* on held-out wordings. Where the answer is not the first on most of them, or its mean probability
   falls by less than `GONE` when the planted neurons are suppressed, the neurons do not hold it: the planting
   is counted and never scored.
3. *Score.* Each method scores every neuron on the discovery wordings; its mean score says which come first.
   The random order is the mean of `RANDOM_ORDERS`. As many neurons as were planted are suppressed, too.
4. *Summaries* by method and size, with bootstrap intervals over plantings.
"""

from __future__ import annotations

import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import pyarrow as pa

from atlas.errors import BuildError
from atlas.intervals import bootstrap_interval, draw_weights
from atlas.neuron import Neuron, Prompt
from atlas.queries.planted import GONE, PLANTED_METHODS, leaderboard, plantings
from atlas.store.schema import conform
from build.evidence.setting import AtlasFact, Setting, StoredPrompt, top_neurons

if TYPE_CHECKING:
    from atlas.store.atlas import Atlas
    from atlas.surgery.subject import Subject
    from build.evidence.planting import Planted

SIZES = (10, 60, 300)
RANDOM_ORDERS = 50
MEASURES = ("recall", "auc", "precision", "fall")

# Method → its options of `atlas.attribution.attribute`.
_ATTRIBUTED: dict[str, dict[str, Any]] = {
    "integrated_gradients": {},
    "riemann_left": {"rule": "left"},
    "riemann_endpoints": {"rule": "endpoints"},
    "sequential_integrated_gradients": {"method": "sequential_integrated_gradients"},
    "gradient_x_activation": {"method": "gradient_x_activation"},
    "log_prob_increase": {"method": "log_prob_increase"},
    "activation": {"method": "activation"},
}
RANDOM = "random"

Scorer = Callable[["Subject", Prompt], np.ndarray]
"""A method of one's own: the scores of every neuron for a prompt's answer, (n_layers, n_neurons)."""


def units(setting: Setting) -> list[tuple[str, int]]:
    """(fact id, number of neurons) of each planting; one takes minutes in a large model."""
    made_up = made_up_answers(setting)
    usable = [fact for fact in setting.facts if fact.discovery and fact.held_out and made_up(fact)]
    facts = setting.sampled("planted", among=usable)
    return [(fact.fact_id, SIZES[place % len(SIZES)]) for place, fact in enumerate(facts)]


def measure(setting: Setting, unit: tuple[str, int]) -> list[dict[str, Any]]:
    fact, n_planted = setting.by_id[unit[0]], unit[1]
    answer = _draw_answer(setting, fact, n_planted, made_up_answers(setting)(fact))
    return [] if answer is None else Planting.of(setting, fact, n_planted, answer).rows(PLANTED_METHODS)


# Step 1: plant ---------------------------------------------------------------------------------------


def made_up_answers(setting: Setting) -> Callable[[AtlasFact], list[str]]:
    """For a fact: objects of its relation, of one token where they are asked for, that are none of its
    subject's, contested ones included."""
    found = setting.atlas.query("""
        SELECT relation_id, subject, object, max(p.n_answer_tokens) AS n_tokens
        FROM facts JOIN prompts AS p USING (fact_id) GROUP BY ALL ORDER BY ALL
    """)
    alike = found.assign(object=found["object"].str.casefold().str.strip())
    true = alike.groupby(["relation_id", "subject"])["object"].agg(set).to_dict()
    short = found.groupby(["relation_id", "object"])["n_tokens"].max().eq(1)
    objects = short[short].reset_index().groupby("relation_id")["object"].agg(list).to_dict()

    def made_up(fact: AtlasFact) -> list[str]:
        own = true[fact.relation_id, fact.fact.subject]
        return [each for each in objects.get(fact.relation_id, []) if each.casefold().strip() not in own]

    return made_up


def _draw_answer(setting: Setting, fact: AtlasFact, n_planted: int, made_up: list[str]) -> str | None:
    """One of the answers at random; None where all have several tokens in this fact's wordings."""
    subject = setting.subject
    for place in setting.generator("planted/answer", f"{fact.fact_id}/{n_planted}").permutation(len(made_up)):
        prompts = asking(fact.prompts, made_up[place])
        if all(len(subject.encode(prompt).targets) == 1 for prompt in prompts):
            return made_up[place]
    return None


def asking(prompts: Sequence[StoredPrompt], answer: str) -> list[Prompt]:
    """The prompts with another answer to ask for."""
    return [replace(each.prompt, answer=answer) for each in prompts]


@dataclass(frozen=True)
class Planting:
    """An answer planted in a copy of the model, and its probability on the held-out wordings."""

    setting: Setting
    fact: AtlasFact
    answer: str
    neurons: tuple[Neuron, ...]
    planted: Planted
    p_before: float
    p_after: float
    share_first: float
    p_suppressed: float

    @classmethod
    def of(cls, setting: Setting, fact: AtlasFact, n_planted: int, answer: str) -> Planting:
        """Plant it in neurons that follow from the seed, the fact and their number."""
        from build.evidence.planting import plant

        generator = setting.generator("planted/neurons", f"{fact.fact_id}/{n_planted}")
        drawn = generator.choice(setting.n_layers * setting.n_neurons, n_planted, replace=False)
        neurons = tuple(sorted(Neuron(*map(int, divmod(each, setting.n_neurons))) for each in drawn))
        planted = plant(setting.subject, asking(fact.discovery, answer), neurons)
        held_out = asking(fact.held_out, answer)
        before, _ = ask(setting.subject, held_out)
        after, first = ask(planted.subject, held_out)
        suppressed, _ = ask(planted.subject, held_out, neurons)
        return cls(setting, fact, answer, neurons, planted, before, after, first, suppressed)

    @property
    def learned(self) -> bool:
        """Whether the neurons hold the answer."""
        return self.share_first > 0.5 and self.p_suppressed <= (1 - GONE) * self.p_after

    # Step 3: score ---

    def scores(self, method: str | Scorer) -> np.ndarray:
        """The mean of a method's scores over the discovery wordings, (n_layers, n_neurons)."""
        from atlas.attribution import attribute

        subject, prompts = self.planted.subject, asking(self.fact.discovery, self.answer)
        if not isinstance(method, str):
            return np.mean([own_scores(method, subject, prompt) for prompt in prompts], axis=0)
        batches, options = self.setting.batches, _ATTRIBUTED[method]
        found = batches.run(lambda: attribute(subject, prompts, batch_rows=batches.rows, **options))
        return np.mean([each.scores for each in found], axis=0)

    def random_scores(self) -> np.ndarray:
        """Random orders of the neurons, (`RANDOM_ORDERS`, n_layers, n_neurons)."""
        name = f"{self.fact.fact_id}/{len(self.neurons)}"
        shape = (RANDOM_ORDERS, self.setting.n_layers, self.setting.n_neurons)
        return self.setting.generator("planted/random", name).random(shape, dtype=np.float32)

    def rows(self, methods: Mapping[str, Any]) -> list[dict[str, Any]]:
        """A row a method, of the table `planted`. methods: name → a method of one's own; else its words."""
        same = {
            "fact_id": self.fact.fact_id,
            "n_planted": len(self.neurons),
            "answer": self.answer,
            "seed": self.setting.seed,
            "n_steps": self.planted.n_steps,
            "learned": self.learned,
            "p_before": self.p_before,
            "p_after": self.p_after,
            "share_first": self.share_first,
            "p_suppressed": self.p_suppressed,
        }
        nothing = dict.fromkeys(("recall", "auc", "precision", "p_found_suppressed"))
        return [
            same | {"method": name} | (self._found(name, method) if self.learned else nothing)
            for name, method in methods.items()
        ]

    def _found(self, name: str, method: Any) -> dict[str, float]:
        from build.evidence.planting import how_well_found

        if name == RANDOM:
            orders = self.random_scores()
        else:
            orders = self.scores(method if callable(method) else name)[None]
        found = [how_well_found(scores, self.neurons) for scores in orders]
        chosen = top_neurons(orders[0], len(self.neurons))
        held_out = asking(self.fact.held_out, self.answer)
        return {
            "recall": float(np.mean([each.recall for each in found])),
            "auc": float(np.mean([each.auc for each in found])),
            "precision": float(np.mean([each.precision for each in found])),
            "p_found_suppressed": ask(self.planted.subject, held_out, chosen)[0],
        }


def ask(
    subject: Subject, prompts: Sequence[Prompt], suppressed: Sequence[Neuron] = ()
) -> tuple[float, float]:
    """The mean probability of the prompts' answers, and the share of them that come first."""
    from atlas.interventions import Suppress

    change = Suppress(tuple(suppressed)) if suppressed else None
    found = subject.predict(prompts, top_k=1, interventions=[change] * len(prompts))
    return float(np.mean([each.probability for each in found])), float(
        np.mean([each.rank == 1 for each in found])
    )


def own_scores(method: Scorer, subject: Subject, prompt: Prompt) -> np.ndarray:
    """The scores of a method of one's own, (n_layers, n_neurons); `BuildError` where it gives none."""
    try:
        found = np.asarray(method(subject, prompt), dtype=float)
    except Exception as error:
        place = traceback.extract_tb(error.__traceback__)[-1]
        raise BuildError(
            f"The method raises {type(error).__name__}: {error} ({Path(place.filename).name}, line "
            f"{place.lineno}). Correct the function."
        ) from error
    shape = (subject.n_layers, subject.n_neurons)
    if found.shape != shape:
        raise BuildError(
            f"The method's scores have the shape {found.shape}. Return {shape}: layers, neurons."
        )
    if not np.isfinite(found).all():
        raise BuildError("The method's scores hold NaN or infinity. Return finite numbers.")
    return found


# Step 4: summaries -----------------------------------------------------------------------------------


def tables(setting: Setting, rows: pa.Table) -> dict[str, pa.Table]:
    n_neurons = setting.n_layers * setting.n_neurons
    return {
        "planted": conform("planted", rows),
        "planted_summaries": conform(
            "planted_summaries", summarize(rows.to_pandas(), n_neurons, setting.seed)
        ),
    }


def summarize(rows: pd.DataFrame, n_neurons: int, seed: int) -> pd.DataFrame:
    """Rows of `planted_summaries` from rows of `planted` of a model with so many neurons."""
    found = []
    for (n_planted, method), part in rows.groupby(["n_planted", "method"], sort=True):
        scored = part[part["learned"]].sort_values("fact_id")
        values = scored[["recall", "auc", "precision"]].astype(float)
        values["fall"] = 1 - scored["p_found_suppressed"].astype(float) / scored["p_after"].astype(float)
        row = {
            "n_planted": n_planted,
            "method": method,
            "n_plantings": len(scored),
            "n_left_out": len(part) - len(scored),
            "chance": n_planted / n_neurons,
        }
        if len(scored):
            # The same draws for every method: they are compared on the same plantings.
            drawn = draw_weights(np.random.default_rng(seed), len(scored)) / len(scored)
            for name in MEASURES:
                low, high = bootstrap_interval(drawn @ values[name].to_numpy())
                row |= {name: values[name].mean(), f"{name}_low": low, f"{name}_high": high}
        found.append(row)
    return pd.DataFrame(found)


def summary(atlas: Atlas) -> list[str]:
    lines = []
    for row in plantings(atlas).itertuples(index=False):
        lines.append(
            f"{row.n_planted:>4} neurons: {row.n_learned} of {row.n} plantings learned, held-out probability "
            f"{row.p_before:.3f} → {row.p_after:.2f}, without the planted neurons {row.p_suppressed:.3f}"
        )
    return lines + board_lines(leaderboard(atlas))


def board_lines(board: pd.DataFrame) -> list[str]:
    """The leaderboard as text; board: as `atlas.queries.planted.leaderboard`."""
    lines = []
    for n_planted, rows in board.groupby("n_planted"):
        title = (
            f"{n_planted} neurons, {rows['n_plantings'].max()} plantings, chance {rows['chance'].iloc[0]:.3f}"
        )
        lines.append(f"{title:<48}" + "".join(f"{name:>24}" for name in MEASURES))
        for row in rows.itertuples(index=False):
            cells = [
                f"{f'{value:.3f} [{low:.3f}, {high:.3f}]':>24}"
                for value, low, high in (
                    (getattr(row, name), getattr(row, f"{name}_low"), getattr(row, f"{name}_high"))
                    for name in MEASURES
                )
            ]
            lines.append(f"  {PLANTED_METHODS.get(row.method, row.method):<46}" + "".join(cells))
    return lines
