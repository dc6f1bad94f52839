"""What the predictor has done since it started, for statistics and for `GET /status`."""

import msgspec


class Counts(msgspec.Struct):
    """Every window and request that came in is in exactly one of the outcomes.

    Attributes:
        windows: of telemetry that came in = predicted + uncovered + failed_windows.
        predicted: windows with a prediction. alarms: predictions with the alarm up.
        uncovered: windows with too few measured values.
        requests: that came in = answered + handed_off + refused + late + invalid + failed.
        answered: by a local slice, in time. narrowed: of these, by one narrower than the active.
        asked_again: of those that this device had an answer to, asked of the cloud as well.
        handed_off: answered by the cloud. hand_offs_failed: tries that were not (of any outcome).
        refused: told at once or after a failed hand-off that it cannot be done in time.
        late: accepted, but not done by the deadline.
        invalid: wrong tensors, or no such model. failed: errors of the model or its end.
        model_failures: those of `failed` that were the model's.
    """

    windows: int = 0
    predicted: int = 0
    alarms: int = 0
    uncovered: int = 0
    failed_windows: int = 0
    requests: int = 0
    answered: int = 0
    narrowed: int = 0
    asked_again: int = 0
    handed_off: int = 0
    hand_offs_failed: int = 0
    refused: int = 0
    late: int = 0
    invalid: int = 0
    failed: int = 0
    model_failures: int = 0


class Status(msgspec.Struct, frozen=True, kw_only=True):
    """What runs here and how it does; `GET /status` of the agent's endpoint.

    Attributes:
        task: what the model is for. telemetry: whether it is fed from telemetry; a model that is
            not answers requests only.
        narrower: slices that are loaded beside the active one, for requests that it is late for.
    """

    ready: bool
    model: str
    task: str
    telemetry: bool
    release: str
    slice: str
    narrower: tuple[str, ...]
    provider: str
    board: str
    queued: int
    service_ms: float
    p50_ms: float
    p99_ms: float
    cloud_ready: bool
    cloud_ms: float
    counts: Counts
