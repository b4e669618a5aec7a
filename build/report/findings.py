"""The numbers of one atlas, from its tables: what it holds, what changing neurons does, what its neurons are.

    found = gather(open_atlas(folder))
    found.effects.of("suppress", "own", "held-out", "known").text()       # "−84.5 % [−85.2, −83.7]"
    found.statistics.within                                              # None: not measured

1. *Effects* come from `effect_summaries`, or are summed up from `effects` where an atlas has no more.
2. *Statistics* come from the stored neurons: every atlas has those, also one without scores.
3. The other experiments: `build.report.studies` and `build.report.samples`.

A part that is None was not measured in this atlas.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa

from atlas.neuron import Neuron
from atlas.store.atlas import Atlas
from atlas.store.manifest import Manifest
from build.evidence.intervals import bootstrap_interval, draw_weights
from build.evidence.statistics import count_neurons
from build.report.numbers import RESAMPLING_SEED, Measurement, mean_of, ratio_of
from build.report.paper_values import UPPER_LAYERS
from build.report.samples import FEWEST_KNOWN, Activating, Contexts, Methods, Stability, Subsets
from build.report.studies import Edits, Erasures

ALL = "all"


@dataclass(frozen=True)
class Findings:
    """Everything the report says of one atlas."""

    atlas_id: str
    manifest: Manifest
    n_facts: int
    n_known: int | None
    labels: dict[str, str]
    statistics: Statistics
    effects: Effects | None = None
    edits: Edits | None = None
    erasures: Erasures | None = None
    contexts: Contexts | None = None
    stability: Stability | None = None
    subsets: Subsets | None = None
    methods: Methods | None = None
    activating: Activating | None = None

    def number(self, path: str, *keys: Any) -> Measurement | None:
        """The number at a path of attributes, then keys: ``("contexts.relative", ("fact", "own"))``.

        None where any part of the way was not measured.
        """
        value: Any = self
        for step in (*path.split("."), *keys):
            if value is not None:
                value = value.get(step) if isinstance(value, dict) else getattr(value, step)
        return value

    def label(self, relation_id: str) -> str:
        """The relation as the report names it: `capital (P36)`."""
        label = self.labels.get(relation_id)
        return f"{label} ({relation_id})" if label else relation_id


def gather(atlas: Atlas) -> Findings:
    """Every number of an atlas that the report shows."""
    counted = atlas.query_one("""
        SELECT count(*) AS n, CASE WHEN count(known) > 0 THEN count_if(known) END AS known FROM facts
    """)
    labels = atlas.query("SELECT relation_id, label FROM relations ORDER BY relation_id")
    return Findings(
        atlas_id=atlas.atlas_id,
        manifest=atlas.manifest,
        n_facts=counted["n"],
        n_known=counted["known"],
        labels=dict(zip(labels["relation_id"], labels["label"], strict=True)),
        statistics=gather_statistics(atlas),
        effects=gather_effects(atlas),
        edits=Edits.of(atlas),
        erasures=Erasures.of(atlas),
        contexts=Contexts.of(atlas),
        stability=Stability.of(atlas),
        subsets=Subsets.of(atlas),
        methods=Methods.of(atlas),
        activating=Activating.of(atlas),
    )


# 1. Effects ------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Effects:
    """What suppressing and amplifying did. rows: as the table `effect_summaries`."""

    rows: pd.DataFrame

    def row(self, intervention: str, group: str, templates: str, facts: str, relation: str = ALL):
        """The one row of these keys as a named tuple; None without it."""
        return self._rows.get((relation, intervention, group, templates, facts))

    @cached_property
    def _rows(self) -> dict[tuple[str, ...], tuple]:
        keys = ["relation_id", "intervention", "group", "templates", "facts"]
        named = self.rows.itertuples(index=False)
        return {tuple(getattr(row, key) for key in keys): row for row in named}

    def of(
        self,
        intervention: str,
        group: str,
        templates: str,
        facts: str,
        *,
        relation: str = ALL,
        ratio: str = "paper",
    ) -> Measurement | None:
        """The mean change of the answer's probability; ratio: 'paper' or 'replication'."""
        row = self.row(intervention, group, templates, facts, relation)
        if row is None:
            return None
        value, low, high = (getattr(row, f"{ratio}_{end}") for end in ("change", "low", "high"))
        if pd.isna(value):  # imported results have the replication's ratio alone
            return None
        low, high = (None if pd.isna(each) else float(each) for each in (low, high))
        return Measurement(float(value), low, high, int(row.n_facts), "facts", "change")

    def activity(self, intervention: str, group: str, templates: str, facts: str) -> float | None:
        """How active the changed neurons are, as a multiple of the fact's own; None in older atlases."""
        active = getattr(self.row(intervention, group, templates, facts), "activity", None)
        return None if active is None or pd.isna(active) else float(active)

    def top_changed(self, intervention: str, group: str, templates: str, facts: str) -> Measurement | None:
        """How often the model's likeliest token became another."""
        row = self.row(intervention, group, templates, facts)
        if row is None or pd.isna(row.top_changed):
            return None
        return Measurement(float(row.top_changed), n=int(row.n_prompts), of="prompts", unit="share")

    @cached_property
    def facts(self) -> str:
        """The facts that sentences are about: 'known', or 'all' where few are known."""
        row = self.row("suppress", "own", "held-out", "known")
        return "known" if row is not None and row.n_facts >= FEWEST_KNOWN else ALL

    @cached_property
    def held_out(self) -> dict[tuple[str, str], Measurement | None]:
        """(intervention, group) → the mean change on held-out prompts of `facts`."""
        keys = set(zip(self.rows["intervention"], self.rows["group"], strict=True))
        return {key: self.of(*key, "held-out", self.facts) for key in keys}

    @cached_property
    def answer_changes(self) -> Measurement | None:
        """How often the likeliest token changes on held-out prompts when own neurons are suppressed."""
        return self.top_changed("suppress", "own", "held-out", self.facts)

    def by_relation(self, intervention: str, templates: str, facts: str) -> pd.DataFrame:
        """One row a (relation, group) of an intervention."""
        rows = self.rows
        chosen = rows[
            (rows["relation_id"] != ALL)
            & (rows["intervention"] == intervention)
            & (rows["templates"] == templates)
            & (rows["facts"] == facts)
        ]
        return chosen.reset_index(drop=True)


def gather_effects(atlas: Atlas) -> Effects | None:
    """The effects of an atlas; summed up here where it has only the single ones."""
    if atlas.measured("effect_summaries"):
        return Effects(
            atlas.query("""
                SELECT * FROM effect_summaries
                ORDER BY relation_id, intervention, "group", templates, facts
            """)
        )
    if not atlas.measured("effects"):
        return None
    from build.evidence.effects import summarize

    rows = atlas.query("""
        SELECT e.*, changed.relation_id, coalesce(changed.known, false) AS known,
               coalesce(asked.known, false) AS asked_known
        FROM effects AS e JOIN facts AS changed ON changed.fact_id = e.fact_id
        JOIN facts AS asked ON asked.fact_id = e.prompt_fact_id
        ORDER BY e.fact_id, e.prompt_fact_id, e.template_id, e.intervention, e."group"
    """)
    if "activity" not in rows:
        rows["activity"] = np.nan
    return Effects(pd.DataFrame(summarize(rows)))


# 2. Statistics ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Statistics:
    """What the stored neurons are like.

    layers: share of the (fact, neuron) pairs, layer by layer. modes and grid: rows of the table
    `statistics`, None where it was not measured; sizes: neurons a fact → facts.
    """

    neurons: Measurement | None
    median: float
    most: int
    n_empty: int
    within: Measurement | None
    across: Measurement | None
    same_object: Measurement | None
    other_object: Measurement | None
    identical: Measurement | None
    commonest: Measurement | None
    commonest_neuron: str
    hubs: Measurement | None
    upper: Measurement | None
    n_upper: int
    layers: pd.DataFrame
    overlaps: pd.DataFrame
    sizes: pd.DataFrame
    modes: pd.DataFrame | None = None
    grid: pd.DataFrame | None = None


def gather_statistics(atlas: Atlas) -> Statistics:
    """The statistics of the stored neurons, by SQL over the tables that every atlas has."""
    facts = atlas.query("""
        SELECT f.fact_id, count(k.fact_id) AS n
        FROM facts AS f LEFT JOIN knowledge_neurons AS k ON k.fact_id = f.fact_id
        GROUP BY f.fact_id ORDER BY f.fact_id
    """)
    counts = facts["n"].to_numpy()
    overlaps = atlas.query("SELECT * FROM relation_overlap ORDER BY relation_a, relation_b")
    within, across = _overlaps(overlaps)
    layers, n_layers = _layers(atlas)
    n_upper = int(n_layers * UPPER_LAYERS + 0.5)
    upper = atlas.query(
        """
        SELECT fact_id, count(*) AS n, count_if(layer >= $first) AS upper FROM knowledge_neurons
        GROUP BY fact_id ORDER BY fact_id
        """,
        {"first": n_layers - n_upper},
    )
    objects = _same_objects(atlas)
    both = objects[(objects["pairs_same"] > 0) & (objects["pairs_same"] < objects["pairs"])]
    counted, commonest = _counted(atlas, n_layers)
    modes, grid = _refinements(atlas)
    return Statistics(
        neurons=mean_of(counts, unit="count"),
        median=float(np.median(counts)) if len(counts) else 0.0,
        most=int(counts.max(initial=0)),
        n_empty=int((counts == 0).sum()),
        within=within,
        across=across,
        same_object=mean_of(both["shared_same"] / both["pairs_same"], unit="count", of="relations"),
        other_object=mean_of(
            (both["shared"] - both["shared_same"]) / (both["pairs"] - both["pairs_same"]),
            unit="count",
            of="relations",
        ),
        identical=_share(counted["identical"], int((counts > 0).sum())),
        commonest=_share(counted["commonest"], len(counts)),
        commonest_neuron=commonest,
        hubs=_share(counted["hubs"], len(counts)),
        upper=ratio_of(upper["upper"], upper["n"], unit="share"),
        n_upper=n_upper,
        layers=layers,
        overlaps=overlaps,
        sizes=pd.Series(counts).value_counts().sort_index().rename_axis("n_neurons").reset_index(name="n"),
        modes=modes,
        grid=grid,
    )


def _overlaps(overlaps: pd.DataFrame) -> tuple[Measurement | None, Measurement | None]:
    """Mean neurons two facts share, within a relation and across; relations are drawn again."""
    shared = overlaps.pivot(index="relation_a", columns="relation_b", values="mean_shared").to_numpy()
    n = len(shared)
    within = mean_of(np.diagonal(shared), unit="count", of="relations") if n else None
    if n < 2:
        return within, None
    apart = ~np.eye(n, dtype=bool)
    means = np.where(apart, np.nan_to_num(shared), 0.0)
    weights = draw_weights(np.random.default_rng(RESAMPLING_SEED), n)
    pairs = ((weights @ apart) * weights).sum(axis=1)
    drawn = ((weights @ means) * weights).sum(axis=1)[pairs > 0] / pairs[pairs > 0]
    across = float(means.sum() / apart.sum())
    return within, Measurement(across, *bootstrap_interval(drawn), n, "relations", "count")


def _layers(atlas: Atlas) -> tuple[pd.DataFrame, int]:
    """Every layer with its share of the pairs, and the number of layers."""
    found = atlas.query("SELECT layer, n_pairs, n_neurons, n_facts, pair_share FROM layer_histogram")
    n_layers = atlas.manifest.model.n_layers or int(found["layer"].max() + 1 if len(found) else 0)
    every = pd.DataFrame({"layer": range(n_layers)}).merge(found, on="layer", how="left").fillna(0)
    return every.astype({"n_pairs": int, "n_neurons": int, "n_facts": int}), n_layers


def _same_objects(atlas: Atlas) -> pd.DataFrame:
    """By relation: pairs of two different facts and the neurons they share; those with one object apart."""
    return atlas.query("""
        WITH named AS (
            SELECT fact_id, relation_id, lower(trim(object)) AS object FROM facts
        ), sizes AS (
            SELECT relation_id, object, count(*) AS n FROM named GROUP BY ALL
        ), pairs AS (
            SELECT relation_id, sum(n) * (sum(n) - 1) / 2 AS pairs, sum(n * (n - 1)) / 2 AS pairs_same
            FROM sizes GROUP BY relation_id
        ), counted AS (
            SELECT named.relation_id, object, layer, neuron, count(*) AS n
            FROM knowledge_neurons AS k JOIN named ON named.fact_id = k.fact_id GROUP BY ALL
        ), by_neuron AS (
            SELECT relation_id, sum(n) AS n, sum(n * (n - 1)) / 2 AS same FROM counted
            GROUP BY relation_id, layer, neuron
        ), shared AS (
            SELECT relation_id, sum(n * (n - 1)) / 2 AS shared, sum(same) AS shared_same
            FROM by_neuron GROUP BY relation_id
        )
        SELECT relation_id, pairs, pairs_same, coalesce(shared, 0) AS shared,
               coalesce(shared_same, 0) AS shared_same
        FROM pairs LEFT JOIN shared USING (relation_id) ORDER BY relation_id
    """)


def _counted(atlas: Atlas, n_layers: int) -> tuple[dict[str, Any], str]:
    """What the study `statistics` counts, of the stored neurons, and the name of the commonest one."""
    found = pa.Table.from_pandas(
        atlas.query("SELECT fact_id, layer, neuron FROM knowledge_neurons"), preserve_index=False
    )
    facts = atlas.query("SELECT fact_id, relation_id, object FROM facts ORDER BY fact_id")
    first = atlas.query_one("""
        SELECT layer, neuron FROM knowledge_neurons GROUP BY layer, neuron
        ORDER BY count(*) DESC, layer, neuron LIMIT 1
    """)
    return count_neurons(found, facts, n_layers=n_layers), "" if first is None else str(
        Neuron(first["layer"], first["neuron"])
    )


def _share(value: float | None, n: int) -> Measurement | None:
    return None if value is None else Measurement(value, n=n, unit="share")


def _refinements(atlas: Atlas) -> tuple[pd.DataFrame | None, pd.DataFrame | None]:
    """The rows of `statistics`: modes as they are, and other thresholds."""
    if not atlas.measured("statistics"):
        return None, None
    rows = atlas.query("SELECT * FROM statistics ORDER BY mode, threshold, share")
    modes, grid = rows[rows["mode"] != "grid"], rows[rows["mode"] == "grid"]
    return (
        modes.reset_index(drop=True) if len(modes) else None,
        grid.reset_index(drop=True) if len(grid) else None,
    )
