"""The contract of the models that training makes: names and shapes that devices rely on."""

from aimass_shared.manifest import AlarmRule, Contract, Sensor, TensorSpec


def contract_for(
    model: str, sensors: tuple[Sensor, ...], *, step_ms: int, window: int, horizon: int
) -> Contract:
    """What models of a name need and give; the threshold is yet to be calibrated."""
    whole = (-1, window, len(sensors))
    return Contract(
        model=model,
        sensors=sensors,
        step_ms=step_ms,
        window=window,
        horizon=horizon,
        inputs=(TensorSpec("values", "FP32", whole), TensorSpec("mask", "FP32", whole)),
        outputs=(
            TensorSpec("forecast", "FP32", (-1, horizon, len(sensors))),
            TensorSpec("score", "FP32", (-1,)),
            TensorSpec("contribution", "FP32", (-1, len(sensors))),
        ),
        alarm=AlarmRule(score="score", threshold=0.0, contribution="contribution"),
    )
