"""What was measured as text for a terminal."""

from collections.abc import Iterable, Sequence

from aimass_edge.bench.nodes import by_operator
from aimass_edge.bench.running import Benched
from aimass_edge.bench.targets import OF_A_FILE
from aimass_shared.messages import SliceMeasured

HEAD = (
    *("slice", "batch", "p50 ms", "p99 ms", "cpu ms", "windows/s", "load s", "rss MiB"),
    *("+model", "mJ", "°C", "runs"),
)
UNKNOWN = "-"
MOST_OPERATORS = 8


def table(benched: Benched) -> str:
    """The measurements, what failed, and what each operator takes."""
    lines = [f"{_board(benched)}, {benched.backend.runtime}, {benched.backend.told()}"]
    for release in dict.fromkeys(one.release for one in benched.measured):
        rows = [one for one in benched.measured if one.release == release]
        named = [] if release == OF_A_FILE else [f"{rows[0].model}, release {release}"]
        lines += ["", *named, *_aligned([HEAD, *map(_row, rows)])]
    lines += [f"{name}: {why}" for name, why in benched.failed.items()]
    for name, nodes in benched.nodes.items():
        lines += ["", f"{name}: {sum(node.ms for node in nodes):.4g} ms in {len(nodes)} nodes"]
        operators = [
            (one.operator, str(one.nodes), f"{one.ms:.4g}", f"{100 * one.share:.0f} %")
            for one in by_operator(nodes)[:MOST_OPERATORS]
        ]
        lines += _aligned([("operator", "nodes", "ms", "share"), *operators])
    return "".join(f"{line}\n" for line in lines)


def _row(one: SliceMeasured) -> Sequence[str]:
    figures = (one.p50_ms, one.p99_ms, one.thread_ms, one.per_s, one.load_s)
    return (
        one.slice,
        str(one.batch),
        *(f"{value:.4g}" for value in figures),
        f"{one.rss_mib:.0f}",
        f"{one.model_mib:.0f}",
        UNKNOWN if one.energy_mj is None else f"{one.energy_mj:.3g}",
        UNKNOWN if one.temperature_c is None else f"{one.temperature_c:.0f}",
        str(one.runs),
    )


def _board(benched: Benched) -> str:
    return benched.measured[0].board if benched.measured else "nothing measured"


def _aligned(rows: Iterable[Sequence[str]]) -> list[str]:
    """Columns of one width, the first to the left."""
    table = list(rows)
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    return [
        "  ".join(
            cell.ljust(width) if number == 0 else cell.rjust(width)
            for number, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        for row in table
    ]
