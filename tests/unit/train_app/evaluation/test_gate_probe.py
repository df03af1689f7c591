"""What the gate asks a bundle: the probabilities of the pages that are served, and their cost."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from recsys.settings import RetrievalSettings
from recsys.types import Source
from tests.untrained_models import small_settings, some_interactions, write_untrained_models
from train_app.evaluation.evaluation_protocols import HeldOut, hold_out
from train_app.evaluation.gate_probe import CalibrationProbe, Probed, probe_costs
from train_app.evaluation.rankers import PAGE, BundleParts, BundleRanker
from train_app.publish import assemble


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> tuple[BundleParts, HeldOut]:
    """An untrained bundle and the last engagement of every user."""
    folder: Path = tmp_path_factory.mktemp("probed")
    sources = RetrievalSettings(n_shards=2, n_candidates=20, n_popular=3, n_fresh=2, n_trending=2)
    settings, data = small_settings(folder, retrieval=sources), some_interactions()
    write_untrained_models(data, settings, folder / "m", warm_start=None, report=lambda *_: None)
    draft = assemble(folder / "m", folder / "b", data, settings, lambda *_: None)
    held_out = hold_out("leave-one-out", data, cutoff_ms=0, negative_kinds=(), seed=0)
    return BundleParts.load(folder / "b", draft, settings), held_out


def test_calibration_is_of_the_page_and_changes_no_list(
    bundle: tuple[BundleParts, HeldOut],
) -> None:
    """Two kinds of act on each of its items; what happened is what the page found."""
    parts, held_out = bundle
    probe = CalibrationProbe(parts, held_out.interactions, 20, ())
    plain = BundleRanker(parts, held_out.interactions, 20)(held_out)
    parts_of = list(held_out.batches(7))
    lists = [probe(part)[PAGE] for part in parts_of]
    assert np.array_equal(np.concatenate(lists), plain[PAGE])
    page, found = plain[PAGE][:, :10], probe.found()
    assert len(found.probabilities) == 2 * int((page >= 0).sum())
    assert int(found.outcomes.sum()) == int((page == held_out.targets[:, None]).any(1).sum())
    assert ((found.probabilities > 0) & (found.probabilities < 1)).all()
    one_kind = CalibrationProbe(parts, held_out.interactions, 20, ("like",))
    one_kind(held_out)
    assert len(one_kind.found().probabilities) == int((page >= 0).sum())


def test_the_scorer_is_timed_on_candidates_of_every_source(
    bundle: tuple[BundleParts, HeldOut],
) -> None:
    """As many as serving merges; the clock ticks once between two looks at it."""
    parts, held_out = bundle
    sources: set[int] = set()

    class Listening:
        nbytes = 0

        def __call__(self, method: str, batch: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
            if method == "score":
                sources.update(np.unique(batch["sources"]).tolist())
            return parts.scorer(method, batch)

    heard = BundleParts(
        Listening(), parts.shards, parts.vectors, parts.item_ids, parts.schema, None, parts.beside
    )
    ticks = iter(range(10_000))
    costs = probe_costs([Probed(heard, 20)], held_out, lambda: float(next(ticks)))
    assert costs == [1000.0 / len(held_out)]
    assert Source.INDEX in sources
    assert len(sources) > 1
