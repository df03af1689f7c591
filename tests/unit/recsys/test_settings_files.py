"""Settings layers, and errors that say where, what and what instead."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest

from recsys.errors import ConfigError
from recsys.settings import Settings
from recsys.settings_files import load_settings, setting_keys, settings_variables

CONFIGS = Path(__file__).parents[3] / "configs"


def a_file(folder: Path, text: str, name: str = "mine.toml") -> Path:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


def test_without_layers_the_defaults_hold() -> None:
    """No file and no variable is a working configuration."""
    assert load_settings(environ={}) == Settings()


def test_later_files_win_tables_merge_and_lists_replace(tmp_path: Path) -> None:
    """Layers are read left to right."""
    first = a_file(
        tmp_path,
        'data_dir = "a"\n[serve]\nport = 8001\nmax_batch = 8\n[train.scorer]\nhidden_dims = [1, 2]',
    )
    second = a_file(tmp_path, "[serve]\nport = 8002\n[train.scorer]\nhidden_dims = [3]", "b.toml")
    settings = load_settings([first, second], environ={})
    assert (settings.serve.port, settings.serve.max_batch) == (8002, 8)
    assert settings.train.scorer.hidden_dims == (3,)
    assert settings.data_dir == Path("a")


def test_the_named_default_file_is_read_only_without_other_files(tmp_path: Path) -> None:
    """FLYWHEEL_CONFIG gives way to --config."""
    default = a_file(tmp_path, "[serve]\nport = 9001")
    other = a_file(tmp_path, "[serve]\nmax_batch = 7", "other.toml")
    environ = {"FLYWHEEL_CONFIG": str(default)}
    assert load_settings(environ=environ).serve.port == 9001
    assert load_settings([other], environ=environ).serve.port == Settings().serve.port


def test_variables_win_over_files_in_either_case_and_as_json_or_text(tmp_path: Path) -> None:
    """Every setting can be set from the environment."""
    settings = load_settings(
        [a_file(tmp_path, "[serve]\nport = 8002")],
        environ={
            "FLYWHEEL__SERVE__PORT": "8003",
            "flywheel__serve__host": "0.0.0.0",
            "FLYWHEEL__DATA_DIR": "123",
            "FLYWHEEL__SERVE__PLACEMENT": "fused",
            "FLYWHEEL__EVENTS__NEGATIVE_KINDS": '["no"]',
            "FLYWHEEL__TRAIN": '{"seed": 4, "nice": 3}',
            "FLYWHEEL__TRAIN__SEED": "5",
            "FLYWHEEL__TRAIN__SCORER__UTILITY_WEIGHTS__LIKE": "2",
            "PATH": "/bin",
        },
    )
    assert (settings.serve.port, settings.serve.host) == (8003, "0.0.0.0")
    assert (settings.data_dir, settings.serve.placement) == (Path("123"), "fused")
    assert settings.events.negative_kinds == ("no",)
    assert (settings.train.seed, settings.train.nice) == (5, 3)
    assert settings.train.scorer.utility_weights == {"like": 2.0}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[serve]\nprot = 1", "serve.prot is not a setting; did you mean serve.port"),
        ("port = 1", "port is not a setting; did you mean serve.port"),
        ("[serv]\nport = 1", "serv is not a setting; did you mean serve"),
        ("[train.towers]\nepoch = 1", "did you mean train.towers.epochs"),
        ("[ordering]\nzzz = 1", "expected one of ordering.pool, ordering.diversity"),
        ("[serve]\nport = 70000", "serve.port is 70000; expected a whole number at least 1 and at"),
        ("[serve]\nport = true", "serve.port is True; expected a whole number"),
        ('[serve]\nport = "8000"', "serve.port is '8000'; expected a whole number"),
        ("[serve]\nport = 80.5", "serve.port is 80.5; expected a whole number"),
        ('[serve]\nplacement = "far"', "expected one of link, handle, fused"),
        ("[ordering]\ntemperature = inf", "ordering.temperature is inf; expected a finite number"),
        ("[ordering]\ndiversity = nan", "ordering.diversity is nan; expected a finite number"),
        ("[features]\npoll_interval_s = 0", "expected a number above 0"),
        ("[events]\nnegative_kinds = [1]", "events.negative_kinds.0 is 1; expected a list, each"),
        ('[train.scorer.utility_weights]\nlike = "much"', "a table, each value a number"),
        ("serve = 3", "serve is 3; expected a table"),
        ("data_dir = 3", "data_dir is 3; expected a path"),
    ],
)
def test_a_wrong_setting_names_file_key_and_legal_range(
    tmp_path: Path, text: str, said: str
) -> None:
    """Whoever made the mistake can mend it from the one line."""
    path = a_file(tmp_path, text)
    with pytest.raises(ConfigError) as raised:
        load_settings([path], environ={})
    assert said in str(raised.value)
    assert str(path) in str(raised.value)


def test_every_problem_is_named_at_once_with_its_origin(tmp_path: Path) -> None:
    """Mending three mistakes takes one look, not three runs."""
    first = a_file(tmp_path, "[serve]\nport = 0\nmax_batch = 8", "a.toml")
    second = a_file(tmp_path, "[servee]\nhost = 1", "b.toml")
    environ = {"FLYWHEEL__GATE__METRIC": "auc"}
    with pytest.raises(ConfigError) as raised:
        load_settings([first, second], environ=environ)
    problems = str(raised.value).split("; ")
    assert any(p.startswith(f"{first}: serve.port") for p in problems)
    assert any(p.startswith(f"{second}: servee") for p in problems)
    assert any(p.startswith("FLYWHEEL__GATE__METRIC: gate.metric is 'auc'") for p in problems)


def test_a_file_that_is_missing_broken_or_a_folder_is_named(tmp_path: Path) -> None:
    """The message tells the path and what to do, and where TOML breaks, the line."""
    with pytest.raises(ConfigError, match="does not exist"):
        load_settings([tmp_path / "none.toml"], environ={})
    with pytest.raises(ConfigError, match="cannot be read"):
        load_settings([tmp_path], environ={})
    with pytest.raises(ConfigError, match=r"not TOML: .*line 2"):
        load_settings([a_file(tmp_path, "[serve]\nport 1")], environ={})
    (tmp_path / "latin.toml").write_bytes(b'data_dir = "\xff"')
    with pytest.raises(ConfigError, match="not TOML"):
        load_settings([tmp_path / "latin.toml"], environ={})


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("*.toml")), ids=lambda path: path.name)
def test_every_file_in_configs_parses_alone_and_over_base(path: Path) -> None:
    """What we ship works as it is."""
    assert load_settings([path], environ={}) == load_settings(
        [CONFIGS / "base.toml", path], environ={}
    )


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("*.toml")), ids=lambda path: path.name)
def test_no_shipped_file_repeats_a_default(path: Path) -> None:
    """A default stands once, at its field."""
    defaults = Settings().model_dump(mode="json")

    def repeated(tree: dict[str, object], default: object, above: str = "") -> list[str]:
        found = []
        for name, value in tree.items():
            known = default[name] if isinstance(default, dict) and name in default else None
            if isinstance(value, dict):
                found += repeated(value, known, f"{above}{name}.")
            elif value == known:
                found.append(above + name)
        return found

    assert repeated(tomllib.loads(path.read_text(encoding="utf-8")), defaults) == []


def test_what_was_set_travels_to_another_process_as_variables(tmp_path: Path) -> None:
    """The variables hold what differs, and read back to the same settings."""
    text = 'data_dir = "a b"\n[serve]\nport = 8001\n[train.scorer.utility_weights]\nCamelKind = 2'
    settings = load_settings([a_file(tmp_path, text)], environ={})
    variables = settings_variables(settings)
    assert sorted(variables) == ["FLYWHEEL__DATA_DIR", "FLYWHEEL__SERVE", "FLYWHEEL__TRAIN"]
    assert load_settings(environ=variables) == settings


def test_the_list_of_keys_reaches_every_depth() -> None:
    """Guards and documents can name each setting."""
    keys = setting_keys()
    assert {"data_dir", "serve.port", "train.towers.epochs"} <= set(keys)
    assert "serve" not in keys
    assert len(keys) == len(set(keys))
