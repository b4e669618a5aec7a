"""Consistency: have the wordings of a fact the same coarse neurons? Of stored scores alone, without a model.

Chen et al. (*Knowledge Localization: Mission Not Accomplished? Enter Query Localization!*, ICLR 2025): if a
fact lies in neurons, each way to ask for it should find them; of many facts, each finds others.

1. *Coarse* neurons of each discovery prompt, by the threshold of the atlas's rule.
2. *Overlap*: the Jaccard index of two prompts' coarse neurons, for each pair of a fact's prompts; none where
   neither has any. Its mean is the fact's consistency.
3. *Inconsistent* is a fact below `critics.INCONSISTENT`. (They take thresholds of a score of all wordings at
   once, so that shares are not to be compared with theirs number by number.)

As a control, the same of two facts of a relation that have other answers, in two wordings: `other_facts`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from atlas.queries import critics
from atlas.store.manifest import file_name
from atlas.store.schema import TABLES, conform
from build.evidence.evaluate import RECORD
from build.output.check import rule_of
from build.output.tables import with_column
from build.output.writer import read_parquet, with_metadata

if TYPE_CHECKING:
    from atlas.store.atlas import Atlas
    from build.evidence.setting import Setting

SHARD = pa.schema([TABLES["facts"].field(name) for name in ("fact_id", "consistency")])

# Prompts go by numbers p.
_COARSE = """
    WITH asked AS (
        SELECT row_number() OVER (ORDER BY fact_id, template_id) AS p, fact_id, template_id, max_score
        FROM prompts WHERE NOT held_out AND max_score IS NOT NULL
    ),
    coarse AS (
        SELECT p, layer, neuron FROM attributions JOIN asked USING (fact_id, template_id)
        WHERE max_score > 0 AND score::DOUBLE {comparison} $threshold * max_score::DOUBLE
    ),
    sizes AS (SELECT p, count(*) AS size FROM coarse GROUP BY p),
    pairs AS ({pairs}),
    common AS (
        SELECT pairs.a, pairs.b, count(*) AS n
        FROM pairs JOIN coarse AS one ON one.p = pairs.a
        JOIN coarse AS other ON other.p = pairs.b AND other.layer = one.layer AND other.neuron = one.neuron
        GROUP BY pairs.a, pairs.b
    ),
    alike AS (
        SELECT pairs.fact_id, coalesce(n, 0)
               / nullif(coalesce(x.size, 0) + coalesce(y.size, 0) - coalesce(n, 0), 0) AS overlap
        FROM pairs LEFT JOIN common USING (a, b)
        LEFT JOIN sizes AS x ON x.p = pairs.a LEFT JOIN sizes AS y ON y.p = pairs.b
    )
    SELECT fact_id, avg(overlap) AS overlap FROM alike GROUP BY fact_id ORDER BY fact_id
"""
_OWN = """
    SELECT fact_id, x.p AS a, y.p AS b FROM asked AS x JOIN asked AS y USING (fact_id) WHERE x.p < y.p
"""
# Each fact with the next one of its relation, in the order of the ids, that has another answer.
_OTHER = """
    SELECT x.fact_id, x.p AS a, y.p AS b
    FROM (
        SELECT one.fact_id, min(other.fact_id) AS next
        FROM facts AS one JOIN facts AS other ON one.relation_id = other.relation_id
            AND one.fact_id < other.fact_id AND lower(trim(one.object)) <> lower(trim(other.object))
        GROUP BY one.fact_id
    ) JOIN asked AS x USING (fact_id)
    JOIN asked AS y ON y.fact_id = next AND x.template_id <> y.template_id
"""


def units(setting: Setting) -> list[str]:
    """One: the whole atlas. Facts that experiments leave out have a consistency, too."""
    return ["facts"]


def measure(setting: Setting, unit: str) -> pa.Table:
    found = overlaps(setting.atlas, _OWN)
    return found.rename_columns(["fact_id", "consistency"])


def overlaps(atlas: Atlas, pairs: str) -> pa.Table:
    """fact_id and the mean Jaccard index of the pairs of prompts, null where none has a coarse neuron."""
    rule = rule_of(atlas.manifest)
    sql = _COARSE.format(comparison=">=" if rule.inclusive else ">", pairs=pairs)
    return pa.Table.from_pandas(atlas.query(sql, {"threshold": rule.threshold}), preserve_index=False)


def tables(setting: Setting, rows: pa.Table) -> dict[str, pa.Table]:
    """The table `facts` with the column; the control is noted in its schema."""
    facts = conform("facts", read_parquet(setting.atlas.path / file_name("facts")))
    found: dict[str, Any] = dict(zip(*(rows[name].to_pylist() for name in SHARD.names), strict=True))
    values = pa.array([found.get(fact_id) for fact_id in facts["fact_id"].to_pylist()], pa.float32())
    others = overlaps(setting.atlas, _OTHER)["overlap"].to_numpy(zero_copy_only=False).astype(float)
    others = others[~np.isnan(others)]
    notes = {"other_facts": round(float(others.mean()), 4) if len(others) else None}
    return {"facts": with_metadata(with_column(facts, "consistency", values), **notes)}


def summary(atlas: Atlas) -> list[str]:
    lines = [
        f"{row.facts} facts ({row.n_facts:,}): two wordings' coarse neurons have a Jaccard index of "
        f"{row.mean:.3f} [{row.low:.3f}, {row.high:.3f}]; inconsistent (below {critics.INCONSISTENT:g}) are "
        f"{row.inconsistent:.1%} [{row.inconsistent_low:.1%}, {row.inconsistent_high:.1%}]"
        for row in critics.consistency(atlas).itertuples()
    ]
    others = atlas.manifest.method.options.get(RECORD, {}).get("consistency", {}).get("other_facts")
    if lines and others is not None:
        lines.append(f"two facts of a relation with other answers, in two wordings: {others:.3f}")
    return lines or ["no fact has two attributed discovery prompts"]
