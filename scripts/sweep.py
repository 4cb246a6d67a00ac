"""Tune models by Optuna, as many trials for each, judged on the validation users; print a table.

    pip install -e '.[sweep]'
    python scripts/sweep.py dataset=ml-1m --models ease edlae --trials 20 --storage sweep.journal --output sweep.json
    python scripts/sweep.py --models ease edlae item_knn --trials 10 --storage s.journal --write configs/experiment

What is searched is written in configs/sweep/MODEL.yaml. A trial is `recsys-vae train` without a run directory; the
first one is the model's defaults, and the test users are taken away before it. Trials that lag behind the median are
pruned after an epoch, and count. The storage keeps every trial: the same command carries on a sweep that was
interrupted, and a larger --trials goes on from where it was. --write leaves the best setting of each model as a file
that `recsys-vae train experiment=NAME` reads.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import yaml
from omegaconf import OmegaConf
from rich.console import Console
from rich.table import Table
from sweep_space import overrides_of, read_space, spaces
from sweep_study import Record, Task, run_study, without_test_users

from recsys_vae.atomic import atomic_path
from recsys_vae.bundled import bundled_path
from recsys_vae.cli.config import compose_config
from recsys_vae.cli.runtime import set_threads
from recsys_vae.cli.stages import dataset_name
from recsys_vae.cli.train import read_split
from recsys_vae.errors import UserError, nearest


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("overrides", nargs="*", help="of recsys-vae train, such as dataset=ml-1m seed=2")
    parser.add_argument("--models", nargs="+", required=True, help="those that configs/sweep has")
    parser.add_argument("--trials", type=int, default=20, help="of each model")
    parser.add_argument("--metric", default="ndcg@100", help="on the validation users, higher is better")
    parser.add_argument("--storage", type=Path, required=True, help="journal file; resumed where it exists")
    parser.add_argument(
        "--spaces", type=Path, default=bundled_path("configs", "sweep"), help="folder of MODEL.yaml"
    )
    parser.add_argument("--output", type=Path, help="JSON")
    parser.add_argument("--markdown", type=Path, help="where to write the table too")
    parser.add_argument(
        "--write", type=Path, metavar="FOLDER", help="leave DATASET_MODEL.yaml of each model there"
    )
    options = parser.parse_intermixed_args(arguments)
    # --models takes all that follows it; what has a value is no model's name.
    options.overrides += [name for name in options.models if "=" in name]
    options.models = [name for name in options.models if "=" not in name]
    if options.trials < 1:
        parser.error("--trials: expected at least 1")
    return options


def sweep(options: argparse.Namespace) -> list[Record]:
    """Run what is missing of every study; everything is checked before the first trial."""
    if importlib.util.find_spec("optuna") is None:
        raise UserError(
            "optuna: expected the extra [sweep], which is not installed: pip install 'recsys-vae[sweep]'"
        )
    import optuna
    from optuna.storages.journal import JournalFileBackend

    known = spaces(options.spaces)
    for model in options.models:
        if model not in known:
            raise UserError(
                f"--models: came {model!r}, which {options.spaces} does not have; {nearest(model, known)}"
            )
    for override in options.overrides:
        if override.partition("=")[0] in ("model", "run", "resume", "evaluation.metrics", "trainer.monitor"):
            raise UserError(
                f"{override}: not of a sweep; --models and --metric say what is tuned and by what"
            )
    config = compose_config("train", options.overrides)
    set_threads(config.threads)
    tasks = []
    for model in options.models:
        space = read_space(options.spaces / f"{model}.yaml")
        tasks.append(Task(model, space, options.overrides, options.metric, config.seed, options.trials))
    for folder in {path.parent for path in (options.storage, options.output, options.markdown) if path}:
        if not folder.is_dir():
            raise UserError(f"expected the folder {folder} to exist, for --storage, --output or --markdown")
    split = without_test_users(read_split(config))
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    storage = optuna.storages.JournalStorage(JournalFileBackend(str(options.storage)))
    return [
        run_study(task, split, storage, lambda line: print(line, file=sys.stderr, flush=True))
        for task in tasks
    ]


def cells(record: Record) -> list[str]:
    """A row of the table."""
    return [
        record["model"],
        f"{record['best']:.4f} ± {record['stderr']:.4f}",
        f"{record['default']:.4f}",
        f"{record['n_trials']} ({record['n_pruned']} pruned)",
        f"{record['seconds']:.0f}",
        " ".join(overrides_of(rounded(record["values"]))),
    ]


def rounded(values: Record) -> Record:
    """Six digits are enough to tell."""
    return {
        key: float(f"{value:.6g}") if isinstance(value, float) else value for key, value in values.items()
    }


def experiment(record: Record, options: argparse.Namespace, date: str) -> str:
    """The file of ``configs/experiment`` that says how the best setting was found and chooses it."""
    config = compose_config("train", [*options.overrides, f"model={record['model']}"])
    given = dict(override.split("=", 1) for override in options.overrides)
    chosen = [{f"override /{name}": given[name]} for name in ("dataset", "filters", "split") if name in given]
    chosen += [] if "dataset" in given else [{"override /dataset": config.dataset.name}]
    settings: Record = {}
    sections = ("filters.", "split.", "trainer.")
    values = {key: OmegaConf.select(config, key) for key in given if key.startswith(sections)}
    values |= {
        k: yaml.safe_load(v) if isinstance(v, str) else v for k, v in rounded(record["values"]).items()
    }
    for key, value in values.items():
        *parents, last = key.split(".")
        section = settings
        for parent in parents:
            section = section.setdefault(parent, {})
        section[last] = value
    name = f"{dataset_name(config)}_{record['model']}"
    own = [o for o in options.overrides if o.startswith("dataset.")]
    lines = [
        "# @package _global_",
        " ".join([f"# recsys-vae train experiment={name}", *own]),
        f"# Validation {record['metric']} {record['best']:.4f} ± {record['stderr']:.4f} of "
        f"{record['n_validation_users']} users of {dataset_name(config)}, with the defaults {record['default']:.4f};",
        f"# best of {record['n_trials']} trials of scripts/sweep.py, seed {config.seed}, "
        f"split {record['split_sha256'][:12]}, {date}.",
    ]
    body: dict[str, Any] = {"defaults": [*chosen, {"override /model": record["model"]}], **settings}
    return "\n".join(lines) + "\n" + yaml.safe_dump(body, sort_keys=False)


def main(arguments: Sequence[str] | None = None) -> int:
    """Sweep and report; exit code 2 for a mistake of the user's."""
    options = parse(arguments)
    try:
        if options.write is not None and any(o.startswith("experiment=") for o in options.overrides):
            raise UserError(
                "--write: expected no experiment=..., since an experiment cannot choose another one"
            )
        if options.write is not None and not options.write.is_dir():
            raise UserError(f"--write: expected a folder, came {options.write}")
        records = sweep(options)
    except UserError as error:
        print(error, file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted; the same command goes on from here", file=sys.stderr)
        return 130
    heads = ["model", f"validation {options.metric}", "defaults", "trials", "seconds", "best setting"]
    table = Table(*heads)
    for record in records:
        table.add_row(*cells(record))
    Console(soft_wrap=True).print(table, markup=False)
    rows = [heads, ["---"] * len(heads), *map(cells, records)]
    date = datetime.now(UTC).date().isoformat()
    files = {
        options.markdown: "\n".join(f"| {' | '.join(row)} |" for row in rows) + "\n",
        options.output: json.dumps(
            {"overrides": options.overrides, "date": date, "models": records}, indent=2
        )
        + "\n",
    }
    if options.write is not None:
        stem = dataset_name(compose_config("train", options.overrides))
        files |= {options.write / f"{stem}_{r['model']}.yaml": experiment(r, options, date) for r in records}
    for path, text in files.items():
        if path is not None:
            with atomic_path(path) as temporary:
                temporary.write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
