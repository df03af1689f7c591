"""Live answers that a shadow was to have copies of and has not: the copies are no fair sample."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from recsys.shadow_plan import ShadowPlan
from train_app.checking.lake_views import LakeViews


@dataclass(frozen=True, slots=True)
class Uncopied:
    """Answers by other bundles, from a shadow's first copy to its last, that its share takes."""

    n_wanted: int
    n_copied: int
    """Answered or failed."""
    n_degraded: int
    """The live answer lacked a stage, so it was left out."""

    @property
    def n_crowded_out(self) -> int:
        """Whole ones without a copy: users waited, or the copy was dropped."""
        return self.n_wanted - self.n_copied - self.n_degraded

    def as_dict(self) -> dict[str, Any]:
        """As a JSON object."""
        return asdict(self) | {"n_crowded_out": self.n_crowded_out}

    def sentence(self) -> str:
        """The counts for a person."""
        n = max(self.n_wanted, 1)
        return (
            f"{self.n_copied:,} of {self.n_wanted:,} answers that were to be copied were; left out "
            f"are {self.n_degraded:,} ({self.n_degraded / n:.1%}) that lacked a stage live and "
            f"{self.n_crowded_out:,} ({self.n_crowded_out / n:.1%}) that came while users waited: "
            "the figures are those of the copied"
        )


def count_uncopied(views: LakeViews, shadow_id: str, share: float) -> Uncopied:
    """The counts of the lake's impressions beside a table `copies` of the shadow's rows.

    Raises:
        duckdb.Error: the lake cannot be read.
    """
    rows = views.connection.execute("""
        SELECT request_id, len(degraded) > 0 AS is_degraded, c.request_id IS NOT NULL AS is_copied
        FROM (
            SELECT * FROM impressions
            WHERE timestamp_ms >= (SELECT min(timestamp_ms) FROM copies)
                AND timestamp_ms <= (SELECT max(timestamp_ms) FROM copies)
                AND bundle_id NOT IN (SELECT bundle_id FROM copies)
            QUALIFY row_number() OVER (PARTITION BY user_id, request_id ORDER BY sequence) = 1
        ) LEFT JOIN (SELECT user_id, request_id FROM copies) c USING (user_id, request_id)""")
    plan = ShadowPlan(shadow_id, shadow_id, share)
    n_wanted = n_copied = n_degraded = 0
    while batch := rows.fetchmany(10_000):
        for request_id, is_degraded, is_copied in batch:
            if is_copied or plan.copies(request_id):
                n_wanted += 1
                n_copied += is_copied
                n_degraded += is_degraded and not is_copied
    return Uncopied(n_wanted, n_copied, n_degraded)
