"""The contract of the models that training makes: names and shapes that devices rely on."""

from aimass_shared.manifest import AlarmRule, Contract, Sensor, TensorSpec

FORECAST = ("forecast",)
SCORED = ("score", "contribution")
BAND = ("lower", "upper")
TREND = ("trend",)
THRESHOLD = 1.0
"""Scores are in units of the monitor's limits."""


def contract_for(  # noqa: PLR0913  all by name
    model: str,
    sensors: tuple[Sensor, ...],
    *,
    step_ms: int,
    window: int,
    horizon: int,
    monitored: bool = True,
    quantiles: bool = False,
    trend: bool = False,
) -> Contract:
    """What models of a name need and give.

    Args:
        model: the name.
        sensors: in the order of the columns.
        step_ms: time between two rows.
        window: rows of an input.
        horizon: rows of a forecast.
        monitored: whether there are a score and an alarm.
        quantiles: whether there is a band around the forecast.
        trend: whether the change over the horizon is given as a share too.
    """
    whole, ahead = (-1, window, len(sensors)), (-1, horizon, len(sensors))
    shapes = {"score": (-1,), "contribution": (-1, len(sensors))}
    shapes["trend"] = shapes["contribution"]
    names = (*FORECAST, *SCORED * monitored, *BAND * quantiles, *TREND * trend)
    alarm = AlarmRule(score="score", threshold=THRESHOLD, contribution="contribution")
    return Contract(
        model=model,
        sensors=sensors,
        step_ms=step_ms,
        window=window,
        horizon=horizon,
        inputs=(TensorSpec("values", "FP32", whole), TensorSpec("mask", "FP32", whole)),
        outputs=tuple(TensorSpec(name, "FP32", shapes.get(name, ahead)) for name in names),
        alarm=alarm if monitored else None,
    )
