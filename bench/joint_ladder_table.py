"""The ladder of joint training as figures and Markdown: every rung beside the separate one.

Pure: ranked lists in, numbers and text out.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from train_app.evaluation.evaluation_table import HR, NDCG, RECALL, Ranked
from train_app.evaluation.metrics import Values, bootstrap_mean
from train_app.evaluation.rankers import FINAL_PAGE, PAGE, RETRIEVAL_EXACT

SEPARATE = "separate"
_STAGES = (RETRIEVAL_EXACT, PAGE, FINAL_PAGE)
_TOP = 10


@dataclass(frozen=True)
class Rung:
    """One recipe with one seed, on everything held out."""

    recipe: str
    seed: int
    users: NDArray[np.int64]  # [Q]
    ranked: Mapping[str, Ranked]
    fit: Mapping[str, float]
    cpu_s: float


def summary(rungs: Sequence[Rung]) -> list[dict[str, Any]]:
    """Every recipe over its seeds: means, and differences to the separate training of that seed.

    A query's figure is its mean over the seeds, so the interval is over users, for these seeds.
    """
    separate = {rung.seed: rung for rung in rungs if rung.recipe == SEPARATE}
    recipes = list(dict.fromkeys(rung.recipe for rung in rungs))
    return [_row([rung for rung in rungs if rung.recipe == name], separate) for name in recipes]


def ladder_markdown(document: Mapping[str, Any]) -> str:
    """The report."""
    facts = ", ".join(f"{name} {value}" for name, value in document["machine"].items())
    lines = [
        "# Joint training against separate",
        "",
        "Made by `python -m bench.joint_ladder`. Leave-one-out, full ranking; each rung begins with"
        " the separately trained pair of its seed and ends with the same last pass of the towers"
        " over the newest events. Differences are paired by user and seed, with"
        " 95 % intervals over users; every rung is what the joint training made of"
        " the pair; *kept* says for how many seeds the moments kept aside preferred it, which is"
        " what `cluster train` goes by.",
        "",
        f"Machine: {facts}.",
        "",
        f"Settings, where not default: `{json.dumps(document['settings'])}`.",
    ]
    for data in document["data"]:
        lines += ["", f"## {data['data']}, seeds {', '.join(map(str, data['seeds']))}", ""]
        lines += [
            "| recipe | retrieval NDCG@10 | recall@200 | page NDCG@10 | page HR@10 "
            "| page less separate | retrieval less separate | churn | kept | CPU s |",
            "|---|---|---|---|---|---|---|---|---|---|",
        ]
        lines += [_line(row) for row in data["rungs"]]
    return "\n".join(lines) + "\n"


def _row(rungs: Sequence[Rung], separate: Mapping[int, Rung]) -> dict[str, Any]:
    users = rungs[0].users
    row: dict[str, Any] = {
        "recipe": rungs[0].recipe,
        "n_seeds": len(rungs),
        "n_kept": sum(rung.fit.get("joint_epochs", 0.0) > 0 for rung in rungs),
        "cpu_s": round(float(np.mean([rung.cpu_s for rung in rungs])), 1),
        "churn": float(np.mean([_churn(rung, separate[rung.seed]) for rung in rungs])),
    }
    for stage in _STAGES:
        for metric in (HR, NDCG, RECALL):
            values = _mean([rung.ranked[stage].per_query[metric] for rung in rungs])
            row[f"{stage} {metric}"] = bootstrap_mean(values, users, 0).as_dict()
        gained = _mean(
            [
                rung.ranked[stage].per_query[NDCG]
                - separate[rung.seed].ranked[stage].per_query[NDCG]
                for rung in rungs
            ]
        )
        row[f"{stage} gain"] = bootstrap_mean(gained, users, 0).as_dict()
    return row


def _mean(values: Sequence[Values]) -> Values:
    return np.asarray(np.mean(values, axis=0), np.float64)


def _churn(one: Rung, other: Rung) -> float:
    """The share of retrieval's first items that the separate pair has not among its own."""
    top, before = (rung.ranked[RETRIEVAL_EXACT].lists[:, :_TOP] for rung in (one, other))
    return 1.0 - float((top[:, :, None] == before[:, None, :]).any(2).mean())


def _line(row: Mapping[str, Any]) -> str:
    def mean(name: str) -> str:
        return f"{row[name]['mean']:.4f}"

    def difference(stage: str) -> str:
        found = row[f"{stage} gain"]
        return f"{found['mean']:+.4f} [{found['low']:+.4f}, {found['high']:+.4f}]"

    cells = [
        row["recipe"],
        mean(f"{RETRIEVAL_EXACT} {NDCG}"),
        mean(f"{RETRIEVAL_EXACT} {RECALL}"),
        mean(f"{PAGE} {NDCG}"),
        mean(f"{PAGE} {HR}"),
        difference(PAGE),
        difference(RETRIEVAL_EXACT),
        f"{row['churn']:.3f}",
        f"{row['n_kept']}/{row['n_seeds']}",
        f"{row['cpu_s']:.0f}",
    ]
    return "| " + " | ".join(cells) + " |"
