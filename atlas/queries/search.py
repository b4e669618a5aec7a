"""Search over facts and neurons that ignores case and accents and, of facts, corrects typos.

    hits = facts_matching(a, "capital azerbajan")
    hits.total, hits.rows                     # how many facts, and one page of them
    hits.by_relation                          # how many each relation has
    hits.instead                              # {"azerbajan": ("azerbaijan",)}: no fact has the word as typed
    neurons_matching(a, "paris").rows         # those that push it, or whose label has it; or "L9.N2141"

1. *Documents.* Once per atlas: each fact's names, relation and prompts, without case and accents; and all
   words of both, by which a search reads the prompts only where they have the word.
2. *Exact.* A fact matches when every word typed occurs in its document, also inside a longer word.
3. *Near.* Only when no fact has all words: words that the atlas lacks also match the nearest words that it
   has (Damerau-Levenshtein: letters missing, added, wrong or swapped). Exact matches and guesses are not
   mixed: where there are exact matches, guesses are offered as `similar`.
4. *Neurons.* By their name, by their label, and by the tokens that they push where they fire for their facts.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Any

import pandas as pd

from atlas.errors import AtlasError, QueryError
from atlas.neuron import Neuron
from atlas.queries.neurons import neuron
from atlas.queries.sides import pushed
from atlas.store.atlas import Atlas

BEST = "best"
_PLACE = """
    CASE WHEN $wanted = '' THEN 6
         WHEN folded_subject = $wanted THEN 0
         WHEN folded_object = $wanted THEN 1
         WHEN folded_label = $wanted THEN 2
         WHEN starts_with(folded_subject, $wanted) THEN 3
         WHEN starts_with(folded_object, $wanted) THEN 4
         WHEN in_names THEN 5
         ELSE 6 END
"""
# Sort key → SQL. Ties are sorted by how well they match, then by name.
SORTS = {
    BEST: _PLACE,
    "subject": "folded_subject",
    "object": "folded_object",
    "relation": "folded_label, relation_id",
    "probability": "mean_probability DESC NULLS LAST",
    "-probability": "mean_probability NULLS LAST",
    "neurons": "n_neurons DESC NULLS LAST",
    "-neurons": "n_neurons NULLS LAST",
}

_COLUMNS = (
    *("fact_id", "relation_id", "label", "subject", "object", "known", "mean_probability"),
    *("n_prompts", "n_neurons", "in_names"),
)

# The most words that are corrected; the others are searched as typed.
_WORDS_MENDED = 8
_NEAR_KEPT = 4
_MOST_WORDS = 40
# Shorter words are not in the vocabulary.
_SHORTEST = 3
_LETTERS = r"[\p{L}\p{N}]+"
# The most hits that are kept between the two queries of a search.
_FEW = 2000


@dataclass(frozen=True)
class Hits:
    """One page of a search, counts, and similar words."""

    total: int
    rows: pd.DataFrame
    by_relation: pd.DataFrame
    without_filters: int
    instead: dict[str, tuple[str, ...]] = field(default_factory=dict)
    similar: dict[str, tuple[str, ...]] = field(default_factory=dict)


# 1. Documents ----------------------------------------------------------------------------------------


def _folded(expression: str) -> str:
    """SQL for a text without case and accents, and with one kind of apostrophe, dash and space."""
    plain = f"translate(lower(strip_accents({expression})), 'łøđðıħŋ’‘ʻ–—\u00a0\t', 'loddihn''''''--  ')"
    for letter, letters in (("ß", "ss"), ("æ", "ae"), ("œ", "oe"), ("þ", "th")):
        plain = f"replace({plain}, '{letter}', '{letters}')"
    return plain


_DOCUMENTS = "search_documents"
_DOCUMENTS_SOURCE = f"""
    SELECT f.fact_id, f.relation_id, r.label, f.subject, f.object, f.known, f.mean_probability,
           f.n_prompts, f.n_neurons, k.layers,
           {_folded("f.subject")} AS folded_subject, {_folded("f.object")} AS folded_object,
           {_folded("r.label")} AS folded_label,
           {_folded("concat_ws(chr(10), f.subject, f.object, r.label, f.relation_id)")} AS names,
           {_folded("concat_ws(chr(10), f.subject, f.object, r.label, f.relation_id, p.texts)")} AS document
    FROM facts AS f
    LEFT JOIN relations AS r ON r.relation_id = f.relation_id
    LEFT JOIN (SELECT fact_id, string_agg(text, chr(10)) AS texts FROM fact_prompts GROUP BY fact_id) AS p
      ON p.fact_id = f.fact_id
    LEFT JOIN (SELECT fact_id, list(DISTINCT layer) AS layers FROM knowledge_neurons GROUP BY fact_id) AS k
      ON k.fact_id = f.fact_id
"""

# All words of three letters and more: of the names, and of the prompts without their subjects. They correct
# typos, and say where a word can be found. A prompt is read whole where its template does not make it, or
# puts letters beside the subject: its words are then others than those of both.
# A name of several words is also there without its spaces: `newyork` means `new york`.
_VOCABULARY = "search_vocabulary"
_VOCABULARY_SOURCE = f"""
    WITH texts AS (
        SELECT names AS text, 1 AS n, false AS in_prompts FROM {_DOCUMENTS}
        UNION ALL
        SELECT {_folded("text")}, count(*), true
        FROM (SELECT CASE WHEN p.text = replace(t.text, '[X]', f.subject)
                          AND NOT regexp_matches(t.text, '{_LETTERS}\\[X\\]|\\[X\\]{_LETTERS}')
                          THEN replace(t.text, '[X]', ' ') ELSE p.text END AS text
              FROM fact_prompts AS p JOIN facts AS f ON f.fact_id = p.fact_id
              LEFT JOIN templates AS t ON t.relation_id = f.relation_id AND t.template_id = p.template_id)
        GROUP BY text
    ), entries AS (
        SELECT unnest(regexp_extract_all(text, '{_LETTERS}')) AS word, word AS text, n, in_prompts
        FROM texts
        UNION ALL
        SELECT replace(name, ' ', ''), name, 1, false
        FROM (SELECT unnest([folded_subject, folded_object]) AS name FROM {_DOCUMENTS})
        WHERE contains(name, ' ') AND length(name) <= 40
    )
    SELECT word, text, sum(n) AS n, bool_or(in_prompts) AS in_prompts
    FROM entries WHERE length(word) >= {_SHORTEST} GROUP BY word, text
"""
_WORDS = "search_words"
_WORDS_SOURCE = f"""
    SELECT chr(10) || coalesce(string_agg(text, chr(10)), '') || chr(10) AS every,
           coalesce(string_agg(text, chr(10)) FILTER (in_prompts), '') AS in_prompts
    FROM {_VOCABULARY}
"""


def _prepare(atlas: Atlas) -> None:
    atlas.prepare(_DOCUMENTS, _DOCUMENTS_SOURCE)
    atlas.prepare(_VOCABULARY, _VOCABULARY_SOURCE)
    atlas.prepare(_WORDS, _WORDS_SOURCE)


@dataclass(frozen=True)
class _Words:
    """The vocabulary, one word a line: `every` begins and ends with a line break."""

    every: str
    in_prompts: str

    def has(self, word: str) -> bool:
        return f"\n{word}\n" in self.every

    def column(self, word: str) -> str | None:
        """The column of the documents to look for a word in: only prompts' words are worth reading prompts.

        None where no document has it.
        """
        if len(word) < _SHORTEST or not word.isalnum() or word in self.in_prompts:
            return "document"
        return "names" if word in self.every else None


def _words_of(atlas: Atlas) -> _Words:
    return _Words(**atlas.query_row(f"FROM {_WORDS}"))


# 2. Exact --------------------------------------------------------------------------------------------


def facts_matching(
    atlas: Atlas,
    text: str = "",
    *,
    relation: str | None = None,
    known: bool | None = None,
    layer: int | None = None,
    sort: str = BEST,
    limit: int = 50,
    offset: int = 0,
) -> Hits:
    """Facts in whose subject, object, relation (label or id) or prompts every word of `text` occurs.

    Case and accents do not matter, nor do small typos where no fact has the words as typed; text in double
    quotes is one word, taken literally. `relation` is a relation id, `layer` keeps facts with a knowledge
    neuron there, `sort` is a key of `SORTS`. `best` sorts matches in names first, in prompts last.

    `rows`: fact_id, relation_id, label, subject, object, known, mean_probability, n_prompts, n_neurons,
    in_names (whether all words are in its names and relation). `by_relation`: relation_id, label, n (hits
    there, whatever `relation` says), most first. `without_filters`: hits of the text alone.
    """
    if limit < 1 or offset < 0:
        raise QueryError(f"limit must be at least 1 and offset at least 0, got {limit} and {offset}.")
    if sort not in SORTS:
        raise QueryError(f"sort must be one of {', '.join(SORTS)}, got '{sort}'.")
    _prepare(atlas)
    words = search_words(text)
    folded = fold(atlas, words)
    filters = {"relation": relation, "known": known, "layer": layer}
    hits = _hits(atlas, [(word,) for word in folded], filters, sort, limit, offset)
    # Words in quotes are not corrected.
    near = nearest_words(atlas, [word for word in words if f'"{word}"' not in text])
    if hits.without_filters or not near:
        return replace(hits, similar=near)
    # 3. Near.
    if len(words) == 1:
        guesses = [near[words[0]]]
    else:
        guesses = [(*near.get(word, ()), own) for word, own in zip(words, folded, strict=True)]
    guessed = _hits(atlas, guesses, filters, sort, limit, offset)
    return replace(guessed, instead=near) if guessed.without_filters else replace(hits, similar=near)


def _hits(
    atlas: Atlas,
    terms: Sequence[Sequence[str]],
    filters: Mapping[str, Any],
    sort: str,
    limit: int,
    offset: int,
) -> Hits:
    """Facts that have one word of every term; the first word of a term is the likeliest.

    Two queries, because planning is most of the cost, and planning one query for both takes longer. The
    second reads the rows that the first found, unless they are many.
    """
    column = _words_of(atlas).column
    terms = [[word for word in term if column(word)] for term in terms]
    if not all(terms):
        return Hits(0, pd.DataFrame(columns=_COLUMNS), pd.DataFrame(columns=["relation_id", "label", "n"]), 0)
    relation, known, layer = filters["relation"], filters["known"], filters["layer"]
    values: dict[str, Any] = {}
    for place, term in enumerate(terms):
        values |= {f"word{place}_{i}": word for i, word in enumerate(term)}
    matching = _all_terms(terms, column)
    kept = ["true"]
    if known is not None:
        kept.append("coalesce(known = $known, false)")
        values["known"] = known
    if layer is not None:
        kept.append("coalesce(list_contains(layers, $layer), false)")
        values["layer"] = layer
    counted = atlas.query(
        f"""
        SELECT relation_id, label, count(*) AS n_matching, count(*) FILTER ({" AND ".join(kept)}) AS n,
               CASE WHEN n_matching <= {_FEW} THEN list(rowid) END AS places
        FROM {_DOCUMENTS} WHERE {matching}
        GROUP BY relation_id, label ORDER BY n DESC, label, relation_id
        """,
        values,
    )
    here = counted if relation is None else counted[counted["relation_id"] == relation]
    if relation is not None:
        kept.append("relation_id = $relation")
        values["relation"] = relation
    total, n_matching = int(here["n"].sum()), int(counted["n_matching"].sum())
    rows = pd.DataFrame(columns=_COLUMNS)
    if total:
        there = matching
        if n_matching <= _FEW:
            there = "rowid IN (SELECT unnest($places::BIGINT[]))"
            values["places"] = [int(place) for places in counted["places"] for place in places]
        values |= {"wanted": " ".join(term[0] for term in terms), "limit": limit, "offset": offset}
        rows = atlas.query(
            f"""
            SELECT {", ".join(_COLUMNS[:-1])}, {_all_terms(terms, lambda word: "names")} AS {_COLUMNS[-1]}
            FROM {_DOCUMENTS} WHERE {there} AND {" AND ".join(kept)}
            ORDER BY {SORTS[sort]}, {_PLACE}, folded_subject, relation_id, fact_id LIMIT $limit OFFSET $offset
            """,
            values,
        )
    return Hits(
        total=total,
        rows=rows,
        by_relation=counted.loc[counted["n"] > 0, ["relation_id", "label", "n"]].reset_index(drop=True),
        without_filters=n_matching,
    )


def _all_terms(terms: Sequence[Sequence[str]], column: Callable[[str], str | None]) -> str:
    """SQL: of every term, one of its words is in that word's column."""
    each = [
        " OR ".join(f"contains({column(word)}, $word{place}_{i})" for i, word in enumerate(term))
        for place, term in enumerate(terms)
    ]
    return " AND ".join(f"({term})" for term in each) or "true"


def fold(atlas: Atlas, words: Sequence[str]) -> list[str]:
    """The words as documents have them: without case and accents."""
    if not words:
        return []
    return atlas.query_row(
        f"SELECT list_transform($words::VARCHAR[], lambda word: {_folded('word')}) AS folded",
        {"words": list(words)},
    )["folded"]


def search_words(text: str) -> list[str]:
    """The words of a search; text between double quotes is one."""
    words = []
    for place, part in enumerate(text.split('"')):
        words += [" ".join(part.split())] if place % 2 else part.split()
    return [word for word in words if word][:_MOST_WORDS]


def replaced(text: str, word: str, by: str) -> str:
    """The search with one word replaced by another."""
    mended = [by if each == word else each for each in search_words(text)]
    return " ".join(f'"{each}"' if " " in each and each != by else each for each in mended)


# 3. Near ---------------------------------------------------------------------------------------------


def nearest_words(atlas: Atlas, words: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """The nearest words of the atlas for each word that it lacks, the likeliest first.

    Words of 4 or 5 letters may differ in one letter, longer ones in two; words that contain the word are left
    out, since the search as typed finds them. Words that the atlas has, or that are near to none, are absent.
    """
    asked = list(dict.fromkeys(words))[:_WORDS_MENDED]
    if not asked:
        return {}
    _prepare(atlas)
    folded, vocabulary = fold(atlas, asked), _words_of(atlas)
    unknown = [word for word in folded if not vocabulary.has(word)]
    if not unknown:
        return {}
    found = atlas.query(
        f"""
        WITH asked AS (
            SELECT word, length(word) AS size,
                   CASE WHEN size < 4 THEN 0 WHEN size < 6 THEN 1 ELSE 2 END AS most
            FROM (SELECT unnest($words::VARCHAR[]) AS word)
        ), likely AS MATERIALIZED (
            -- The cheaper measure first: words below its bound differ in more than two letters.
            SELECT asked.*, v.word AS other, v.text, v.n,
                   jaro_winkler_similarity(v.word, asked.word) AS likeness
            FROM asked JOIN {_VOCABULARY} AS v ON length(v.word) BETWEEN size - most AND size + most
            WHERE likeness >= 0.75 AND NOT contains(v.text, asked.word)
        )
        SELECT word, text, damerau_levenshtein(other, word) AS distance
        FROM likely WHERE distance <= most AND (distance < 2 OR likeness >= 0.85)
        ORDER BY word, distance, likeness DESC, n DESC, text
        """,
        {"words": unknown},
    )
    near = {}
    for word, own in zip(asked, folded, strict=True):
        rows = found[found["word"] == own]
        if len(rows):
            nearest = rows.loc[rows["distance"] == rows["distance"].iloc[0], "text"]
            near[word] = tuple(dict.fromkeys(nearest))[:_NEAR_KEPT]
    return near


def prompts_with(atlas: Atlas, fact_ids: Sequence[str], words: Sequence[str]) -> dict[str, str]:
    """For each fact, its prompt with most of the words: fact_id → text."""
    if not len(fact_ids) or not len(words):
        return {}
    found = atlas.query(
        f"""
        SELECT fact_id, arg_max(text, (n_words, -length(text))) AS text
        FROM (SELECT fact_id, text, len(list_filter($words::VARCHAR[],
                         lambda word: contains({_folded("text")}, {_folded("word")}))) AS n_words
              FROM fact_prompts WHERE list_contains($facts::VARCHAR[], fact_id))
        WHERE n_words > 0 GROUP BY fact_id
        """,
        {"facts": list(fact_ids), "words": list(words)},
    )
    return dict(zip(found["fact_id"], found["text"], strict=True))


# 4. Neurons ------------------------------------------------------------------------------------------

_NEURONS = "search_neurons"
_NEURONS_SOURCE = f"""
    SELECT layer, neuron, label, n_facts, n_relations, promoted, {_folded("label")} AS folded_label,
           chr(10) || array_to_string(
               list_transform(promoted, lambda p: trim({_folded("p.token")}, ' #')), chr(10)
           ) || chr(10) AS tokens
    FROM (SELECT n.layer, n.neuron, n.label, n.n_facts, n.n_relations, {pushed("k.fires")}
          FROM neurons AS n
          LEFT JOIN (SELECT layer, neuron, avg(mean_activation) AS fires
                     FROM knowledge_neurons GROUP BY layer, neuron) AS k
            ON k.layer = n.layer AND k.neuron = n.neuron)
"""


@dataclass(frozen=True)
class NeuronHits:
    """How many neurons a search has, and the first of them."""

    total: int
    rows: pd.DataFrame


def neurons_matching(atlas: Atlas, text: str, *, limit: int = 10) -> NeuronHits:
    """The neuron that `text` names, or those of which every word is in the label or is a token they push.

    Labels come first, then those that push the first word most, of them those of most facts. No neuron for a
    text without words. `rows`: layer, neuron, label, n_facts, n_relations, promoted (as it acts on facts).
    """
    columns = ["layer", "neuron", "label", "n_facts", "n_relations", "promoted"]
    with suppress(AtlasError):
        named = Neuron.parse(text.strip().upper())
        return NeuronHits(1, pd.DataFrame([neuron(atlas, named.layer, named.neuron)])[columns])
    words = search_words(text)
    if not words:
        return NeuronHits(0, pd.DataFrame(columns=columns))
    atlas.prepare(_NEURONS, _NEURONS_SOURCE)
    values = {f"word{place}": word for place, word in enumerate(fold(atlas, words))}
    each = " AND ".join(
        f"(contains(folded_label, ${name}) OR contains(tokens, chr(10) || ${name} || chr(10)))"
        for name in values
    )
    rows = atlas.query(
        f"""
        SELECT {", ".join(columns)}, count(*) OVER () AS total FROM {_NEURONS} WHERE {each}
        ORDER BY coalesce(contains(folded_label, $word0), false) DESC,
                 strpos(tokens, chr(10) || $word0 || chr(10)), n_facts DESC, layer, neuron LIMIT $limit
        """,
        values | {"limit": limit},
    )
    return NeuronHits(int(rows["total"].iloc[0]) if len(rows) else 0, rows[columns])
