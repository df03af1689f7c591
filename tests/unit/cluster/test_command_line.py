"""The command line as a whole: help, options, errors and exit codes, without running a cluster."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import click
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cluster.__main__ import VERBS, cli, hoist_global_options, run
from cluster.console import Console
from cluster.learning_commands import (
    child_command,
    import_arguments,
    import_history,
    run_learning,
    train,
)
from recsys.settings import Settings

ON_THIS_BRANCH = [
    "import",
    "train",
    "evaluate",
    "up",
    "down",
    "status",
    "doctor",
    "recommend",
]


def test_help_imports_no_heavy_package() -> None:
    """`cluster --help` has to answer at once, so it loads neither Ray, torch nor pydantic."""
    program = (
        "import sys\n"
        "from cluster.__main__ import run\n"
        "code = run(['--help'])\n"
        "heavy = {'ray', 'torch', 'pydantic', 'rich', 'numpy', 'sqlalchemy', 'scann'}\n"
        "print(code, sorted(heavy & set(sys.modules)))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert done.stdout.splitlines()[-1] == "0 []"
    assert all(verb in done.stdout for verb in VERBS)


@pytest.mark.parametrize("verb", ON_THIS_BRANCH)
def test_help_of_every_verb_shows_examples(
    verb: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Help works beside a settings file that cannot be used, and shows how the verb is called."""
    monkeypatch.setenv("FLYWHEEL_CONFIG", "/nowhere/none.toml")
    assert run([verb, "--help"]) == 0
    shown = capsys.readouterr().out
    assert "Examples:" in shown
    assert f"cluster {verb}" in shown or f"--json {verb}" in shown


def test_an_unknown_verb_is_answered_with_the_nearest(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """A typing mistake costs one line and exit code 2."""
    assert run(["stats"]) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert said.startswith("error: there is no verb 'stats'")
    assert "status" in said


def test_a_broken_settings_file_is_one_line_and_exit_code_2(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Bad settings are bad usage, told without a traceback."""
    file = tmp_path / "bad.toml"
    file.write_text("[serve]\nprot = 9000\n")
    assert run(["--config", str(file), "status"]) == 2
    said = capsys.readouterr().err
    assert said.startswith("error: ")
    assert said.count("\n") == 1
    assert "port" in said


def test_debug_adds_the_traceback(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """`--debug` may stand after the verb."""
    assert run(["status", "--config", str(tmp_path / "none.toml"), "--debug"]) == 2
    assert "Traceback" in capsys.readouterr().err


def test_an_unreachable_service_is_exit_code_3_with_the_mend(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """`recommend` without a cluster says how to start one."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("FLYWHEEL__SERVE__PORT", "1")
    assert run(["recommend", "u1"]) == 3
    said = capsys.readouterr()
    assert said.out == ""
    assert "cluster up --wait" in said.err


def test_a_data_directory_that_cannot_be_used_is_one_line_with_its_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A file where the directory should be is named, without a traceback."""
    (tmp_path / "var").write_text("in the way")
    monkeypatch.chdir(tmp_path)
    plain = tmp_path / "plain.json"
    plain.write_text("{}")
    assert run(["up", "--serve-config", str(plain)]) == 1
    said = capsys.readouterr().err
    assert said.startswith("error: cannot use ")
    assert str(tmp_path / "var") in said
    assert said.count("\n") == 1


def test_an_interrupt_is_exit_code_130(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Ctrl-C ends a verb as a shell expects."""

    @click.command()
    def interrupted() -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(type(cli), "get_command", lambda self, ctx, name: interrupted)
    assert run(["status"]) == 130
    assert "Traceback" not in capsys.readouterr().err


def test_global_options_may_stand_after_the_verb() -> None:
    """They are moved to where the group reads them; what follows `--` is left alone."""
    assert hoist_global_options(["status", "--json", "--config", "a.toml", "--watch"]) == [
        "--json",
        "--config",
        "a.toml",
        "status",
        "--watch",
    ]
    assert hoist_global_options(["recommend", "--", "--json"]) == ["recommend", "--", "--json"]


@given(st.lists(st.sampled_from(["status", "--json", "--debug", "-k", "5", "--config=x", "u"])))
@settings(max_examples=50, deadline=None)
def test_hoisting_keeps_every_argument_and_the_order_of_the_rest(arguments: list[str]) -> None:
    """Nothing is lost, doubled or reordered among the verb's own arguments."""
    hoisted = hoist_global_options(arguments)
    globals_ = {"--json", "--debug", "--config=x"}
    assert sorted(hoisted) == sorted(arguments)
    assert [a for a in hoisted if a not in globals_] == [a for a in arguments if a not in globals_]


def test_json_output_is_one_document_and_text_is_not_printed(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """With `--json` a program can read stdout whole."""
    console = Console(Settings(), as_json=True)
    console.emit({"a": [1, 2]}, "text")
    with console.progress("work") as show:
        show("step one", 0.5)
        show("step one", 0.6)
        show("step two", None)
    captured = capsys.readouterr()
    assert json.loads(captured.out) == {"a": [1, 2]}
    assert captured.err.splitlines() == ["work: step one (50%)", "work: step two"]


def test_the_child_of_a_learning_verb_gets_its_verb_settings_and_options(tmp_path: Path) -> None:
    """The command line is the one `python -m train_app` documents."""
    command = child_command(tmp_path / "s.json", ["import", "data", "--kind", "play"], as_json=True)
    assert command[:3] == [sys.executable, "-m", "train_app"]
    assert command[3:6] == ["import", "--settings", str(tmp_path / "s.json")]
    assert command[6:] == ["--json", "data", "--kind", "play"]


def test_import_hands_every_option_of_the_contract_on() -> None:
    """What a user gives is what the job gets; nothing is added."""
    every = "f.csv --items i.csv --users u.csv --format csv --map user_id=u --delimiter ; "
    every += "--no-header --kind play --dry-run"
    for given_ in (every.split(), ["ml-1m"]):
        parsed = import_history.make_context("import", list(given_)).params
        assert sorted(import_arguments(parsed)) == sorted(["import", *given_])


def recording_run(
    monkeypatch: pytest.MonkeyPatch, exit_code: int, document: dict[str, object]
) -> list[list[str]]:
    """Replace the child process by a recorder that answers with one result."""
    seen: list[list[str]] = []

    def answer(
        console: Console, arguments: list[str], reads_result: bool = False
    ) -> tuple[int, dict[str, object]]:
        seen.append(arguments)
        return exit_code, document

    monkeypatch.setattr("cluster.learning_commands.run_learning", answer)
    return seen


def test_the_exit_code_of_a_job_is_passed_on(monkeypatch: pytest.MonkeyPatch) -> None:
    """A refusal by the gate stays exit code 6, and no canary is started."""
    seen = recording_run(monkeypatch, 6, {})
    code = train.main(["--canary"], obj=Console(Settings()), standalone_mode=False)
    assert code == 6
    assert seen == [["train", "--publish"]]


def test_a_job_that_cannot_start_is_no_success() -> None:
    """The real child answers bad usage with its own exit code."""
    exit_code, document = run_learning(Console(Settings()), ["no-such-verb"], reads_result=True)
    assert exit_code != 0
    assert document == {}


def test_a_context_is_a_settings_file_that_others_are_laid_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """It may stand after the verb; one that is not there is refused, naming those there are."""
    monkeypatch.setenv("FLYWHEEL_CONTEXTS", str(tmp_path))
    url = f"sqlite:///{tmp_path / 'away.sqlite'}"
    (tmp_path / "prod.toml").write_text(f'control_store_url = "{url}"\n[serve]\nport = 9001\n')
    over = tmp_path / "over"
    over.write_text("[serve]\nport = 9002\n")
    key = ("keys", "create", "--scope", "read", "--client", "far")
    assert run(["--context", "prod", "--config", str(over), "--json", *key]) == 0
    capsys.readouterr()
    assert run(["keys", "list", "--json", "--context=prod"]) == 0
    assert [row["client"] for row in json.loads(capsys.readouterr().out)["keys"]] == ["far"]
    for wrong in ("prodd", "../prod", ""):
        assert run(["--context", wrong, "keys", "list"]) == 2
        assert "expected one of prod" in capsys.readouterr().err
