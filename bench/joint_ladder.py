"""`python -m bench.joint_ladder --data SPEC ...`: does training both stages together help?

For every data set and seed, towers and scorer are trained once, separately; each rung of the ladder
then trains that pair jointly, with one idea more or another, and lets its towers catch up with the
newest events. The last engagement of every user is held out. Writes `bench/joint_ladder.json` and
`.md`.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from bench.joint_ladder_table import Rung, ladder_markdown, summary
from bench.quality import DataSet, parse_data, run_verb, settings_of
from bench.quality_table import machine
from recsys.errors import RecsysError
from recsys.joint_settings import RECIPES, JointSettings
from recsys.scorer import load_scorer, save_scorer
from recsys.settings import Settings
from recsys.two_tower import load_towers, save_towers
from train_app.evaluation.evaluate import rank
from train_app.evaluation.evaluation_protocols import HeldOut, hold_out
from train_app.evaluation.rankers import BundleParts, BundleRanker
from train_app.examples.lake_examples import load_interactions
from train_app.learning.page.joint_step import train_jointly
from train_app.learning.page.train_page import Pair
from train_app.learning.ranking.scorer_examples import held_back_events
from train_app.learning.towers.planned_towers import planned_towers
from train_app.learning.train_joint import catch_up, train_models
from train_app.publish import assemble

JSON_FILE, MARKDOWN_FILE = Path("bench/joint_ladder.json"), Path("bench/joint_ladder.md")


@dataclass(frozen=True)
class Start:
    """One seed's separate training, which every rung begins with."""

    held_out: HeldOut
    models: Path
    settings: Settings


def separately(settings: Settings, scratch: Path) -> Start:
    """Train towers and scorer, each for itself, on all but the last engagement of every user."""
    interactions = load_interactions(settings.lake_location, settings)
    held_out = hold_out(
        "leave-one-out",
        interactions,
        cutoff_ms=0,
        negative_kinds=settings.events.negative_kinds,
        seed=settings.train.seed,
    )
    models = scratch / f"models-{settings.train.seed}"
    alone = without_catch_up(with_joint(settings, JointSettings()))
    train_models(held_out.train, alone, models, warm_start=None, report=_say)
    return Start(held_out, models, settings)


def climb(start: Start, recipe: str, joint: JointSettings, scratch: Path) -> Rung:
    """Train the pair by a recipe, and rank what was held out."""
    settings = with_joint(start.settings, joint)
    train = start.held_out.train
    rng = np.random.default_rng((settings.train.seed, 0))
    held_back = held_back_events(train, rng)
    pair = Pair(load_towers(start.models).eval(), load_scorer(start.models))
    began_s = time.process_time()
    fit = train_jointly(train, held_back, pair, settings, lambda share: None)
    cpu_s = time.process_time() - began_s
    models, bundle = scratch / "models", scratch / "bundle"
    for stale in (models, scratch / "checkpoints"):
        shutil.rmtree(stale, ignore_errors=True)
    shutil.copytree(start.models, models)
    save_towers(fit.pair.model, models)
    save_scorer(fit.pair.scorer, models)
    # Whatever the recipe: else one that reads the newest events would win by that alone.
    job = planned_towers(train, settings, held_back, None)
    catch_up(job, train, settings, models, scratch / "checkpoints", _say)
    draft = assemble(models, bundle, train, settings, _say)
    parts = BundleParts.load(bundle, draft, settings)
    ranker = BundleRanker(parts, start.held_out.interactions, settings.retrieval.n_candidates)
    ranked = rank(start.held_out, [ranker], _say)
    users = start.held_out.users
    return Rung(recipe, settings.train.seed, users, ranked, fit.metrics, cpu_s)


def without_catch_up(settings: Settings) -> Settings:
    """The settings without the last pass over what was kept for the scorer."""
    towers = settings.train.towers.model_copy(update={"catch_up": 0.0})
    return settings.model_copy(
        update={"train": settings.train.model_copy(update={"towers": towers})}
    )


def with_joint(settings: Settings, joint: JointSettings) -> Settings:
    """The settings with this joint step."""
    return settings.model_copy(update={"train": settings.train.model_copy(update={"joint": joint})})


def measure_data(
    data: DataSet, seeds: Sequence[int], recipes: Sequence[str], settings_file: Path | None
) -> dict[str, Any]:
    """The whole ladder on one data set."""
    with tempfile.TemporaryDirectory(prefix="flywheel-ladder-") as folder:
        scratch = Path(folder)
        rungs: list[Rung] = []
        for seed in seeds:
            settings = settings_of(settings_file, scratch / "var", seed)
            if not rungs:
                path = scratch / "settings.json"
                path.write_text(settings.model_dump_json())
                for one in data.imports:
                    run_verb("import", path, one)
            start = separately(settings, scratch)
            for recipe in recipes:
                given = settings.train.joint
                idea = RECIPES[recipe].model_dump(exclude_unset=True)
                # Else a rung shows what the rule that keeps the better pair does, not the idea.
                joint = given.model_copy(update={**idea, "only_if_better": False})
                print(f"{data.name}, seed {seed}: {recipe}", file=sys.stderr, flush=True)
                rungs.append(climb(start, recipe, joint, scratch))
    return {"data": data.name, "seeds": list(seeds), "rungs": summary(rungs)}


def main(arguments: Sequence[str] | None = None) -> int:
    """Climb the ladder on every data set; what was measured is on disk after each."""
    parser = argparse.ArgumentParser(prog="python -m bench.joint_ladder", description=__doc__)
    parser.add_argument("--data", action="append", required=True, metavar="SPEC")
    parser.add_argument("--seed", action="append", type=int, help="default 0, 1 and 2")
    parser.add_argument("--recipe", action="append", choices=list(RECIPES), help="default all")
    parser.add_argument("--settings", type=Path, help="settings as JSON; data_dir is set here")
    parser.add_argument("--json", type=Path, default=JSON_FILE)
    parser.add_argument("--markdown", type=Path, default=MARKDOWN_FILE)
    asked = parser.parse_args(arguments)
    recipes = ["separate", *(name for name in asked.recipe or RECIPES if name != "separate")]
    own = {} if asked.settings is None else json.loads(asked.settings.read_text(encoding="utf-8"))
    document: dict[str, Any] = {"machine": machine(), "settings": own, "data": []}
    for spec in asked.data:
        data = parse_data(spec, ("leave-one-out",), 1)
        document["data"].append(
            measure_data(data, asked.seed or [0, 1, 2], recipes, asked.settings)
        )
        asked.json.write_text(json.dumps(document, indent=1, allow_nan=False) + "\n")
        asked.markdown.write_text(ladder_markdown(document))
    print(ladder_markdown(document))
    return 0


def _say(label: str, share: float) -> None:
    if share in {0.0, 1.0}:
        print(f"  {label}: {share:.0%}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    try:
        sys.exit(main())
    except RecsysError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
