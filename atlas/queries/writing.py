"""Queries about what the model says of a fact: layer by layer, and word for word.

lens_of_fact(a, fact_id)             # the answer's probability after each layer
generations_of_fact(a, fact_id)      # what the model writes with and without the fact's neurons
"""

from __future__ import annotations

import pandas as pd

from atlas.store.atlas import Atlas

WRITTEN_GROUPS = ("unchanged", "own", "random", "unrelated")


def lens_of_fact(atlas: Atlas, fact_id: str) -> pd.DataFrame:
    """What the model would answer after each layer, on the prompts for which that is stored; held-out first.

    Columns: template_id, text, held_out, layer, probability and rank (of the answer's first token), top (the
    likeliest tokens with their probabilities), n_neurons (of the fact, in that layer).
    """
    return atlas.query(
        """
        WITH mine AS (
            SELECT layer, count(*) AS n_neurons FROM knowledge_neurons WHERE fact_id = $fact_id GROUP BY layer
        )
        SELECT l.template_id, p.text, p.held_out, l.layer, l.probability, l.rank, l.top,
               coalesce(mine.n_neurons, 0) AS n_neurons
        FROM lens AS l LEFT JOIN mine ON mine.layer = l.layer
        LEFT JOIN prompts AS p ON p.fact_id = l.fact_id AND p.template_id = l.template_id
        WHERE l.fact_id = $fact_id ORDER BY p.held_out DESC, l.template_id, l.layer
        """,
        {"fact_id": fact_id},
    )


def generations_of_fact(atlas: Atlas, fact_id: str) -> pd.DataFrame:
    """What the model writes after a prompt of the fact, by what was suppressed; unchanged first.

    Columns: group, n_neurons, prompt_fact_id, subject, object and prompt (of what is asked; in the group
    'unrelated' another fact), text, unchanged (the text after the same prompt when nothing is suppressed).
    """
    return atlas.query(
        """
        SELECT g."group", g.n_neurons, g.prompt_fact_id, f.subject, f.object, p.text AS prompt, g.text,
               u.text AS unchanged
        FROM generations AS g LEFT JOIN facts AS f ON f.fact_id = g.prompt_fact_id
        LEFT JOIN prompts AS p ON p.fact_id = g.prompt_fact_id AND p.template_id = g.template_id
        LEFT JOIN generations AS u
          ON u.fact_id = g.prompt_fact_id AND u.template_id = g.template_id AND u."group" = 'unchanged'
        WHERE g.fact_id = $fact_id ORDER BY list_position($groups, g."group")
        """,
        {"fact_id": fact_id, "groups": list(WRITTEN_GROUPS)},
    )
