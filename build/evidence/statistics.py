"""Statistics: how many neurons facts have, what they share and where they lie, under many thresholds.

Dai et al. (ACL 2022), section 4.4, table 3 and figure 2: do their numbers depend on the model or on the
thresholds? No model is needed: everything follows from the stored scores.

1. *Refine* the stored scores in the modes default, paper and replication, and on a grid of thresholds t and
   shares p of the default's rule; beside them, the atlas's own neurons. Below the default's share one prompt
   is enough: the default's least number of prompts would make all smaller shares the same.
2. *Count* neurons a fact, neurons that two facts share, layers, hubs, identical sets. Facts without neurons
   count. Relations, and pairs of relations, have equal weight.
3. *Compare* within relations: pairs of facts with the same object against those with different ones, where a
   relation has both.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import pyarrow as pa

from atlas.refinement import MODES, Refinement, mode, refine
from build.evidence.setting import Setting
from build.output.check import rule_of

if TYPE_CHECKING:
    from atlas.store.atlas import Atlas

THRESHOLDS = (0.1, 0.15, 0.2, 0.25, 0.3, 0.4, 0.5)
SHARES = (0.25, 0.5, 0.75, 1.0)
N_HUBS = 20

_Unit = tuple[str, float | None, float | None]


def units(setting: Setting) -> list[_Unit]:
    """(mode, t, p): t and p are given for the grid alone."""
    modes: list[_Unit] = [(name, None, None) for name in ("stored", *MODES)]
    return [*modes, *(("grid", threshold, share) for threshold in THRESHOLDS for share in SHARES)]


def measure(setting: Setting, unit: _Unit) -> list[dict[str, Any]]:
    name, threshold, share = unit
    # Step 1: refine.
    if name == "stored":
        rule, found = rule_of(setting.atlas.manifest), _stored(setting)
    else:
        rule = MODES[name] if name in MODES else grid_rule(threshold, share)
        found = refine(*setting.scores, rule).rows
    facts = setting.scores[2].to_pandas()
    keys = {"mode": name, "threshold": rule.threshold, "share": None if rule.target else rule.share}
    # Steps 2 and 3.
    return [keys | count_neurons(found, facts, n_layers=setting.n_layers)]


def grid_rule(threshold: float, share: float) -> Refinement:
    """The default with another (t, p)."""
    default = MODES["default"]
    return mode(
        "default",
        threshold=threshold,
        share=share,
        at_least=default.at_least if share >= default.share else 1,
    )


def _stored(setting: Setting) -> pa.Table:
    rows = setting.atlas.query("SELECT fact_id, relation_id, layer, neuron FROM knowledge_neurons")
    return setting.kept(pa.Table.from_pandas(rows, preserve_index=False))


# Steps 2 and 3: count, compare -----------------------------------------------------------------------


def count_neurons(found: pa.Table, facts: pd.DataFrame, *, n_layers: int) -> dict[str, Any]:
    """Every number of a row of `statistics`.

    `found` has fact_id, layer, neuron; `facts` has fact_id, relation_id, object, of every fact, with or
    without neurons. A mean over nothing is None.
    """
    place = pd.Index(facts["fact_id"])
    fact = place.get_indexer(found["fact_id"].to_pandas())
    layer = found["layer"].to_numpy().astype(np.int64)
    index = found["neuron"].to_numpy().astype(np.int64)
    # Neurons as numbers from 0, in the order of layer and index.
    distinct, neuron = np.unique(layer << 32 | index, return_inverse=True)
    sizes = np.bincount(fact, minlength=len(facts))
    having = np.bincount(neuron, minlength=len(distinct))
    hubs = np.argsort(-having, kind="stable")[:N_HUBS]
    layers = np.bincount(layer, minlength=n_layers)
    return {
        "n_facts": len(facts),
        "n_empty": int((sizes == 0).sum()),
        "mean_neurons": _mean(sizes),
        "median_neurons": float(np.median(sizes)) if len(sizes) else None,
        "most_neurons": int(sizes.max(initial=0)),
        **_shared(fact, neuron, len(distinct), facts),
        "identical": _identical(fact, neuron),
        "commonest": float(having.max(initial=0) / len(facts)) if len(facts) else None,
        "hubs": len(np.unique(fact[np.isin(neuron, hubs)])) / len(facts) if len(facts) else None,
        "layer_shares": (layers / layers.sum()).tolist() if layers.any() else None,
    }


def _mean(values: np.ndarray | list[float]) -> float | None:
    return float(np.mean(values)) if len(values) else None


def _identical(fact: np.ndarray, neuron: np.ndarray) -> float | None:
    """Share of the facts with neurons whose set of neurons another fact has, too."""
    order = np.lexsort((neuron, fact))
    starts = np.flatnonzero(np.diff(fact[order], prepend=-1))
    sets = [part.tobytes() for part in np.split(neuron[order], starts[1:])] if len(order) else []
    times = Counter(sets)
    return _mean([times[each] > 1 for each in sets])


def _shared(fact: np.ndarray, neuron: np.ndarray, n_neurons: int, facts: pd.DataFrame) -> dict[str, Any]:
    """How many neurons two facts share: n facts that have a neuron make n (n − 1) ÷ 2 pairs that share it."""
    relation, relations = pd.factorize(facts["relation_id"])
    objects = facts["object"].str.casefold().str.strip()
    group, groups = pd.factorize(pd.Series(zip(relation, objects, strict=True), dtype=object))
    n_facts = np.bincount(relation, minlength=len(relations))
    counts = np.zeros((len(relations), n_neurons))
    np.add.at(counts, (relation[fact], neuron), 1)
    both = counts @ counts.T  # (n_relations, n_relations): sum over neurons of n_a · n_b
    shared = (np.diag(both) - counts.sum(axis=1)) / 2
    pairs = _pairs(n_facts)
    first, second = np.triu_indices(len(relations), k=1)

    # The same of the facts with one object, summed by relation.
    of_relation = np.array([each[0] for each in groups], dtype=np.int64)
    same_pairs = np.bincount(of_relation, _pairs(np.bincount(group)), minlength=len(relations))
    keys, times = np.unique(group[fact] * max(n_neurons, 1) + neuron, return_counts=True)
    at = of_relation[keys // max(n_neurons, 1)] if len(keys) else np.zeros(0, np.int64)
    same_shared = np.bincount(at, _pairs(times), minlength=len(relations))
    has_both = (same_pairs > 0) & (same_pairs < pairs)
    return {
        "within": _mean(shared[pairs > 0] / pairs[pairs > 0]),
        "across": _mean(both[first, second] / (n_facts[first] * n_facts[second])),
        "same_object": _mean(same_shared[has_both] / same_pairs[has_both]),
        "other_object": _mean((shared - same_shared)[has_both] / (pairs - same_pairs)[has_both]),
    }


def _pairs(n: np.ndarray) -> np.ndarray:
    return n * (n - 1) / 2


# Summary ---------------------------------------------------------------------------------------------

_MEASURES = {
    "mean_neurons": "neurons a fact",
    "within": "shared within a relation",
    "across": "shared across",
    "commonest": "facts with the commonest neuron",
    "hubs": "facts with a hub",
}


def summary(atlas: Atlas) -> list[str]:
    rows = atlas.query("""
        SELECT * FROM statistics
        ORDER BY list_position(['stored', 'default', 'paper', 'replication', 'grid'], mode), threshold, share
    """)
    lines = [
        f"{'mode':<12}{'t':>6}{'p':>6}{'mean':>8}{'median':>8}{'none':>7}"
        f"{'within':>9}{'across':>8}{'same obj':>10}{'other obj':>11}{'hubs':>7}"
    ]
    lines += [
        f"{row.mode:<12}{row.threshold:>6.2f}{_plain(row.share, 'fit'):>6}{row.mean_neurons:>8.2f}"
        f"{row.median_neurons:>8.1f}{row.n_empty:>7,}{_plain(row.within):>9}{_plain(row.across):>8}"
        f"{_plain(row.same_object):>10}{_plain(row.other_object):>11}{row.hubs:>7.1%}"
        for row in rows[rows["mode"] != "grid"].itertuples()
    ]
    return lines + _sensitivity(rows[rows["mode"] == "grid"])


def _plain(value: float, missing: str = "-") -> str:
    return missing if pd.isna(value) else f"{value:.2f}"


def _sensitivity(grid: pd.DataFrame) -> list[str]:
    """Each measure's smallest and largest value on the grid, and by what factor t and p alone move it."""
    default = MODES["default"]
    lines = [f"over {len(grid)} pairs of t {THRESHOLDS[0]} to {THRESHOLDS[-1]} and p {SHARES[0]} to 1:"]
    moves = []
    for name, words in _MEASURES.items():
        values = grid[name].dropna()
        if values.empty:
            continue
        alone = [
            _range(grid.loc[np.isclose(grid[fixed], at), name])
            for fixed, at in (("share", default.share), ("threshold", default.threshold))
        ]
        moves.append((_range(values) or np.inf, words))
        lines.append(
            f"  {words:<32} {values.min():.3f} to {values.max():.3f}; "
            f"t alone {_times(alone[0])}, p alone {_times(alone[1])}"
        )
    if moves:
        lines.append(f"  they change most: {max(moves)[1]}")
    apart = grid.dropna(subset=["within", "across"])
    if len(apart):
        more = int((apart["within"] > apart["across"]).sum())
        lines.append(f"  more is shared within a relation than across in {more} of {len(apart)}")
    return lines


def _range(values: Sequence[float] | pd.Series) -> float | None:
    """Largest ÷ smallest; None where the smallest is nothing."""
    values = pd.Series(values).dropna()
    return float(values.max() / values.min()) if len(values) and values.min() > 0 else None


def _times(factor: float | None) -> str:
    return "from nothing" if factor is None else f"× {factor:.1f}"
