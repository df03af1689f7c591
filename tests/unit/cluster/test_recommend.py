"""`cluster recommend` against a little HTTP server with answers of the contract."""

from __future__ import annotations

import json
import threading
from collections.abc import Generator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from cluster.console import Console
from cluster.recommend import ask_for_slate, explanation_text, read_titles, recommend
from recsys.errors import FleetError, RequestError
from recsys.settings import Settings

SLATE: dict[str, Any] = {
    "request_id": "r1",
    "bundle_id": "b1",
    "variant": "stable",
    "items": [
        {"item_id": "i1", "position": 0, "score": 1.5, "propensity": 0.95, "source": "index"},
        {
            "item_id": "i2",
            "position": 1,
            "score": 0.25,
            "propensity": 0.5,
            "source": "popular",
            "explanation": {"probabilities": {"click": 0.125}, "retrieval_rank": 3},
        },
    ],
    "coverage": 0.5,
    "degraded": ["shard-001 late"],
}


@contextmanager
def a_service(
    tmp_path: Path, status: int, document: object
) -> Generator[tuple[Settings, list[Any]]]:
    """A server that answers every POST alike; yields settings that lead to it, and the bodies."""
    bodies: list[Any] = []

    class Answering(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            """Record the body and answer."""
            bodies.append(json.loads(self.rfile.read(int(self.headers["content-length"]))))
            data = json.dumps(document).encode()
            self.send_response(status)
            self.send_header("content-length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *arguments: object) -> None:
            """Say nothing."""

    server = HTTPServer(("127.0.0.1", 0), Answering)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    port = server.server_address[1]
    try:
        yield Settings.model_validate({"data_dir": tmp_path, "serve": {"port": port}}), bodies
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def write_items(settings: Settings, titles: dict[str, str]) -> None:
    """The item table of bundle b1, as far as titles go."""
    directory = Path(settings.registry_location) / "b1"
    directory.mkdir(parents=True)
    columns = {"item_id": list(titles), "title": list(titles.values())}
    pq.write_table(pa.table(columns), directory / "items.parquet")


def test_the_table_shows_titles_from_the_bundle_that_answered(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Position, title, source and propensity of each item; bundle, coverage and degradation."""
    with a_service(tmp_path, 200, SLATE) as (settings, bodies):
        write_items(settings, {"i1": "Heat [1995]", "i2": "Alien", "i3": "Unasked"})
        recommend.main(["u1", "-k", "2", "--explain"], obj=Console(settings), standalone_mode=False)
    assert bodies == [{"user_id": "u1", "k": 2, "explain": True}]
    text = capsys.readouterr().out
    for part in ("Heat [1995]", "Alien", "index", "popular", "0.9500", "bundle b1", "50%"):
        assert part in text
    assert "shard-001 late" in text
    assert "probabilities.click 0.125" in text
    assert "Unasked" not in text


def test_json_is_the_answer_of_the_service(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Nothing is added to it or taken away."""
    with a_service(tmp_path, 200, SLATE) as (settings, _):
        recommend.main(["u1"], obj=Console(settings, as_json=True), standalone_mode=False)
    assert json.loads(capsys.readouterr().out) == SLATE


def test_a_bundle_that_is_not_here_leaves_titles_out(tmp_path: Path) -> None:
    """The answer is shown all the same; a title in the answer itself is used."""
    settings = Settings(data_dir=tmp_path)
    assert read_titles(settings, SLATE) == {}
    answered = {"bundle_id": "b1", "items": [{"item_id": "i9", "title": "From the answer"}]}
    assert read_titles(settings, answered) == {"i9": "From the answer"}


def test_a_refused_request_tells_every_problem(tmp_path: Path) -> None:
    """Problem details become one sentence."""
    problem = {
        "title": "Unprocessable",
        "detail": "k is 900",
        "errors": [{"pointer": "/k", "detail": "expected 1 to 200"}],
    }
    with (
        a_service(tmp_path, 422, problem) as (settings, _),
        pytest.raises(RequestError, match="422: k is 900; expected 1 to 200"),
    ):
        ask_for_slate(settings, "u1", 900, explain=False)


def test_a_service_that_is_not_ready_is_the_clusters_fault(tmp_path: Path) -> None:
    """503 is exit code 3, with where to look."""
    with (
        a_service(tmp_path, 503, {"detail": "no plan yet"}) as (settings, _),
        pytest.raises(FleetError, match=r"503: no plan yet.*cluster status"),
    ):
        ask_for_slate(settings, "u1", 5, explain=False)


def test_nobody_there_is_told_with_the_mend(tmp_path: Path) -> None:
    """The address is named."""
    settings = Settings.model_validate({"data_dir": tmp_path, "serve": {"port": 1}})
    with pytest.raises(FleetError, match=r"127\.0\.0\.1:1 .*cluster up --wait"):
        ask_for_slate(settings, "u1", 5, explain=False)


def test_an_explanation_is_flattened() -> None:
    """Nested values become dotted names; columns are not repeated; nothing stays nothing."""
    assert (
        explanation_text({"title": "t", "a": {"b": 0.5, "c": "x"}, "d": 2})
        == "a.b 0.500, a.c x, d 2"
    )
    assert not explanation_text(None)


def test_an_explanation_is_told_in_lines_of_titles_and_signed_contributions() -> None:
    """The history first, then what it goes together with, the features, and the rest."""
    explanation = {
        "title": "Heat",
        "source": "neighbours",
        "retrieval_rank": 3,
        "moved_by": None,
        "seed": {"item_id": "i4", "title": "Ronin [1998]"},
        "history": [
            {"item_id": "i4", "title": "Ronin [1998]", "kind": "like", "contribution": 0.125},
            {"item_id": "i5", "title": "", "kind": "click", "contribution": -0.0625},
        ],
        "features": {"popularity": 0.01, "history": -0.5},
    }
    assert explanation_text(explanation).splitlines() == [
        "because of: Ronin [1998] (like) +0.1250, i5 (click) -0.0625",
        "goes together with: Ronin [1998]",
        "features: history -0.5000, popularity +0.0100",
        "retrieval_rank 3",
    ]


@pytest.mark.parametrize(
    ("history", "line"),
    [
        ([], "because of: nothing in the history"),
        (None, "because of: could not be found out, see degraded"),
    ],
)
def test_nothing_to_name_and_nothing_found_out_are_told_apart(history: Any, line: str) -> None:
    """A new user, and an explanation that came too late."""
    explanation = {"history": history, "seed": None, "features": None}
    assert explanation_text(explanation) == line
