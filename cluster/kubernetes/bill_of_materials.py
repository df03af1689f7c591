"""The Python packages of an installation as a CycloneDX 1.6 document."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from importlib import metadata
from typing import Any

SPEC_VERSION = "1.6"


@dataclass(frozen=True, slots=True, order=True)
class Package:
    """One installed distribution; `license_text` as its author wrote it, or empty."""

    name: str
    version: str
    license_text: str


def installed_packages() -> list[Package]:
    """Every distribution that this interpreter finds, once, by name."""
    found: dict[str, Package] = {}
    for distribution in metadata.distributions():
        described = distribution.metadata
        named = [described[key] for key in ("License-Expression", "License") if key in described]
        text = next(iter(named), "")
        first_line = text.strip().partition("\n")[0]
        name = described["Name"]
        found.setdefault(name.lower(), Package(name, distribution.version, first_line))
    return sorted(found.values())


def bill_of_materials(packages: Iterable[Package]) -> dict[str, Any]:
    """The document; the same packages give the same document."""
    return {
        "bomFormat": "CycloneDX",
        "specVersion": SPEC_VERSION,
        "version": 1,
        "components": [_component(package) for package in packages],
    }


def _component(package: Package) -> dict[str, Any]:
    normal = package.name.lower().replace("_", "-")
    component: dict[str, Any] = {
        "type": "library",
        "name": package.name,
        "version": package.version,
        "purl": f"pkg:pypi/{normal}@{package.version}",
        "bom-ref": f"pkg:pypi/{normal}@{package.version}",
    }
    if package.license_text:
        component["licenses"] = [{"license": {"name": package.license_text}}]
    return component
