"""The OpenAPI document: well formed, and true of every route it names."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from recsys.settings import ServeSettings
from serve_app.gateway import Graph
from serve_app.http.docs_page import DOCS_PAGE
from serve_app.http.openapi import openapi_document
from tests.asgi_client import Reply, call
from tests.bundles_for_tests import all_to, publish_small, put_in_force, small_settings

DOCUMENT = openapi_document(ServeSettings())
OPERATIONS = [
    (path, verb, operation)
    for path, verbs in DOCUMENT["paths"].items()
    for verb, operation in verbs.items()
]
JSON_TYPES: dict[str, type | tuple[type, ...]] = {
    "object": dict,
    "array": list,
    "string": str,
    "integer": int,
    "number": (int, float),
    "boolean": bool,
    "null": type(None),
}


def problems(value: Any, schema: dict[str, Any], where: str = "$") -> list[str]:
    """Where a value is not what a schema of the kinds we use says."""
    if "$ref" in schema:
        name = schema["$ref"].removeprefix("#/components/schemas/")
        return problems(value, DOCUMENT["components"]["schemas"][name], where)
    if "anyOf" in schema:
        found = [problems(value, option, where) for option in schema["anyOf"]]
        return [] if any(not one for one in found) else found[0]
    kinds = schema.get("type", [])
    kinds = [kinds] if isinstance(kinds, str) else kinds
    if kinds and not any(isinstance(value, JSON_TYPES[kind]) for kind in kinds):
        return [f"{where} is {value!r}, expected {kinds}"]
    if isinstance(value, dict):
        known = schema.get("properties", {})
        missing = [
            f"{where} lacks {name}" for name in schema.get("required", ()) if name not in value
        ]
        inside = [
            problem
            for name, entry in value.items()
            for problem in problems(entry, known.get(name, {}), f"{where}.{name}")
        ]
        return missing + inside
    if isinstance(value, list):
        items = schema.get("items", {})
        return [
            problem
            for n, entry in enumerate(value)
            for problem in problems(entry, items, f"{where}[{n}]")
        ]
    return []


def references(node: Any) -> Iterator[str]:
    """Every $ref of a document."""
    if isinstance(node, dict):
        if "$ref" in node:
            yield node["$ref"]
        for entry in node.values():
            yield from references(entry)
    elif isinstance(node, list):
        for entry in node:
            yield from references(entry)


def test_the_document_is_openapi_3_1_and_every_reference_leads_somewhere() -> None:
    """No tool trips over it."""
    assert DOCUMENT["openapi"] == "3.1.0"
    assert {"title", "version"} <= set(DOCUMENT["info"])
    for reference in references(DOCUMENT):
        name = reference.removeprefix("#/components/schemas/")
        assert name in DOCUMENT["components"]["schemas"]
    assert json.loads(json.dumps(DOCUMENT)) == DOCUMENT


@pytest.mark.parametrize(("path", "verb", "operation"), OPERATIONS)
def test_every_operation_says_what_it_does_takes_and_answers(
    path: str, verb: str, operation: dict[str, Any]
) -> None:
    """Examples fit their schemas, path parameters are declared."""
    assert operation["summary"]
    assert all(response["description"] for response in operation["responses"].values())
    declared = {p["name"] for p in operation.get("parameters", ()) if p["in"] == "path"}
    assert declared == ({"item_id"} if "{item_id}" in path else set())
    if "requestBody" in operation:
        content = operation["requestBody"]["content"]["application/json"]
        assert problems(content["example"], content["schema"]) == []


@pytest.fixture(scope="module")
def graph(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Graph]:
    """A whole gateway in this process, with one bundle in force."""
    root: Path = tmp_path_factory.mktemp("openapi")
    settings = small_settings(root, placement="fused")
    manifest = publish_small(settings, root / "staging")
    put_in_force(settings, all_to(manifest.bundle_id))
    graph = Graph(settings, None, "gateway-1", adds_request_id=True)
    asyncio.run(graph.start())
    yield graph
    graph.stop()


def ask(graph: Graph, path: str, verb: str, operation: dict[str, Any]) -> Reply:
    """A good request of an operation: its example."""
    body = b""
    if "requestBody" in operation:
        example = operation["requestBody"]["content"]["application/json"]["example"]
        body = json.dumps(example).encode()
    query = "user_id=u1" if path == "/v1/recommend" and verb == "get" else ""
    return asyncio.run(call(graph.http, verb.upper(), path.format(item_id="i5"), body, query=query))


@pytest.mark.parametrize(("path", "verb", "operation"), OPERATIONS)
def test_every_route_answers_its_example_as_documented(
    graph: Graph, path: str, verb: str, operation: dict[str, Any]
) -> None:
    """Status, content type and body are those of the document."""
    reply = ask(graph, path, verb, operation)
    documented = operation["responses"][str(reply.status)]
    assert reply.status < 300
    content_type = reply.headers["content-type"].partition(";")[0]
    assert reply.headers["content-length"] == str(len(reply.body))
    assert reply.headers["x-request-id"]
    schema = documented["content"][content_type]["schema"]
    if content_type == "application/json":
        assert problems(reply.json(), schema) == []


def test_an_explained_slate_is_as_documented(graph: Graph) -> None:
    """The document names what explanations hold, and they hold nothing else."""
    schemas = DOCUMENT["components"]["schemas"]
    assert set(schemas["HistoryCause"]["properties"]) == {
        "item_id", "title", "kind", "contribution",
    }  # fmt: skip
    reply = asyncio.run(
        call(graph.http, "POST", "/v1/recommend", b'{"user_id":"u","explain":true}')
    )
    assert problems(reply.json(), {"$ref": "#/components/schemas/AnswerBody"}) == []
    for item in reply.json()["items"]:
        assert set(item["explanation"]) == set(schemas["Explanation"]["properties"])
        assert item["explanation"]["history"] == []


@pytest.mark.parametrize(
    ("verb", "path", "body", "query", "status"),
    [
        ("POST", "/v1/recommend", b"{", "", 400),
        ("POST", "/v1/recommend", b'{"user_id": "u", "k": 201}', "", 422),
        ("POST", "/v1/recommend", b'{"user_id": "' + b"u" * 257 + b'"}', "", 422),
        ("POST", "/v1/recommend", b" " * 65_537, "", 413),
        ("GET", "/v1/recommend", b"", "k=5", 422),
        ("GET", "/v1/recommend", b"", "user_id=u&k=0", 422),
        ("POST", "/v1/events", b'{"events": [{"kind": "click"}]}', "", 400),
        ("POST", "/v1/events", b"\xff\xfe", "", 400),
        ("PUT", "/v1/items/i1", b"[1]", "", 400),
    ],
)
def test_bad_input_is_a_documented_problem(
    graph: Graph, verb: str, path: str, body: bytes, query: str, status: int
) -> None:
    """Never a 500, always RFC 9457."""
    reply = asyncio.run(call(graph.http, verb, path, body, query=query))
    template = "/v1/items/{item_id}" if path.startswith("/v1/items") else path
    assert reply.status == status
    assert str(status) in DOCUMENT["paths"][template][verb.lower()]["responses"]
    assert reply.headers["content-type"] == "application/problem+json"
    document = reply.json()
    assert problems(document, {"$ref": "#/components/schemas/Problem"}) == []
    assert document["status"] == status


def test_the_page_needs_nothing_from_elsewhere() -> None:
    """It works on a machine without the internet."""
    page = DOCS_PAGE.decode()
    assert "openapi.json" in page
    assert "http://" not in page
    assert "https://" not in page


def test_the_header_of_a_deadline_is_named_with_what_it_takes() -> None:
    """Both ways to ask for a slate read it; its pattern takes a moment, and nothing else."""
    for verb in ("get", "post"):
        named = {one["name"]: one for one in DOCUMENT["paths"]["/v1/recommend"][verb]["parameters"]}
        header = named["x-request-deadline"]
        assert (header["in"], header["required"]) == ("header", False)
        pattern = re.compile(header["schema"]["pattern"])
        for value, is_taken in (
            ("1700000000000", True),
            ("", False),
            ("-1", False),
            ("soon", False),
        ):
            assert bool(pattern.search(value)) == is_taken
