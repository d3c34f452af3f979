"""How cost grows, drawn: microseconds a serial by the size of the batch, and by the size of the registry."""

from __future__ import annotations

from importlib import util
from pathlib import Path

from machserial.bench.results import Case, Run
from machserial.errors import ExpectedError
from machserial.files import new_files

PANELS = {
    "batch": "serials in one call",
    "registry": "serials in the registry, a batch in one call",
    "single": "serials in the registry, single calls of 1 client",
}


def require_library() -> None:
    if util.find_spec("matplotlib") is None:
        raise ExpectedError("matplotlib, which draws, is not installed", remedy="pip install 'machserial[bench]'")


def draw(run: Run, path: Path) -> None:
    """Writes an SVG: a panel for what the run has measured of each."""
    import matplotlib

    matplotlib.use("svg")
    # Text stays text, and the same run gives the same file.
    matplotlib.rcParams |= {"svg.fonttype": "none", "svg.hashsalt": "machserial"}
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, len(PANELS), figsize=(15, 4.5), layout="constrained")
    for axis, (drawn, label) in zip(axes, PANELS.items(), strict=True):
        for name, points in _series([case for case in run.cases if case.drawn == drawn]).items():
            axis.plot(*zip(*sorted(points), strict=True), marker="o", label=name)
        axis.set(xscale="log", yscale="log", xlabel=label, ylabel="µs a serial")
        axis.grid(which="both", alpha=0.3)
        if axis.get_lines():
            axis.legend()
    machine = run.machine
    figure.suptitle(f"machserial {machine['machserial']}, PostgreSQL {machine['postgresql']}, {machine['cores']} cores")
    with new_files.replacing(path) as file:
        figure.savefig(file, format="svg", metadata={"Date": None})
    pyplot.close(figure)


def _series(cases: list[Case]) -> dict[str, list[tuple[int, float]]]:
    found: dict[str, list[tuple[int, float]]] = {}
    for case in cases:
        for name in case.raw:
            found.setdefault(name, []).append((case.x, _microseconds(case, name)))
    return found


def _microseconds(case: Case, name: str) -> float:
    median = case.median(name)
    return 1e6 / median if case.unit == "1/s" else median * 1e3 / case.per
