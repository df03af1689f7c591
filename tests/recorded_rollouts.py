"""Rollouts as a running cluster recorded them: every turn, and the evidence at their end.

`python -m tests.recorded_rollouts DATA_DIR ROLLOUT FILE` keeps one of a stopped cluster.
"""

from __future__ import annotations

import gzip
import itertools
import json
import math
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from cluster.rollouts.deciding.rollout_record import Phase, Rollout
from cluster.rollouts.deciding.rollout_turn import RecordedTurn, Turn
from cluster.rollouts.deciding.step_judgement import judge_step
from cluster.rollouts.driving.evidence_source import EvidenceSource
from cluster.rollouts.storing.control_writer import ControlWriter
from recsys.evidence.arm_sample import ArmSample
from recsys.evidence.judgement import Judgement
from recsys.settings import Settings
from recsys.stores.evidence.evidence import EvidenceReader
from recsys.stores.evidence.evidence_sums import LatencyHistogram

FOLDER = Path(__file__).parent / "recordings"
_OPERATOR, _CONTROLLER = "operator@host:1", "controller@host:2:a"


@dataclass(frozen=True)
class Recorded:
    """One rollout."""

    turns: tuple[RecordedTurn, ...]
    samples: Mapping[str, ArmSample]
    """By variant, once all that came late is counted."""
    judged: Judgement
    """What the release that recorded it made of the samples, by the rules of the last step."""

    @property
    def rollout_id(self) -> str:
        """Its id."""
        return self.turns[0].rollout_id

    @property
    def last(self) -> Rollout:
        """The record that it ended with."""
        return self.turns[-1].after


def judge_last_step(last: Rollout, samples: Mapping[str, ArmSample]) -> Judgement:
    """The samples by the rules of the last step that was judged, as the controller judges."""
    plan = last.plan
    assert plan is not None
    return judge_step(plan, min(last.step, len(plan.steps) - 1), samples)


def read_recorded(name: str) -> Recorded:
    """The recording of a file of `FOLDER`, without its suffix."""
    document = json.loads(gzip.decompress((FOLDER / f"{name}.json.gz").read_bytes()))
    turns = tuple(
        RecordedTurn(
            document["rollout_id"],
            one["number"],
            one["who"],
            Turn.from_json(one["turn"]),
            Rollout.from_json(one["after"]),
        )
        for one in document["turns"]
    )
    samples = {name: _sample(name, one) for name, one in document["samples"].items()}
    return Recorded(turns, samples, Judgement.from_json(document["judged"]))


def restore(turns: Sequence[RecordedTurn], settings: Settings) -> None:
    """Put the turns into an empty control store, through its only writer."""
    writer = ControlWriter(settings.control_url)
    first = turns[0]
    writer.start_rollout(first.after, first.who, first.turn.at_ms)
    for before, one in itertools.pairwise(turns):
        writer.save_rollout(one.after, before.number, one.who, one.turn.at_ms, turn=one.turn)
    writer.close()


def record(settings: Settings, rollout_id: str) -> dict[str, Any]:
    """A closed rollout and its evidence as a JSON object; it names no machine."""
    turns = ControlWriter(settings.control_url).turns(rollout_id)
    last = turns[-1].after
    source = EvidenceSource(EvidenceReader(settings.evidence_url), lambda: last.since_ms)
    samples = source.samples(last)
    source.close()
    return {
        "rollout_id": rollout_id,
        "turns": [
            {
                "number": one.number,
                "who": _CONTROLLER if one.who.startswith("controller") else _OPERATOR,
                "turn": one.turn.to_json(),
                "after": one.after.to_json(),
            }
            for one in turns
        ],
        "samples": {name: _document(one) for name, one in samples.items()},
        "judged": judge_last_step(last, samples).to_json(),
    }


def _document(sample: ArmSample) -> dict[str, Any]:
    return {
        "bundle_id": sample.bundle_id,
        "users": {name: column.tolist() for name, column in sample.users.items()},
        "before": None
        if sample.before is None
        else {
            name: [None if math.isnan(one) else one for one in column.tolist()]
            for name, column in sample.before.items()
        },
        "counts": dict(sample.counts),
        "latency": sorted(sample.latency.counts.items()),
    }


def _sample(name: str, document: Mapping[str, Any]) -> ArmSample:
    before = document["before"]
    return ArmSample(
        name,
        document["bundle_id"],
        {key: np.asarray(column, np.float64) for key, column in document["users"].items()},
        None
        if before is None
        else {key: np.asarray(column, np.float64) for key, column in before.items()},
        document["counts"],
        LatencyHistogram(dict(document["latency"])),
    )


def main() -> None:
    """Keep one rollout in a file."""
    data_dir, rollout_id, file = sys.argv[1:]
    found = record(Settings(data_dir=Path(data_dir)), rollout_id)
    assert found["turns"][-1]["after"]["phase"] in {Phase.PROMOTED, Phase.ABORTED}
    Path(file).write_bytes(gzip.compress(json.dumps(found).encode(), mtime=0))


if __name__ == "__main__":
    main()
