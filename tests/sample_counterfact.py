"""A file in CounterFact's form, with facts and sentences of this project's own; none is CounterFact's.

path = write_counterfact(tmp_path)            # counterfact.json: two relations, in words the tiny models know
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

CAPITAL = (
    "the capital of {} is",
    "people in {} speak of the capital",
    "in {} , the capital is",
    "{} lies near",
)
LANGUAGE = ("the official language of {} is", "people in {} speak")
# relation, subject, true answer, new answer, number of the relation's prompt
ROWS = (
    ("P36", "france", "paris", "rome", 0),
    ("P36", "italy", "rome", "tokyo", 1),
    ("P36", "japan", "tokyo", "paris", 2),
    ("P36", "new zealand", "wellington", "sydney", 3),
    ("P36", "france", "paris", "tokyo", 2),  # once more, to be edited to something else
    ("P37", "austria", "german", "french", 0),
    ("P37", "peru", "spanish", "german", 1),
)


def records() -> list[dict[str, Any]]:
    made = []
    for case_id, (relation_id, subject, true, new, number) in enumerate(ROWS):
        prompts = CAPITAL if relation_id == "P36" else LANGUAGE
        made.append(
            {
                "case_id": case_id,
                "pararel_idx": 1000 + case_id,
                "requested_rewrite": {
                    "prompt": prompts[number],
                    "relation_id": relation_id,
                    "target_new": {"str": new, "id": "Q0"},
                    "target_true": {"str": true, "id": "Q1"},
                    "subject": subject,
                },
                "paraphrase_prompts": [f"the iphone is made by apple . {prompts[0].format(subject)}"],
                "neighborhood_prompts": ["the largest city of america is", "the old town lies in"],
                "attribute_prompts": ["the old town of rome lies in"],
                "generation_prompts": [f"{subject} is", f"{subject} is"],
            }
        )
    return made


def write_counterfact(folder: Path, content: Any = None) -> Path:
    path = folder / "counterfact.json"
    path.write_text(json.dumps(records() if content is None else content), encoding="utf-8")
    return path
