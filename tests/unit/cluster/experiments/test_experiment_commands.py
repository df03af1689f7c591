"""`cluster experiment`: what it refuses, how it goes on, and what it promotes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from cluster.console import Console
from cluster.experiments import experiment_commands
from cluster.experiments.experiment_commands import experiment
from cluster.experiments.experiment_promotion import promotion
from cluster.experiments.experiment_record import Declaration, ExperimentRecord
from cluster.experiments.experiment_runner import ExperimentRunner
from cluster.experiments.experiment_sides import (
    bundle_sides,
    factorial_sides,
    ordering_of,
    ordering_sides,
)
from cluster.experiments.experiment_writer import ExperimentWriter
from cluster.rollouts.deciding.rollout_record import Rollout
from cluster.rollouts.driving.rollout_actions import Operator
from cluster.rollouts.storing.control_writer import ControlWriter
from recsys.errors import (
    AbortedByEvidence,
    ConfigError,
    DataRefused,
    RolloutConflict,
    SpaceMismatch,
    WaitTimeout,
)
from recsys.experiment_plan import Layer
from recsys.settings import Settings
from recsys.stores.control.control import ControlReader, ReadinessReporter

NOW_MS = 1_700_000_000_000
ASKED = {"treatment": "b2"}


class Waiting:
    """A clock that each wait moves on, with what happens meanwhile."""

    def __init__(self, *meanwhile: Any) -> None:
        self.now_ms, self._meanwhile = NOW_MS, list(meanwhile)

    def sleep(self, seconds: float) -> None:
        """Let time pass."""
        self.now_ms += 10_000
        if self._meanwhile:
            self._meanwhile.pop(0)(self.now_ms)


def settings_of(folder: Path) -> Settings:
    """A cluster of one gateway process."""
    return Settings.model_validate({"data_dir": folder / "var", "serve": {"placement": "fused"}})


def a_record(layer: Layer = Layer.BUNDLE) -> ExperimentRecord:
    """An experiment named `one`."""
    arms = bundle_sides("b1", "b2") if layer is Layer.BUNDLE else ordering_sides({"pool": 9})
    return ExperimentRecord(
        "one-1", "one", layer, arms, 0.5, "ann", NOW_MS, Declaration(), asked=ASKED
    )


def a_runner(settings: Settings, time: Waiting) -> ExperimentRunner:
    """A runner at that clock."""
    url = settings.control_url
    operator = Operator("ann", lambda: time.now_ms, time.sleep, lambda line: None)
    return ExperimentRunner(settings, ExperimentWriter(url), ControlReader(url), operator)


def reports(settings: Settings, **states: str) -> Any:
    """What makes a gateway report these bundles."""
    reporter = ReadinessReporter(settings.control_url)

    def report(now_ms: int) -> None:
        rows = {name: (state, "too large") for name, state in states.items()}
        reporter.report("g1", "gateway", rows, 1, now_ms)

    return report


def run(settings: Settings, *arguments: str) -> Result:
    """One command with JSON output."""
    return CliRunner().invoke(experiment, list(arguments), obj=Console(settings, as_json=True))


def test_it_runs_once_every_replica_holds_its_bundles(tmp_path: Path) -> None:
    """Before that nobody is in it."""
    settings = settings_of(tmp_path)
    time = Waiting(
        reports(settings, b1="ready", b2="loading"), reports(settings, b1="ready", b2="ready")
    )
    runner = a_runner(settings, time)
    stored = runner.start(a_record())
    assert stored.record.state == "running"
    assert stored.record.ran_from_ms == NOW_MS + 20_000


def test_a_refused_bundle_stops_it_and_a_late_one_can_be_waited_for_again(tmp_path: Path) -> None:
    """After its operator's death, or its patience's end, the same command goes on."""
    settings = settings_of(tmp_path)
    with pytest.raises(WaitTimeout, match="run the same command again"):
        a_runner(settings, Waiting()).start(a_record())
    runner = a_runner(settings, Waiting(reports(settings, b1="ready", b2="failed")))
    left = runner.left("one", ASKED)
    assert left is not None and left.record.state == "preparing"
    with pytest.raises(RolloutConflict, match="another treatment"):
        runner.left("one", {"treatment": "b3"})
    with pytest.raises(AbortedByEvidence, match="refused b2: too large"):
        runner.go_on(left)
    assert runner.writer.named("one").record.state == "stopped"


def test_an_ordering_needs_no_bundle(tmp_path: Path) -> None:
    """It runs at once."""
    runner = a_runner(settings_of(tmp_path), Waiting())
    assert runner.start(a_record(Layer.ORDERING)).record.state == "running"


def test_ordering_settings_are_checked(tmp_path: Path) -> None:
    """Keys and values are those of the settings; a file may hold no other table."""
    file = tmp_path / "o.toml"
    file.write_text("[ordering]\npool = 80\n")
    assert ordering_of(["diversity=0.3", "ordering.exploration=0"], file) == {
        "pool": 80,
        "diversity": 0.3,
        "exploration": 0.0,
    }
    for pairs in (["polo=3"], ["diversity=2"], ["pool"]):
        with pytest.raises(ConfigError):
            ordering_of(pairs, None)
    file.write_text("[retrieval]\nn_candidates = 3\n")
    with pytest.raises(ConfigError, match=r"expected \[ordering\] alone"):
        ordering_of([], file)


def test_a_factorial_has_four_bundles_or_says_why_not() -> None:
    """Parts that do not fit are refused with exit code 6, the same part twice with 2."""
    arms = factorial_sides("b1", "b2", lambda base, scorer: f"{base}+{scorer}")
    assert [(arm.name, arm.bundle_id) for arm in arms] == [
        ("control", "b1"),
        ("retriever", "b2+b1"),
        ("scorer", "b1+b2"),
        ("both", "b2"),
    ]

    def refuse(base: str, scorer: str) -> str:
        raise SpaceMismatch(f"scorer of {scorer} is of another space than {base}")

    with pytest.raises(DataRefused, match="another space") as refused:
        factorial_sides("b1", "b2", refuse)
    assert refused.value.exit_code == 6
    with pytest.raises(ConfigError, match="same bundle on two sides"):
        factorial_sides("b1", "b2", lambda base, scorer: base)


def test_only_a_pass_is_promoted_unless_it_is_forced() -> None:
    """A forced promotion says so; an ordering has no bundle to promote."""
    side = {"arm": "treatment", "primary": {"verdict": "pass"}}
    passed = {"verdict": {"winner": "treatment", "message": "is better", "sides": [side]}}
    assert promotion(a_record(), passed, full=False).bundle_id == "b2"
    for report in ({}, {"verdict": {"winner": None, "message": "too few users", "sides": []}}):
        with pytest.raises(ConfigError, match="has no pass to promote"):
            promotion(a_record(), report, full=False)
        forced = promotion(a_record(), report, full=True)
        assert forced.bundle_id == "b2" and "without a pass" in forced.why
    with pytest.raises(ConfigError, match="expected one of treatment"):
        promotion(a_record(), passed, full=True, arm="control")
    with pytest.raises(ConfigError, match=r"set ordering.pool = 9"):
        promotion(a_record(Layer.ORDERING), passed, full=True)


def test_start_refuses_what_cannot_be_an_experiment(tmp_path: Path) -> None:
    """Before anything is written: names, both or no treatment, metrics, nothing that runs."""
    settings = settings_of(tmp_path)
    for arguments, said, code in (
        (("Bad:Name", "--treatment", "b2"), "cannot be used", 2),
        (("one",), "expected either --treatment", 2),
        (("one", "--ordering", "pool=9", "--factorial"), "--factorial is of", 2),
        (("one", "--ordering", "pool=9", "--metric", "joy"), "primary metric 'joy'", 2),
        (("one", "--ordering", "pool=9", "--margin", "2"), "margin 2.0", 2),
        (("one", "--treatment", "b2", "--share", "0"), "--share 0.0", 2),
        (("one", "--treatment", "b2"), "no gateway reports", 3),
    ):
        result = run(settings, "start", *arguments)
        said_all = f"{result.output} {result.exception}"
        assert said in said_all
        assert getattr(result.exception, "exit_code", result.exit_code) == code
    assert ExperimentWriter(settings.control_url).experiments() == []


def test_a_full_layer_is_refused_before_a_bundle_is_read_or_composed(tmp_path: Path) -> None:
    """So it takes no minute, and leaves no bundle behind; here there is not even one to read."""
    settings = settings_of(tmp_path)
    reports(settings, b1="ready")(experiment_commands.now_ms())
    ExperimentWriter(settings.control_url).start(a_record(), NOW_MS)
    words = ("start", "two", "--treatment", "b2", "--factorial", "--share", "0.6")
    refused = run(settings, *words)
    assert isinstance(refused.exception, RolloutConflict)
    assert "layer bundle is full" in str(refused.exception)


def test_an_ordering_experiment_from_start_to_stop(tmp_path: Path) -> None:
    """Listed, shown, held out of, and ended; a gateway's row is all that has to run."""
    settings = settings_of(tmp_path)
    ControlWriter(settings.control_url).set_alias("stable", "b1", None)
    reports(settings, b1="ready")(experiment_commands.now_ms())
    started = run(settings, "start", "spread", "--ordering", "pool=80", "--share", "0.25")
    document = json.loads(started.stdout)
    assert document["experiment"]["state"] == "running"
    assert "no planned n" in document["planned"]
    again = run(settings, "start", "spread", "--ordering", "pool=80", "--share", "0.25")
    assert isinstance(again.exception, RolloutConflict)
    listed = json.loads(run(settings, "list").stdout)
    assert [one["name"] for one in listed["experiments"]] == ["spread"]
    shown = json.loads(run(settings, "status", "spread").stdout)["experiments"][0]
    assert shown["plan"]["arms"][1]["ordering"] == {"pool": 80}
    assert json.loads(run(settings, "holdout", "--share", "0.1").stdout) == {"holdout": 0.1}
    refused = run(settings, "stop", "spread", "--full")
    assert refused.exit_code == 2
    ended = json.loads(run(settings, "stop", "spread", "--why", "enough").stdout)
    assert ended["experiment"]["state"] == "stopped" and ended["rollout"] is None
    assert json.loads(run(settings, "list").stdout)["experiments"] == []


def test_stop_with_promote_starts_the_rollout_of_the_winner(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The report comes from the trainer's process; a report without a pass changes nothing."""
    settings = settings_of(tmp_path)
    runner = a_runner(settings, Waiting(reports(settings, b1="ready", b2="ready")))
    runner.start(a_record())
    asked: list[list[str]] = []

    def no_pass(console: Console, arguments: list[str], reads_result: bool) -> Any:
        asked.append(arguments)
        return 0, {"verdict": {"winner": None, "message": "too few", "sides": []}}

    monkeypatch.setattr("cluster.learning_commands.run_learning", no_pass)
    result = run(settings, "stop", "one", "--promote")
    assert isinstance(result.exception, ConfigError)
    assert asked[0][:2] == ["experiment-report", "--design"]
    assert json.loads(asked[0][2])["plan"]["experiment_id"] == "one-1"
    assert runner.writer.named("one").record.state == "running"


def test_a_promotion_that_was_killed_is_gone_on_with(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The rollout that it had started is taken, and the experiment ends with what it showed."""
    settings = settings_of(tmp_path)
    runner = a_runner(settings, Waiting(reports(settings, b1="ready", b2="ready")))
    runner.start(a_record())
    left = Rollout("r1", "b2", "b1", "standard", (), ("b1",), ("b2", "b1"), 0, 1, 0)
    ControlWriter(settings.control_url).start_rollout(left, "ann", 0)
    side = {"arm": "treatment", "primary": {"verdict": "pass"}}
    verdict = {"winner": "treatment", "message": "is better", "sides": [side]}
    monkeypatch.setattr(
        "cluster.learning_commands.run_learning",
        lambda console, arguments, reads_result: (0, {"verdict": verdict}),
    )
    document = json.loads(run(settings, "stop", "one", "--promote").stdout)
    assert document["rollout"]["rollout_id"] == "r1"
    assert document["experiment"]["state"] == "stopped"
    assert "treatment goes on as rollout r1: is better" in document["experiment"]["why"]
