"""What the bench of the request path measures, and what it asks."""

from __future__ import annotations

from bench.request_path import measurable
from bench.wrk_load import wrk_script


def test_a_peer_that_is_not_installed_is_left_out_by_name() -> None:
    """The others are measured all the same, in their order."""
    wanted = ["graph", "bentoml", "fastapi"]
    assert measurable(wanted, is_peer_there=True) == (wanted, "")
    assert measurable(wanted, is_peer_there=False) == (["graph", "fastapi"], "bentoml")
    assert measurable(["graph"], is_peer_there=False) == (["graph"], "")


def test_wrk_asks_for_random_users_by_get_or_by_post() -> None:
    """The `%d` stands in the path, or in the body where there is one."""
    get = wrk_script("/v1/recommend?user_id=%d", 50)
    assert (
        'wrk.format("GET", string.format("/v1/recommend?user_id=%d", math.random(0, 50 - 1)))'
        in get
    )
    assert "delay" not in get
    post = wrk_script("/recommend", 50, pause_ms=2.5, body='{"user_ids": ["%d"]}')
    assert 'string.format([[{"user_ids": ["%d"]}]], math.random(0, 50 - 1))' in post
    assert '["content-type"] = "application/json"' in post
    assert "-2.5 * math.log" in post
