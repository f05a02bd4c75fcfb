"""The picture: what an operation costs, against the number of layers."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping
from pathlib import Path

import matplotlib as mpl
from matplotlib.figure import Figure

_DASHED = {"bare statement"}


def draw(costs: Mapping[str, Mapping[int, float]], caption: str, path: Path) -> None:
    """Draw a line for each operation, both axes logarithmic; the format is that of the path's ending."""
    # Text as text, and no random names or time: the file is small, and the same figures make the same file.
    mpl.rcParams.update({"svg.fonttype": "none", "svg.hashsalt": "layerstore", "font.size": 9})
    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.subplots()
    for at, (what, by_layers) in enumerate(costs.items()):
        sizes = sorted(by_layers)
        microseconds = [by_layers[layers] * 1e6 for layers in sizes]
        dash, marker = ("--", "") if what in _DASHED else ("-", "o")
        axes.plot(sizes, microseconds, label=what, linewidth=1.5, linestyle=dash, marker=marker, markersize=4)
        if what not in _DASHED:
            side = "bottom" if at % 2 else "top"  # of two lines that are close, one is above its label
            end = (sizes[-1], microseconds[-1])
            axes.annotate(f"{end[1]:.3g}", end, (6, 0), textcoords="offset points", verticalalignment=side)
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xticks(sorted({layers for each in costs.values() for layers in each}), minor=False)
    axes.xaxis.set_major_formatter(lambda layers, _at: f"{layers:,.0f}")
    axes.xaxis.set_minor_formatter(lambda _layers, _at: "")
    axes.yaxis.set_major_formatter(lambda cost, _at: f"{cost:g}")
    axes.set_xlabel("layers in the store")
    axes.set_ylabel("µs")
    figure.suptitle(textwrap.fill(caption, 100), fontsize=8)
    axes.margins(x=0.12)
    axes.grid(visible=True, which="major", linewidth=0.4)
    axes.legend(loc="center left", bbox_to_anchor=(1.02, 0.5), frameon=False)
    metadata = {"Date": None} if path.suffix == ".svg" else None
    figure.savefig(path, dpi=150, metadata=metadata)
