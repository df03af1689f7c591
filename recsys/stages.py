"""A stage as one pure function over arrays, loaded from a bundle directory.

Serving runs stages in any placement, training runs the same ones for offline evaluation and for
golden answers. Knows nothing of batching, timeouts or where it runs. Torch, ScaNN and compiled
loops are loaded only with the stage that needs them.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from recsys.bundles.item_table import ITEMS_FILE, read_item_codes
from recsys.bundles.scorer_space import SCORER_SPACE, SCORER_SPACE_FILES
from recsys.errors import BundleError, FeatureSchemaMismatch
from recsys.features import FeatureSchema
from recsys.ordering_overrides import OVERRIDES, put_over
from recsys.settings import OrderingSettings, Settings
from recsys.types import Batch

if TYPE_CHECKING:
    from recsys.index import Shard
    from recsys.scorer import CandidateScorer
    from recsys.slate import ItemFacts
    from recsys.two_tower import UserEncoder

SCORER = "scorer"
ORDERING = "ordering"
GATEWAY = "gateway"
VECTORS_FILE = "item_vectors.safetensors"
TOWER_FILES = ("towers.json", "user_tower.safetensors", VECTORS_FILE)
SCORER_FILES = ("scorer.json", "scorer.safetensors")
ATTRIBUTED = ("history", "retrieval_score", "popularity", "source", "successors")
"""Features that `attribute` leaves out one at a time: the whole history (a new user), the retrieval
score and the popularity (those of the mean item), source with rank (one the scorer never met), what
follows the newest items (a mean chance)."""


class BundleFacts(Protocol):
    """What a stage must know of its bundle; a published manifest or the draft of one."""

    @property
    def space_fingerprint(self) -> str:
        """The embedding space of its towers, vectors and shards."""

    @property
    def feature_schema(self) -> Mapping[str, Any]:
        """The feature schema as JSON."""

    @property
    def feature_schema_hash(self) -> str:
        """The hash the schema must have."""

    @property
    def n_shards(self) -> int:
        """Slices of the index."""


class Stage(Protocol):
    """One loaded stage of one bundle."""

    @property
    def nbytes(self) -> int:
        """Bytes of bundle files it holds in memory."""

    def __call__(self, method: str, batch: Batch) -> Batch:
        """Answer one batch.

        Raises:
            BundleError: the stage has no such method.
        """


def shard_stage_name(shard: int) -> str:
    """The stage name of an index shard, `shard-000` onwards."""
    return f"shard-{shard:03d}"


def stage_names(n_shards: int) -> tuple[str, ...]:
    """All stages behind the gateway."""
    return (SCORER, *(shard_stage_name(shard) for shard in range(n_shards)), ORDERING)


def load_stage(stage: str, bundle_dir: Path, manifest: BundleFacts, settings: Settings) -> Stage:
    """Load one stage of a bundle.

    Args:
        stage: `scorer`, `ordering` or `shard-000` onwards.

    Raises:
        BundleError: the bundle has no such stage, or its files do not fit each other.
    """
    if stage == SCORER:
        return ScorerStage.load(bundle_dir, manifest)
    if stage == ORDERING:
        return OrderingStage.load(bundle_dir, settings.ordering)
    if stage in stage_names(manifest.n_shards):
        return ShardStage.load(stage, bundle_dir, manifest)
    expected = ", ".join(stage_names(manifest.n_shards))
    raise BundleError(f"bundle in {bundle_dir} has no stage {stage!r}; it has {expected}")


class ScorerStage:
    """`encode`, `score` and `attribute`: everything that runs the network.

    Args:
        scorer_encoder: the user tower of a scorer that was trained on other towers; None where it
            reads what retrieval reads.
    """

    def __init__(
        self,
        encoder: UserEncoder,
        scorer: CandidateScorer,
        nbytes: int = 0,
        scorer_encoder: UserEncoder | None = None,
    ) -> None:
        import torch

        from recsys.served.served_scorer import ServedScorer
        from recsys.served.served_tower import ServedTower

        n_threads = torch.get_num_threads()
        self._encoder = encoder
        self._scorer = scorer
        self._scorer_encoder = scorer_encoder
        self._tower = ServedTower(encoder, n_threads)
        self._served = ServedScorer(scorer, n_threads)
        self._scorer_tower = scorer_encoder and ServedTower(scorer_encoder, n_threads)
        self.nbytes = nbytes

    @classmethod
    def load(cls, bundle_dir: Path, manifest: BundleFacts) -> ScorerStage:
        """Load towers and scorer.

        Raises:
            FeatureSchemaMismatch: the manifest's schema is not the one its hash names.
        """
        from recsys.scorer import load_scorer
        from recsys.two_tower import load_user_tower

        found = FeatureSchema.from_json(dict(manifest.feature_schema)).hash
        if found != manifest.feature_schema_hash:
            raise FeatureSchemaMismatch(
                f"feature schema of {bundle_dir.name} hashes to {found}, its manifest says "
                f"{manifest.feature_schema_hash}; publish the bundle again"
            )
        own = bundle_dir / SCORER_SPACE
        if own.is_dir():
            nbytes = _size_of(bundle_dir, (*TOWER_FILES, *SCORER_SPACE_FILES))
            towers = load_user_tower(bundle_dir)
            return cls(towers, load_scorer(own), nbytes, load_user_tower(own))
        nbytes = _size_of(bundle_dir, (*TOWER_FILES, *SCORER_FILES))
        return cls(load_user_tower(bundle_dir), load_scorer(bundle_dir), nbytes)

    def __call__(self, method: str, batch: Batch) -> Batch:
        """`encode` histories to `user_emb` [B, D], `score` candidates, or `attribute` them."""
        if method == "encode":
            return {"user_emb": self._tower.encode(batch)}
        if method == "score":
            return self._score(batch)
        if method == "attribute":
            from recsys.leave_one_out import attribute

            return attribute(self._scorer_encoder or self._encoder, self._scorer, batch)
        raise _no_method(SCORER, method, "encode, score, attribute")

    def _score(self, batch: Batch) -> Batch:
        """The scorer's answer; one of another space reads the histories with its own tower.

        What is told of retrieval is the retrieval's all the same, so that shown and dropped
        candidates are logged on one scale.
        """
        if self._scorer_tower is None:
            return self._served.score(batch)
        scored = self._served.score({**batch, "user_emb": self._scorer_tower.encode(batch)})
        retrieved = self._encoder.inner_products(batch["user_emb"], batch["rows"])
        return {**scored, "retrieval_scores": retrieved}


class ShardStage:
    """`search`: the nearest items of one slice of the index."""

    def __init__(self, name: str, shard: Shard, nbytes: int = 0) -> None:
        self._name = name
        self._shard = shard
        self.nbytes = nbytes

    @classmethod
    def load(cls, name: str, bundle_dir: Path, manifest: BundleFacts) -> ShardStage:
        """Load one shard, which must be of the bundle's embedding space."""
        from recsys.index import load_shard

        directory = bundle_dir / "index" / name
        nbytes = sum(path.stat().st_size for path in directory.rglob("*") if path.is_file())
        return cls(name, load_shard(directory, manifest.space_fingerprint), nbytes)

    def __call__(self, method: str, batch: Batch) -> Batch:
        """`search`: `user_emb` [B, D] and `k` [1] to `rows` and `scores` [B, k]."""
        if method != "search":
            raise _no_method(self._name, method, "search")
        rows, scores = self._shard.search(batch["user_emb"], int(batch["k"][0]))
        return {"rows": rows, "scores": scores}


class OrderingStage:
    """`order`: scored candidates to a slate with exact propensities."""

    def __init__(self, facts: ItemFacts, settings: OrderingSettings) -> None:
        from recsys.slate import order_slates

        self._order_slates = order_slates
        self._facts = facts
        self._settings = settings
        self.nbytes = facts.nbytes

    @classmethod
    def load(cls, bundle_dir: Path, settings: OrderingSettings) -> OrderingStage:
        """Load the vectors that measure similarity and the codes that caps count."""
        from safetensors.numpy import load_file

        from recsys.slate import ItemFacts

        vectors = load_file(bundle_dir / VECTORS_FILE)["vectors"]
        codes = read_item_codes(bundle_dir)
        if len(codes.categories) != len(vectors):
            raise BundleError(
                f"{bundle_dir / ITEMS_FILE} has {len(codes.categories)} items, "
                f"{VECTORS_FILE} has {len(vectors)}; publish the bundle again"
            )
        return cls(ItemFacts(vectors, codes.categories, codes.creators), settings)

    def __call__(self, method: str, batch: Batch) -> Batch:
        """`order`: `rows`, `utility` [B, C], `k`, `seeds` [B] to `picked`, `propensity` [B, K].

        The bytes of `overrides` [n], where there are any, are put over the bundle's settings.
        """
        if method != "order":
            raise _no_method(ORDERING, method, "order")
        settings = self._settings
        if OVERRIDES in batch:
            settings = put_over(settings, batch[OVERRIDES].tobytes())
        slates = self._order_slates(
            batch["utility"], batch["rows"], self._facts, batch["k"], batch["seeds"], settings
        )
        return {"picked": slates.picked, "propensity": slates.propensity}


def _size_of(bundle_dir: Path, names: tuple[str, ...]) -> int:
    return sum((bundle_dir / name).stat().st_size for name in names)


def _no_method(stage: str, method: str, expected: str) -> BundleError:
    return BundleError(f"stage {stage} has no method {method!r}; expected one of {expected}")
