"""Manifests out of YAML files, folders or standard input."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import yaml

from recsys.errors import ConfigError

STANDARD_INPUT = "-"


def read_manifests(sources: Sequence[str]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Where an object stands and the object, of every YAML document.

    Args:
        sources: files, folders (their *.yaml and *.yml, and those below), or `-`.

    Raises:
        ConfigError: a source is missing, is no YAML, or holds something that is no object.
    """
    for source in sources:
        for name, text in _texts(source):
            try:
                documents = list(yaml.safe_load_all(text))
            except yaml.YAMLError as error:
                raise ConfigError(f"{name} is not YAML ({error}); mend that line") from error
            for document in documents:
                if document is None:
                    continue
                if not isinstance(document, dict):
                    raise ConfigError(
                        f"{name} holds {type(document).__name__}, expected objects with kind and "
                        "metadata"
                    )
                yield name, document


def _texts(source: str) -> Iterator[tuple[str, str]]:
    if source == STANDARD_INPUT:
        yield "standard input", sys.stdin.read()
        return
    path = Path(source)
    if not path.exists():
        raise ConfigError(f"{source} does not exist, expected a file or folder of manifests")
    files = [path]
    if path.is_dir():
        files = sorted(file for file in path.rglob("*") if file.suffix in {".yaml", ".yml"})
    for file in files:
        yield str(file), file.read_text(encoding="utf-8")
