"""The routing samples as points in a plane, with requests among them.

The plane is the one in which experts lie farthest apart beside the spread inside each (Fisher's linear
discriminants), so a request is put into it by the same projection as the samples, and where it lies can be believed
as far as two of hundreds of dimensions can be. With two experts the second axis is the widest one there is.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from sklearn.decomposition import PCA
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis

from lmoe_ray.errors import SettingsError
from lmoe_ray.routing.expert_index import ExpertIndex, Vectors

try:
    from matplotlib import rc_context
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
except ModuleNotFoundError as exc:
    raise SettingsError("--plot", f"needs {exc.name}; pip install 'lmoe_ray[plot]'") from exc

Points = NDArray[np.float64]

#: Drawn per expert, evenly; more only darkens the picture.
MAX_POINTS = 400

_COLOURS = ("#e8590c", "#4c78a8", "#2a9d8f", "#9b72aa", "#b08900", "#d6336c", "#7fb069", "#8d6e63")
#: Legible on white and on black.
_INK = "#808080"


def draw_map(index: ExpertIndex, requests: Sequence[tuple[str, Vectors]], file: Path) -> None:
    """Write an SVG or PNG.

    Args:
        index: with samples of at least one expert.
        requests: a label and a unit vector ``[dim]`` each.
        file: its ending names the format.
    """
    with rc_context({"svg.hashsalt": "lmoe", "text.color": _INK, "svg.fonttype": "none"}):
        figure = Figure(figsize=(8, 6), layout="constrained")
        axes = figure.add_subplot()
        plane = _Plane(index.vectors, index.labels)
        _draw_samples(axes, plane, index)
        for label, vector in requests:
            (x, y), *_ = plane.points(vector[np.newaxis])
            axes.plot(x, y, marker="*", markersize=18, color=_INK, markeredgecolor="white")
            axes.annotate(label, (x, y), xytext=(10, 8), textcoords="offset points", fontweight="bold")
        axes.set_axis_off()
        axes.legend(loc="upper left", bbox_to_anchor=(1, 1), frameon=False, markerscale=2)
        metadata = {"Date": None} if file.suffix == ".svg" else None
        figure.savefig(file, transparent=True, metadata=metadata)


class _Plane:
    """Fitted on samples ``[num, dim]`` and whose they are."""

    def __init__(self, vectors: Vectors, labels: NDArray[np.int64]) -> None:
        num_experts = len(np.unique(labels))
        self._apart = None
        if num_experts > 1:
            num_axes = min(2, num_experts - 1)
            self._apart = LinearDiscriminantAnalysis(solver="eigen", shrinkage=0.1, n_components=num_axes)
            self._apart.fit(vectors, labels)
        self._widest = PCA(2, svd_solver="covariance_eigh").fit(vectors)

    def points(self, vectors: Vectors) -> Points:
        """``[num, dim]`` to ``[num, 2]``."""
        wide = self._widest.transform(vectors)
        if self._apart is None:
            return np.asarray(wide)
        return np.concatenate([self._apart.transform(vectors), wide], axis=1)[:, :2]


def _draw_samples(axes: Axes, plane: _Plane, index: ExpertIndex) -> None:
    for number, expert in enumerate(index.experts):
        rows = np.flatnonzero(index.labels == number)
        if not len(rows):
            continue
        shown = rows[np.linspace(0, len(rows) - 1, min(len(rows), MAX_POINTS)).astype(int)]
        points = plane.points(index.vectors_of(shown))
        colour = _COLOURS[number % len(_COLOURS)]
        axes.scatter(points[:, 0], points[:, 1], s=7, color=colour, alpha=0.55, linewidths=0, label=expert)
