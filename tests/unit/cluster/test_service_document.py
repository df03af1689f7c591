"""What Kubernetes deploys is what `cluster up` deploys, and the generated files are up to date."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from cluster.kubernetes.dashboards import alert_rules, dashboard, expressions
from cluster.kubernetes.metric_names import declared_series
from cluster.kubernetes.service_document import (
    deployments_of,
    environment_patch,
    kubernetes_serve_config,
    service_patch,
    settings_patch,
)
from cluster.local.environment import absolute_settings, serve_config
from recsys.errors import ConfigError
from recsys.settings import Settings
from recsys.settings_files import load_settings
from serve_app.telemetry import COUNTERS, GAUGES, HISTOGRAMS
from train_app import workers

ROOT = Path(__file__).parents[3]
OVERLAYS = {
    "dev": ([ROOT / "k8s/overlays/dev/settings.toml"], True),
    "prod": ([ROOT / "configs/prod.toml", ROOT / "k8s/overlays/prod/settings.toml"], False),
}


def settings_of(overlay: str) -> tuple[Settings, bool]:
    """The overlay's settings, and whether it is one node."""
    files, one_node = OVERLAYS[overlay]
    return load_settings(files, {}), one_node


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_the_generated_files_of_an_overlay_are_those_of_its_settings(overlay: str) -> None:
    """Who changes settings runs `make k8s-render`."""
    settings, one_node = settings_of(overlay)
    folder = ROOT / "k8s/overlays" / overlay
    assert (folder / "serve-config.yaml").read_text() == service_patch(settings, one_node=one_node)
    assert (folder / "ray-environment.yaml").read_text() == environment_patch(settings)
    assert (folder / "settings-environment.yaml").read_text() == settings_patch(settings)


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_an_overlay_deploys_what_cluster_up_deploys(overlay: str) -> None:
    """Applications, routes, ingress options and every setting are equal; only placement differs."""
    settings, one_node = settings_of(overlay)
    patch = yaml.safe_load((ROOT / "k8s/overlays" / overlay / "serve-config.yaml").read_text())
    generated: dict[str, Any] = yaml.safe_load(patch["spec"]["serveConfigV2"])
    local = serve_config(settings)
    for application in (*generated["applications"], *local["applications"]):
        application.pop("deployments", None)
        document = application["args"]["settings"]
        application["args"] = absolute_settings(Settings.model_validate(document))
    if not one_node:
        assert (generated.pop("proxy_location"), local.pop("proxy_location")) == (
            "EveryNode",
            "HeadOnly",
        )
    assert generated == local


def test_a_password_in_a_setting_reaches_no_manifest() -> None:
    """The generator refuses, naming the setting and not the password."""
    settings = Settings(control_store_url="postgresql://flywheel:geheim@db/x")
    for make in (settings_patch, lambda s: service_patch(s, one_node=False)):
        with pytest.raises(ConfigError, match="CONTROL_STORE_URL") as refused:
            make(settings)
        assert "geheim" not in str(refused.value)


@pytest.mark.parametrize(
    "settings",
    [
        Settings(),
        Settings.model_validate({"retrieval": {"n_shards": 5}, "schedule": {"train": "daily"}}),
        Settings.model_validate({"serve": {"placement": "fused"}}),
    ],
)
def test_every_deployment_of_the_applications_is_placed(settings: Settings) -> None:
    """A name that the builders do not make, or one that is left out, would be refused or float."""
    from ray.serve._private.build_app import build_app

    from cluster.rollouts.driving import controller_app
    from serve_app import app

    arguments = {"settings": settings.model_dump(mode="json")}
    builders = {"recommend": app.build, "workers": workers.build, "control": controller_app.build}
    for name, build in builders.items():
        made = build_app(build(arguments), name=name).deployments
        asked = {each.name: each.num_replicas for each in made}
        assert asked == deployments_of(settings)[name]
        for each in made:
            assert each.ray_actor_options["num_cpus"] == 0.1


def test_a_placed_configuration_is_one_that_ray_serve_reads() -> None:
    """Serve's own schema takes it, and keeps what was asked."""
    from ray.serve.schema import ServeDeploySchema

    settings, _ = settings_of("prod")
    schema = ServeDeploySchema.model_validate(kubernetes_serve_config(settings, one_node=False))
    gateway = schema.applications[0].deployments[0]
    assert (gateway.name, gateway.max_replicas_per_node) == ("Gateway", 1)
    assert gateway.ray_actor_options.resources == {"flywheel_serving": 0.001}


def test_the_dashboard_shows_every_declared_series() -> None:
    """Names and kinds are those of the code, and the files in base are up to date."""
    series = declared_series()
    kinds = {each.name: each.kind for each in series}
    for names, kind in ((COUNTERS, "counter"), (GAUGES, "gauge"), (HISTOGRAMS, "histogram")):
        assert {kinds[name] for name in names} == {kind}
    assert {*workers._GAUGES, *workers._COUNTERS, workers.LAKE_GAP} <= set(kinds)
    shown = (ROOT / "k8s/base/dashboard.json").read_text()
    assert shown == dashboard(series)
    assert (ROOT / "k8s/base/alert-rules.yaml").read_text() == alert_rules(series)
    assert all(expressions(each)[0][0].count("(") >= 1 for each in series)


def test_every_alert_names_a_runbook_that_exists() -> None:
    """Whoever is woken finds what to do."""
    document = yaml.safe_load((ROOT / "k8s/base/alert-rules.yaml").read_text())
    rules = document["spec"]["groups"][0]["rules"]
    assert rules
    for rule in rules:
        assert (ROOT / rule["annotations"]["runbook_url"]).is_file(), rule["alert"]
