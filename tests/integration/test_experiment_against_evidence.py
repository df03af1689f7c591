"""One log through both paths: an experiment's users in the lake are those of the evidence."""

from __future__ import annotations

import json
import random
from dataclasses import replace

import msgspec
import numpy as np
import pytest
from click.testing import CliRunner

from cluster.console import Console
from cluster.experiments.experiment_commands import experiment
from cluster.experiments.experiment_planning import planned_size
from cluster.experiments.experiment_record import Declaration, ExperimentRecord
from cluster.experiments.experiment_sides import bundle_sides
from cluster.experiments.experiment_writer import ExperimentWriter
from recsys.events import Event
from recsys.evidence.experiment_design import ExperimentDesign
from recsys.evidence.metric_rules import METRICS
from recsys.experiment_plan import Layer
from recsys.settings import Settings
from recsys.stores.evidence.evidence import EvidenceReader
from tests.evidence_by_hand import DAY_MS, HOUR_MS, START_MS, WINDOW_MS, a_slate, an_act
from tests.evidence_follower import SETTINGS, a_log, follow
from tests.lake_events import ManualClock, turn_all
from train_app.checking.lake_views import open_lake_views
from train_app.experiments.credited_slates import credit_rules
from train_app.experiments.experiment_users import ExperimentUsers, read_users
from train_app.lake.archiving.archiver import Archiver
from train_app.lake.lake_tables import Lake

pytestmark = pytest.mark.integration
FROM_MS = START_MS - START_MS % DAY_MS + 2 * DAY_MS
END_MS = FROM_MS + 2 * DAY_MS
N_USERS = 120
COUNTS = ("slates", "shown", "engaged_slates", "engaged_items", "touched_items", "sessions")
EXACT = (*COUNTS, "diversity_slates", "novelty_slates")


def some_events() -> list[Event]:
    """Four days of slates and reactions in order; two days in, half of the users are in it."""
    rng = random.Random(4)
    events: list[Event] = []
    for n in range(3_000):
        at_ms = START_MS - START_MS % DAY_MS + n * 4 * DAY_MS // 3_000
        user = rng.randrange(2 * N_USERS)
        items = [f"i{one}" for one in rng.sample(range(15), 4)]
        slate = a_slate(f"r{n}", f"u{user}", at_ms, items)
        if n % 5:  # the others are of a gateway that says nothing of its slates
            slate = msgspec.structs.replace(slate, diversity=n % 9 / 8, novelty=6 + n % 7 / 4)
        if at_ms >= FROM_MS and user < N_USERS:
            arm = ("control", "treatment")[user % 2]
            slate = msgspec.structs.replace(
                slate, experiment="one-1", variant=arm, bundle_id=f"b{1 + user % 2}"
            )
        events.append(slate)
        for act in range(rng.randrange(4)):
            events.append(
                an_act(
                    f"e{n}-{act}",
                    f"u{user}",
                    at_ms + rng.randrange(1, 3 * HOUR_MS),
                    rng.choice([*items, "else"]),
                    kind=rng.choice(["click", "view", "dismiss", "purchase"]),
                    request_id=rng.choice([None, f"r{n}"]),
                    value=2.0,
                )
            )
    events.sort(key=lambda one: one.timestamp_ms)
    # What moves the clock on, so that every label window is closed.
    return [*events, a_slate("last", "nobody", END_MS + WINDOW_MS + HOUR_MS, ["i1"])]


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    """A lake and an evidence store of the same log."""
    folder = tmp_path_factory.mktemp("both")
    settings = SETTINGS.model_copy(update={"data_dir": folder})
    log = a_log(some_events())
    follow(log, settings.evidence_url)
    now_ms = END_MS + DAY_MS
    archiver = Archiver(
        log, Lake(settings.lake_location), settings, now_ms=lambda: now_ms, clock_s=ManualClock()
    )
    turn_all(archiver, range(4))
    return settings


def a_record() -> ExperimentRecord:
    """The experiment of these events."""
    return ExperimentRecord(
        "one-1", "one", Layer.BUNDLE, bundle_sides("b1", "b2"), 0.5, "ann", FROM_MS,
        Declaration(label_window_s=WINDOW_MS // 1000),
    )  # fmt: skip


def users_of_lake(settings: Settings) -> ExperimentUsers:
    """What the report compares."""
    design: ExperimentDesign = a_record().design()
    with open_lake_views(settings, END_MS + DAY_MS) as views:
        return read_users(views, design, credit_rules(design, settings, END_MS + WINDOW_MS))


def test_users_of_the_lake_are_those_of_the_evidence(settings: Settings) -> None:
    """The same slates, engaged items and sessions of every user, of both sides."""
    reader = EvidenceReader(settings.evidence_url)
    columns = reader.per_user(["b1", "b2"], FROM_MS, END_MS + DAY_MS)
    reader.close()
    users = users_of_lake(settings)
    for arm, bundle_id in (("control", "b1"), ("treatment", "b2")):
        mine = columns.of_arm((bundle_id, arm, "one-1"))
        shown = mine & (columns.sums["slates"] > 0)
        found = users.arms[arm].users
        assert len(found["slates"]) == shown.sum() > 40
        expected = np.stack([columns.sums[name][shown].astype(float) for name in EXACT])
        got = np.stack([found[name] for name in EXACT])
        assert sorted(map(tuple, got.T)) == sorted(map(tuple, expected.T))
        for name in ("diversity", "novelty"):
            said = columns.sums[f"{name}_milli"][shown].sum() / 1000
            assert found[name].sum() == pytest.approx(said) != 0
        seconds = columns.sums["session_ms"][shown].sum() / 1000
        assert found["session_s"].sum() == pytest.approx(seconds, rel=1e-6)
        bought = columns.kinds["purchase"]
        assert found["value"].sum() == pytest.approx(bought["value_milli"][shown].sum() / 1000)
        assert found["conversions"].sum() == bought["slates"][shown].sum()


def test_status_counts_what_the_evidence_has(settings: Settings) -> None:
    """Users and slates of each side, without a lake."""
    writer = ExperimentWriter(settings.control_url)
    stored = writer.start(a_record(), FROM_MS)
    writer.set_running("one-1", stored.revision, "ann", FROM_MS)
    console = Console(settings, as_json=True)
    result = CliRunner().invoke(experiment, ["status", "one"], obj=console)
    counted = json.loads(result.stdout)["experiments"][0]["counted"]
    users = users_of_lake(settings)
    for arm in ("control", "treatment"):
        assert counted[arm]["slates"] == users.arms[arm].users["slates"].sum()
        assert counted[arm]["users"] >= users.arms[arm].n_users


def test_the_planned_size_comes_from_the_stable_bundle_s_users(settings: Settings) -> None:
    """More users for a smaller margin; and the days that takes."""
    reader = EvidenceReader(settings.evidence_url)

    def planned(margin: float) -> tuple[int, float]:
        rule = replace(METRICS["ctr"], margin=margin)
        size = planned_size(
            reader, "b1", rule, alpha=0.05, n_arms=2, share=0.5,
            lift=0.0, now_ms=FROM_MS,
        )  # fmt: skip
        assert size.users_per_arm is not None and size.days is not None
        return size.users_per_arm, size.days

    wide, narrow = planned(0.2), planned(0.1)
    assert narrow[0] > 2 * wide[0] and narrow[1] > 2 * wide[1]
    reader.close()
