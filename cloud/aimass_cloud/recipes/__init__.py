"""The recipes that ship with the product, by name."""

from aimass_cloud.recipes import tep
from aimass_cloud.recipes.recipe import PlantData, Recipe
from aimass_shared.errors import NotFoundError

__all__ = ["PlantData", "Recipe", "find", "names"]

_RECIPES = {recipe.name: recipe for recipe in (tep.RECIPE,)}


def names() -> tuple[str, ...]:
    """Names of all recipes."""
    return tuple(_RECIPES)


def find(name: str) -> Recipe:
    """The recipe of a name.

    Raises:
        NotFoundError: there is none; the detail lists those that there are.
    """
    if name not in _RECIPES:
        raise NotFoundError(f"no recipe {name!r}; there are: {', '.join(names())}")
    return _RECIPES[name]
