"""What an atlas is made of: one pyarrow schema a table, one sentence a column (design section 7).

    TABLES["facts"]                           # pa.schema with descriptions in the fields' metadata
    describe("facts", "known")                # "Whether the model says the object first on …"
    empty_table("effects")                    # no rows, the right columns
    conform("facts", frame_or_table)          # checked, cast, in the right column and row order

One Parquet file a table, zstd, sorted by `SORT_KEYS`. Every column may be null: a null says "not
measured in this atlas" (published neurons have no scores), never zero.
"""

from __future__ import annotations

import pyarrow as pa

from atlas.errors import StoreError

SCHEMA_VERSION = 1

_TEXT = pa.string()
_LAYER = pa.int16()
_NEURON = pa.int32()
_COUNT = pa.int32()
_SCORE = pa.float32()
_FLAG = pa.bool_()
_TOKENS = pa.list_(pa.struct([pa.field("token", pa.string()), pa.field("logit", pa.float32())]))

_RELATION_ID = ("relation_id", _TEXT, "Wikidata property id of the relation, such as P36.")
_FACT_ID = ("fact_id", _TEXT, "Identifier of the fact, unique within the data set.")
_TEMPLATE_ID = ("template_id", _TEXT, "Identifier of the template the prompt was made from.")
_LAYER_COLUMN = ("layer", _LAYER, "Layer of the neuron, counted from 0.")
_NEURON_COLUMN = ("neuron", _NEURON, "Index of the neuron among the inputs of its layer's down-projection.")

# Table → (sentence, sort keys, columns as (name, type, sentence)).
_DEFINITIONS: dict[str, tuple[str, tuple[str, ...], tuple[tuple[str, pa.DataType, str], ...]]] = {
    "relations": (
        "One row a relation that has facts in this atlas.",
        ("relation_id",),
        (
            _RELATION_ID,
            ("label", _TEXT, "The relation in words, such as 'capital'."),
            ("n_facts", _COUNT, "Number of the relation's facts in this atlas."),
            ("n_templates", _COUNT, "Number of templates this model can be asked with."),
        ),
    ),
    "facts": (
        "One row a fact, with how well the model knows it.",
        ("fact_id",),
        (
            _FACT_ID,
            _RELATION_ID,
            ("subject", _TEXT, "Whom or what the fact is about."),
            ("object", _TEXT, "The answer the prompts ask for."),
            ("n_prompts", _COUNT, "Number of the fact's prompts, held-out ones included."),
            ("n_neurons", _COUNT, "Number of its knowledge neurons after refinement."),
            ("known", _FLAG, "Whether the answer has rank 1 on more than half of the fact's prompts."),
            ("mean_probability", _SCORE, "Mean probability of the answer over the fact's prompts."),
        ),
    ),
    "prompts": (
        "One row a prompt: what the model answered, and the certificate of its attribution.",
        ("fact_id", "template_id"),
        (
            _FACT_ID,
            _TEMPLATE_ID,
            ("text", _TEXT, "The sentence with its subject filled in and [Y] where the answer goes."),
            ("held_out", _FLAG, "Whether the prompt is kept for evaluation and finds no neurons."),
            ("probability", _SCORE, "Probability of the answer: the product over its tokens."),
            ("rank", _COUNT, "Rank of the answer's worst token; 1 when greedy decoding says the answer."),
            ("top_token", _TEXT, "The model's most likely token at the first answer position."),
            ("top_probability", _SCORE, "Probability of that token."),
            (
                "max_gap",
                _SCORE,
                "Largest completeness gap |Σ score − (P(1) − P(0))| over answer tokens and layers, relative "
                "to its token's largest |score|; null where the prompt was not attributed.",
            ),
            (
                "n_points",
                _COUNT,
                "Path evaluations spent, summed over answer tokens and layers; null where not attributed.",
            ),
            (
                "converged",
                _FLAG,
                "Whether every path met the tolerance (n_unconverged is 0); null where not attributed.",
            ),
            ("n_answer_tokens", _LAYER, "Number of tokens of the answer."),
            (
                "max_score",
                _SCORE,
                "Largest attribution score of the prompt, the unit of every threshold; a prompt whose "
                "largest score is not positive has no coarse neurons; null where not attributed.",
            ),
            ("n_layers", _LAYER, "Number of layers attributed; null where not attributed."),
            (
                "n_unconverged",
                _COUNT,
                "Number of (answer token, layer) paths outside the tolerance; null where not attributed.",
            ),
        ),
    ),
    "attributions": (
        "One row a (prompt, neuron) whose score is at least a tenth of the prompt's largest.",
        ("fact_id", "template_id", "layer", "neuron"),
        (
            _FACT_ID,
            _TEMPLATE_ID,
            _LAYER_COLUMN,
            _NEURON_COLUMN,
            ("score", _SCORE, "Attribution score: the neuron's share of P(1) − P(0), mean over tokens."),
        ),
    ),
    "knowledge_neurons": (
        "One row a (fact, neuron) that survived refinement.",
        ("fact_id", "layer", "neuron"),
        (
            _FACT_ID,
            _RELATION_ID,
            _LAYER_COLUMN,
            _NEURON_COLUMN,
            ("share", _SCORE, "Share of the fact's discovery prompts in which the neuron is coarse."),
            ("mean_score", _SCORE, "Mean score over the discovery prompts where the score was stored."),
            ("max_score", _SCORE, "Largest stored score over the discovery prompts."),
        ),
    ),
    "neurons": (
        "One row a neuron that is a knowledge neuron of at least one fact.",
        ("layer", "neuron"),
        (
            _LAYER_COLUMN,
            _NEURON_COLUMN,
            ("n_facts", _COUNT, "Number of facts it is a knowledge neuron of."),
            ("n_relations", _COUNT, "Number of relations those facts belong to."),
            ("value_norm", _SCORE, "Euclidean norm of its value vector, its row of the down-projection."),
            ("promoted", _TOKENS, "Tokens its value vector raises most, with their logits."),
            ("suppressed", _TOKENS, "Tokens its value vector lowers most, with their logits."),
        ),
    ),
    "activating_prompts": (
        "One row a prompt on which a neuron is most (top) or least (bottom) active.",
        ("layer", "neuron", "side", "rank"),
        (
            _LAYER_COLUMN,
            _NEURON_COLUMN,
            ("side", _TEXT, "'top' for the largest activations, 'bottom' for the smallest."),
            ("rank", _LAYER, "Place on that side, from 1."),
            _FACT_ID,
            _TEMPLATE_ID,
            ("activation", _SCORE, "The neuron's activation at the first answer position."),
        ),
    ),
    "effects": (
        "One row a (fact, prompt, intervention, group): the answer's probability before and after.",
        ("fact_id", "prompt_fact_id", "template_id", "intervention", "group"),
        (
            ("fact_id", _TEXT, "The fact whose knowledge neurons (or their random match) were changed."),
            (
                "prompt_fact_id",
                _TEXT,
                "The fact the prompt asks for: fact_id itself, except in the group 'unrelated'.",
            ),
            ("template_id", _TEXT, "Template of the prompt."),
            ("intervention", _TEXT, "'suppress' (activation × 0) or 'amplify' (activation × 2)."),
            (
                "group",
                _TEXT,
                "'own': the fact's neurons; 'random': as many of the same layers; 'unrelated': its neurons, "
                "on a prompt of a fact that differs in relation and object.",
            ),
            ("held_out", _FLAG, "Whether the prompt's template was held out of discovery."),
            ("n_neurons", _COUNT, "Number of neurons that were changed."),
            ("p_before", _SCORE, "Probability of the prompt's answer without the intervention."),
            ("p_after", _SCORE, "Probability of the prompt's answer with it."),
            ("rank_before", _COUNT, "Rank of the answer without it."),
            ("rank_after", _COUNT, "Rank of the answer with it."),
        ),
    ),
}

# View of views.sql → (sentence, columns as (name, sentence)); their types follow from the tables.
DERIVED_VIEWS: dict[str, tuple[str, tuple[tuple[str, str], ...]]] = {
    "neuron_facts": (
        "One row a (fact, neuron): knowledge_neurons with the fact in words.",
        (
            ("layer", _LAYER_COLUMN[2]),
            ("neuron", _NEURON_COLUMN[2]),
            ("fact_id", _FACT_ID[2]),
            ("relation_id", _RELATION_ID[2]),
            ("label", "The relation in words, such as 'capital'."),
            ("subject", "Whom or what the fact is about."),
            ("object", "The answer the prompts ask for."),
            ("known", "Whether the answer has rank 1 on more than half of the fact's prompts."),
            ("share", "Share of the fact's discovery prompts in which the neuron is coarse."),
            ("mean_score", "Mean score over the discovery prompts where the score was stored."),
            ("max_score", "Largest stored score over the discovery prompts."),
        ),
    ),
    "relation_neurons": (
        "One row a (relation, neuron) of at least one of its facts, most shared first.",
        (
            ("relation_id", _RELATION_ID[2]),
            ("layer", _LAYER_COLUMN[2]),
            ("neuron", _NEURON_COLUMN[2]),
            ("n_facts", "Number of the relation's facts that have the neuron."),
            ("relation_share", "n_facts over all facts of the relation."),
            ("mean_share", "Mean of share over those facts."),
            ("mean_score", "Mean of mean_score over those facts."),
        ),
    ),
    "relation_overlap": (
        "One row a pair of relations, in both orders and with itself.",
        (
            ("relation_a", "Id of the one relation."),
            ("relation_b", "Id of the other relation, or the same."),
            ("within", "Whether both are the same relation."),
            ("n_pairs", "Number of pairs of two different facts, one of each."),
            ("mean_shared", "Mean number of neurons that two facts of a pair have in common."),
        ),
    ),
    "hub_neurons": (
        "One row a neuron of facts in more than one relation, those of most relations first.",
        (
            ("layer", _LAYER_COLUMN[2]),
            ("neuron", _NEURON_COLUMN[2]),
            ("n_facts", "Number of facts that have the neuron."),
            ("n_relations", "Number of relations those facts belong to."),
            ("fact_share", "n_facts over all facts that have neurons."),
        ),
    ),
    "layer_histogram": (
        "One row a layer that has knowledge neurons.",
        (
            ("layer", "Layer, counted from 0."),
            ("n_pairs", "Number of (fact, neuron) pairs in the layer."),
            ("n_neurons", "Number of different neurons."),
            ("n_facts", "Number of different facts."),
            ("pair_share", "n_pairs over the pairs of all layers."),
        ),
    ),
}

# An atlas without one of these is none; the others may be absent and then read as empty.
REQUIRED_TABLES = ("relations", "facts", "knowledge_neurons")

SORT_KEYS: dict[str, tuple[str, ...]] = {name: keys for name, (_, keys, _) in _DEFINITIONS.items()}

TABLES: dict[str, pa.Schema] = {
    name: pa.schema(
        [pa.field(column, kind, metadata={"description": text}) for column, kind, text in columns],
        metadata={"description": sentence, "schema_version": str(SCHEMA_VERSION)},
    )
    for name, (sentence, _, columns) in _DEFINITIONS.items()
}


def describe(table: str, column: str | None = None) -> str:
    """The sentence of a table, or of one of its columns."""
    schema = TABLES[table]
    metadata = schema.metadata if column is None else schema.field(column).metadata
    return metadata[b"description"].decode()


def empty_table(table: str) -> pa.Table:
    """A table of no rows with the right columns."""
    return TABLES[table].empty_table()


def difference(table: str, found: pa.Schema) -> str | None:
    """What is wrong with a file's columns, in a few words; None when they fit.

    Names, order and types count; descriptions and nullability do not.
    """
    wanted = TABLES[table]
    missing = [name for name in wanted.names if name not in found.names]
    if missing:
        return f"the column {missing[0]} is missing"
    foreign = [name for name in found.names if name not in wanted.names]
    if foreign:
        return f"the column {foreign[0]} does not belong there"
    for field in wanted:
        kind = found.field(field.name).type
        if not _same_type(kind, field.type):
            return f"the column {field.name} has type {kind} and should have {field.type}"
    if list(found.names) != list(wanted.names):
        return f"its columns are not in the order {', '.join(wanted.names)}"
    return None


def _same_type(found: pa.DataType, wanted: pa.DataType) -> bool:
    """Equal but for the name Parquet gives to a list's items ('item' or 'element')."""
    if pa.types.is_list(wanted):
        return pa.types.is_list(found) and _same_type(found.value_type, wanted.value_type)
    if pa.types.is_struct(wanted):
        return (
            pa.types.is_struct(found)
            and [f.name for f in found] == [f.name for f in wanted]
            and all(_same_type(a.type, b.type) for a, b in zip(found, wanted, strict=True))
        )
    return found.equals(wanted)


def conform(table: str, rows) -> pa.Table:
    """`rows` (a pyarrow Table, a pandas DataFrame or a list of dicts) as the table's own type.

    Columns are put in order and cast without loss of range, absent ones become null, rows are sorted
    by the table's keys. Raises `StoreError` for a column the table does not have or a value that
    does not fit.
    """
    schema = TABLES[table]
    try:
        if isinstance(rows, list):
            rows = pa.Table.from_pylist(rows) if rows else schema.empty_table()
        elif not isinstance(rows, pa.Table):
            rows = pa.Table.from_pandas(rows, preserve_index=False)
        foreign = [name for name in rows.column_names if name not in schema.names]
        if foreign:
            raise StoreError(
                f"The table {table} has no column {foreign[0]}. It has: {', '.join(schema.names)}."
            )
        columns = [
            rows[f.name].cast(f.type, safe=not pa.types.is_floating(f.type))
            if f.name in rows.column_names
            else pa.nulls(rows.num_rows, f.type)
            for f in schema
        ]
    except pa.ArrowException as error:
        raise StoreError(f"Rows do not fit the table {table}: {error}. Compare atlas/schema.py.") from error
    ordered = pa.table(columns, schema=schema)
    return ordered.sort_by([(key, "ascending") for key in SORT_KEYS[table]])
