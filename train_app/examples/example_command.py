"""The verb `examples`: from the lake to a set of training examples."""

from __future__ import annotations

from pathlib import Path

from recsys.settings import Settings
from train_app.command_outcome import Outcome
from train_app.examples.example_rules import DEFAULT_OPTIONS, ExampleOptions
from train_app.examples.example_set import make_examples, make_parts_here


def write_examples(
    settings: Settings,
    *,
    until_ms: int | None = None,
    out: Path | None = None,
    n_random: int = DEFAULT_OPTIONS.n_random,
    organic: bool = DEFAULT_OPTIONS.with_organic,
    on_ray: bool = False,
) -> Outcome:
    """`examples`: write the set to `out`, by default `data_dir/examples`.

    Args:
        until_ms: the split's cutoff; None is now.
        n_random: items drawn per moment that ends in a positive.
        organic: whether engagements that no slate led to become examples.
        on_ray: make the parts on Ray, on as many machines as it has.
    """
    make_parts = make_parts_here
    if on_ray:
        from train_app.examples.examples_on_ray import PartsOnRay

        make_parts = PartsOnRay(settings.train)
    report = make_examples(
        settings,
        until_ms=until_ms,
        out=settings.data_dir / "examples" if out is None else out,
        options=ExampleOptions(n_random, organic),
        make_parts=make_parts,
    )
    return Outcome(report.as_dict(), report.text())
