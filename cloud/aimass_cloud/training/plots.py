"""Pictures of how a training went. Drawn without a screen, as PNG."""

import io
from collections.abc import Sequence

from aimass_cloud.training.history import Row

SIZE_INCHES = (7.0, 4.0)
DOTS_PER_INCH = 120


def plotted(rows: Sequence[Row]) -> dict[str, bytes]:
    """PNG files by name: training loss, held-back error with its best step, how the graph moved."""
    best = min(rows, key=lambda row: row.held_back)
    losses = [(row.step, row.loss) for row in rows if row.loss is not None]
    errors = [(row.step, row.held_back) for row in rows]
    note = f"best {best.held_back:.4g} after step {best.step}"
    kept = [(row.step, row.graph_kept) for row in rows if row.graph_kept is not None]
    more = {"graph.png": _curve(kept, title="learned graph", label="edges kept")} if kept else {}
    return more | {
        "loss.png": _curve(losses, title="training loss", label="mean since the look before"),
        "held-back.png": _curve(errors, title="held-back error", label=note, mark=best.step),
    }


def _curve(
    points: Sequence[tuple[int, float]], *, title: str, label: str, mark: int | None = None
) -> bytes:
    from matplotlib.figure import Figure  # noqa: PLC0415  slow to import, and drawn once a run

    figure = Figure(SIZE_INCHES, DOTS_PER_INCH, layout="constrained")
    axes = figure.add_subplot()
    axes.plot(*zip(*points, strict=True), marker=".", label=label)
    if mark is not None:
        axes.axvline(mark, color="grey", linestyle=":")
    axes.set(title=title, xlabel="step")
    axes.grid(visible=True, alpha=0.3)
    axes.legend()
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    return buffer.getvalue()
