"""The command line of `python -m train_app`: times, mappings, exit codes and one-line errors."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from recsys.errors import ConfigError
from train_app.__main__ import main
from train_app.data_commands import CountProgress
from train_app.verb_options import parse_mapping, time_ms


@pytest.mark.parametrize(
    ("text", "milliseconds"),
    [
        ("1970-01-02", 86_400_000),
        ("1970-01-02T00:00:00Z", 86_400_000),
        ("1970-01-02T01:00:00+01:00", 86_400_000),
        ("1700000000", 1_700_000_000_000),
        ("1700000000123", 1_700_000_000_123),
        ("1700000000123456", 1_700_000_000_123),
    ],
)
def test_a_time_is_iso_or_a_number_of_any_unit(text: str, milliseconds: int) -> None:
    """Seconds, milliseconds and microseconds are told apart by their size."""
    assert time_ms(text) == milliseconds


@pytest.mark.parametrize("text", ["yesterday", "-5", "nan", "1e30", ""])
def test_what_is_no_time_is_refused(text: str) -> None:
    """Not guessed at."""
    with pytest.raises(ValueError):
        time_ms(text)


def test_a_mapping_names_fields_and_columns() -> None:
    """Spaces do not matter; a field without a column does."""
    assert parse_mapping("user_id=uid, item_id = sku") == {"user_id": "uid", "item_id": "sku"}
    assert parse_mapping("") == {}
    with pytest.raises(ConfigError, match="item_id"):
        parse_mapping("user_id=uid,item_id")


@pytest.mark.parametrize(
    ("arguments", "exit_code", "words"),
    [
        (["fly"], 2, "fly"),
        (["train", "--until", "foo"], 2, "ISO 8601"),
        (["evaluate", "--protocol", "best"], 2, "leave-one-out"),
        (["import"], 2, "SOURCE"),
        (["ingest", "--settings", "/nowhere/settings.json"], 2, "cannot be read"),
    ],
)
def test_bad_usage_is_one_line_and_exit_code_2(
    arguments: list[str], exit_code: int, words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """The line begins with `error:` and stdout stays empty."""
    assert main(arguments) == exit_code
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.startswith("error: ")
    assert words in said.err
    assert said.err.count("\n") == 1


def test_a_wrong_setting_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Key, file and exit code 2."""
    path = tmp_path / "settings.json"
    path.write_text('{"train": {"towers": {"epochs": 0}}}')
    assert main(["ingest", "--settings", str(path)]) == 2
    said = capsys.readouterr().err
    assert "train.towers.epochs" in said
    assert str(path) in said


def test_help_loads_neither_torch_nor_scann_nor_arrow() -> None:
    """Heavy imports wait until the arguments are parsed."""
    code = (
        "import sys; from train_app.__main__ import main; main(['--help']);"
        "heavy = {'torch', 'scann', 'ray', 'pyarrow', 'duckdb'} & set(sys.modules);"
        "sys.exit(f'loaded {heavy}' if heavy else 0)"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert "evaluate" in result.stdout


def test_counts_become_steps_that_begin_and_end() -> None:
    """A stage of unknown length is told of; the next stage ends it."""
    told: list[tuple[str, float]] = []
    counts = CountProgress(lambda label, share: told.append((label, share)))
    counts("read", 5, 10)
    counts("compare", 7, None)
    counts.end()
    counts.end()
    assert told == [("read", 0.5), ("read", 1.0), ("compare", 0.0), ("compare", 1.0)]
