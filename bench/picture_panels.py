"""What the pictures of docs/game-explained.md look like; the numbers come from `amu_fast.bench.pictures`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from amu_fast.report.canvas import BLUE, GREEN, GREY, INK, PURPLE, VERMILION, dress, new_figure


def score_panels(shown: dict[str, Any], stops: Sequence[float]) -> Any:
    """Scores of forget and validation rows before and after the game, with the attack's line."""
    figure, panels = new_figure(8.0, 2.9, ncols=2, sharey=True, sharex=True)
    bins = torch.linspace(0, 1, 26).tolist()
    for axes, name in zip(panels, ("before", "after"), strict=True):
        found = shown["scores"][name]
        for part, colour, label in (("forget", VERMILION, "forget (members)"), ("validation", BLUE, "validation")):
            values = found["sides"][part].flatten().numpy()
            axes.hist(values, bins, density=True, histtype="stepfilled", color=colour, alpha=0.25)
            axes.hist(values, bins, density=True, histtype="step", color=colour, linewidth=1.3, label=label)
        attack = found["attack"]
        line = float(-attack["offset"] / attack["slope"][0])
        axes.axvline(line, color=INK, linestyle="--", linewidth=1, label="the attack's line")
        auc = found["auc"]
        says = f"{name} the game: attack {attack['accuracy']:.0%} right, AUC {auc.value:.2f}"
        dress(axes, "score p_y, higher = member", "density" if name == "before" else "", says)
    panels[0].set_yscale("symlog", linthresh=1)
    panels[0].legend(fontsize=8, frameon=False, loc="upper left")
    return figure


def follower_panel(shown: dict[str, Any], stops: Sequence[float]) -> Any:
    """An attack on two scores, and where the payoff's gradient sends the forget rows."""
    scores, labels, train = shown["follower"]["fold"]
    attack = shown["follower"]["attack"]
    figure, axes = new_figure(7.4, 3.9)
    for label, colour, name in ((-1, BLUE, "validation"), (1, VERMILION, "forget")):
        for mask, face, what in ((train[0], colour, "trains the attack"), (~train[0], "white", "held out")):
            x, y = scores[(labels == label) & mask].T.numpy()
            axes.scatter(x, y, s=16, color=face, edgecolors=colour, linewidths=0.8, label=f"{name}, {what}")
    members = labels > 0
    # Scores differ in scale; the arrows are drawn in units of their deviations.
    pull = -attack["grad"][members] * torch.std(scores, 0) ** 2
    x, y = scores[members][::3].T.numpy()
    axes.quiver(x, y, *pull[::3].T.numpy(), color=GREEN, width=0.0028, angles="xy", zorder=3)
    edge = torch.tensor(axes.get_xlim())
    slope, offset = attack["slope"], attack["offset"]
    low, high = axes.get_ylim()
    axes.plot(edge, -(offset + slope[0] * edge) / slope[1], color=INK, linestyle="--", linewidth=1, label="the line")
    axes.set_ylim(low, high)
    dress(
        axes,
        "log odds of the label",
        "minus entropy",
        f"an attack on two scores: right on {attack['accuracy']:.0%} of the held-out rows",
    )
    axes.legend(fontsize=8, frameon=False, loc="lower right")
    return figure


def derivative_panels(shown: dict[str, Any], stops: Sequence[float]) -> Any:
    """Both terms of the derivative against differences, and the error of an early stop beside its bound."""
    found = shown["derivative"]
    figure, (left, right) = new_figure(8.0, 3.3, ncols=2)
    direct, implicit = torch.tensor(found["direct"]), torch.tensor(found["implicit"])
    ends = [min(found["differences"]), max(found["differences"])]
    left.plot(ends, ends, color=GREY, linewidth=0.8)
    left.scatter(found["differences"], direct, s=13, color=PURPLE, marker="x", linewidths=0.9, label="direct term")
    left.scatter(found["differences"], direct + implicit, s=12, facecolors="none", edgecolors=GREEN, label="both terms")
    dress(left, "difference of the refitted payoff", "formula", "dM/ds of the forget rows")
    left.legend(fontsize=8, frameon=False)
    right.loglog(stops, found["bound"], color=VERMILION, marker="s", markersize=4, label="bound")
    right.loglog(stops, [max(e, 1e-17) for e in found["error"]], color=BLUE, marker="o", markersize=4, label="error")
    right.invert_xaxis()
    dress(right, "the follower stops at", "relative", "the gradient's error and its bound")
    right.legend(fontsize=8, frameon=False)
    return figure


def cap_panels(shown: dict[str, Any], stops: Sequence[float]) -> Any:
    """Payoff and what chance earns, and the attack on rows outside the game, with and without the cap."""
    figure, (left, right) = new_figure(8.0, 3.1, ncols=2)
    capped, free = shown["cap"]["with the cap"], shown["cap"]["without"]
    steps = range(len(capped["payoff"]))
    left.plot(steps, capped["payoff"], color=VERMILION, linewidth=1.1, label="payoff")
    left.plot(steps, capped["permuted"], color=GREY, linewidth=0.9, label="labels permuted: chance")
    top, bottom = max(capped["payoff"]), min(capped["permuted"])
    off = [1 - on for on in capped["on"]]
    left.fill_between(steps, bottom, top, where=off, color=BLUE, alpha=0.12, step="post", label="the game is off")
    dress(left, "step", "M", "with the cap")
    left.legend(fontsize=8, frameon=False)
    for seen, dash, says in ((capped, "-", "with the cap"), (free, ":", "without")):
        right.plot(steps, seen["test"], color=GREEN, linewidth=1.1, linestyle=dash, label=f"test rows, {says}")
        right.plot(steps, seen["validation"], color=PURPLE, linewidth=1.1, linestyle=dash, label=f"its own, {says}")
    right.axhline(0.5, color=GREY, linewidth=0.8)
    dress(right, "step", "AUC", "forget rows against test rows, and its own")
    right.legend(fontsize=8, frameon=False)
    return figure
