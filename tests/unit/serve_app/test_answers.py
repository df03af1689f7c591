"""Answers and impressions as JSON."""

from __future__ import annotations

import json
from dataclasses import replace

from recsys.events import Impression, decode_event, encode_event
from recsys.traffic import Arm, TrafficPlan
from serve_app.answers import answer_json, impression_of
from serve_app.asks import Answer, Ask, Chosen, Dropped, Explanation
from serve_app.http.recommend_requests import RecommendRequest


def an_answer(**changes: object) -> Answer:
    """Two items shown, one not."""
    request = RecommendRequest(user_id="u1", k=2, context={"device": "phone"})
    fields: dict[str, object] = {
        "ask": Ask(request, "r1", "canary", 1_760_000_000_000, 0.0),
        "bundle_id": "b1",
        "shown": Chosen(["a", "b"], [0.5, 0.25], ["index", "fresh"], [1.5, 0.0], [0, 3], [0, 4]),
        "propensities": [0.95, 0.01],
        "unshown": Chosen(["c"], [0.4], ["popular"], [0.5], [1], [1]),
        "dropped": Dropped(["d", "e"], ["index", "index"], [0.25, 0.125], [201, 240], 180),
        "explanations": None,
        "coverage": 0.5,
        "degraded": ("shard-001: timeout",),
        "history_version": 7,
        "history_items": ("x", "y"),
        "stage_ms": {"score": 1.5},
        "diversity": 0.75,
        "novelty": 9.5,
    }
    return Answer(**{**fields, **changes})  # type: ignore[arg-type]


def test_the_response_has_the_fields_of_the_contract() -> None:
    """Positions count from 0 and nothing internal leaks."""
    assert json.loads(answer_json(an_answer())) == {
        "request_id": "r1",
        "bundle_id": "b1",
        "variant": "canary",
        "items": [
            {
                "item_id": "a",
                "position": 0,
                "score": 0.5,
                "propensity": 0.95,
                "source": "index",
            },
            {
                "item_id": "b",
                "position": 1,
                "score": 0.25,
                "propensity": 0.01,
                "source": "fresh",
            },
        ],
        "coverage": 0.5,
        "degraded": ["shard-001: timeout"],
    }


def test_explanations_stand_with_their_items() -> None:
    """Only where they were asked for."""
    why = Explanation("Alpha", "index", 1.5, 0, {"click": 0.5}, 0, None)
    body = json.loads(answer_json(an_answer(explanations=[why, why])))
    assert body["items"][1]["explanation"]["title"] == "Alpha"
    assert body["items"][1]["explanation"]["moved_by"] is None


def test_the_impression_holds_what_learning_needs_and_survives_the_log() -> None:
    """Features as used, propensities, what was not shown, and how complete the answer was."""
    impression = impression_of(an_answer(), "e1")
    assert decode_event(encode_event(impression)) == impression
    assert (impression.request_id, impression.user_id, impression.variant) == ("r1", "u1", "canary")
    assert [(item.item_id, item.position, item.propensity) for item in impression.slate] == [
        ("a", 0, 0.95),
        ("b", 1, 0.01),
    ]
    assert [(item.item_id, item.score_rank) for item in impression.unshown] == [("c", 1)]
    assert [(item.item_id, item.retrieval_rank) for item in impression.dropped] == [
        ("d", 201),
        ("e", 240),
    ]
    assert impression.n_dropped == 180
    assert impression.history_items == ("x", "y")
    assert impression.context == {"device": "phone"}
    assert (impression.coverage, impression.degraded) == (0.5, ("shard-001: timeout",))
    assert (impression.diversity, impression.novelty) == (0.75, 9.5)


def test_an_impression_of_an_older_release_dropped_nothing_and_says_nothing_of_its_list() -> None:
    """What it did not log decodes as none."""
    body = json.loads(encode_event(impression_of(an_answer(), "e1")))
    for name in ("dropped", "n_dropped", "diversity", "novelty"):
        del body[name]
    old = decode_event(json.dumps(body).encode())
    assert isinstance(old, Impression)
    assert (old.dropped, old.n_dropped) == ((), 0)
    assert (old.diversity, old.novelty) == (None, None)


def test_an_impression_names_what_its_slate_is_compared_under() -> None:
    """The plan's salt for canary and baseline; nobody compares stable."""
    plan = TrafficPlan(
        4, "r1", (Arm("stable", "b1", 0.8), Arm("baseline", "b1", 0.1), Arm("canary", "b2", 0.1))
    )
    answer = an_answer()
    named = {}
    for arm in plan.arms:
        experiment = plan.experiment_of(arm.variant)
        ask = replace(answer.ask, variant=arm.variant, experiment=experiment)
        named[arm.variant] = impression_of(replace(answer, ask=ask), "e1").experiment
    assert named == {"stable": None, "baseline": "r1", "canary": "r1"}
