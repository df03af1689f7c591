"""`cluster recommend`: one request to the running service, shown as a table with titles."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from cluster.console import Console, as_text
from recsys.errors import FleetError, RecsysError, RequestError

if TYPE_CHECKING:
    from rich.table import Table

    from recsys.settings import Settings

TIMEOUT_S = 65.0
"""Above the longest deadline a request may ask for."""
_OWN_COLUMNS = ("title", "source")
_OWN_LINES = ("history", "seed", "features")


@click.command(
    epilog="""\b
    Examples:
      cluster recommend 1
      cluster recommend 1 -k 5 --explain
      cluster --json recommend new-user | jq .items[0]
    """
)
@click.argument("user")
@click.option("-k", "n_items", default=20, show_default=True, help="Items wanted, 1 to 200.")
@click.option("--explain", is_flag=True, help="Show why each item was chosen.")
@click.pass_obj
def recommend(console: Console, user: str, n_items: int, explain: bool) -> None:
    """Ask for the slate of USER and print it.

    A user nobody has seen gets an answer too.
    """
    document = ask_for_slate(console.settings, user, n_items, explain)
    if console.as_json:
        console.emit(document, "")
        return
    titles = read_titles(console.settings, document)
    console.emit(document, as_text(header(user, document), slate_table(document, titles, explain)))


def ask_for_slate(settings: Settings, user: str, n_items: int, explain: bool) -> dict[str, Any]:
    """The service's answer.

    Raises:
        FleetError: nobody answers, or not with a slate.
        RequestError: the service finds the request wrong.
    """
    from cluster.endpoint import KEY_VARIABLE, ask, base_url

    url = base_url(settings.serve)
    body: dict[str, Any] = {"user_id": user, "k": n_items}
    if explain:
        body["explain"] = True
    try:
        answer = ask(settings.serve, "POST", "/v1/recommend", body, timeout_s=TIMEOUT_S)
    except OSError as error:
        raise FleetError(
            f"nothing answers at {url} ({error}), expected the service; run 'cluster up --wait'"
        ) from error
    if answer.status == 200:
        return answer.document
    detail = _sentence(answer.document)
    if answer.status in {401, 403}:
        detail += f"; this command shows the key in {KEY_VARIABLE}"
    if 400 <= answer.status < 500:
        raise RequestError(f"the service answered {answer.status}: {detail}", status=answer.status)
    raise FleetError(
        f"{url} answered {answer.status}: {detail}, expected a slate; run 'cluster status'"
    )


def _sentence(problem: Mapping[str, Any]) -> str:
    """Problem details (RFC 9457) as one sentence."""
    said = [str(problem.get("detail") or problem.get("title") or problem)]
    said += [str(entry.get("detail", entry)) for entry in problem.get("errors", ())]
    return "; ".join(dict.fromkeys(said))


def read_titles(settings: Settings, document: Mapping[str, Any]) -> dict[str, str]:
    """Titles of the answered items, from the item table of the bundle that answered.

    An answer without them is still an answer: a bundle that cannot be read gives none.
    """
    answered = document.get("items", ())
    titles = {item["item_id"]: item["title"] for item in answered if item.get("title")}
    missing = [item["item_id"] for item in answered if item["item_id"] not in titles]
    if missing:
        titles |= _titles_of_bundle(settings, str(document.get("bundle_id", "")), missing)
    return titles


def _titles_of_bundle(settings: Settings, bundle_id: str, item_ids: list[str]) -> dict[str, str]:
    from pyarrow import ArrowException
    from pyarrow import parquet as pq

    wanted = set(item_ids)
    titles: dict[str, str] = {}
    try:
        path = _bundle_directory(settings, bundle_id) / "items.parquet"
        with pq.ParquetFile(path) as file:
            for batch in file.iter_batches(columns=["item_id", "title"]):
                item_column, title_column = (column.to_pylist() for column in batch.columns)
                titles |= {
                    item_id: title or ""
                    for item_id, title in zip(item_column, title_column, strict=True)
                    if item_id in wanted
                }
    except (OSError, ArrowException, RecsysError):
        return {}
    return titles


def _bundle_directory(settings: Settings, bundle_id: str) -> Path:
    local = Path(settings.registry_location) / bundle_id
    if "://" not in settings.registry_location and local.is_dir():
        return local
    from recsys.bundles.registry import bundle_cache, open_registry

    return open_registry(settings).fetch(bundle_id, bundle_cache(settings))


def header(user: str, document: Mapping[str, Any]) -> str:
    """Who answered, and how completely."""
    degraded = ", ".join(document.get("degraded", ())) or "no"
    return (
        f"user {user} | bundle {document.get('bundle_id')} | variant {document.get('variant')} | "
        f"coverage {document.get('coverage', 0.0):.0%} | degraded: {degraded}"
    )


def slate_table(document: Mapping[str, Any], titles: Mapping[str, str], explain: bool) -> Table:
    """The slate, best position first."""
    from rich.table import Table

    table = Table()
    for name in ("position", "item", "title", "score", "source", "propensity"):
        numeric = name in {"position", "score", "propensity"}
        table.add_column(name, justify="right" if numeric else "left", overflow="fold")
    if explain:
        table.add_column("explanation", overflow="fold")
    for item in document.get("items", ()):
        cells = [
            str(item["position"]),
            item["item_id"],
            titles.get(item["item_id"], ""),
            f"{item['score']:.4f}",
            item["source"],
            f"{item['propensity']:.4f}",
        ]
        if explain:
            cells.append(explanation_text(item.get("explanation")))
        # As Text: a title may hold square brackets, which rich would take for markup.
        table.add_row(*(_plain(cell) for cell in cells))
    return table


def _plain(cell: str) -> Any:
    from rich.text import Text

    return Text(cell)


def explanation_text(explanation: object) -> str:
    """An explanation in lines: the history, what it goes together with, the features, the rest.

    The rest is `name value` pairs without what has its own column; nested ones are flattened with
    dots.
    """
    if not isinstance(explanation, Mapping):
        return ""
    rest = {
        name: value
        for name, value in explanation.items()
        if name not in {*_OWN_COLUMNS, *_OWN_LINES}
    }
    lines = [_because(explanation), _seed_line(explanation), _feature_line(explanation)]
    lines.append(", ".join(f"{name} {_value(value)}" for name, value in _flat("", rest)))
    return "\n".join(line for line in lines if line)


def _because(explanation: Mapping[str, Any]) -> str:
    if "history" not in explanation:
        return ""
    causes = explanation["history"]
    if causes is None:
        return "because of: could not be found out, see degraded"
    named = [
        f"{cause.get('title') or cause['item_id']} ({cause['kind']}) {cause['contribution']:+.4f}"
        for cause in causes
    ]
    return f"because of: {', '.join(named) or 'nothing in the history'}"


def _seed_line(explanation: Mapping[str, Any]) -> str:
    seed = explanation.get("seed")
    return f"goes together with: {seed.get('title') or seed['item_id']}" if seed else ""


def _feature_line(explanation: Mapping[str, Any]) -> str:
    features = explanation.get("features") or {}
    ranked = sorted(features.items(), key=lambda feature: -abs(feature[1]))
    told = ", ".join(f"{name} {contribution:+.4f}" for name, contribution in ranked)
    return f"features: {told}" if told else ""


def _flat(prefix: str, value: object) -> list[tuple[str, object]]:
    if isinstance(value, Mapping):
        return [
            pair
            for key, inner in value.items()
            for pair in _flat(f"{prefix}.{key}" if prefix else str(key), inner)
        ]
    return [] if value is None else [(prefix, value)]


def _value(value: object) -> str:
    return f"{value:.3f}" if isinstance(value, float) else str(value)
