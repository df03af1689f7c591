"""Exactly the needed flows pass the NetworkPolicies, by the ports that code and settings open."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import urlsplit

import pytest
import yaml

from recsys.settings_files import load_settings
from tests.network_flows import Pod, is_allowed, read_policies

ROOT = Path(__file__).parents[3]
BASE, PROD = ROOT / "k8s/base", ROOT / "k8s/overlays/prod"
POLICIES = read_policies([BASE, PROD])
SETTINGS = load_settings([ROOT / "configs/prod.toml", PROD / "settings.toml"], {})
RAY_PORTS = (6379, 8265, 10001, 52365, 8076, 30_000, 41_234)
"""GCS, dashboard, client, agent, object manager, a direct ingress, a link."""


def ours(**labels: str) -> Pod:
    """A pod of our namespace, by its labels under flywheel.io."""
    return Pod({f"flywheel.io/{name}": value for name, value in labels.items()})


def other(namespace: str, **labels: str) -> Pod:
    """A pod of another namespace."""
    return Pod(
        {f"app.kubernetes.io/{name}": value for name, value in labels.items()},
        {"kubernetes.io/metadata.name": namespace},
    )


HEAD = ours(role="ray", node="head")
GATEWAY, SHARD, WORKER = (ours(role="ray", node=n) for n in ("serving", "shards", "workers"))
REDIS, POSTGRES = ours(role="redis"), ours(role="postgres")
BROKER = Pod({"strimzi.io/cluster": "kafka", "strimzi.io/kind": "Kafka"})
EDGE = Pod({}, {"flywheel.io/edge": "true"})
DOOR = Pod({"gateway.networking.k8s.io/gateway-name": "flywheel-gateway"})
STRANGER = other("elsewhere", name="shell")
OPERATOR = other("kuberay-system", name="kuberay-operator")
PROMETHEUS = other("monitoring", name="prometheus")
OUTSIDE = Pod({}, is_outside=True)
SUBMITTER = ours(role="submitter")
NODES = (HEAD, GATEWAY, SHARD, WORKER)


def port_of(url: str) -> int:
    """The port of a URL or of host:port."""
    return urlsplit(url if "://" in url else f"tcp://{url}").port or 0


STORES = [
    (BROKER, port_of(SETTINGS.events.kafka.bootstrap_servers[0])),
    (REDIS, port_of(SETTINGS.features.redis_url)),
    (POSTGRES, port_of(SETTINGS.control_url)),
    (POSTGRES, port_of(SETTINGS.evidence_url)),
]


def test_every_node_of_ray_reaches_every_store_of_the_settings() -> None:
    """Ports are read from the settings that the pods run with."""
    for node in NODES:
        for store, port in STORES:
            assert is_allowed(POLICIES, node, store, port)
        assert is_allowed(POLICIES, node, OUTSIDE, 443)


def test_nodes_of_ray_reach_each_other_on_every_port() -> None:
    """Links and raylets listen where they find a free port."""
    for source in NODES:
        for target in NODES:
            assert all(is_allowed(POLICIES, source, target, port) for port in RAY_PORTS)


def test_requests_come_through_the_http_port_alone() -> None:
    """From the edge and from the operator's Gateway, and to no other port of Ray."""
    for source in (EDGE, DOOR):
        assert is_allowed(POLICIES, source, GATEWAY, SETTINGS.serve.port)
        for target in NODES:
            assert not any(is_allowed(POLICIES, source, target, port) for port in RAY_PORTS)


def test_a_stranger_reaches_nothing() -> None:
    """Neither from another namespace nor from outside."""
    for source in (STRANGER, OUTSIDE):
        for target in (*NODES, REDIS, POSTGRES, BROKER, DOOR):
            ports = (*RAY_PORTS, 80, 443, 5432, 8000, 8080, 9090, 9091, 9092, 9093)
            assert not any(is_allowed(POLICIES, source, target, port) for port in ports)


def test_operator_and_prometheus_get_their_ports_and_no_more() -> None:
    """The dashboard's job interface is for the operator alone, the series for Prometheus."""
    assert is_allowed(POLICIES, OPERATOR, HEAD, 8265)
    assert not is_allowed(POLICIES, OPERATOR, GATEWAY, 8265)
    assert not is_allowed(POLICIES, OPERATOR, HEAD, 6379)
    assert all(is_allowed(POLICIES, PROMETHEUS, node, 8080) for node in NODES)
    assert not any(is_allowed(POLICIES, PROMETHEUS, node, 8265) for node in NODES)


def test_a_store_opens_no_connection_to_ray_or_outside() -> None:
    """What is taken over there leads nowhere; brokers speak among themselves and to the API."""
    for store in (REDIS, POSTGRES, BROKER):
        assert not any(is_allowed(POLICIES, store, HEAD, port) for port in (*RAY_PORTS, 8000))
    assert not is_allowed(POLICIES, REDIS, OUTSIDE, 443)
    assert not is_allowed(POLICIES, POSTGRES, OUTSIDE, 443)
    assert is_allowed(POLICIES, BROKER, BROKER, 9091)
    assert not is_allowed(POLICIES, BROKER, POSTGRES, 5432)


def test_what_submits_a_job_reaches_the_api_server_alone() -> None:
    """Neither a store nor Ray."""
    assert is_allowed(POLICIES, SUBMITTER, OUTSIDE, 6443)
    targets = ((HEAD, 8265), (REDIS, 6379), (POSTGRES, 5432), (BROKER, 9093))
    assert not any(is_allowed(POLICIES, SUBMITTER, target, port) for target, port in targets)


def test_pods_carry_the_labels_that_the_policies_select() -> None:
    """A pod without its label would be shut in; a policy without a pod would say nothing."""
    documents = [
        each
        for folder in (BASE, PROD)
        for file in folder.glob("*.yaml")
        for each in yaml.safe_load_all(file.read_text())
    ]
    text = yaml.safe_dump([each for each in documents if each.get("kind") != "NetworkPolicy"])
    for role in ("ray", "redis", "postgres", "submitter"):
        assert f"flywheel.io/role: {role}\n" in text
    assert "flywheel.io/node: head\n" in text


@pytest.mark.parametrize("drop", ["ray-inside", "ray-to-stores", "requests", "kafka"])
def test_a_missing_policy_is_noticed(drop: str) -> None:
    """Every flow rests on a policy: without it the flow is shut, as the default is to deny."""
    kept = [policy for policy in POLICIES if policy["metadata"]["name"] != drop]
    flows = {
        "ray-inside": (GATEWAY, SHARD, 41_234),
        "ray-to-stores": (GATEWAY, REDIS, 6379),
        "requests": (EDGE, GATEWAY, 8000),
        "kafka": (GATEWAY, BROKER, 9093),
    }
    assert is_allowed(POLICIES, *flows[drop])
    shut = is_allowed(kept, *flows[drop])
    assert shut is False
