"""The demo's report: what was measured in this run and nothing else, as JSON and as a table."""

import msgspec
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from aimass_cloud.demo.detection import Detection, Rates


class Versions(msgspec.Struct):
    """What the run was made with."""

    python: str
    torch: str
    onnxruntime: str
    flwr: str
    litestar: str
    broker: str


class TrainReport(msgspec.Struct):
    """Training in the cloud; errors in squared standard deviations on rows nobody trained on."""

    parameters: int
    val_mse: float
    baselines: dict[str, float]
    seconds: float


class SliceReport(msgspec.Struct):
    """One slice: what it costs and how well it does, measured through ONNX Runtime."""

    width: float
    precision: str
    bytes: int
    p50_ms: float
    val_error: float


class DeviceReport(msgspec.Struct):
    """One device at the end of the run, from its own heartbeat."""

    id: str
    site: str
    profile: str
    width: float
    precision: str
    predictions: int
    handed_off: int
    refused: int
    p50_ms: float
    p99_ms: float
    rss_mib: float


class PlantReport(msgspec.Struct):
    """What came back to one plant on its own broker, in its own dialect.

    Attributes:
        predictions: heard since its agent had a model. alarms: those with the alarm up.
    """

    site: str
    kind: str
    predictions: int
    alarms: int


class HandoffReport(msgspec.Struct):
    """The burst at one agent's inference endpoint, as its clients saw it."""

    requests: int
    local: int
    cloud: int
    refused: int
    late: int
    lost: int
    deadline_ms: int
    p50_ms: float
    p99_ms: float
    codes: dict[str, int]


class OutageReport(msgspec.Struct):
    """The time without coordinator and fleet broker.

    Attributes:
        local_predictions: windows that devices predicted during the outage.
        lost: of all predictions that devices made so far, those that the cloud has not stored.
        requests: what the burst during the outage met.
    """

    seconds: float
    local_predictions: int
    lost: int
    requests: HandoffReport


class RoundReport(msgspec.Struct):
    """One federated round; the error is measured on rows that no site trained on."""

    round: int
    clients: int
    seconds: float
    bytes_up: int
    bytes_down: int
    val_mse: float


class RolloutReport(msgspec.Struct):
    """The last rollout."""

    release: str
    devices: int
    state: str


class Report(msgspec.Struct):
    """Everything. `ok` says whether every claim of the story held in this run."""

    ok: bool
    seconds: float
    seed: int
    fault: int
    versions: Versions
    train: TrainReport
    slices: list[SliceReport]
    devices: list[DeviceReport]
    detection: Detection
    plants: list[PlantReport]
    handoff: HandoffReport
    outage: OutageReport
    rounds: list[RoundReport]
    rollout: RolloutReport
    failures: list[str] = []


def encode(report: Report) -> bytes:
    """Indented JSON."""
    return msgspec.json.format(msgspec.json.encode(report), indent=2) + b"\n"


def show(report: Report, console: Console) -> None:
    """The tables at the end of the story."""
    console.print(_slices(report))
    console.print(_devices(report))
    console.print(_rounds(report))
    console.print(_figures(report))


def _slices(report: Report) -> Table:
    table = Table("slice", "bytes", "p50 ms", "error", title="Slices of the release")
    for part in report.slices:
        name = f"width {part.width:g} {part.precision}"
        table.add_row(name, f"{part.bytes:,}", f"{part.p50_ms:.2f}", f"{part.val_error:.4f}")
    return table


def _devices(report: Report) -> Table:
    heads = ("device", "board", "slice", "predictions", "handed off", "refused", "p50", "p99 ms")
    table = Table(*heads, title="Devices")
    for part in report.devices:
        table.add_row(
            part.id,
            part.profile,
            f"{part.width:g} {part.precision}",
            str(part.predictions),
            str(part.handed_off),
            str(part.refused),
            f"{part.p50_ms:.2f}",
            f"{part.p99_ms:.2f}",
        )
    return table


def _rounds(report: Report) -> Table:
    table = Table("round", "clients", "seconds", "kB up", "kB down", "val MSE", title="Rounds")
    for part in report.rounds:
        up, down = f"{part.bytes_up / 1000:.0f}", f"{part.bytes_down / 1000:.0f}"
        seconds, error = f"{part.seconds:.2f}", f"{part.val_mse:.4f}"
        table.add_row(str(part.round), str(part.clients), seconds, up, down, error)
    return table


def _figures(report: Report) -> Table:
    table = Table(show_header=False, title="The loop in figures")
    for name, value in _lines(report).items():
        table.add_row(name, escape(value))
    return table


def _lines(report: Report) -> dict[str, str]:
    found, burst, outage = report.detection, report.handoff, report.outage
    return {
        "forecast error": _errors(report.train),
        f"fault {found.fault} found": f"{found.detection_rate:.1%} of faulty windows,"
        f" {found.false_alarm_rate:.1%} false alarms, after {found.delay_samples} samples",
        "PCA on the same rows": _baseline(found.baselines["pca"]),
        "most responsible": ", ".join(found.top_sensors),
        "back in the plants": ", ".join(
            f"{plant.predictions} ({plant.kind})" for plant in report.plants
        ),
        "burst": f"{burst.requests} requests, {burst.deadline_ms} ms: {burst.local} local,"
        f" {burst.cloud} cloud, {burst.refused} refused, {burst.late} late, {burst.lost} lost",
        "outage": f"{outage.seconds:.1f} s, {outage.local_predictions} predictions made,"
        f" {outage.lost} lost",
        "rollout": f"{report.rollout.release} on {report.rollout.devices} devices:"
        f" {report.rollout.state}",
        "time": f"{report.seconds:.1f} s",
    }


def _errors(train: TrainReport) -> str:
    others = ", ".join(f"{name} {value:.4f}" for name, value in train.baselines.items())
    return f"model {train.val_mse:.4f} ({others})"


def _baseline(figures: Rates) -> str:
    return (
        f"{figures.detection_rate:.1%} of faulty windows,"
        f" {figures.false_alarm_rate:.1%} false alarms"
    )
