"""The contract of the models that training makes: names and shapes that devices rely on."""

from aimass_cloud.recipes import Recipe
from aimass_shared.manifest import AlarmRule, Contract, Sensor, TensorSpec


def contract_for(recipe: Recipe, sensors: tuple[Sensor, ...]) -> Contract:
    """What models of a recipe need and give; the threshold is yet to be calibrated."""
    whole = (-1, recipe.window, len(sensors))
    return Contract(
        model=recipe.model,
        sensors=sensors,
        step_ms=recipe.step_ms,
        window=recipe.window,
        horizon=recipe.horizon,
        inputs=(TensorSpec("values", "FP32", whole), TensorSpec("mask", "FP32", whole)),
        outputs=(
            TensorSpec("forecast", "FP32", (-1, recipe.horizon, len(sensors))),
            TensorSpec("score", "FP32", (-1,)),
            TensorSpec("contribution", "FP32", (-1, len(sensors))),
        ),
        alarm=AlarmRule(score="score", threshold=0.0, contribution="contribution"),
    )
