"""The recipes that ship with the product, by name; each is one file and is imported when asked for.

Their networks need the extra `train` (torch), their names do not.
"""

from importlib import import_module
from typing import TYPE_CHECKING, cast

from aimass_cloud.recipes.plant import PlantData, ShippedPlant
from aimass_shared.errors import NotFoundError

if TYPE_CHECKING:
    from aimass_cloud.recipes.run import RunSettings
    from aimass_cloud.recipes.task import Recipe

__all__ = ["PlantData", "ShippedPlant", "check", "find", "names", "own_run"]

FLAGSHIP = "sensor-graph"
_MODULES = {
    FLAGSHIP: "sensor_graph",
    "diagnosis": "diagnosis",
    "image": "image",
    "text-match": "text_match",
    "recommend": "recommend",
    "price-series": "price_series",
}


def names() -> tuple[str, ...]:
    """Names of all recipes."""
    return tuple(_MODULES)


def check(name: str) -> str:
    """The name itself, if there is such a recipe.

    Raises:
        NotFoundError: there is none; the detail lists those that there are.
    """
    if name not in _MODULES:
        raise NotFoundError(f"no recipe {name!r}; there are: {', '.join(names())}")
    return name


def own_run(name: str) -> "RunSettings | None":
    """Settings of a run on data that do not ship, where a recipe has others for those.

    Raises:
        NotFoundError: there is no such recipe.
        ModuleNotFoundError: torch is not installed.
    """
    settings: RunSettings | None = getattr(find(name), "run_own", None)
    return settings


def find(name: str) -> "Recipe":
    """The recipe of a name.

    Raises:
        NotFoundError: there is none; the detail lists those that there are.
        ModuleNotFoundError: torch is not installed.
    """
    module = import_module(f"{__name__}.{_MODULES[check(name)]}")
    return cast("Recipe", module.RECIPE)
