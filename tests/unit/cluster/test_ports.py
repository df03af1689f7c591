"""Ports: which ones are needed, who holds them, and what is said about it."""

from __future__ import annotations

import os
import socket

import pytest

from cluster.local.environment import (
    absolute_settings,
    haproxy_wrapper,
    is_temp_dir,
    ray_environment,
    replica_ports,
    serve_config,
    temp_dir_of,
)
from cluster.local.ports import (
    Listener,
    check_bindable,
    connect_host,
    find_listeners,
    needed_ports,
    port_conflicts,
)
from recsys.errors import ConfigError, FleetError
from recsys.settings import ClusterSettings, ServeSettings, Settings


def test_a_conflict_names_port_holder_and_mend() -> None:
    """The sentence of the contract, word for word."""
    listeners = {8000: Listener(8000, 123, "nginx")}
    assert port_conflicts(needed_ports(Settings()), listeners) == [
        "port 8000 is used by process 123 (nginx), expected it free; "
        "stop that process or set serve.port (FLYWHEEL__SERVE__PORT)"
    ]


def test_a_holder_the_system_hides_is_still_a_conflict() -> None:
    """Without rights we see the port but not the process."""
    listeners = {6390: Listener(6390, None, "")}
    sentences = port_conflicts(needed_ports(Settings()), listeners)
    assert len(sentences) == 1
    assert "another user" in sentences[0]
    assert "FLYWHEEL__CLUSTER__RAY_PORT" in sentences[0]


def test_our_own_process_is_no_conflict() -> None:
    """An orphan of ours is ended, not reported."""
    listeners = {8000: Listener(8000, 7, "haproxy")}
    assert port_conflicts(needed_ports(Settings()), listeners, ours={7}) == []


def test_the_plain_proxy_needs_no_port_of_haproxy() -> None:
    """Only what will be bound is asked for."""
    plain = Settings(serve=ServeSettings(ingress="proxy"))
    assert {entry.port for entry in needed_ports(plain)} == {8000, 6390, 8090}


def test_two_settings_with_one_port_are_refused() -> None:
    """Found before anything starts, with both names."""
    both = Settings(serve=ServeSettings(port=8404))
    with pytest.raises(ConfigError, match=r"serve\.port and cluster\.haproxy_stats_port"):
        needed_ports(both)


def test_a_real_listener_is_found_with_its_process() -> None:
    """This process listens, and is named."""
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        port = server.getsockname()[1]
        found = find_listeners()[port]
        assert found.pid == os.getpid()
        with pytest.raises(FleetError, match=f"127.0.0.1:{port}"):
            check_bindable("127.0.0.1", port)
    check_bindable("127.0.0.1", port)


def test_an_address_of_another_machine_is_refused_with_the_setting() -> None:
    """A wrong host is not a wrong port."""
    with pytest.raises(FleetError, match="FLYWHEEL__SERVE__HOST"):
        check_bindable("192.0.2.1", 8000)


def test_a_client_connects_to_loopback_where_the_server_binds_everything() -> None:
    """0.0.0.0 is no address to connect to."""
    assert connect_host("0.0.0.0") == "127.0.0.1"
    assert connect_host("10.1.2.3") == "10.1.2.3"


def test_every_port_setting_reaches_ray() -> None:
    """Changing a port in the settings changes the variable Ray reads."""
    settings = Settings(
        cluster=ClusterSettings(
            ray_port=1001, haproxy_stats_port=1002, haproxy_metrics_port=1003, fallback_port=1004
        )
    )
    profile = ray_environment(settings, temp_dir_of(settings))
    assert profile["RAY_GCS_SERVER_PORT"] == "1001"
    assert profile["RAY_SERVE_HAPROXY_STATS_PORT"] == "1002"
    assert profile["RAY_SERVE_HAPROXY_METRICS_PORT"] == "1003"
    assert profile["RAY_SERVE_FALLBACK_PROXY_HTTP_PORT"] == "1004"


def test_authentication_stays_on_and_haproxy_is_a_setting() -> None:
    """Ray binds replica ports to every interface, so the token is never given up."""
    settings = Settings(serve=ServeSettings(ingress="proxy"))
    profile = ray_environment(settings, temp_dir_of(settings))
    assert profile["RAY_AUTH_MODE"] == "token"
    assert profile["RAY_SERVE_ENABLE_HA_PROXY"] == "0"
    assert "RAY_SERVE_HAPROXY_BINARY_PATH" not in profile


def test_socket_paths_fit_the_kernel(tmp_path: object) -> None:
    """HAProxy's socket with a node id and its temporary suffix stays below 108 bytes."""
    directory = temp_dir_of(Settings())
    assert is_temp_dir(directory)
    assert len(f"{directory}/{'f' * 56}/admin.sock.4194304.tmp") < 104


def test_replica_ports_lie_below_the_ephemeral_ones() -> None:
    """The kernel must not give them to a client socket."""
    first, end = replica_ports(Settings())
    assert 30_000 <= first < end <= 32_000


def test_the_wrapper_moves_the_statistics_binds_to_loopback(tmp_path: object) -> None:
    """Run by a shell: the two pages move, the frontend and the binary's arguments stay."""
    import subprocess
    from pathlib import Path

    folder = Path(str(tmp_path))
    config = folder / "haproxy.cfg"
    config.write_text(
        "defaults\n    option abortonclose\n    option splice-request\n"
        "frontend prometheus\n    bind :9101\nfrontend http\n    bind *:8000\n"
        "listen stats\n  bind *:8404\n"
    )
    wrapper = folder / "haproxy"
    wrapper.write_text(haproxy_wrapper(Settings(), Path("/bin/echo")))
    wrapper.chmod(0o700)
    for _ in range(2):
        done = subprocess.run(
            [str(wrapper), "-db", "-f", str(config), "-x", "a b"],
            capture_output=True,
            text=True,
            check=True,
        )
        assert done.stdout == f"-db -f {config} -x a b\n"
    lines = [line.strip() for line in config.read_text().splitlines()]
    assert lines[1:4] == [
        "option abortonclose",
        "timeout http-request 10s",
        "option splice-request",
    ]
    assert lines.count("timeout http-request 10s") == 1
    binds = [line.strip() for line in config.read_text().splitlines() if "bind" in line]
    assert binds == ["bind 127.0.0.1:9101", "bind *:8000", "bind 127.0.0.1:8404"]


def test_the_serve_configuration_names_its_applications_and_carries_the_settings() -> None:
    """What is deployed is a plain document that any cluster can be given."""
    import json

    settings = Settings(serve=ServeSettings(port=9000))
    config = serve_config(settings)
    assert config["http_options"] == {"host": "127.0.0.1", "port": 9000}
    paths = {a["name"]: (a["route_prefix"], a["import_path"]) for a in config["applications"]}
    assert paths == {
        "recommend": ("/", "serve_app.app:build"),
        "workers": (None, "train_app.workers:build"),
        "control": (None, "cluster.rollouts.driving.controller_app:build"),
    }
    for application in json.loads(json.dumps(config))["applications"]:
        carried = Settings.model_validate(application["args"]["settings"])
        assert carried == absolute_settings(settings)
        assert carried.data_dir.is_absolute()


@pytest.mark.parametrize(
    ("n_files", "expected"),
    [(9_000, ["maxconn 6952", "no strict-limits"]), (4_096, ["maxconn 4096"])],
)
def test_the_wrapper_allows_as_many_connections_as_files_may_be_open(
    n_files: int, expected: list[str], tmp_path: object
) -> None:
    """With some to spare for the gateways; where few may be open, Ray's number stands."""
    import subprocess
    from pathlib import Path

    folder = Path(str(tmp_path))
    config = folder / "haproxy.cfg"
    config.write_text("global\n    maxconn 4096\n    nbthread 1\ndefaults\n")
    wrapper = folder / "haproxy"
    wrapper.write_text(haproxy_wrapper(Settings(), Path("/bin/echo")))
    wrapper.chmod(0o700)
    command = f"ulimit -Sn {n_files}; ulimit -Hn {n_files}; '{wrapper}' -f '{config}'"
    for _ in range(2):
        subprocess.run(["sh", "-c", command], check=True, capture_output=True)
    lines = [line.strip() for line in config.read_text().splitlines()]
    assert lines == ["global", *expected, "nbthread 1", "defaults"]
