"""Whatever stands in a stored document or a settings file: it is read, or refused as ours."""

from __future__ import annotations

import contextlib
import json
import math
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recsys.bundles.bundle import Manifest, check_bundle_id, parse_manifest
from recsys.bundles.item_table import read_item_facts, read_item_ids
from recsys.bundles.manifest_text import MANIFEST_NAME, render
from recsys.errors import BundleCorrupt, BundleError, ConfigError, RecsysError
from recsys.events import Engagement, decode_event, encode_event
from recsys.experiment_plan import plan_from_json
from recsys.features import FeatureSchema
from recsys.settings import Settings
from recsys.settings_files import load_settings
from recsys.shadow_plan import ShadowPlan
from recsys.stores.spool.spool_segment import parse_segment
from recsys.traffic import TrafficPlan
from tests.plain_bundles import a_bundle

NUMBERS = st.integers() | st.floats() | st.just(1e400) | st.just(10**400)
NAMES = st.text(max_size=8) | st.sampled_from(
    ["epoch", "salt", "arms", "variant", "bundle_id", "share", "shadow_id", "experiment_id",
     "layer", "begin", "name", "ordering", "kinds", "history_length", "n_content_buckets", "type",
     "event_id", "user_id", "item_id", "timestamp", "schema_version", "files", "sha256", "size"]
)  # fmt: skip
JSON = st.recursive(
    st.none() | st.booleans() | NUMBERS | NAMES,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(NAMES, inner, max_size=6),
    max_leaves=24,
)
TEXTS = st.binary(max_size=120) | JSON.map(lambda document: json.dumps(document).encode())

with tempfile.TemporaryDirectory() as made:
    a_bundle(Path(made))
    MANIFEST = json.loads((Path(made) / MANIFEST_NAME).read_bytes())
PLAN = {"epoch": 3, "salt": "s", "arms": [{"variant": "stable", "bundle_id": "b1", "share": 1.0}]}
SHADOW = {"shadow_id": "s1", "bundle_id": "b1", "share": 0.5}
SIDES = [{"name": "control", "share": 0.5},
         {"name": "treatment", "share": 0.5, "ordering": {"diversity": 0.3}}]  # fmt: skip
EXPERIMENT = {"experiment_id": "e1", "layer": "ordering", "begin": 0.0, "share": 0.2, "arms": SIDES}
EVENT = json.loads(encode_event(Engagement(
    event_id="e1", kind="click", user_id="u1", item_id="i1", timestamp_ms=1, received_at_ms=1,
    origin="api", position=2,
)))  # fmt: skip
READERS: tuple[tuple[Callable[[str], object], dict[str, Any], type[Exception]], ...] = (
    (TrafficPlan.from_json, PLAN, ConfigError),
    (ShadowPlan.from_json, SHADOW, ConfigError),
    (plan_from_json, EXPERIMENT, ConfigError),
    (lambda text: decode_event(text.encode()), EVENT, ValueError),
)


def places(document: Any, above: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The paths to every value of a document."""
    inner = document.items() if isinstance(document, dict) else ()
    if isinstance(document, list):
        inner = enumerate(document)
    return [above, *(place for key, value in inner for place in places(value, (*above, key)))]


def replaced(document: Any, place: tuple[Any, ...], value: Any) -> Any:
    """A copy of the document with another value at one place."""
    if not place:
        return value
    copy = dict(document) if isinstance(document, dict) else list(document)
    copy[place[0]] = replaced(copy[place[0]], place[1:], value)
    return copy


@pytest.mark.parametrize(("read", "document", "refusal"), READERS)
def test_a_document_with_any_value_replaced_is_read_or_refused(
    read: Callable[[str], object], document: dict[str, Any], refusal: type[Exception]
) -> None:
    """Numbers without end, other types, half a document: a replica never fails by what it reads."""
    kind = type(read(json.dumps(document)))
    n_refused = 0
    odd = (None, True, -1, 0, 10**400, 1e308, math.inf, math.nan, "", "x", "9" * 5000, [], {}, [[]])
    for place in places(document):
        for value in odd:
            try:
                assert type(read(json.dumps(replaced(document, place, value)))) is kind
            except refusal:
                n_refused += 1
    assert n_refused > 0


@given(TEXTS)
@settings(max_examples=50, deadline=None)
def test_any_text_is_a_plan_or_is_refused(text: bytes) -> None:
    """Of the control store's documents."""
    for read, document, refusal in READERS[:3]:
        kind = type(read(json.dumps(document)))
        with contextlib.suppress(refusal):
            assert type(read(text.decode("utf-8", "replace"))) is kind


@given(TEXTS)
@settings(max_examples=50, deadline=None)
def test_bytes_of_the_log_are_an_event_or_a_value_error(data: bytes) -> None:
    """Followers put what is none into quarantine."""
    with contextlib.suppress(ValueError):
        assert isinstance(decode_event(data), msgspec.Struct)


@given(TEXTS)
@settings(max_examples=50, deadline=None)
def test_a_manifest_is_read_or_corrupt(text: bytes) -> None:
    """Nothing else comes out of it, whoever wrote it."""
    with contextlib.suppress(BundleCorrupt):
        assert isinstance(parse_manifest(text), Manifest)


@given(st.data())
@settings(max_examples=50, deadline=None)
def test_a_manifest_with_any_field_replaced_is_read_or_corrupt(data: st.DataObject) -> None:
    """With a checksum that is right; and the files it names never lie outside its directory."""
    document = dict(MANIFEST)
    name = data.draw(st.sampled_from(sorted(document)))
    paths = st.lists(st.sampled_from(["..", ".", "", "a", "b/c", "\\", "\0", "~", "C:", "/"]))
    entry = {"sha256": "0" * 64, "size": 1}
    files = st.dictionaries(paths.map("/".join), st.just(entry), max_size=3)
    document[name] = data.draw(files if name == "files" else JSON)
    try:
        manifest = parse_manifest(render(document))
    except (BundleCorrupt, ValueError):
        return  # a value that is not finite cannot be written
    root = Path("/registry/b1")
    for path in manifest.files:
        assert (root / path).resolve().is_relative_to(root)
        assert ".." not in Path(path).parts


@given(
    st.text(max_size=20) | st.lists(st.sampled_from(["..", ".", "/", "b", "\0", "~"])).map("".join)
)
@settings(max_examples=50, deadline=None)
def test_a_bundle_id_names_a_directory_in_the_registry_or_is_refused(bundle_id: str) -> None:
    """No way up, no other root, no hidden name."""
    try:
        check_bundle_id(bundle_id)
    except BundleError:
        return
    root = Path("/registry")
    assert (root / bundle_id).resolve().parent == root
    assert not bundle_id.startswith(".")


@given(st.binary(max_size=200))
@settings(max_examples=50, deadline=None)
def test_bytes_of_an_item_table_are_one_or_a_value_error(content: bytes) -> None:
    """Also behind the mark of a Parquet file."""
    for text in (content, b"PAR1" + content + b"PAR1"):
        for read in (read_item_ids, read_item_facts):
            with pytest.raises(ValueError, match=r"."):
                read(text)


@given(st.binary(max_size=300), st.integers(0, 2**40))
@settings(max_examples=50, deadline=None)
def test_bytes_of_a_spool_are_parsed_to_their_last_whole_record(data: bytes, base: int) -> None:
    """What cannot be read is said, and no read goes past the end."""
    parsed = parse_segment(data, base)
    assert parse_segment(data, base) == parsed


@given(JSON)
@settings(max_examples=50, deadline=None)
def test_a_feature_schema_is_read_or_refused(document: Any) -> None:
    """It stands in manifests of others."""
    with contextlib.suppress(RecsysError, ValueError, KeyError, TypeError):
        assert isinstance(FeatureSchema.from_json(document), FeatureSchema)


@given(st.text(max_size=120), st.dictionaries(NAMES, st.text(max_size=12), max_size=4))
@settings(max_examples=50, deadline=None)
def test_settings_are_read_or_refused_with_a_settings_error(
    text: str, values: dict[str, str]
) -> None:
    """Files and variables of any content."""
    environ = {f"FLYWHEEL__{name}".replace("\0", ""): value for name, value in values.items()}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "mine.toml"
        path.write_bytes(text.encode("utf-8", "surrogatepass"))
        for paths, variables in (([path], {}), ([], environ)):
            with contextlib.suppress(ConfigError):
                assert isinstance(load_settings(paths, variables), Settings)
