"""An answer's rows for the page; values stay in Arrow, because millions of them fit into a few megabytes.

shown(table)                                 # lists of tokens as text; everything else as it is
frame = drawable(table)                      # for pandas: columns of numbers and texts
choice(table, 3)                             # what names the fact, relation and neuron of a row
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from app.shared.words import NOT_MEASURED, shown_token
from atlas.store.sql import frame_of

LINKED = ("fact_id", "relation_id", "layer", "neuron")


def shown(table: pa.Table) -> pa.Table:
    """The rows with lists of tokens and logits, such as those of `neurons.promoted`, as text."""
    for place, column in enumerate(table.columns):
        tokens = _tokens(column)
        if tokens is not None:
            table = table.set_column(place, table.column_names[place], _listed(column, tokens))
    return table


def _tokens(column: pa.ChunkedArray) -> pa.Array | None:
    """The tokens of all lists of a column, one after the other; None where it has other values."""
    kind = column.type
    if not pa.types.is_list(kind) or not pa.types.is_struct(kind.value_type):
        return None
    if kind.value_type.get_field_index("token") < 0:
        return None
    tokens = pc.struct_field(pc.list_flatten(column), "token").combine_chunks()
    return tokens if pa.types.is_string(tokens.type) and len(tokens) > tokens.null_count == 0 else None


def _listed(column: pa.ChunkedArray, tokens: pa.Array) -> pa.Array:
    """Each list as a text: its tokens with commas between them."""
    words = tokens.dictionary_encode()
    texts = pa.array(map(shown_token, words.dictionary.to_pylist()), pa.string()).take(words.indices)
    lengths = pc.list_value_length(column).combine_chunks()
    ends = np.cumsum(lengths.fill_null(0))
    lists = pa.ListArray.from_arrays(pa.array([0, *ends], pa.int32()), texts)
    joined = pc.if_else(pc.equal(lengths, 0), NOT_MEASURED, pc.binary_join(lists, ", "))
    return pc.if_else(lengths.is_null(), pa.scalar(None, pa.string()), joined)


def drawable(table: pa.Table) -> pd.DataFrame:
    """The columns that a chart can show: no lists, structs or decimals."""
    flat = [
        field.name
        for field in table.schema
        if not pa.types.is_nested(field.type) and not pa.types.is_decimal(field.type)
    ]
    return frame_of(table.select(flat))


def choice(table: pa.Table, place: int) -> dict[str, Any]:
    """The values of one row that links need."""
    names = [name for name in LINKED if name in table.column_names]
    return table.select(names).slice(place, 1).to_pylist()[0]
