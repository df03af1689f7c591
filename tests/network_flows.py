"""NetworkPolicies as Kubernetes reads them: who may connect to whom, on which port."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

Rule = dict[str, Any]


@dataclass(frozen=True)
class Pod:
    """One end of a flow; `namespace` are the labels of its namespace; outside has no labels."""

    labels: dict[str, str]
    namespace: dict[str, str] = field(default_factory=dict)
    is_outside: bool = False

    @property
    def is_ours(self) -> bool:
        """Whether the policies of our namespace select it."""
        return not self.namespace and not self.is_outside


def read_policies(folders: Iterable[Path]) -> list[Rule]:
    """Every NetworkPolicy of the folders' network.yaml."""
    return [
        document
        for folder in folders
        for document in yaml.safe_load_all((folder / "network.yaml").read_text())
        if document["kind"] == "NetworkPolicy"
    ]


def is_allowed(policies: Sequence[Rule], source: Pod, target: Pod, port: int) -> bool:
    """Whether a TCP connection passes both the source's egress and the target's ingress."""
    return _passes(policies, source, target, "Egress", port) and _passes(
        policies, target, source, "Ingress", port
    )


def _passes(policies: Sequence[Rule], own: Pod, peer: Pod, direction: str, port: int) -> bool:
    if not own.is_ours:
        return True
    specs = [policy["spec"] for policy in policies]
    chosen = [
        spec
        for spec in specs
        if direction in spec["policyTypes"] and _selects(spec["podSelector"], own.labels)
    ]
    key, side = ("egress", "to") if direction == "Egress" else ("ingress", "from")
    return not chosen or any(
        _has_port(rule, port) and (side not in rule or any(_is(p, peer) for p in rule[side]))
        for spec in chosen
        for rule in spec.get(key, [])
    )


def _has_port(rule: Rule, port: int) -> bool:
    return "ports" not in rule or any(
        each["port"] == port and each.get("protocol", "TCP") == "TCP" for each in rule["ports"]
    )


def _is(peer: Rule, pod: Pod) -> bool:
    if "ipBlock" in peer:
        return pod.is_outside
    if pod.is_outside:
        return False
    if "namespaceSelector" in peer:
        if not _selects(peer["namespaceSelector"], pod.namespace):
            return False
    elif not pod.is_ours:
        return False
    return _selects(peer.get("podSelector", {}), pod.labels)


def _selects(selector: Rule, labels: dict[str, str]) -> bool:
    wanted = selector.get("matchLabels", {})
    return all(labels.get(name) == value for name, value in wanted.items()) and all(
        each["operator"] == "In" and labels.get(each["key"]) in each["values"]
        for each in selector.get("matchExpressions", [])
    )
