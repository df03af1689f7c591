"""Settings out of TOML files and the environment, and the error that says what is wrong with them.

Layers: files left to right (lists replace, tables merge), then `FLYWHEEL__SECTION__KEY`. The keys,
their legal ranges and their defaults are `settings`; nothing here holds a default.
"""

from __future__ import annotations

import difflib
import json
import math
import os
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, TypeAlias, get_args, get_origin

from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails

from recsys.errors import ConfigError
from recsys.settings import Settings

CONFIG_VARIABLE = "FLYWHEEL_CONFIG"
"""Names the settings file that is read when no other is given."""
VARIABLE_PREFIX = "FLYWHEEL__"
CONTEXTS_VARIABLE = "FLYWHEEL_CONTEXTS"
"""Names the folder of contexts, where that is not `~/.config/flywheel`."""

_Tree: TypeAlias = dict[str, Any]
_Key: TypeAlias = tuple[str, ...]
_TYPE_NAMES: dict[object, str] = {
    int: "a whole number",
    float: "a number",
    str: "text",
    Path: "a path",
    bool: "true or false",
}


def load_settings(paths: Sequence[Path] = (), environ: Mapping[str, str] = os.environ) -> Settings:
    """The settings of all layers; a later layer wins.

    Args:
        paths: TOML files; without any, the one that `FLYWHEEL_CONFIG` names, if it does.
        environ: `FLYWHEEL__SERVE__PORT=8001` sets `serve.port`; values are JSON or plain text, and
            names may be of either case.

    Raises:
        ConfigError: naming every problem with its file or variable, key, value and legal range.
    """
    if not paths and environ.get(CONFIG_VARIABLE):
        paths = [Path(environ[CONFIG_VARIABLE])]
    tree: _Tree = {}
    origins: dict[_Key, str] = {}
    for path in paths:
        _merge(tree, _read_toml(path), str(path), (), origins)
    for name, layer in _variables(environ):
        _merge(tree, layer, name, (), origins)
    problems = [
        f"{_origin(origins, key)}: {_dotted(key)} is {value}; expected a finite number"
        for key, value in _leaves(tree)
        if isinstance(value, float) and not math.isfinite(value)
    ]
    if not problems:
        try:
            # The JSON door is strict about types (true is no number), yet reads lists and paths.
            return Settings.model_validate_json(json.dumps(tree, default=str), strict=True)
        except ValidationError as error:
            problems = [_problem(details, origins) for details in error.errors()]
    raise ConfigError("; ".join(dict.fromkeys(problems)))


def context_file(name: str, environ: Mapping[str, str] = os.environ) -> Path:
    """The settings file of a context: where an operator keeps how another place is reached.

    Raises:
        ConfigError: there is none of that name; those there are are named.
    """
    chosen = environ.get(CONTEXTS_VARIABLE)
    folder = Path(chosen) if chosen else Path.home() / ".config" / "flywheel"
    known = sorted(path.stem for path in folder.glob("*.toml"))
    if name not in known:
        raise ConfigError(
            f"context '{name}' is not in {folder}, expected one of {', '.join(known) or 'none'}; "
            f"put the settings of that place into {folder}/NAME.toml"
        )
    return folder / f"{name}.toml"


def settings_variables(settings: Settings) -> dict[str, str]:
    """What was set, defaults left out, as variables that `load_settings` reads back."""
    chosen = settings.model_dump(mode="json", exclude_unset=True)
    return {
        f"{VARIABLE_PREFIX}{name.upper()}": value if isinstance(value, str) else json.dumps(value)
        for name, value in chosen.items()
    }


def setting_keys() -> list[str]:
    """Every settable key as a dotted path, such as `serve.port`."""
    return [_dotted(key) for key in _fields(Settings, ())]


def _read_toml(path: Path) -> _Tree:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ConfigError(
            f"settings file {path} does not exist; expected a TOML file; check --config or "
            f"{CONFIG_VARIABLE}"
        ) from error
    except OSError as error:
        raise ConfigError(
            f"settings file {path} cannot be read ({error.strerror}); expected a TOML file; check "
            "its path and permissions"
        ) from error
    except ValueError as error:  # of TOML or of UTF-8
        raise ConfigError(f"settings file {path} is not TOML: {error}; mend that line") from error


def _variables(environ: Mapping[str, str]) -> Iterator[tuple[str, _Tree]]:
    """One layer per variable, by name, so that a section comes before its keys."""
    for name in sorted(environ):
        if name.upper().startswith(VARIABLE_PREFIX):
            key = tuple(name[len(VARIABLE_PREFIX) :].lower().split("__"))
            value = _value(environ[name], _field_of(key))
            for part in reversed(key):
                value = {part: value}
            yield name, value


def _value(text: str, field: FieldInfo | None) -> Any:
    """Text stays text where text is wanted; elsewhere it is JSON, if it is."""
    if field is not None and (
        field.annotation in {str, Path} or get_origin(field.annotation) is Literal
    ):
        return text
    try:
        return json.loads(text)
    except ValueError:
        return text


def _merge(tree: _Tree, layer: _Tree, origin: str, above: _Key, origins: dict[_Key, str]) -> None:
    """Lay `layer` over `tree`: tables merge, anything else replaces."""
    for name, value in layer.items():
        key = (*above, name)
        if isinstance(value, dict):
            if not isinstance(tree.get(name), dict):
                tree[name] = {}
            origins.setdefault(key, origin)
            _merge(tree[name], value, origin, key, origins)
        else:
            tree[name] = value
            origins[key] = origin


def _leaves(value: Any, above: _Key = ()) -> Iterator[tuple[_Key, Any]]:
    if isinstance(value, dict):
        for name, inner in value.items():
            yield from _leaves(inner, (*above, name))
    elif isinstance(value, list):
        for index, inner in enumerate(value):
            yield from _leaves(inner, (*above, str(index)))
    else:
        yield above, value


def _fields(model: type[BaseModel], above: _Key) -> Iterator[_Key]:
    for name, field in model.model_fields.items():
        if inner := _branch(field.annotation):
            yield from _fields(inner, (*above, name))
        else:
            yield (*above, name)


def _branch(annotation: object) -> type[BaseModel] | None:
    """The section a field is, or None for a value."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return None


def _field_of(key: _Key) -> FieldInfo | None:
    """The field a key lies in: itself, or the nearest one above that is no section."""
    model: type[BaseModel] = Settings
    field: FieldInfo | None = None
    for name in key:
        field = model.model_fields.get(name)
        inner = None if field is None else _branch(field.annotation)
        if inner is None:
            return field
        model = inner
    return field


def _problem(details: ErrorDetails, origins: Mapping[_Key, str]) -> str:
    """One sentence of what is wrong with one key."""
    key = tuple(str(part) for part in details["loc"])
    origin = _origin(origins, key)
    if details["type"] == "extra_forbidden":
        return f"{origin}: {_dotted(key)} is not a setting; {_advice(key)}"
    field = _field_of(key)
    legal = "a settings table" if field is None else _legal(field)
    return f"{origin}: {_dotted(key)} is {details['input']!r}; expected {legal}"


def _origin(origins: Mapping[_Key, str], key: _Key) -> str:
    for length in range(len(key), 0, -1):
        if key[:length] in origins:
            return origins[key[:length]]
    return "settings"


def _advice(key: _Key) -> str:
    """The nearest key: among its neighbours, then by its whole path, then by its name anywhere."""
    known = setting_keys()
    sections = sorted({name.rpartition(".")[0] for name in known} - {""})
    parent = _dotted(key[:-1])
    beside = {name.rpartition(".")[2]: name for name in known if name.rpartition(".")[0] == parent}
    anywhere = {name.rpartition(".")[2]: name for name in reversed(known)}
    whole = {name: name for name in known + sections if name != parent}
    for word, names, cutoff in (
        (key[-1], beside, 0.6),
        (_dotted(key), whole, 0.75),
        (key[-1], anywhere, 0.75),
    ):
        if near := difflib.get_close_matches(word, names, n=1, cutoff=cutoff):
            return f"did you mean {names[near[0]]}"
    return f"expected one of {', '.join(beside.values() if parent in sections else sections)}"


def _legal(field: FieldInfo) -> str:
    """What a field accepts, in words."""
    annotation = field.annotation
    if _branch(annotation):
        return "a table"
    origin, inner = get_origin(annotation), get_args(annotation)
    if origin is Literal:
        return f"one of {', '.join(str(choice) for choice in inner)}"
    if origin is tuple:
        return f"a list, each entry {_TYPE_NAMES[inner[0]]}"
    if origin is dict:
        return f"a table, each value {_TYPE_NAMES[inner[1]]}"
    bounds = {
        name: limit
        for rule in field.metadata
        for name in ("ge", "gt", "le", "lt")
        if (limit := getattr(rule, name, None)) is not None
    }
    words = {"ge": "at least", "gt": "above", "le": "at most", "lt": "below"}
    limits = " and ".join(f"{words[name]} {limit:g}" for name, limit in bounds.items())
    return f"{_TYPE_NAMES.get(annotation, 'a value')} {limits}".strip()


def _dotted(key: _Key) -> str:
    return ".".join(key)
