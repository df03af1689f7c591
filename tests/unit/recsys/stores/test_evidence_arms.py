"""How stored sums become the measures of an arm."""

import numpy as np

from recsys.evidence.arm_sample import KindMeanings, arm_samples, request_counts
from recsys.stores.evidence.evidence_sums import LatencyHistogram, UserColumns, VariantEvidence

ARMS = (("b1", "baseline", "r1"), ("b2", "canary", "r1"), ("b2", "canary", "other"))


def columns(hashes, arm_ids, **slates) -> UserColumns:
    """Users with as many slates as their hash says, and purchases, dismissals and views."""
    users = np.array(hashes, np.int64)
    nothing = np.zeros(len(users), np.int64)
    sums = dict.fromkeys(("shown", "engaged_items", "session_ms"), 10 * users)
    sums |= {"slates": users, "sessions": users % 3, "touched_items": nothing}

    def kind(items):
        return {"n": items, "items": items, "slates": items, "value_milli": 2_500 * items}

    kinds = {"purchase": kind(users % 2), "dismiss": kind(nothing + 1), "view": kind(users)}
    return UserColumns(users, np.array(arm_ids, np.int64), ARMS, sums, kinds)


def variant(arm, outcomes=None, served=None) -> VariantEvidence:
    """One arm's requests."""
    sums = {"slates": 90, "coverage_milli": 81_000}
    histogram = LatencyHistogram(served or {3: 90})
    return VariantEvidence(*arm, sums, {}, outcomes or {}, histogram, LatencyHistogram({}))


def test_only_the_arms_of_the_experiment_are_taken():
    """A user of another experiment's canary is in no sample."""
    now = columns([5, 6, 7, 8], [0, 1, 1, 2])
    found = arm_samples(now, None, [variant(arm) for arm in ARMS], "r1")
    assert {name: one.users["slates"].tolist() for name, one in found.items()} == {
        "baseline": [5.0],
        "canary": [6.0, 7.0],
    }
    assert found["canary"].before is None
    assert found["canary"].n_users == 2


def test_measures_are_made_of_sums_and_kinds():
    """By what each kind means; a measure the store lacks is absent."""
    meanings = KindMeanings(weights={"purchase": 3.0})
    now = columns([5, 6], [0, 0])
    users = arm_samples(now, None, [variant(ARMS[0])], "r1", meanings)["baseline"].users
    assert users["conversions"].tolist() == [1.0, 0.0]
    assert users["value"].tolist() == [2.5, 0.0]
    assert users["dismissed_items"].tolist() == [1.0, 1.0]
    assert users["utility"].tolist() == [2.0, -1.0]
    assert users["returned"].tolist() == [1.0, 0.0]
    assert users["session_s"].tolist() == [0.05, 0.06]
    assert "diversity" not in users


def test_what_slates_say_of_themselves_is_over_those_that_say_it():
    """Three slates of which two say it: the sum over two."""
    now = columns([3], [0])
    sums = dict(now.sums) | {
        name: np.array([n], np.int64)
        for name, n in (
            ("diversity_slates", 2), ("diversity_milli", 1_250),
            ("novelty_slates", 0), ("novelty_milli", 0),
        )
    }  # fmt: skip
    said = UserColumns(now.user_hashes, now.arm_ids, ARMS, sums, now.kinds)
    users = arm_samples(said, None, [variant(ARMS[0])], "r1")["baseline"].users
    assert users["diversity"] / users["diversity_slates"] == [0.625]
    assert users["novelty_slates"].tolist() == [0.0]


def test_a_users_past_is_summed_over_all_arms_and_missing_where_there_is_none():
    """User 6 was in two arms before, user 7 in none."""
    now, before = columns([6, 7], [1, 1]), columns([6, 6, 9], [0, 2, 0])
    past = arm_samples(now, before, [variant(ARMS[1])], "r1")["canary"].before
    assert past is not None
    assert past["slates"][0] == 12.0
    assert past["dismissed_items"][0] == 2.0
    assert np.isnan(past["slates"][1])
    assert np.isnan(past["one"][1])


def test_no_rows_are_an_empty_sample():
    """Nobody has come yet."""
    empty = UserColumns(np.zeros(0, np.int64), np.zeros(0, np.int64), (), {})
    found = arm_samples(empty, empty, [variant(ARMS[1])], "r1")["canary"]
    assert found.n_users == 0
    assert found.before is None


def test_requests_are_counted_by_how_they_ended():
    """A caller's mistake is none of the bundle's requests, and shedding is no error."""
    outcomes = {(200, "degraded"): 5, (400, "x"): 7, (500, "x"): 3, (504, "x"): 1, (503, "x"): 2}
    found = request_counts(variant(ARMS[1], outcomes))
    assert found == {
        "requests": 96.0, "answered": 90.0, "errors": 4.0, "shed": 2.0, "degraded": 5.0,
        "slates": 90.0, "covered": 81.0,
    }  # fmt: skip
