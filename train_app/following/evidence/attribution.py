"""Which slate an engagement is credited to, and what a slate's credits amount to.

Pure, and independent of the order in which slates and engagements arrive: a slate that comes late
takes the credit of the engagements that it explains better.
"""

from __future__ import annotations

from collections.abc import Sequence

from train_app.following.evidence.user_trail import Credit, EvidenceRules, OpenSlate, RecentAct

CLOCK_ERROR_MS = 3_600_000
"""An engagement that names its request may be stamped so long before it by the client's clock."""


def best_slate(
    act: RecentAct, slates: Sequence[OpenSlate], window_ms: int
) -> tuple[OpenSlate, int] | None:
    """The slate that an engagement is credited to, with the item's place in its list.

    The slate of the request it names, if that showed the item; else the newest one shown before
    that did. None is credited with an engagement longer than the window after it.

    Args:
        slates: of the engagement's user, by time shown.
    """
    if act.request_id is not None:
        named = slate_of(act.request_id, slates)
        if (
            named is not None
            and -CLOCK_ERROR_MS <= act.happened_ms - named.shown_ms <= window_ms
            and act.item_id in named.items
        ):
            return named, named.items.index(act.item_id)
    for slate in reversed(slates):
        if slate.shown_ms < act.happened_ms - window_ms:
            return None
        if slate.shown_ms <= act.happened_ms and act.item_id in slate.items:
            return slate, slate.items.index(act.item_id)
    return None


def slate_of(request_id: str | None, slates: Sequence[OpenSlate]) -> OpenSlate | None:
    """The slate that answered a request."""
    if request_id is not None:
        for slate in reversed(slates):
            if slate.request_id == request_id:
                return slate
    return None


def explains_better(slate: OpenSlate, act: RecentAct) -> bool:
    """Whether a slate that has just arrived may change what an engagement is credited to."""
    return slate.request_id == act.request_id or act.item_id in slate.items


def slate_sums(credits: Sequence[Credit], rules: EvidenceRules) -> dict[str, int]:
    """What a slate's credits add to the measures: reactions of any sort, and wanted ones."""
    if not credits:
        return {}
    touched = {credit.item for credit in credits}
    engaged = {credit.item for credit in credits if rules.is_engaged(credit.kind)}
    return {
        "touched_slates": 1,
        "touched_items": len(touched),
        "engaged_slates": int(bool(engaged)),
        "engaged_items": len(engaged),
    }


def kind_sums(credits: Sequence[Credit], kind: str) -> dict[str, int]:
    """What a slate's credits of one kind add to the measures of that kind."""
    found = [credit for credit in credits if credit.kind == kind]
    if not found:
        return {}
    return {
        "n": len(found),
        "items": len({credit.item for credit in found}),
        "slates": 1,
        "value_milli": sum(credit.value_milli for credit in found),
    }
