"""From shards to the tables of an atlas: no model is needed here.

    prompts = collect_prompts(output, n_shards)            # in the order of the build
    prompts.rows_of("P36.france")                          # slice of its rows
    facts_table(plan, prompts, knowledge_neurons)

Scores stay numbers in arrays until they are written: a large data set has tens of millions.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from atlas.datasets import Dataset
from atlas.neuron import MARKS, Fact, Neuron, Prompt, Template
from atlas.refinement import Refined, Refinement, refine
from atlas.store.schema import TABLES, conform
from build.output.writer import ROW_GROUP_ROWS, Output
from build.plan import Plan

MIXED_SHARE = 0.1


@dataclass(frozen=True)
class Prompts:
    """The rows of `prompts` in the order of the build: a fact's prompts stand together."""

    table: pa.Table

    def __len__(self) -> int:
        return self.table.num_rows

    @cached_property
    def fact_ids(self) -> tuple[str, ...]:
        """The facts that have prompts, in order; `fact_of_row` counts in it."""
        return tuple(dict.fromkeys(self.table["fact_id"].to_pylist()))

    @cached_property
    def fact_of_row(self) -> np.ndarray:
        """Index of each prompt's fact: (n_prompts,)."""
        codes = self.table["fact_id"].combine_chunks().dictionary_encode()
        return codes.indices.to_numpy()

    @cached_property
    def _first_rows(self) -> np.ndarray:
        return np.searchsorted(self.fact_of_row, np.arange(len(self.fact_ids) + 1))

    @cached_property
    def _index_of_fact(self) -> dict[str, int]:
        return {fact_id: index for index, fact_id in enumerate(self.fact_ids)}

    def index_of(self, fact_id: str) -> int | None:
        """Place of the fact in `fact_ids`; None when it was left out."""
        return self._index_of_fact.get(fact_id)

    def rows_of(self, fact_id: str) -> range:
        """The fact's rows; none when it was left out."""
        index = self.index_of(fact_id)
        if index is None:
            return range(0)
        return range(int(self._first_rows[index]), int(self._first_rows[index + 1]))

    @cached_property
    def template_ids(self) -> list[str]:
        return self.table["template_id"].to_pylist()

    @cached_property
    def top_token(self) -> list[str]:
        return self.table["top_token"].to_pylist()

    @cached_property
    def probability(self) -> np.ndarray:
        return self.table["probability"].to_numpy()

    @cached_property
    def rank(self) -> np.ndarray:
        return self.table["rank"].to_numpy()

    @cached_property
    def held_out(self) -> np.ndarray:
        return self.table["held_out"].to_numpy()

    @cached_property
    def n_answer_tokens(self) -> np.ndarray:
        """Tokens of a fact's answer, the most over its prompts: (n_facts,)."""
        n_tokens = self.table["n_answer_tokens"].to_numpy()
        return np.maximum.reduceat(n_tokens, self._first_rows[:-1]) if len(self) else n_tokens

    @cached_property
    def known(self) -> np.ndarray:
        """Whether the model puts a fact's answer first on most of its prompts: (n_facts,)."""
        first = np.bincount(self.fact_of_row, weights=self.rank == 1, minlength=len(self.fact_ids))
        return first * 2 > np.bincount(self.fact_of_row, minlength=len(self.fact_ids))

    @cached_property
    def place(self) -> np.ndarray:
        """Each row's place when sorted by (fact_id, template_id): (n_prompts,)."""
        order = pc.sort_indices(
            self.table, sort_keys=[("fact_id", "ascending"), ("template_id", "ascending")]
        ).to_numpy()
        place = np.empty(len(order), np.int64)
        place[order] = np.arange(len(order))
        return place


def collect_prompts(output: Output, n_shards: int) -> Prompts:
    """The prompts of all attribute shards."""
    schema = TABLES["prompts"]
    parts = [output.read_shard("attribute", index, schema.names) for index in range(n_shards)]
    return Prompts(pa.concat_tables([part.cast(schema) for part in parts]))


@dataclass(frozen=True)
class StoredScores:
    """Every stored score, by the row of its prompt in `Prompts`; within a prompt by layer and neuron."""

    prompt: np.ndarray
    layer: np.ndarray
    neuron: np.ndarray
    score: np.ndarray

    def __len__(self) -> int:
        return len(self.score)


def collect_scores(output: Output, n_shards: int) -> StoredScores:
    """The scores of all attribute shards."""
    parts: list[tuple[np.ndarray, ...]] = []
    first = 0
    for index in range(n_shards):
        table = output.read_shard("attribute", index, ["layers", "neurons", "scores"])
        lists = {name: table[name].combine_chunks() for name in table.column_names}
        lengths = pc.fill_null(pc.list_value_length(lists["scores"]), 0).to_numpy()
        parts.append(
            (
                np.repeat(np.arange(first, first + table.num_rows, dtype=np.int32), lengths),
                *(pc.list_flatten(lists[name]).to_numpy() for name in ("layers", "neurons", "scores")),
            )
        )
        first += table.num_rows
    return StoredScores(*(np.concatenate(columns) for columns in zip(*parts, strict=True)))


def attributions_parts(prompts: Prompts, scores: StoredScores) -> Iterator[pa.Table]:
    """The table `attributions` in the order of its keys, a row group at a time."""
    order = np.argsort(prompts.place[scores.prompt], kind="stable")
    fact_ids = prompts.table["fact_id"].combine_chunks()
    template_ids = prompts.table["template_id"].combine_chunks()
    if not len(order):
        yield TABLES["attributions"].empty_table()
    for start in range(0, len(order), ROW_GROUP_ROWS):
        chosen = order[start : start + ROW_GROUP_ROWS]
        rows = pa.array(scores.prompt[chosen])
        columns = [
            fact_ids.take(rows),
            template_ids.take(rows),
            *(pa.array(each[chosen]) for each in (scores.layer, scores.neuron, scores.score)),
        ]
        yield pa.table(columns, names=TABLES["attributions"].names).cast(TABLES["attributions"])


def refine_by_relation(prompts: Prompts, scores: StoredScores, facts: pa.Table, rule: Refinement) -> Refined:
    """The table `knowledge_neurons` from scores. A rule without negatives does not look beyond a relation,
    so relations are refined one by one, in the memory that the largest of them takes.

    facts: fact_id, relation_id and object of all facts.
    """
    if rule.negatives:
        return refine(_attributions(prompts, scores, slice(None)), prompts.table, facts, rule)
    relation_of = dict(zip(facts["fact_id"].to_pylist(), facts["relation_id"].to_pylist(), strict=True))
    names, of_fact = np.unique(
        np.array([relation_of[fact_id] for fact_id in prompts.fact_ids], object), return_inverse=True
    )
    of_score = of_fact[prompts.fact_of_row].astype(np.int16)[scores.prompt]
    parts = []
    for number, name in enumerate(names):
        chosen = np.flatnonzero(of_score == number)
        own = facts.filter(pc.equal(facts["relation_id"], name))
        rows = prompts.table.filter(pc.is_in(prompts.table["fact_id"], own["fact_id"].combine_chunks()))
        parts.append(refine(_attributions(prompts, scores, chosen), rows, own, rule))
    return Refined(
        conform("knowledge_neurons", pa.concat_tables([part.rows for part in parts])),
        {name: share for part in parts for name, share in part.shares.items()},
    )


def _attributions(prompts: Prompts, scores: StoredScores, chosen: np.ndarray | slice) -> pa.Table:
    """These scores as rows of `attributions`, in the order of the build, ids stored once."""
    rows = pa.array(scores.prompt[chosen])

    def ids(name: str) -> pa.DictionaryArray:
        return prompts.table[name].combine_chunks().dictionary_encode().take(rows)

    return pa.table(
        {
            "fact_id": ids("fact_id"),
            "template_id": ids("template_id"),
            "layer": scores.layer[chosen],
            "neuron": scores.neuron[chosen],
            "score": scores.score[chosen],
        }
    )


def neurons_by_fact(knowledge_neurons: pa.Table) -> dict[str, tuple[Neuron, ...]]:
    """Fact id → its knowledge neurons."""
    result: dict[str, list[Neuron]] = {}
    columns = (knowledge_neurons[name].to_pylist() for name in ("fact_id", "layer", "neuron"))
    for fact_id, layer, neuron in zip(*columns, strict=True):
        result.setdefault(fact_id, []).append(Neuron(layer, neuron))
    return {fact_id: tuple(sorted(neurons)) for fact_id, neurons in result.items()}


def coded_pairs(prompts: Prompts, knowledge_neurons: pa.Table) -> np.ndarray:
    """Fact, as its place in `prompts.fact_ids`, layer and neuron of every row, (n_pairs, 3)."""
    facts = [prompts.index_of(fact_id) for fact_id in knowledge_neurons["fact_id"].to_pylist()]
    columns = [facts, *(knowledge_neurons[name].to_numpy() for name in ("layer", "neuron"))]
    return np.array(columns, np.int64).T


def with_column(table: pa.Table, name: str, values: np.ndarray | pa.Array) -> pa.Table:
    """The table with these values, cast, in one of its columns."""
    field = table.schema.field(name)
    return table.set_column(table.column_names.index(name), field, pa.array(values).cast(field.type))


def facts_table(plan: Plan, prompts: Prompts, knowledge_neurons: pa.Table) -> pa.Table:
    """The table `facts`: those with prompts, how well each is known, how many neurons it has."""
    n_facts = len(prompts.fact_ids)
    of_row = prompts.fact_of_row
    n_prompts = np.bincount(of_row, minlength=n_facts)
    probability = np.bincount(of_row, weights=prompts.probability, minlength=n_facts)
    n_neurons = np.zeros(n_facts, np.int32)
    counts = knowledge_neurons.group_by("fact_id").aggregate([([], "count_all")])
    for fact_id, count in zip(counts["fact_id"].to_pylist(), counts["count_all"].to_pylist(), strict=True):
        n_neurons[prompts.index_of(fact_id)] = count
    facts = {fact.fact_id: fact for fact in plan.facts}
    chosen = [facts[fact_id] for fact_id in prompts.fact_ids]
    return pa.table(
        {
            **text_columns(chosen, "fact_id", "relation_id", "subject", "object"),
            "n_prompts": n_prompts,
            "n_neurons": n_neurons,
            "known": prompts.known,
            "mean_probability": probability / np.maximum(n_prompts, 1),
            **mark_columns(chosen),
            "n_answer_tokens": prompts.n_answer_tokens,
        }
    )


def text_columns(items: Iterable[Fact | Prompt], *names: str) -> dict[str, pa.Array]:
    """Columns of text from the attributes of facts or prompts, one row each."""
    items = tuple(items)
    return {name: pa.array([getattr(item, name) for item in items], pa.string()) for name in names}


def mark_columns(facts: Iterable[Fact]) -> dict[str, pa.Array]:
    """A column for each mark, one row a fact; null where nobody has gone through the facts."""
    facts = tuple(facts)
    return {mark: pa.array([getattr(fact, mark) for fact in facts], pa.bool_()) for mark in MARKS}


def templates_table(
    templates: Mapping[str, Iterable[tuple[Template, bool]]], facts: pa.Table
) -> list[dict[str, object]]:
    """The table `templates`, of the relations with facts. templates: relation id → (template, held out)."""
    return [
        {
            "relation_id": relation_id,
            "template_id": template.template_id,
            "text": template.pattern,
            "held_out": held_out,
        }
        for relation_id in set(facts["relation_id"].to_pylist())
        for template, held_out in templates[relation_id]
    ]


def relations_table(
    dataset: Dataset, facts: pa.Table, n_templates: Mapping[str, int]
) -> list[dict[str, object]]:
    """The table `relations`: those with facts."""
    counts = Counter(facts["relation_id"].to_pylist())
    return [
        {
            "relation_id": relation.relation_id,
            "label": relation.label,
            "n_facts": counts[relation.relation_id],
            "n_templates": n_templates[relation.relation_id],
        }
        for relation in dataset.relations
        if relation.relation_id in counts
    ]


def distinct_neurons(knowledge_neurons: pa.Table) -> pa.Table:
    """layer, neuron, n_facts, n_relations of every knowledge neuron, in order."""
    grouped = knowledge_neurons.group_by(["layer", "neuron"]).aggregate(
        [("fact_id", "count_distinct"), ("relation_id", "count_distinct")]
    )
    grouped = grouped.rename_columns(
        {"fact_id_count_distinct": "n_facts", "relation_id_count_distinct": "n_relations"}
    )
    return grouped.sort_by([("layer", "ascending"), ("neuron", "ascending")])


def signs_mixed(knowledge_neurons: pa.Table) -> np.ndarray:
    """Whether each neuron fires above zero for at least `MIXED_SHARE` of its facts, and below for as many.

    (n_neurons,), in the order of `distinct_neurons`.
    """
    pairs = knowledge_neurons.select(["layer", "neuron", "mean_activation"]).to_pandas()
    sides = pairs.assign(above=pairs["mean_activation"] > 0, below=pairs["mean_activation"] < 0)
    shares = sides.groupby(["layer", "neuron"])[["above", "below"]].mean()
    return (shares.min(axis=1) >= MIXED_SHARE).to_numpy()


def concat_shards(output: Output, stages: Iterable[tuple[str, int]], schema: pa.Schema) -> pa.Table:
    """The rows of shards that already have a schema's columns."""
    parts = [output.read_shard(stage, index) for stage, index in stages]
    return pa.concat_tables([part.cast(schema) for part in parts]) if parts else schema.empty_table()
