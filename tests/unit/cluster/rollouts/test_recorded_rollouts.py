"""Rollouts of a simulated world as a cluster recorded them are decided, and judged, as they were.

Two of one run: a better bundle that evidence promoted, and a worse one that it aborted.
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from cluster.console import Console
from cluster.rollouts.deciding.rollout_record import Phase
from cluster.rollouts.deciding.rollout_turn import RecordedTurn, Verb
from cluster.rollouts.verbs.canary_commands import canary
from recsys.errors import RecsysError
from recsys.evidence.comparison import Verdict
from recsys.settings import Settings
from tests.recorded_rollouts import judge_last_step, read_recorded, restore

ENDS = {"promoted": (Phase.PROMOTED, Verdict.PASS), "aborted": (Phase.ABORTED, Verdict.FAIL)}


def replayed(folder: Path, turns: tuple[RecordedTurn, ...]) -> tuple[Any, BaseException | None]:
    """What `cluster --json canary history --replay ROLLOUT` prints of them, and raises."""
    settings = Settings(data_dir=folder)
    restore(turns, settings)
    console = Console(settings, as_json=True)
    words = ["history", "--replay", turns[0].rollout_id]
    result = CliRunner().invoke(canary, words, obj=console)
    return json.loads(result.stdout), result.exception


@pytest.mark.parametrize("name", ENDS)
def test_a_recorded_rollout_is_decided_as_it_was(name: str, tmp_path: Path) -> None:
    """Every turn of it leads to the record that it led to then."""
    recorded = read_recorded(name)
    document, error = replayed(tmp_path, recorded.turns)
    assert error is None
    assert document["is_same"] is True and document["mismatches"] == []
    assert document["n_replayed"] == len(recorded.turns) - 1 > 20
    assert recorded.last.phase is ENDS[name][0]


@pytest.mark.parametrize("name", ENDS)
def test_recorded_evidence_is_judged_as_it_was(name: str) -> None:
    """The statistics give the bounds of that release; another bound is a change to be told of."""
    recorded = read_recorded(name)
    found, before = judge_last_step(recorded.last, recorded.samples), recorded.judged
    assert (found.verdict, found.deciding) == (ENDS[name][1], before.deciding)
    assert found.n_users == before.n_users
    assert found.sample_ratio_p == pytest.approx(before.sample_ratio_p)
    assert [one.metric for one in found.comparisons] == [one.metric for one in before.comparisons]
    for now, then in zip(found.comparisons, before.comparisons, strict=True):
        assert now.verdict is then.verdict
        for figure in ("baseline", "canary", "effect", "low", "high"):
            assert getattr(now, figure) == pytest.approx(getattr(then, figure), rel=1e-9), figure


@pytest.mark.parametrize("name", ENDS)
def test_what_came_late_did_not_change_the_verdict(name: str) -> None:
    """The turn that ended it judged the same users a moment before."""
    recorded = read_recorded(name)
    ended = [one.turn.judgement for one in recorded.turns if one.turn.judgement is not None][-1]
    assert (ended.verdict, ended.deciding) == (recorded.judged.verdict, recorded.judged.deciding)
    late = {key: n - ended.n_users[key] for key, n in recorded.judged.n_users.items()}
    assert all(0 <= n <= 0.05 * ended.n_users[key] for key, n in late.items())


def test_a_verdict_that_changed_is_seen(tmp_path: Path) -> None:
    """The replay names the turn, and exits 1."""
    turns = list(read_recorded("aborted").turns)
    at = max(n for n, one in enumerate(turns) if one.turn.verb is Verb.ADVANCE)
    judged = turns[at].turn.judgement
    assert judged is not None and judged.verdict is Verdict.FAIL
    undecided = replace(judged, verdict=Verdict.INCONCLUSIVE)
    turns[at] = replace(turns[at], turn=replace(turns[at].turn, judgement=undecided))
    document, error = replayed(tmp_path, tuple(turns))
    assert isinstance(error, RecsysError) and error.exit_code == 1
    (mismatch,) = document["mismatches"]
    assert mismatch["number"] == turns[at].number
    assert (mismatch["recorded"]["phase"], mismatch["replayed"]["phase"]) == ("aborted", "canary")
