"""Score a method of one's own on an atlas's plantings, beside the methods that were measured there.

    python -m build planted DIR --method my_method:scores

1. *Find* the function, ``scores(subject, prompt)`` → (n_layers, n_neurons): a module that Python can import
   from here, and a name in it.
2. *Plant* again what the atlas's table `planted` has, by its seed, and leave out what was not learned.
3. *Score* and print the leaderboard of all methods on the same plantings.
"""

from __future__ import annotations

import importlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import pandas as pd
from typer import Option

from atlas.errors import BuildError
from atlas.models.device import check_device
from atlas.store.atlas import Atlas
from build.evidence import STUDIES
from build.evidence.evaluate import model_of
from build.evidence.planted import Planting, board_lines, own_scores, summarize
from build.evidence.setting import Setting
from build.output.writer import open_output
from build.plan import at_least_one
from build.progress import ProgressBar


@dataclass(frozen=True)
class MethodOptions:
    """Whose scores are asked for the planted neurons, and on how many plantings."""

    method: Annotated[str, Option(metavar="MODULE:FUNCTION", help="a function of a subject and a prompt")]
    limit: Annotated[int | None, Option(help="take so many plantings; all by default")] = None
    model: Annotated[str | None, Option(help="a folder or a name; by default the atlas's model")] = None
    device: Annotated[str, Option(help="cpu, cuda, cuda:1, mps")] = "auto"
    threads: Annotated[int | None, Option(help="CPU threads; all cores by default")] = None
    json: Annotated[Path | None, Option(metavar="OUT", help="write the rows and the leaderboard there")] = (
        None
    )

    def __post_init__(self) -> None:
        at_least_one("--limit", self.limit)
        at_least_one("--threads", self.threads)
        check_device(self.device)
        if self.json is not None and self.json.exists():
            raise BuildError(f"{self.json} exists already. Give --json the name of a new file.")


def find_method(name: str) -> Callable[..., Any]:
    """Step 1. Raises `BuildError` where there is no such function."""
    module, _, function = name.partition(":")
    if not module or not function:
        raise BuildError(f"'{name}' names no function. Give --method as module:function.")
    try:
        found = getattr(importlib.import_module(module), function, None)
    except ModuleNotFoundError as error:
        raise BuildError(
            f"There is no module '{error.name}' to import. Start the command in the folder that has it."
        ) from None
    except Exception as error:
        raise BuildError(
            f"The module '{module}' cannot be imported ({type(error).__name__}: {error}). Correct it."
        ) from error
    if not callable(found):
        raise BuildError(f"The module '{module}' has no function '{function}'. Give --method another.")
    return found


def score_method(folder: Path, options: MethodOptions) -> str:
    """Steps 2 and 3: the leaderboard as text. Raises an `AtlasError` where the atlas has no plantings."""
    method = find_method(options.method)
    if not folder.is_dir():
        raise BuildError(f"There is no folder {folder}. Give the folder of an atlas.")
    atlas = Atlas(folder)
    if not atlas.measured("planted"):
        raise BuildError(
            f"{atlas.atlas_id} has no plantings. Add them by "
            f"`python -m build evaluate {folder} --experiments planted`."
        )
    model = model_of(atlas, [STUDIES["planted"]], options.model)
    rows = atlas.query("SELECT * FROM planted WHERE learned ORDER BY fact_id, n_planted, method")
    chosen = rows.drop_duplicates(["fact_id", "n_planted"])[: options.limit]
    if chosen.empty:
        raise BuildError(f"{atlas.atlas_id} has no planting that was learned. Plant more with --sample.")
    from build.jobs.worker import use_threads

    use_threads(options.threads)
    seed = int(chosen["seed"].iloc[0])
    setting = Setting(atlas, model, seed=seed, all_facts=True, device=options.device)
    # A method that fails had better do so before anything is planted.
    own_scores(method, setting.subject, setting.by_id[chosen["fact_id"].iloc[0]].discovery[0].prompt)
    scored = []
    with ProgressBar("planted", total=len(chosen), done=0, unit="plantings") as progress:
        setting.note = progress.note
        for each in chosen.itertuples(index=False):
            planting = Planting.of(setting, setting.by_id[each.fact_id], int(each.n_planted), each.answer)
            scored += planting.rows({options.method: method})
            progress.advance(1)
    found = pd.DataFrame(scored)
    apart = np.abs(found["p_after"].to_numpy() - chosen["p_after"].to_numpy()).max()
    same = rows.merge(chosen[["fact_id", "n_planted"]])
    board = summarize(pd.concat([same, found]), setting.n_layers * setting.n_neurons, seed)
    board = board.sort_values(["n_planted", "recall"], ascending=[True, False])
    if options.json is not None:
        document = {
            "method": options.method,
            "atlas": atlas.atlas_id,
            "weights_sha256": atlas.manifest.model.weights_sha256,
            "seed": seed,
            "plantings": scored,
            "leaderboard": json.loads(board.to_json(orient="records")),
        }
        with open_output(options.json) as target:
            target.write(json.dumps(document, indent=1).encode())
    lines = board_lines(board)
    return "\n".join([*lines, f"planted again, the answers' probabilities differ by at most {apart:.3f}"])
