"""`python -m amu_fast.bench.pictures`: the pictures of docs/game-explained.md, each drawn from a computation.

Handwritten digits of scikit-learn, a tenth of the labels wrong, a small network trained on 500 rows of which 200 are to
be forgotten. One run with one seed: it explains, it does not compare methods.
"""

from __future__ import annotations

import argparse
import io
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from amu_fast.audit import ChanceCap, auc_interval, confidence
from amu_fast.bench.picture_panels import cap_panels, derivative_panels, follower_panel, score_panels
from amu_fast.bench.picture_runs import (
    Plan,
    attacked,
    derivative,
    log_odds_and_entropy,
    one_fold,
    original,
    parts_of,
    play,
    released,
)
from amu_fast.report.provenance import Provenance, plain
from amu_fast.report.writing import write_atomic


def compute(plan: Plan) -> dict[str, Any]:
    """All that the pictures show."""
    parts = parts_of(plan)
    models = {name: original(plan, parts) for name in ("before", "after", "without the cap")}
    seen = {
        "with the cap": play(plan, models["after"], parts, ChanceCap()),
        "without": play(plan, models["without the cap"], parts, None),
    }
    shown: dict[str, Any] = {"cap": seen, "scores": {}}
    for name in ("before", "after"):
        with torch.no_grad():
            sides = {part: confidence(released(models[name], parts[part])) for part in ("forget", "validation", "test")}
        fold = one_fold([sides["forget"], sides["validation"]], plan)
        auc = auc_interval(*(sides[part].flatten().numpy() for part in ("forget", "test")))
        shown["scores"][name] = {"sides": sides, "attack": attacked(*fold), "auc": auc}
        if name == "before":
            shown["derivative"] = derivative(sides["forget"], sides["validation"], plan)
    with torch.no_grad():
        two = [log_odds_and_entropy(released(models["before"], parts[part])) for part in ("forget", "validation")]
    fold = one_fold(two, plan)
    shown["follower"] = {"fold": fold, "attack": attacked(*fold)}
    return shown


def record(plan: Plan, shown: dict[str, Any]) -> dict[str, Any]:
    """The figures that the page quotes."""
    scores, found = shown["scores"], shown["derivative"]
    total = torch.tensor(found["direct"]) + torch.tensor(found["implicit"])
    differences = torch.tensor(found["differences"])
    return {
        "accuracy": {name: value["attack"]["accuracy"] for name, value in scores.items()},
        "auc": {name: [value["auc"].value, value["auc"].low, value["auc"].high] for name, value in scores.items()},
        "largest_difference": float((total - differences).abs().max() / differences.abs().max()),
        "share_implicit": float(torch.tensor(found["implicit"]).norm() / total.norm()),
        "first_step_off": next((i for i, on in enumerate(shown["cap"]["with the cap"]["on"]) if not on), None),
        "steps_on": int(sum(shown["cap"]["with the cap"]["on"])),
        "steps": plan.steps,
        "last_auc": {
            name: {side: seen[side][-1] for side in ("test", "validation")} for name, seen in shown["cap"].items()
        },
        "stops": list(plan.stops),
        "error": found["error"],
        "bound": found["bound"],
        "provenance": plain(Provenance.collect(plan)),
    }


def markdown(found: dict[str, Any]) -> str:
    """The record for readers."""
    auc, last = found["auc"], found["last_auc"]
    before, after = (f"{found['accuracy'][name]:.0%} | {_text(*auc[name])}" for name in auc)
    capped, free = (f"{last[name]['test']:.3f} | {last[name]['validation']:.3f}" for name in last)
    return f"""\
| | attack right on held-out rows | AUC of p_y, forget against test |
| --- | --- | --- |
| before the game | {before} |
| after it | {after} |

| at the last step | AUC against test rows | AUC against the game's own rows |
| --- | --- | --- |
| with the cap | {capped} |
| without | {free} |

Largest difference between formula and central difference: {found["largest_difference"]:.0e} of the largest entry.
Norm of the implicit term over the gradient's: {found["share_implicit"]:.2f}. The cap stops the game first at step
{found["first_step_off"]} and lets it play in {found["steps_on"]} of {found["steps"]} steps.

One run, one seed: intervals (DeLong, 95 %) are over rows, for this model only.
"""


def _text(value: float, low: float, high: float) -> str:
    return f"{value:.2f} [{low:.2f}, {high:.2f}]"


def svg(figure: Any) -> bytes:
    """The figure as SVG; equal inputs give equal bytes."""
    import matplotlib as mpl

    buffer = io.BytesIO()
    with mpl.rc_context({"svg.hashsalt": "amu_fast", "svg.fonttype": "none"}):
        figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    return buffer.getvalue()


def main(arguments: Sequence[str] | None = None) -> int:
    """Compute and draw: about ten seconds."""
    parser = argparse.ArgumentParser(prog="python -m amu_fast.bench.pictures", description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("out/pictures"), help="folder of the record")
    parser.add_argument("--images", type=Path, help="folder of the pictures (default: the record's)")
    options = parser.parse_args(arguments)
    plan = Plan()
    shown = compute(plan)
    images = options.out if options.images is None else options.images
    for name, draw in (("scores", score_panels), ("follower", follower_panel), ("derivative", derivative_panels),
                       ("cap", cap_panels)):  # fmt: skip
        write_atomic(images / f"game-{name}.svg", svg(draw(shown, plan.stops)))
    found = record(plan, shown)
    write_atomic(options.out / "pictures.md", markdown(found).encode())
    write_atomic(options.out / "pictures.json", (json.dumps(found, indent=1) + "\n").encode())
    print(markdown(found))
    return 0


if __name__ == "__main__":
    sys.exit(main())
