"""The numbers of the experiments on samples of facts: what activates neurons, and checks of the thesis.

    stability = Stability.of(atlas)              # None where the atlas has no table `stability`
    stability.same.full()                        # “0.348 [0.303, 0.394] (n = 80 known facts)”
    stability.whole                              # the same of all facts of the sample

What the model does not know, its neurons cannot carry: known facts alone count where there are at least
`FEWEST_KNOWN` of them, and all facts are in `whole`. Facts count alike, and intervals draw them again.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TypeVar

import numpy as np
import pandas as pd

from atlas.queries import subsets
from atlas.store.atlas import Atlas
from build.report.numbers import Measurement, mean_of, ratio_of

FEWEST_KNOWN = 20
CONTEXT_ORDER = ("fact", "relation", "subject", "random")
METHOD_NAMES = {
    "integrated_gradients": "integrated gradients",
    "gradient_x_activation": "gradient × activation",
    "log_prob_increase": "log-probability increase",
    "activation": "activation",
}

Numbers = TypeVar("Numbers")


def _of_known(rows: pd.DataFrame, summed: Callable[[pd.DataFrame, str], Numbers]) -> Numbers:
    """The numbers of known facts, with those of all in `whole`; of all alone where few are known.

    rows: with fact_id and known. summed: makes the numbers of rows, given what their n counts.
    """
    known = rows[rows["known"].fillna(False).astype(bool)]
    if len(known) == len(rows) or known["fact_id"].nunique() < FEWEST_KNOWN:
        return summed(rows, "facts" if len(known) < len(rows) else "known facts")
    return replace(summed(known, "known facts"), whole=summed(rows, "facts"))


# What activates them ---------------------------------------------------------------------------------


@dataclass(frozen=True)
class Contexts:
    """How active a fact's neurons are, by (context, group).

    relative: as a share of what they are on the prompts that found them; activation: the plain mean, as the
    paper has it; magnitude: the mean of its size, whatever its sign.
    """

    relative: dict[tuple[str, str], Measurement | None]
    activation: dict[tuple[str, str], Measurement | None]
    magnitude: dict[tuple[str, str], Measurement | None]
    whole: Contexts | None = None

    @classmethod
    def of(cls, atlas: Atlas) -> Contexts | None:
        if not atlas.measured("contexts"):
            return None
        rows = atlas.query("""
            SELECT c.*, f.known FROM contexts AS c JOIN facts AS f USING (fact_id) ORDER BY ALL
        """)
        return _of_known(rows, cls._summed)

    @classmethod
    def _summed(cls, rows: pd.DataFrame, of: str) -> Contexts:
        parts = dict(list(rows.groupby(["context", "group"])))
        return cls(
            *(
                {key: mean_of(part[name], unit="count", of=of) for key, part in parts.items()}
                for name in ("relative", "activation", "magnitude")
            )
        )


@dataclass(frozen=True)
class Activating:
    """Of the prompts on which a neuron is most and least active: how many ask for a fact that has the neuron.

    top, bottom: the shares, mean over neurons; chance: the share of all facts that have the neuron.
    """

    top: Measurement | None
    bottom: Measurement | None
    chance: Measurement | None

    @classmethod
    def of(cls, atlas: Atlas) -> Activating | None:
        if not atlas.measured("activating_prompts"):
            return None
        rows = atlas.query("""
            WITH sizes AS (
                SELECT layer, neuron, count(*) / (SELECT count(*) FROM facts) AS chance
                FROM knowledge_neurons GROUP BY layer, neuron
            )
            SELECT a.layer, a.neuron, any_value(chance) AS chance,
                   avg((k.fact_id IS NOT NULL)::INT) FILTER (side = 'top') AS top,
                   avg((k.fact_id IS NOT NULL)::INT) FILTER (side = 'bottom') AS bottom
            FROM activating_prompts AS a JOIN sizes USING (layer, neuron)
            LEFT JOIN knowledge_neurons AS k
              ON k.layer = a.layer AND k.neuron = a.neuron AND k.fact_id = a.fact_id
            GROUP BY a.layer, a.neuron ORDER BY a.layer, a.neuron
        """)
        return cls(*(mean_of(rows[name], unit="share", of="neurons") for name in ("top", "bottom", "chance")))


# Thesis checks ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Stability:
    """A fact's neurons from one half of its templates and from the other: Jaccard index, and effect.

    same, relation, random: the held-out half's neurons beside the fact's own, another fact's of the relation,
    an unrelated fact's. fall, fall_held_out: how far the answer falls on the discovery prompts with the
    neurons of either half suppressed. rows: as the table.
    """

    same: Measurement | None
    relation: Measurement | None
    random: Measurement | None
    fall: Measurement | None
    fall_held_out: Measurement | None
    n_empty: int
    rows: pd.DataFrame
    whole: Stability | None = None

    @classmethod
    def of(cls, atlas: Atlas) -> Stability | None:
        if not atlas.measured("stability"):
            return None
        rows = atlas.query("""
            SELECT s.*, f.known FROM stability AS s JOIN facts AS f USING (fact_id) ORDER BY fact_id
        """)
        return _of_known(rows, cls._summed)

    @classmethod
    def _summed(cls, rows: pd.DataFrame, of: str) -> Stability:
        return cls(
            same=mean_of(rows["jaccard"], unit="overlap", of=of),
            relation=mean_of(rows["jaccard_relation"], unit="overlap", of=of),
            random=mean_of(rows["jaccard_random"], unit="overlap", of=of),
            fall=ratio_of(rows["p_discovery"], rows["p_before"], unit="change", less=1, of=of),
            fall_held_out=ratio_of(rows["p_held_out"], rows["p_before"], unit="change", less=1, of=of),
            n_empty=int((rows["n_held_out"] == 0).sum()),
            rows=rows,
        )


@dataclass(frozen=True)
class Subsets:
    """How few of a fact's neurons give half of the effect of all, by order of choice.

    k_half: how many; share: as a share of the fact's neurons; single: of how many facts one suffices. curve:
    one row a (order, part of the fact's neurons): mean share of the probability that is left. n_without:
    facts whose neurons have no effect that could be halved.
    """

    k_half: dict[str, Measurement | None]
    share: dict[str, Measurement | None]
    single: dict[str, Measurement | None]
    curve: pd.DataFrame
    n_without: int
    whole: Subsets | None = None

    @classmethod
    def of(cls, atlas: Atlas) -> Subsets | None:
        if not atlas.measured("subsets"):
            return None
        steps = atlas.query("""
            SELECT fact_id, "order", k, n_neurons, p_after::DOUBLE / p_before AS left_over FROM subsets
            WHERE p_before > 0 ORDER BY "order", fact_id, k
        """)
        return _of_known(subsets.half_effect(atlas), lambda halves, of: cls._summed(halves, of, steps))

    @classmethod
    def _summed(cls, halves: pd.DataFrame, of: str, steps: pd.DataFrame) -> Subsets:
        k_half, share, single = {}, {}, {}
        for order in subsets.SUBSET_ORDERS:
            part = halves[(halves["order"] == order) & halves["k_half"].notna()]
            k_half[order] = mean_of(part["k_half"], unit="count", of=of)
            share[order] = mean_of(part["k_half"] / part["n_neurons"], unit="share", of=of)
            single[order] = mean_of(part["k_half"] == 1, unit="share", of=of)
        without = halves[(halves["order"] == "score") & halves["k_half"].isna()]
        curve = _curve(steps[steps["fact_id"].isin(set(halves["fact_id"]))])
        return cls(k_half, share, single, curve, len(without))


# Where the curves of facts with other numbers of neurons are read off, as parts of their neurons.
_PARTS = np.linspace(0, 1, 21)


def _curve(rows: pd.DataFrame) -> pd.DataFrame:
    """Mean over facts of p_after ÷ p_before along the order. Columns: order, part, left, n."""
    points = []
    for order, of_order in rows.groupby("order"):
        lines = [
            np.interp(_PARTS, [0, *(part["k"] / part["n_neurons"])], [1, *part["left_over"]])
            for _, part in of_order.groupby("fact_id")
        ]
        means = np.mean(lines, axis=0)
        points += [
            {"order": order, "part": float(part), "left": float(left), "n": len(lines)}
            for part, left in zip(_PARTS, means, strict=True)
        ]
    return pd.DataFrame(points, columns=["order", "part", "left", "n"])


@dataclass(frozen=True)
class Methods:
    """Other ways to choose neurons. rows: (method, mode) → its numbers.

    neurons: how many a fact; overlap: Jaccard index with integrated gradients' choice of the same mode;
    suppressed, amplified: change of the answer's probability on held-out prompts; gradients: the former by
    integrated gradients' choice, on the same facts.
    """

    rows: dict[tuple[str, str], MethodNumbers]
    whole: Methods | None = None

    @classmethod
    def of(cls, atlas: Atlas) -> Methods | None:
        if not atlas.measured("methods"):
            return None
        rows = atlas.query("""
            SELECT m.*, i.n_neurons AS n_gradients, i.p_suppressed AS p_gradients, f.known
            FROM methods AS m JOIN facts AS f ON f.fact_id = m.fact_id LEFT JOIN methods AS i
              ON i.fact_id = m.fact_id AND i.mode = m.mode AND i.method = 'integrated_gradients'
            ORDER BY m.fact_id, m.method, m.mode
        """)
        return _of_known(rows, cls._summed)

    @classmethod
    def _summed(cls, rows: pd.DataFrame, of: str) -> Methods:
        numbers = {}
        for key, part in rows.groupby(["method", "mode"]):
            either = (part["n_neurons"] + part["n_gradients"] - part["shared"]).astype(float)
            numbers[key] = MethodNumbers(
                neurons=mean_of(part["n_neurons"], unit="count", of=of),
                overlap=mean_of(part["shared"] / either.where(either > 0), unit="overlap", of=of),
                suppressed=ratio_of(part["p_suppressed"], part["p_before"], unit="change", less=1, of=of),
                amplified=ratio_of(part["p_amplified"], part["p_before"], unit="change", less=1, of=of),
                gradients=ratio_of(part["p_gradients"], part["p_before"], unit="change", less=1, of=of),
            )
        return cls(numbers)


@dataclass(frozen=True)
class MethodNumbers:
    """One method in one mode; see `Methods`."""

    neurons: Measurement | None
    overlap: Measurement | None
    suppressed: Measurement | None
    amplified: Measurement | None
    gradients: Measurement | None
