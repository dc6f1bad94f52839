"""Finds the benchmarks: every module of the package `benchmarks` is one.

A module has a first line that says what it compares, and `run(scale) -> Figures`.
"""

import importlib
import pkgutil
import time
from collections.abc import Callable
from types import ModuleType
from typing import cast

import benchmarks
from benchmarks.harness.measure import Figures, Result, Scale


def names() -> list[str]:
    """All benchmarks, sorted."""
    return sorted(
        module.name
        for module in pkgutil.iter_modules(benchmarks.__path__)
        if not module.ispkg and not module.name.startswith("_")
    )


def about(name: str) -> str:
    """What a benchmark compares, in one line."""
    return (_module(name).__doc__ or "").splitlines()[0].rstrip(".")


def run(name: str, scale: Scale) -> Result:
    """Run one benchmark."""
    module = _module(name)
    began = time.monotonic()
    figures = cast("Callable[[Scale], Figures]", module.run)(scale)
    return Result(
        name=name,
        about=about(name),
        seconds=round(time.monotonic() - began, 1),
        series=tuple(figures.series),
        ratios=tuple(figures.ratios),
        notes=tuple(figures.notes),
    )


def _module(name: str) -> ModuleType:
    return importlib.import_module(f"benchmarks.{name}")
