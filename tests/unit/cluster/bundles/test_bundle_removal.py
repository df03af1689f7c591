"""What may leave the registry, and that nothing goes that somebody needs."""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import fsspec
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from cluster.bundles.part_leases import LEASE_MS, PartLeases
from cluster.bundles.pins import Pin, Pins
from cluster.bundles.references import ReferenceReader, References
from cluster.bundles.removal import YOUNG_MS, Shelved, keep_reasons, shelved, sweep
from cluster.rollouts.storing.control_writer import ControlWriter
from cluster.shadows.shadow_record import ShadowRecord, ShadowState
from cluster.shadows.shadow_writer import ShadowWriter
from recsys.bundles.bundle import verify_bundle
from recsys.bundles.composition import COMPOSED
from recsys.bundles.registry import Registry
from recsys.errors import ConfigError, StoreError
from recsys.settings import Settings
from recsys.stores.control.control import ReadinessReporter
from recsys.traffic import TrafficPlan
from tests.parts_for_tests import DAY_S, MADE_S, let_age, publish_parts, tear

NOW_MS = (MADE_S + 30 * DAY_S) * 1000


def bundles(n: int) -> list[Shelved]:
    """b0 to b(n-1), a day apart, all older than an hour."""
    day_ms = DAY_S * 1000
    return [Shelved(f"b{i}", NOW_MS - (n - i) * day_ms, 10, (), False) for i in range(n)]


def test_what_nothing_refers_to_may_go() -> None:
    """And everything that stays has its reason."""
    references = References(
        "b5", {"b5": "alias stable", "b1": "required"}, ("b3", "b2"), frozenset({"b0"})
    )
    assert keep_reasons(bundles(8), references, 1, NOW_MS) == {
        "b0": "pinned",
        "b1": "required",
        "b3": "was stable before",
        "b5": "alias stable",
        "b7": "one of the newest 1",
    }


def test_parts_of_a_kept_composition_stay() -> None:
    """Those of one that goes, go with it."""
    shelf = bundles(7)
    shelf[4] = replace(shelf[4], parents=("b0", "b1"), is_composed=True)
    shelf[5] = replace(shelf[5], parents=("b2",), is_composed=True)
    shelf[6] = replace(shelf[6], parents=("b3",))
    references = References("b4", {"b4": "alias stable", "b6": "required"})
    assert set(keep_reasons(shelf, references, 0, NOW_MS)) == {"b0", "b1", "b4", "b6"}


@pytest.mark.parametrize("age_ms", [0, YOUNG_MS - 1, -DAY_S * 1000])
def test_a_young_bundle_stays(age_ms: int) -> None:
    """Also one whose clock went ahead of ours."""
    shelf = [Shelved("b0", NOW_MS - age_ms, 1, (), False)]
    assert keep_reasons(shelf, References("b9"), 0, NOW_MS) == {"b0": "younger than an hour"}


@hypothesis_settings(deadline=None, max_examples=50)
@given(
    ages_h=st.lists(st.integers(0, 100), min_size=1, max_size=12),
    named=st.sets(st.integers(0, 11)),
    pinned=st.sets(st.integers(0, 11)),
    keep=st.integers(0, 4),
)
def test_nothing_that_is_named_ever_goes(
    ages_h: list[int], named: set[int], pinned: set[int], keep: int
) -> None:
    """Whatever else is there; and a larger `keep` never removes more."""
    shelf = [
        Shelved(f"b{i}", NOW_MS - hours * YOUNG_MS, 1, (), False) for i, hours in enumerate(ages_h)
    ]
    present = {bundle.bundle_id for bundle in shelf}
    references = References(
        "b0", {f"b{i}": "named" for i in named}, (), frozenset(f"b{i}" for i in pinned)
    )
    kept = set(keep_reasons(shelf, references, keep, NOW_MS))
    assert {f"b{i}" for i in named | pinned} & present <= kept <= present
    assert kept <= set(keep_reasons(shelf, references, keep + 1, NOW_MS))


def shelf_of(folder: Path, n: int) -> Settings:
    """A registry with b0 to b(n-1), where b0 is stable, as of a month ago."""
    settings = Settings(data_dir=folder / "var")
    for i in range(n):
        publish_parts(settings, folder, f"b{i}", second=i, scorer=f"scorer {i}")
    let_age(settings, 30 * DAY_S, time.time())
    writer = ControlWriter(settings.control_url)
    writer.set_alias("stable", "b0", None)
    return settings


def swept(settings: Settings, look: Callable[[], References] | None = None) -> list[str]:
    """The ids removed when none is kept for its age."""
    registry = Registry(settings.registry_location)
    with ReferenceReader(settings.control_url, lambda seconds: None) as reader:
        found = sweep(registry, look or (lambda: reader.read(now_ms())), keep=0, clock=now_ms)
    return [bundle.bundle_id for bundle in found.removed]


def now_ms() -> int:
    """The wall clock, which the files' times come from."""
    return int(time.time() * 1000)


def test_everything_that_the_control_store_names_stays(tmp_path: Path) -> None:
    """Aliases, plan, required, living replicas, and pins."""
    settings = shelf_of(tmp_path, 8)
    writer = ControlWriter(settings.control_url)
    writer.set_alias("champion", "b1", None)
    writer.set_required(("b2",), ())
    writer.set_plan(TrafficPlan.single("b3", 1, "salt"), 0)
    reporter = ReadinessReporter(settings.control_url)
    reporter.report("r1", "scorer", {"b4": ("loading", "")}, 1, now_ms())
    reporter.report("r2", "scorer", {"b5": ("ready", "")}, 1, now_ms() - DAY_S * 1000)
    pins = Pins(settings.control_url)
    pins.add(Pin("b6", 0, "ann", "audit"))
    pins.close()
    assert swept(settings) == ["b5", "b7"]
    left = Registry(settings.registry_location).list_bundles()
    assert sorted(manifest.bundle_id for manifest in left) == ["b0", "b1", "b2", "b3", "b4", "b6"]
    assert not list(Path(settings.registry_location).glob(".*"))


def test_what_a_replica_with_a_wrong_clock_holds_stays(tmp_path: Path) -> None:
    """One that is 6 s behind and one an hour ahead are seen to move; what is dead is not."""
    settings = shelf_of(tmp_path, 5)
    reporter = ReadinessReporter(settings.control_url)
    passed = 0

    def report(seconds: float = 0.0) -> None:
        nonlocal passed
        passed += round(seconds * 1000)
        for name, bundle_id, off_ms in (("r1", "b1", -6_000), ("r2", "b2", 3_600_000)):
            reporter.report(name, "scorer", {bundle_id: ("ready", "")}, 1, began + passed + off_ms)

    began = now_ms()
    report()
    reporter.report("r3", "scorer", {"b3": ("ready", "")}, 1, began - DAY_S * 1000)
    with ReferenceReader(settings.control_url, report) as reader:
        found = reader.read(began)
    reasons = [found.reason(f"b{number}") for number in range(1, 5)]
    assert [reason is not None for reason in reasons] == [True, True, False, False]


def test_giving_back_a_lease_hides_no_success(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was made stands; the lease runs out by itself."""
    settings = shelf_of(tmp_path, 2)
    leases = PartLeases(settings.control_url)

    def away(owner: str) -> None:
        raise StoreError("away")

    monkeypatch.setattr(leases, "_give_back", away)
    with leases.held(("b1",), "me", now_ms):
        pass
    assert leases.read(now_ms()) == {"b1": "me"}
    leases.close()


def test_a_trial_run_removes_nothing(tmp_path: Path) -> None:
    """It names the same bundles and the same space."""
    settings = shelf_of(tmp_path, 3)
    registry = Registry(settings.registry_location)
    with ReferenceReader(settings.control_url) as reader:
        found = sweep(registry, lambda: reader.read(now_ms()), keep=0, clock=now_ms, dry_run=True)
    assert [bundle.bundle_id for bundle in found.removed] == ["b1", "b2"]
    assert found.n_bytes == sum(registry.manifest(name).n_bytes for name in ("b1", "b2"))
    assert len(registry.list_bundles()) == 3
    assert swept(settings) == ["b1", "b2"]


def test_without_a_stable_bundle_nothing_is_removed(tmp_path: Path) -> None:
    """A control store that names nothing is more likely the wrong one."""
    settings = Settings(data_dir=tmp_path / "var")
    publish_parts(settings, tmp_path, "b0")
    let_age(settings, DAY_S, time.time())
    with pytest.raises(ConfigError, match="check control_store_url"):
        swept(settings)
    assert Registry(settings.registry_location).exists("b0")


def test_a_bundle_that_is_required_at_the_last_moment_stays(tmp_path: Path) -> None:
    """Before it is hidden, and after: then it is brought back whole."""
    settings = shelf_of(tmp_path, 3)
    for n_looks in (2, 3):
        looks = iter([References("b0", {"b0": "alias"})] * (n_looks - 1))
        late = References("b0", {"b0": "alias", "b1": "required", "b2": "required"})
        assert swept(settings, lambda looks=looks, late=late: next(looks, late)) == []
        registry = Registry(settings.registry_location)
        assert len(registry.list_bundles()) == 3
        assert verify_bundle(registry.fetch("b1", tmp_path)).bundle_id == "b1"


class Killed(BaseException):
    """The process ends here."""


@pytest.mark.parametrize("step", ["hide", "purge"])
def test_a_killed_removal_is_finished_by_the_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    """Or undone, if the bundle is needed by then and still whole."""
    settings = shelf_of(tmp_path, 3)

    def die(*_: object, **__: object) -> None:
        raise Killed

    with monkeypatch.context() as patched:
        if step == "hide":
            patched.setattr(Registry, "purge", die)
        else:
            patched.setattr("shutil.rmtree", die)
        with pytest.raises(Killed):
            swept(settings)
    registry = Registry(settings.registry_location)
    assert registry.hidden() == ["b1"]
    ControlWriter(settings.control_url).set_required(("b1",), ())
    assert swept(settings) == ["b2"]
    assert registry.hidden() == []
    assert registry.exists("b1") == (step == "hide")


def test_an_unreachable_control_store_stops_the_removal(tmp_path: Path) -> None:
    """Between two bundles too: what is left is whole."""
    settings = shelf_of(tmp_path, 3)
    looks = iter([References("b0", {"b0": "alias"})] * 3)

    def look() -> References:
        found = next(looks, None)
        if found is None:
            raise StoreError("control store is away")
        return found

    with pytest.raises(StoreError):
        swept(settings, look)
    registry = Registry(settings.registry_location)
    assert sorted(manifest.bundle_id for manifest in registry.list_bundles()) == ["b0", "b2"]
    assert registry.broken() == []


def test_what_cannot_be_read_is_left_alone_and_named(tmp_path: Path) -> None:
    """It may be of a later release, or half of somebody's copy."""
    settings = shelf_of(tmp_path, 3)
    tear(settings, "b1")
    registry = Registry(settings.registry_location)
    with ReferenceReader(settings.control_url) as reader:
        found = sweep(registry, lambda: reader.read(now_ms()), keep=0, clock=now_ms)
    assert [bundle.bundle_id for bundle in found.removed] == ["b2"]
    assert list(found.broken) == ["b1"]
    assert (Path(settings.registry_location) / "b1").is_dir()


def test_the_age_counts_from_publishing(tmp_path: Path) -> None:
    """A manifest may be written long before: a training that was killed and went on."""
    settings = Settings(data_dir=tmp_path / "var")
    manifest = publish_parts(settings, tmp_path, "b0", lineage={COMPOSED: {}}, parents=("b7", "b8"))
    registry = Registry(settings.registry_location)
    (bundle,) = shelved(registry, [manifest])
    assert abs(bundle.created_ms - now_ms()) < 600_000
    assert (bundle.is_composed, bundle.parents) == (True, ("b7", "b8"))


def test_a_bucket_is_swept_like_a_directory(tmp_path: Path) -> None:
    """A killed removal is finished there too; nothing of what went is left."""
    name = f"registry-{uuid.uuid4().hex}"
    settings = Settings(data_dir=tmp_path / "var", registry_url=f"memory://{name}/bundles")
    for i in range(4):
        publish_parts(settings, tmp_path, f"b{i}", second=i, scorer=f"scorer {i}")
    registry = Registry(settings.registry_location)
    references = References("b0", {"b0": "alias stable", "b3": "required"})
    registry.hide("b1")

    def tomorrow_ms() -> int:
        return now_ms() + DAY_S * 1000

    young = sweep(registry, lambda: references, keep=0, clock=now_ms)
    assert (young.removed, young.finished) == ((), ("b1",))
    found = sweep(registry, lambda: references, keep=0, clock=tomorrow_ms)
    assert [bundle.bundle_id for bundle in found.removed] == ["b2"]
    files = fsspec.filesystem("memory")
    left = {str(path).split("/")[3] for path in files.find(f"/{name}")}
    assert left == {"b0", "b3"}
    files.rm(f"/{name}", recursive=True)


def test_bundles_of_open_shadows_and_experiments_stay(tmp_path: Path) -> None:
    """Until they are closed."""
    settings = shelf_of(tmp_path, 3)
    shadows = ShadowWriter(settings.control_url)
    record = ShadowRecord("s1", "b1", 0.1, ShadowState.PREPARING, "ann", 1)
    shadows.start(record, "ann", 1)
    with ReferenceReader(settings.control_url) as reader:
        assert reader.read(now_ms()).reason("b1") == "part of an open shadow or experiment"
    assert swept(settings) == ["b2"]
    shadows.ensure_closed("s1", "ann", 2, "enough")
    assert swept(settings) == ["b1"]
    shadows.give_back()


def test_parts_of_what_is_being_composed_stay(tmp_path: Path) -> None:
    """While its process runs, and no longer than its lease if that was killed."""
    settings = shelf_of(tmp_path, 3)
    leases = PartLeases(settings.control_url)
    assert leases.read(now_ms()) == {}
    with leases.held(("b1", "b1", "b0"), "compose@h:1", now_ms):
        with leases.held(("b1",), "compose@h:2", now_ms):
            assert set(leases.read(now_ms())) == {"b0", "b1"}
        assert leases.read(now_ms() + LEASE_MS) == {}
        assert swept(settings) == ["b2"]
    assert leases.read(now_ms()) == {}
    assert swept(settings) == ["b1"]
    leases.close()


@pytest.mark.parametrize("url", ["", "memory://{}/bundles"])
def test_a_part_of_what_was_composed_meanwhile_comes_back(tmp_path: Path, url: str) -> None:
    """It was published after the bundles were looked at, and before the part was purged."""
    place = url.format(f"registry-{uuid.uuid4().hex}")
    settings = Settings(data_dir=tmp_path / "var", **({"registry_url": place} if url else {}))
    for i in range(2):
        publish_parts(settings, tmp_path, f"b{i}", second=i, scorer=f"scorer {i}")
    registry = Registry(settings.registry_location)
    looks = iter(range(9))

    def look() -> References:
        if next(looks) == 1:
            publish_parts(
                settings, tmp_path, "b9", second=9, lineage={COMPOSED: {}}, parents=("b0", "b1")
            )
        return References("b0", {"b0": "alias stable"})

    found = sweep(registry, look, keep=0, clock=lambda: now_ms() + DAY_S * 1000)
    assert found.removed == ()
    assert found.kept["b1"] == "a part of the composed b9"
    assert verify_bundle(registry.fetch("b1", tmp_path / "cache")).bundle_id == "b1"
