"""The critics' tests: does an edit hold elsewhere, is grammar found like facts, do wordings agree?

    symmetry(a), synonymy(a)        # after an edit: the inverse relation, and synonyms of the subject
    phenomena(a)                    # grammar, by phenomenon: pairs, neurons, effect
    grammar_ratio(a)                # the effects on grammar ÷ those on facts
    consistency(a)                  # do a fact's wordings have the same coarse neurons?

Symmetry, synonymy and grammar: Niu et al. (ICLR 2024). Consistency: Chen et al. (Query Localization, ICLR
2025). Every number has its n and a 95 % interval, over facts, edits or pairs drawn again; what is not
measured has no rows. `build.evidence` fills the tables: `update`, `synonymy`, `grammar`, `consistency`.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pandas as pd

from atlas.intervals import bootstrap_interval, draw_weights, wilson
from atlas.queries.rates import Mean, mean_over, measure_rate
from atlas.store.atlas import Atlas

CHANCE = 0.5
"""A model knows a phenomenon if the interval of the share of its pairs that it knows is above this."""
INCONSISTENT = 0.1
"""A fact is inconsistent whose wordings' coarse neurons have a mean Jaccard index below this."""

# After an edit ---------------------------------------------------------------------------------------

_EDITED = ["remove", "add", "group"]


def symmetry(atlas: Atlas) -> pd.DataFrame:
    """After the edit X → Z: is X the answer to the inverse relation's question about Z?

    Columns: remove, add, group (as in edits), edits ('all', or 'successful': those whose new answer is first
    on the edited prompt), share, low, high, n_prompts, n_edits. Counted are prompts whose old answer, which
    the edit should change, was first before.
    """
    rows = atlas.query("""
        WITH edited AS (FROM edits WHERE kind = 'edited')
        SELECT e.fact_id, e.remove, e.add, e."group", e.rank_new_after = 1 AS hit,
               edited.rank_new_after = 1 AS successful
        FROM edits AS e JOIN edited USING (fact_id, new_object, remove, add, "group")
        WHERE e.kind = 'symmetry' AND e.rank_old_before = 1
    """)
    return _rates(rows, _EDITED)


def synonymy(atlas: Atlas) -> pd.DataFrame:
    """After the edit: is the new answer first where the prompt names the subject, and a synonym of it?

    Columns: remove, add, group, asked ('subject'; 'synonym'; 'unlike', those of the synonyms that neither
    contain the subject nor are contained in it: Holland, not Mozart; 'another', the control: other facts of
    the relation, which should not have the new answer, after the edits of `edits`), edits ('all', or
    'successful': those of which the same wording with the subject itself has the new answer first), share,
    low, high, n_prompts, n_edits. Counted are prompts that were answered rightly before with the subject and
    with the synonym.
    """
    rows = atlas.query("""
        WITH subject AS (FROM synonymy WHERE NOT synonym AND rank_old_before = 1),
        worded AS (
            SELECT s.fact_id, s.remove, s.add, s."group", s.template_id, s.rank_new_after = 1 AS of_synonym,
                   subject.rank_new_after = 1 AS of_subject,
                   regexp_replace(lower(s.asked), '^(the|an?) ', '') AS one,
                   regexp_replace(lower(subject.asked), '^(the|an?) ', '') AS other
            FROM synonymy AS s JOIN subject USING (fact_id, remove, add, "group", template_id)
            WHERE s.synonym AND s.rank_old_before = 1
        )
        SELECT DISTINCT fact_id, remove, add, "group", template_id, 'subject' AS asked, of_subject AS hit,
               NULL::BOOLEAN AS successful FROM worded
        UNION ALL
        SELECT fact_id, remove, add, "group", template_id, 'synonym', of_synonym, of_subject FROM worded
        UNION ALL
        SELECT fact_id, remove, add, "group", template_id, 'unlike', of_synonym, of_subject FROM worded
        WHERE NOT contains(one, other) AND NOT contains(other, one)
        UNION ALL
        SELECT fact_id, remove, add, "group", template_id, 'another', rank_new_after = 1, NULL
        FROM edits
        WHERE kind = 'same_relation' AND rank_old_before = 1 AND "group" IN (SELECT "group" FROM synonymy)
    """)
    return _rates(rows, [*_EDITED, "asked"])


def _rates(rows: pd.DataFrame, keys: list[str]) -> pd.DataFrame:
    """share, low, high, n_prompts and n_edits, for all edits and the successful ones; rows: hit, fact_id."""
    found: list[dict[str, Any]] = []
    for values, part in rows.groupby(keys, sort=True):
        for edits, chosen in (("all", part), ("successful", part[part["successful"].eq(True)])):
            if (rate := measure_rate(chosen["hit"], chosen["fact_id"])) is not None:
                named = dict(zip(keys, values, strict=True)) | {"edits": edits}
                found.append(named | vars(rate))
    columns = [*keys, "edits", "share", "low", "high", "n_prompts", "n_edits"]
    return pd.DataFrame(found, columns=columns)


# Grammar ---------------------------------------------------------------------------------------------


def phenomena(atlas: Atlas) -> pd.DataFrame:
    """Each phenomenon of grammar: how many pairs, which neurons, and what suppressing them does.

    Columns: phenomenon, n_pairs, n_asked (both words are tokens of the model), n_known (the right word is
    likelier on most prompts), known_low, known_high (interval of n_known ÷ n_asked), n_neurons (mean of known
    pairs), shared (share of them that are knowledge neurons of facts), by_chance (of random ones of the same
    layers), own, low, high (change of the right word's probability on held-out prompts, Σ change ÷ Σ before),
    random (the same of random neurons), n (pairs whose neurons were suppressed).
    """
    pairs = atlas.query("""
        SELECT phenomenon, count(*) AS n_pairs, count(known) AS n_asked,
               count(*) FILTER (known) AS n_known, avg(n_neurons) AS n_neurons,
               sum(n_shared) / nullif(sum(n_neurons), 0) AS shared,
               sum(shared_by_chance) / nullif(sum(n_neurons), 0) AS by_chance
        FROM (
            SELECT phenomenon, pair_id, any_value(known) AS known, any_value(n_neurons) AS n_neurons,
                   any_value(n_shared) AS n_shared, any_value(shared_by_chance) AS shared_by_chance
            FROM grammar WHERE intervention = 'none' GROUP BY phenomenon, pair_id
        )
        GROUP BY phenomenon ORDER BY phenomenon
    """)
    falls = _falls_of_grammar(atlas)
    found = []
    for row in pairs.itertuples():
        part = falls[falls["stratum"] == row.phenomenon]
        own, random = (_change(part[part["group"] == group]) for group in ("own", "random"))
        low, high = own.interval if own else (np.nan, np.nan)
        found.append(
            {
                **dict(zip(("known_low", "known_high"), _interval(row.n_known, row.n_asked), strict=True)),
                "own": own.value if own else np.nan,
                "low": low,
                "high": high,
                "random": random.value if random else np.nan,
                "n": own.n if own else 0,
            }
        )
    return pairs.join(
        pd.DataFrame(found, columns=["known_low", "known_high", *("own", "low", "high", "random", "n")])
    )


def _interval(count: int, n: int) -> tuple[float, float]:
    return wilson(count / n, n) if n else (np.nan, np.nan)


def _falls_of_grammar(atlas: Atlas) -> pd.DataFrame:
    return atlas.query("""
        SELECT phenomenon AS stratum, pair_id AS unit, "group", p_good_before AS before,
               p_good_after AS after, rank_good_before = 1 AS first
        FROM grammar WHERE intervention = 'suppress' ORDER BY ALL
    """)


def _falls_of_facts(atlas: Atlas) -> pd.DataFrame:
    return atlas.query("""
        SELECT f.relation_id AS stratum, e.fact_id AS unit, e."group", p_before AS before, p_after AS after,
               rank_before = 1 AS first
        FROM effects AS e JOIN facts AS f USING (fact_id)
        WHERE e.intervention = 'suppress' AND e."group" IN ('own', 'random') AND e.held_out AND f.known
          AND e.p_before IS NOT NULL
        ORDER BY ALL
    """)


def _flips_of_grammar(atlas: Atlas, add: float) -> pd.DataFrame:
    return atlas.query(
        """
        SELECT phenomenon AS stratum, pair_id AS unit, "group", p_bad_after > p_good_after AS flipped,
               rank_good_before = 1 AS first
        FROM grammar WHERE intervention = 'edit' AND add = $add AND p_good_before > p_bad_before ORDER BY ALL
        """,
        {"add": add},
    )


def _flips_of_facts(atlas: Atlas, add: float) -> pd.DataFrame:
    # All neurons, as of grammar, where commonness in a relation drops none.
    return atlas.query(
        """
        SELECT f.relation_id AS stratum, e.fact_id AS unit, if("group" = 'all', 'own', "group") AS "group",
               p_new_after > p_old_after AS flipped, rank_old_before = 1 AS first
        FROM edits AS e JOIN facts AS f USING (fact_id)
        WHERE e.kind IN ('edited', 'paraphrase') AND e."group" IN ('all', 'random') AND e.add = $add
          AND f.known AND p_old_before > p_new_before
        ORDER BY ALL
        """,
        {"add": add},
    )


def _change(rows: pd.DataFrame) -> Mean | None:
    return mean_over(
        rows.assign(top=rows["after"] - rows["before"], bottom=rows["before"]), "stratum", "unit"
    )


def _flipped(rows: pd.DataFrame) -> Mean | None:
    return mean_over(rows.assign(top=rows["flipped"], bottom=1.0), "stratum", "unit")


def grammar_ratio(atlas: Atlas) -> pd.DataFrame:
    """The effects on grammar beside those on facts, and their ratio; on held-out prompts, what is known.

    Columns: measure ('suppress': relative change of the right answer's probability; 'edit': share of prompts
    on which the new answer becomes likelier than the old, of those where it was not), add (strength of an
    edit, 0 else), answers ('all', or 'first': of prompts whose right answer was first), grammar, grammar_low,
    grammar_high, grammar_random (the same change of random neurons), n_pairs, facts, facts_low, facts_high,
    facts_random, n_facts, ratio, ratio_low, ratio_high. Means over phenomena that the model knows (`CHANCE`)
    and over relations; a fact's edit is that of all its neurons.
    """
    rules = phenomena(atlas)
    rules = rules.loc[rules["known_low"] > CHANCE, "phenomenon"]
    found = []
    strengths = atlas.query("SELECT DISTINCT add FROM grammar WHERE intervention = 'edit' ORDER BY add")[
        "add"
    ]
    measures = [("suppress", 0.0, _falls_of_grammar(atlas), _falls_of_facts(atlas), _change)]
    measures += [
        ("edit", add, _flips_of_grammar(atlas, add), _flips_of_facts(atlas, add), _flipped)
        for add in strengths.astype(float)
    ]
    for measure, add, grammar, facts, mean in measures:
        grammar = grammar[grammar["stratum"].isin(rules)]
        for answers in ("all", "first"):
            named: dict[str, Any] = {"measure": measure, "add": add, "answers": answers}
            of: dict[str, Mean | None] = {}
            for name, rows in (("grammar", grammar), ("facts", facts)):
                part = rows if answers == "all" else rows[rows["first"].eq(True)]
                of[name] = mean(part[part["group"] == "own"])
                random = mean(part[part["group"] == "random"])
                named[f"{name}_random"] = random.value if random else np.nan
            if (one := of["grammar"]) is None or (other := of["facts"]) is None:
                continue
            found.append(named | dict(_beside(one, other)))
    return pd.DataFrame(found, columns=_RATIO_COLUMNS)


_RATIO_COLUMNS = [
    *("measure", "add", "answers"),
    *("grammar", "grammar_low", "grammar_high", "grammar_random", "n_pairs"),
    *("facts", "facts_low", "facts_high", "facts_random", "n_facts"),
    *("ratio", "ratio_low", "ratio_high"),
]


def _beside(grammar: Mean, facts: Mean) -> Iterator[tuple[str, float]]:
    """The two means, their ratio, and the intervals; NaN where facts have no effect to divide by."""
    with np.errstate(divide="ignore", invalid="ignore"):
        drawn = grammar.drawn / facts.drawn
        ratio = np.float64(grammar.value) / facts.value
    bounded = np.isfinite(drawn).all() and np.isfinite(ratio) and min(grammar.n, facts.n) > 1
    rows = {
        "grammar": (grammar.value, *grammar.interval),
        "facts": (facts.value, *facts.interval),
        "ratio": (ratio, *(bootstrap_interval(drawn) if bounded else (np.nan, np.nan))),
    }
    for name, (value, low, high) in rows.items():
        yield from ((name, float(value)), (f"{name}_low", low), (f"{name}_high", high))
    yield from (("n_pairs", grammar.n), ("n_facts", facts.n))


# Consistency -----------------------------------------------------------------------------------------


def consistency(atlas: Atlas) -> pd.DataFrame:
    """How alike the coarse neurons of a fact's wordings are, of all facts, known and unknown ones.

    Columns: facts ('all', 'known', 'unknown'), n_facts (that have a consistency), mean, low, high (of
    facts.consistency), inconsistent, inconsistent_low, inconsistent_high (share of them below
    `INCONSISTENT`).
    """
    rows = atlas.query("SELECT known, consistency FROM facts WHERE consistency IS NOT NULL ORDER BY ALL")
    known = rows["known"].eq(True)
    found = []
    for name, part in (("all", rows), ("known", rows[known]), ("unknown", rows[~known])):
        values = part["consistency"].to_numpy(dtype=float)
        if not (n := len(values)):
            continue
        low, high = bootstrap_interval(draw_weights(np.random.default_rng(n), n) @ values / n)
        share = float((values < INCONSISTENT).mean())
        bounds = wilson(share, n)
        found.append((name, n, float(values.mean()), low, high, share, *bounds))
    columns = ["facts", "n_facts", "mean", "low", "high"]
    columns += ["inconsistent", "inconsistent_low", "inconsistent_high"]
    return pd.DataFrame(found, columns=columns)
