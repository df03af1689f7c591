"""Sends generated requests, right and wrong ones, and holds each answer against the OpenAPI."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import requests
import schemathesis
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis.errors import Unsatisfiable
from schemathesis.core.failures import Failure, FailureGroup
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
)

CHECKS = [
    status_code_conformance,
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
]
MAX_TOLD = 20
ON_PURPOSE = (503, 504)
"""What the interface promises under load and for a deadline that a request sets too short."""
PLAIN_CASES = 1


@dataclass(slots=True)
class FuzzReport:
    """What came back."""

    n_cases: int = 0
    statuses: Counter[str] = field(default_factory=Counter)
    """By operation and status."""
    failures: list[str] = field(default_factory=list)
    """Answers that broke a promise of the interface; the first of them."""
    let_in: list[str] = field(default_factory=list)
    """Requests that were let in with a key that does not open them."""

    @property
    def holds(self) -> bool:
        """Whether every answer was one that the interface promises."""
        return self.n_cases > 0 and not self.failures and not self.let_in


def fuzz(url: str, n_cases: int, random_seed: int, key: str | None, opens: set[str]) -> FuzzReport:
    """Send about `n_cases` requests, as many to each operation, half of them wrong on purpose.

    Args:
        key: what each request shows; None shows nothing.
        opens: the scopes of which the key has one; a request to another must be refused.
    """
    report = FuzzReport()
    document = requests.get(f"{url}/openapi.json", timeout=10).json()
    schema = schemathesis.openapi.from_dict(document)
    schema.config.update(base_url=url)
    operations = [result.ok() for result in schema.get_all_operations()]
    right, wrong = schemathesis.GenerationMode.POSITIVE, schemathesis.GenerationMode.NEGATIVE
    taking = {operation.label for operation in operations if _takes_something(document, operation)}
    # What takes nothing can be asked in one way only, and in no wrong one.
    n_plain = PLAIN_CASES * (len(operations) - len(taking))
    n_each = max(1, -(-(n_cases - n_plain) // (2 * len(taking))))
    with requests.Session() as session:
        session.trust_env = False
        for number, operation in enumerate(operations):
            needed = _scope(document, operation)
            plan = {right: n_each, wrong: n_each} if operation.label in taking else {right: 1}
            for mode, n in plan.items():
                try:
                    _send(report, session, operation, mode, n, random_seed + number, key)
                except Unsatisfiable:
                    if mode is right:
                        raise
                    # Any text is a right item id: there is no wrong way to ask.
                    _send(report, session, operation, right, n, random_seed - number - 1, key)
                if needed is not None and needed not in opens:
                    _check_closed(report, operation.label)
    return report


def _send(
    report: FuzzReport,
    session: requests.Session,
    operation: Any,
    mode: Any,
    n_cases: int,
    random_seed: int,
    key: str | None,
) -> None:
    # A key of the fuzzer's own making would be one more thing that opens nothing.
    shown = {} if key is None else {"Authorization": f"Bearer {key}"}

    @seed(random_seed)
    @settings(
        max_examples=n_cases,
        deadline=None,
        database=None,
        phases=(Phase.generate,),
        suppress_health_check=list(HealthCheck),
    )
    @given(operation.as_strategy(generation_mode=mode))
    def send(case: Any) -> None:
        response = case.call(session=session, headers=shown, timeout=30)
        report.n_cases += 1
        report.statuses[f"{operation.label} {response.status_code}"] += 1
        for problem in _problems(case, response):
            if len(report.failures) < MAX_TOLD:
                told = f"{operation.label} {response.status_code}: {problem}"
                report.failures.append(told[:2000])

    send()


def _problems(case: Any, response: Any) -> list[str]:
    """What the interface does not promise of this answer."""
    if response.status_code >= 500 and response.status_code not in ON_PURPOSE:
        return [f"unforeseen: {response.text}"]
    try:
        case.validate_response(response, checks=CHECKS)
    except (Failure, FailureGroup) as failure:
        return [str(one) for one in getattr(failure, "exceptions", [failure])]
    return []


def _check_closed(report: FuzzReport, label: str) -> None:
    for name, n in report.statuses.items():
        operation, _, status = name.rpartition(" ")
        if operation == label and int(status) not in {401, 403, 404, 405, 414, 431}:
            report.let_in.append(f"{name}: {n} times")


def _takes_something(document: Any, operation: Any) -> bool:
    found = document["paths"][operation.path][operation.method.lower()]
    return "parameters" in found or "requestBody" in found


def _scope(document: Any, operation: Any) -> str | None:
    """The scope that the document says an operation needs."""
    found = document["paths"][operation.path][operation.method.lower()]
    if "security" not in found:
        return None
    return str(found["description"]).split("`")[1]
