"""Is an atlas what its manifest says? Files, rows, certificates, and the refinement done again.

    result = check_atlas(Path("atlas/data/starter-pocket-bert"))
    result.problems          # sentences; none for a sound atlas
    result.warnings          # such as fewer than 99 % of the paths converged

`python -m build run` checks its tables in the same way before it writes their manifest.

1. Manifest, sizes, columns and sha256 of every file (`atlas.store.manifest.verify`); no links or pipes.
2. Rows: each check below is a query that counts the rows that contradict it.
3. Certificates: the share of (answer token, layer) paths that met the tolerance.
4. Knowledge neurons: found again from the stored scores, they must be the stored ones.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path

import duckdb

from atlas import refinement
from atlas.errors import AtlasError, BuildError
from atlas.store.manifest import Manifest, file_name, verify
from atlas.store.schema import SORT_KEYS, TABLES
from build.output.summary import converged_share, open_tables
from build.output.writer import check_entries, read_parquet

CONVERGED_SHARE = 0.99
_ROUNDING = 1e-5
# Where a null is a value of the key: a refinement that fits its share to each relation has none.
# Imported results do not say which fact was the unrelated one.
NULL_KEYS = {("statistics", "share"), ("effects", "prompt_fact_id")}


def _not_shares(*columns: str) -> str:
    """Whether one of the columns is outside 0 to 1."""
    names = ", ".join(columns)
    return f"(NOT (least({names}) >= 0) OR NOT (greatest({names}) <= 1 + {_ROUNDING}))"


# What {n} rows do: the rows, as a query after SELECT count(*).
_ROW_CHECKS = {
    "{n} scores are not numbers or not positive": """
        FROM attributions WHERE score IS NULL OR NOT isfinite(score) OR score <= 0""",
    "{n} scores are above their prompt's largest": f"""
        FROM attributions JOIN prompts USING (fact_id, template_id)
        WHERE score > max_score * (1 + {_ROUNDING})""",
    "{n} scores are below the stored share of their prompt's largest": f"""
        FROM attributions JOIN prompts USING (fact_id, template_id)
        WHERE score < max_score * $stored_fraction * (1 - {_ROUNDING})""",
    "{n} scores belong to no attributed prompt": """
        FROM attributions LEFT JOIN prompts USING (fact_id, template_id) WHERE max_score IS NULL""",
    "{n} prompts lack their largest score": f"""
        FROM prompts LEFT JOIN
            (SELECT fact_id, template_id, max(score) AS largest FROM attributions GROUP BY ALL)
            USING (fact_id, template_id)
        WHERE max_score > 0 AND (largest IS NULL OR abs(largest - max_score) > {_ROUNDING} * max_score)""",
    "{n} prompts have a probability outside 0 to 1": f"""
        FROM prompts WHERE {_not_shares("probability", "top_probability")}""",
    "{n} prompts have a rank below 1": """
        FROM prompts WHERE NOT (rank >= 1)""",
    "{n} prompts are attributed and lack a part of their certificate": """
        FROM prompts WHERE max_score IS NOT NULL
        AND (SELECT count(max_gap) FROM prompts) > 0 AND  -- imported scores have none
           (max_gap IS NULL OR n_points IS NULL OR converged IS NULL OR n_unconverged IS NULL
            OR n_layers IS NULL OR NOT isfinite(max_score) OR converged <> (n_unconverged = 0))""",
    "{n} prompts are called converged with a gap above the tolerance": f"""
        FROM prompts WHERE converged AND max_gap > $tolerance * (1 + {_ROUNDING})""",
    "{n} prompts belong to no fact": """
        FROM prompts ANTI JOIN facts USING (fact_id)""",
    "{n} facts disagree with their prompts (n_prompts, known, mean_probability, n_answer_tokens)": """
        FROM facts JOIN
            (SELECT fact_id, count(*) AS n, count(*) FILTER (rank = 1) AS n_first, avg(probability) AS mean,
                    count(rank) AS n_ranked, max(n_answer_tokens) AS n_tokens
             FROM prompts GROUP BY fact_id) USING (fact_id)
        WHERE n <> n_prompts OR n_tokens <> n_answer_tokens OR (n_ranked > 0 AND known <> (n_first * 2 > n))
        OR abs(mean - mean_probability) > 1e-5""",
    "{n} prompts differ from what their template makes, or from its side of the split": """
        FROM prompts AS p JOIN facts AS f USING (fact_id)
            JOIN templates AS t ON t.relation_id = f.relation_id AND t.template_id = p.template_id
        WHERE p.text <> replace(t.text, '[X]', f.subject) OR p.held_out <> t.held_out""",
    "{n} prompts are of no template of their relation": """
        FROM prompts JOIN facts USING (fact_id) ANTI JOIN templates USING (relation_id, template_id)""",
    "{n} templates lack one [X] and one [Y]": """
        FROM templates
        WHERE len(string_split(text, '[X]')) <> 2 OR len(string_split(text, '[Y]')) <> 2""",
    "{n} relations have a wrong number of templates": """
        FROM relations FULL JOIN
            (SELECT relation_id, count(*) AS n FROM templates GROUP BY relation_id) USING (relation_id)
        WHERE n IS DISTINCT FROM n_templates""",
    "{n} relations have a wrong number of facts": """
        FROM relations FULL JOIN
            (SELECT relation_id, count(*) AS n FROM facts GROUP BY relation_id) USING (relation_id)
        WHERE n IS DISTINCT FROM n_facts""",
    "{n} facts have a wrong number of knowledge neurons": """
        FROM facts FULL JOIN
            (SELECT fact_id, count(*) AS n FROM knowledge_neurons GROUP BY fact_id) USING (fact_id)
        WHERE coalesce(n, 0) IS DISTINCT FROM n_neurons""",
    "{n} knowledge neurons are outside the model": """
        FROM knowledge_neurons
        WHERE layer < 0 OR neuron < 0 OR layer >= $n_layers OR neuron >= $n_neurons""",
    "{n} knowledge neurons have no mean activation where others have one, or no number": """
        FROM knowledge_neurons WHERE NOT isfinite(mean_activation)
        OR mean_activation IS NULL AND (SELECT count(mean_activation) FROM knowledge_neurons) > 0""",
    "{n} neurons have a wrong number of facts": """
        FROM neurons FULL JOIN
            (SELECT layer, neuron, count(DISTINCT fact_id) AS f, count(DISTINCT relation_id) AS r
             FROM knowledge_neurons GROUP BY layer, neuron) USING (layer, neuron)
        WHERE f IS DISTINCT FROM n_facts OR r IS DISTINCT FROM n_relations""",
    "{n} neurons have a label without a score from 0 to 1, or a score without a label": f"""
        FROM neurons WHERE (label IS NULL) <> (label_score IS NULL) OR {_not_shares("label_score")}""",
    "{n} neurons are called mixed in sign, or not, against their mean activations": """
        FROM neurons JOIN
            (SELECT layer, neuron, count(*) AS n, count(*) FILTER (mean_activation > 0) AS n_above,
                    count(*) FILTER (mean_activation < 0) AS n_below
             FROM knowledge_neurons GROUP BY layer, neuron) USING (layer, neuron)
        WHERE sign_mixed <> (10 * least(n_above, n_below) >= n)""",
    "{n} activating prompts belong to no knowledge neuron or have no activation": """
        FROM activating_prompts LEFT JOIN neurons USING (layer, neuron)
        WHERE n_facts IS NULL OR activation IS NULL OR NOT isfinite(activation)""",
    "{n} activating prompts have other activations at their tokens": """
        FROM activating_prompts WHERE tokens IS NOT NULL
        AND (len(activations) IS DISTINCT FROM len(tokens) OR NOT answer_position < len(tokens)
             OR NOT coalesce(abs(activations[answer_position + 1] - activation)
                             <= 0.01 * abs(activation) + 1e-4, false))""",
    "{n} neurons have two activating prompts of a fact, or four of a relation": """
        FROM (SELECT 1 FROM activating_prompts JOIN facts USING (fact_id) WHERE tokens IS NOT NULL
              GROUP BY layer, neuron, side, relation_id
              HAVING count(*) > 3 OR count(DISTINCT fact_id) < count(*))""",
    "{n} rows of the lens have a probability outside 0 to 1, a rank below 1 or no prompt": f"""
        FROM lens LEFT JOIN prompts AS p USING (fact_id, template_id)
        WHERE p.text IS NULL OR NOT lens.rank >= 1 OR {_not_shares("lens.probability")}""",
    "{n} prompts lack a layer in the lens": """
        FROM (SELECT count(*) AS n, min(layer) AS first, max(layer) AS last
              FROM lens GROUP BY fact_id, template_id)
        WHERE n <> $n_layers OR first <> 0 OR last <> $n_layers - 1""",
    "{n} prompts end the lens with another probability than the model's": """
        FROM lens JOIN prompts AS p USING (fact_id, template_id)
        WHERE layer = $n_layers - 1 AND n_answer_tokens = 1
        AND abs(lens.probability - p.probability) > 1e-4""",
    "{n} effects have a probability outside 0 to 1": f"""
        FROM effects WHERE {_not_shares("p_before", "p_after")}""",
    "{n} effects have a change that is no number or below -1, or probabilities beside it": """
        FROM effects WHERE change IS NOT NULL
        AND (NOT isfinite(change) OR change < -1 OR coalesce(p_before, p_after) IS NOT NULL)""",
    "{n} effects do not start from their prompt's probability": """
        FROM (SELECT * FROM effects WHERE change IS NULL) AS e LEFT JOIN prompts AS p
            ON p.fact_id = e.prompt_fact_id AND p.template_id = e.template_id
        WHERE p.probability IS NULL OR abs(p.probability - e.p_before) > 1e-5 OR p.held_out <> e.held_out""",
    "{n} effects are on facts of another group than they say": """
        FROM effects AS e JOIN facts AS a ON a.fact_id = e.fact_id
            JOIN facts AS b ON b.fact_id = e.prompt_fact_id
        WHERE CASE WHEN a.fact_id = b.fact_id THEN e."group" = 'unrelated' OR starts_with(e."group", 'same_')
            ELSE e."group" <> CASE WHEN a.relation_id <> b.relation_id AND lower(a.object) <> lower(b.object)
                THEN 'unrelated' ELSE concat_ws('_',
                    CASE WHEN a.relation_id = b.relation_id THEN 'same_relation' END,
                    CASE WHEN lower(a.object) = lower(b.object) THEN 'same_answer' END) END END""",
    "{n} controls have another number of neurons than the effects that changed them": """
        FROM (SELECT DISTINCT fact_id, "group", n_neurons FROM effects
              WHERE "group" IN ('random', 'matched', 'contribution_matched', 'baseline')) AS e
        FULL JOIN (SELECT fact_id, "group", count(*) AS n FROM control_neurons GROUP BY ALL) AS c
            USING (fact_id, "group")
        WHERE n_neurons IS DISTINCT FROM n""",
    "{n} control neurons are outside the model or, random or matched, in another layer than the fact's": """
        FROM control_neurons AS c WHERE layer >= $n_layers OR neuron >= $n_neurons OR layer < 0 OR neuron < 0
        OR "group" <> 'baseline' AND NOT EXISTS (
            FROM knowledge_neurons AS k WHERE k.fact_id = c.fact_id AND k.layer = c.layer)""",
    "{n} generations are of no known group, of an unknown fact, or of a wrong number of neurons": """
        FROM generations AS g LEFT JOIN facts AS f USING (fact_id)
        WHERE "group" NOT IN ('unchanged', 'own', 'random', 'unrelated') OR known IS DISTINCT FROM true
        OR text IS NULL OR CASE "group" WHEN 'unchanged' THEN g.n_neurons <> 0
            WHEN 'random' THEN g.n_neurons NOT BETWEEN 1 AND f.n_neurons
            ELSE g.n_neurons <> f.n_neurons END""",
    "{n} generations are on the wrong fact's prompt": """
        FROM generations AS g JOIN facts AS a ON a.fact_id = g.fact_id
            JOIN facts AS b ON b.fact_id = g.prompt_fact_id
        WHERE CASE WHEN "group" = 'unrelated'
            THEN a.relation_id = b.relation_id OR lower(a.object) = lower(b.object)
            ELSE a.fact_id <> b.fact_id END""",
    "{n} edits have a probability outside 0 to 1 or a rank below 1": f"""
        FROM edits WHERE {_not_shares("p_old_before", "p_old_after", "p_new_before", "p_new_after")}
        OR NOT least(rank_old_before, rank_old_after, rank_new_before, rank_new_after) >= 1""",
    "{n} edits are of no known kind or group": """
        FROM edits WHERE "group" NOT IN ('own', 'all', 'random', 'random_all') OR kind NOT IN
            ('edited', 'paraphrase', 'same_object', 'same_relation', 'other_relation', 'symmetry')""",
    "{n} edits have prompts of the wrong relation, or with the old or the new answer": """
        FROM edits AS e JOIN facts AS a ON a.fact_id = e.fact_id
            JOIN facts AS b ON b.fact_id = e.prompt_fact_id
        WHERE kind IN ('same_relation', 'other_relation')
            AND (lower(b.object) IN (lower(a.object), lower(e.new_object))
                 OR (a.relation_id = b.relation_id) <> (kind = 'same_relation'))
        OR kind = 'same_object' AND NOT (a.relation_id = b.relation_id AND a.fact_id <> b.fact_id
                                         AND lower(trim(a.object)) = lower(trim(b.object)))""",
    "{n} erasures have an accuracy or a probability outside 0 to 1, or a perplexity below 1": f"""
        FROM erasures WHERE {_not_shares("accuracy_before", "accuracy_after", "mean_before", "mean_after")}
        OR NOT (least(perplexity_before, perplexity_after) >= 1 - {_ROUNDING})
        OR NOT (isfinite(perplexity_before) AND isfinite(perplexity_after))""",
    "{n} erasures have no dose, no prompts or no known group": """
        FROM erasures WHERE NOT (n_neurons >= 1 AND n_prompts >= 1) OR "group" NOT IN ('own', 'random')""",
    "{n} contexts lack an activation, or have a wrong number of neurons or sentences": f"""
        FROM contexts AS c LEFT JOIN facts AS f USING (fact_id)
        WHERE activation IS NULL OR magnitude IS NULL OR NOT isfinite(magnitude)
        OR abs(activation) > magnitude * (1 + {_ROUNDING}) OR NOT isfinite(coalesce(relative, 0))
        OR c.n_neurons IS NULL OR NOT (c.n_neurons BETWEEN 1 AND f.n_neurons)
        OR f.n_neurons IS NULL OR (c."group" = 'own' AND c.n_neurons <> f.n_neurons)
        OR c.n_prompts IS NULL OR c.n_prompts < 1""",
    "{n} subsets have a probability outside 0 to 1": f"""
        FROM subsets WHERE p_before IS NULL OR p_after IS NULL OR {_not_shares("p_before", "p_after")}""",
    "{n} orders of a fact's neurons do not go from 1 to all of them": """
        FROM (SELECT fact_id, min(k) AS first, max(k) AS last, min(n_neurons) AS least, max(n_neurons) AS most
              FROM subsets GROUP BY fact_id, "order") LEFT JOIN facts USING (fact_id)
        WHERE first IS DISTINCT FROM 1 OR last IS DISTINCT FROM n_neurons
        OR least IS DISTINCT FROM n_neurons OR most IS DISTINCT FROM n_neurons""",
    "{n} subsets do not start from the mean probability of their fact's held-out prompts": """
        FROM subsets LEFT JOIN
            (SELECT fact_id, avg(probability) AS mean FROM prompts WHERE held_out GROUP BY fact_id)
            USING (fact_id)
        WHERE mean IS NULL OR abs(mean - p_before) > 1e-5""",
    "{n} facts have a consistency outside 0 to 1": f"""
        FROM facts WHERE {_not_shares("consistency")}""",
    "{n} rows of synonymy have a probability outside 0 to 1, a rank below 1, or no known group": f"""
        FROM synonymy WHERE {_not_shares("p_old_before", "p_old_after", "p_new_before", "p_new_after")}
        OR NOT least(rank_old_before, rank_old_after, rank_new_before, rank_new_after) >= 1
        OR "group" NOT IN ('own', 'all', 'random')""",
    "{n} rows of synonymy take the subject for a synonym, or a synonym for the subject": """
        FROM synonymy LEFT JOIN facts USING (fact_id) WHERE synonym IS DISTINCT FROM (asked <> subject)""",
    "{n} rows of grammar have a probability outside 0 to 1, a rank below 1, or no known change": f"""
        FROM grammar WHERE {_not_shares("p_good_before", "p_good_after", "p_bad_before", "p_bad_after")}
        OR NOT least(rank_good_before, rank_good_after, rank_bad_before, rank_bad_after) >= 1
        OR intervention NOT IN ('none', 'suppress', 'edit')
        OR "group" NOT IN ('own', 'random') AND intervention <> 'none'""",
    "{n} rows of grammar change neurons of pairs that are not known, or on discovery wordings": """
        FROM grammar WHERE intervention <> 'none' AND NOT (coalesce(known, false) AND held_out)""",
}
_TABLE = re.compile(r"\b(?:FROM|JOIN) (\w+)\b")


@dataclass(frozen=True)
class CheckResult:
    """What `check_atlas` found."""

    folder: Path
    manifest: Manifest | None = None
    converged: float | None = None
    problems: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)

    @property
    def passed(self) -> bool:
        return not self.problems

    def __str__(self) -> str:
        lines = [f"{self.folder}: {'ok' if self.passed else 'not ok'}"]
        if self.passed and self.manifest is not None:
            rows = sum(record.rows for record in self.manifest.files.values())
            size = sum(record.bytes for record in self.manifest.files.values())
            lines.append(f"  {len(self.manifest.files)} tables, {rows:,} rows, {size / 1e6:,.1f} MB")
            if self.converged is not None:
                lines.append(f"  {self.converged:.2%} of the (answer token, layer) paths converged")
        lines += [f"  warning: {warning}" for warning in self.warnings]
        lines += [f"  {problem}" for problem in self.problems]
        return "\n".join(lines)


def check_atlas(folder: Path) -> CheckResult:
    """Every check that this atlas's tables allow; a broken atlas gives problems, never an error."""
    try:
        manifest = verify(folder)
        check_entries(folder)
    except AtlasError as error:
        return CheckResult(folder, problems=[str(error)])
    return check_rows(folder, manifest)


def check_rows(folder: Path, manifest: Manifest) -> CheckResult:
    """The checks of rows, for an atlas whose files match this manifest."""
    problems: list[str] = []
    warnings: list[str] = []
    converged = None
    try:
        with open_tables(folder, manifest) as connection:
            problems += _key_problems(connection, manifest)
            problems += _row_problems(connection, manifest)
            problems += _refinement_problems(connection, folder, manifest)
            if "prompts" in manifest.tables:
                converged = converged_share(connection)
        if converged is not None and converged < CONVERGED_SHARE:
            warnings.append(f"only {converged:.2%} of the paths converged, fewer than {CONVERGED_SHARE:.0%}")
    except (duckdb.Error, AtlasError) as error:
        problems.append(f"the tables cannot be read: {error}")
    return CheckResult(folder, manifest, converged, problems, warnings)


def check_before_finish(folder: Path, manifest: Manifest, *, remedy: str) -> None:
    """Raises `BuildError` when the tables of an atlas that has no manifest yet contradict each other."""
    problems = check_rows(folder, manifest).problems
    if problems:
        raise BuildError(f"The tables contradict each other: {'; '.join(problems)}. {remedy}")


def _count(connection: duckdb.DuckDBPyConnection, rows: str, values: dict | None = None) -> int:
    return connection.execute(f"SELECT count(*) {rows}", values).fetchall()[0][0]


def _key_problems(connection: duckdb.DuckDBPyConnection, manifest: Manifest) -> list[str]:
    """Tables in which two rows have the same key, or a key is missing."""
    problems = []
    for table in manifest.tables:
        keys = ", ".join(f'"{key}"' for key in SORT_KEYS[table])
        if doubled := _count(connection, f"FROM (SELECT 1 FROM {table} GROUP BY {keys} HAVING count(*) > 1)"):
            problems.append(f"{doubled:,} keys ({keys}) occur more than once in {file_name(table)}")
        required = [key for key in SORT_KEYS[table] if (table, key) not in NULL_KEYS]
        missing = " OR ".join(f'"{key}" IS NULL' for key in required)
        if n_missing := _count(connection, f"FROM {table} WHERE {missing}"):
            problems.append(f"{n_missing:,} rows of {file_name(table)} lack a part of their key")
    return problems


def _row_problems(connection: duckdb.DuckDBPyConnection, manifest: Manifest) -> list[str]:
    values = {
        "tolerance": manifest.method.tolerance,
        "stored_fraction": manifest.method.stored_fraction,
        "n_layers": manifest.model.n_layers,
        "n_neurons": manifest.model.n_neurons,
    }
    problems = []
    for sentence, rows in _ROW_CHECKS.items():
        used = {name: value for name, value in values.items() if f"${name}" in rows}
        needed = set(_TABLE.findall(rows)) & set(TABLES)
        # A number that the manifest lacks was not measured, so nothing can contradict it.
        if not needed <= set(manifest.tables) or None in used.values():
            continue
        if count := _count(connection, rows, used):
            problems.append(sentence.format(n=f"{count:,}"))
    return problems


def _refinement_problems(
    connection: duckdb.DuckDBPyConnection, folder: Path, manifest: Manifest
) -> list[str]:
    """Refine the stored scores again; the same (fact, neuron) pairs must come out."""
    if not {"attributions", "prompts"} <= set(manifest.tables) or not manifest.method.refinement:
        return []
    rule = rule_of(manifest)
    found = refinement.refine(
        read_parquet(folder / file_name("attributions")),
        read_parquet(folder / file_name("prompts"), ["fact_id", "template_id", "held_out", "max_score"]),
        read_parquet(folder / file_name("facts"), ["fact_id", "relation_id", "object"]),
        rule,
    )
    connection.register("found_again", found.rows)
    differing = _count(
        connection,
        """
        FROM knowledge_neurons AS stored FULL JOIN found_again AS found USING (fact_id, layer, neuron)
        WHERE stored.relation_id IS NULL OR found.relation_id IS NULL
           OR abs(stored.share - found.share) > 1e-5 OR abs(stored.mean_score - found.mean_score) > 1e-5
        """,
    )
    if not differing:
        return []
    return [f"{differing:,} knowledge neurons do not follow from the stored scores by the mode '{rule.mode}'"]


def rule_of(manifest: Manifest) -> refinement.Refinement:
    """The refinement that a manifest records. Raises `BuildError` when it records none."""
    known = refinement.Refinement.__dataclass_fields__
    plain = {
        name: value
        for name, value in manifest.method.refinement.items()
        if name in known and value is not None
    }
    if not {"mode", "threshold", "share"} <= plain.keys():
        raise BuildError(
            f"The manifest of {manifest.atlas_id} does not say how its neurons were refined. "
            "Build the atlas with `python -m build run`."
        )
    if "target" in plain:
        plain["target"] = tuple(plain["target"])
    return refinement.Refinement(**plain)
