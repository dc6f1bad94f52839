"""What `GET /metrics` of the agent tells a scraper: the figures of `GET /status`."""

from collections.abc import Iterator

from aimass_edge.agent.running import AgentStatus
from aimass_shared.exposition import Family, by_label, counter, gauge, written

MIB = 1 << 20


def exposition(status: AgentStatus) -> bytes:
    """The figures of an agent in Prometheus' text format."""
    parts = (_who, _links, _work, _times, _plant, _sensors)
    return written(family for part in parts for family in part(status))


def _who(status: AgentStatus) -> Iterator[Family]:
    serving = status.serving
    yield gauge(
        "aimass_edge_info",
        "What runs here; always 1.",
        1,
        device=status.device,
        site=status.site,
        board=serving.board,
        model=serving.model,
        release=serving.release,
        slice=serving.slice,
        provider=serving.provider,
    )
    yield gauge("aimass_edge_ready", "Whether a slice is active.", serving.ready)
    yield gauge(
        "aimass_edge_resident_memory_bytes", "Memory of the agent.", status.stats.rss_mib * MIB
    )


def _links(status: AgentStatus) -> Iterator[Family]:
    connected = {"fleet": status.cloud_connected, "plant": status.plant_connected}
    yield Family(
        "aimass_edge_broker_connected",
        "gauge",
        "Whether the connection to a broker is up.",
        by_label("broker", {name: float(up) for name, up in connected.items()}),
    )
    yield gauge(
        "aimass_edge_outbox_rows",
        "Rows that the cloud has not stored yet.",
        status.stats.outbox_pending,
    )
    yield counter(
        "aimass_edge_dropped_messages_total",
        "Messages that were too large or came too fast.",
        status.dropped,
    )
    yield gauge(
        "aimass_edge_hand_off_ready",
        "Whether requests may be handed off.",
        status.serving.cloud_ready,
    )


def _work(status: AgentStatus) -> Iterator[Family]:
    counts = status.serving.counts
    windows = {
        "predicted": counts.predicted,
        "uncovered": counts.uncovered,
        "failed": counts.failed_windows,
    }
    requests = {
        "answered": counts.answered,
        "handed_off": counts.handed_off,
        "refused": counts.refused,
        "late": counts.late,
        "invalid": counts.invalid,
        "failed": counts.failed,
    }
    yield Family(
        "aimass_edge_windows_total",
        "counter",
        "Windows of telemetry by what became of them.",
        by_label("outcome", windows),
    )
    yield Family(
        "aimass_edge_requests_total",
        "counter",
        "Requests by what became of them.",
        by_label("outcome", requests),
    )
    yield counter("aimass_edge_alarms_total", "Predictions with an alarm.", counts.alarms)
    yield counter(
        "aimass_edge_hand_offs_failed_total", "Hand-offs that failed.", counts.hand_offs_failed
    )


def _times(status: AgentStatus) -> Iterator[Family]:
    serving = status.serving
    quantiles = {"0.5": serving.p50_ms / 1e3, "0.99": serving.p99_ms / 1e3}
    yield Family(
        "aimass_edge_latency_seconds",
        "gauge",
        "Of the most recent local predictions and answers.",
        by_label("quantile", quantiles),
    )
    yield gauge(
        "aimass_edge_service_seconds", "Expected run of one window.", serving.service_ms / 1e3
    )
    yield gauge(
        "aimass_edge_hand_off_seconds", "Expected time of a hand-off.", serving.cloud_ms / 1e3
    )
    yield gauge("aimass_edge_queued_requests", "Runs that wait.", serving.queued)


def _plant(status: AgentStatus) -> Iterator[Family]:
    seen = status.telemetry
    yield counter("aimass_edge_plant_messages_total", "Messages of the plant.", seen.messages)
    yield Family(
        "aimass_edge_plant_rejected_total",
        "counter",
        "Messages of the plant that could not be used, by the error's code.",
        by_label("code", {code: float(count) for code, count in seen.rejected_codes.items()}),
    )
    lost = {"bad": seen.bad, "late": seen.late, "future": seen.future, "duplicate": seen.duplicate}
    yield counter("aimass_edge_readings_total", "Values that were taken.", seen.readings)
    yield Family(
        "aimass_edge_readings_lost_total",
        "counter",
        "Values that did not get into a row, by reason.",
        by_label("reason", lost),
    )
    yield counter("aimass_edge_rows_total", "Rows made of readings.", seen.rows)
    yield counter(
        "aimass_edge_published_total", "Predictions handed to the plant's broker.", seen.published
    )


def _sensors(status: AgentStatus) -> Iterator[Family]:
    yield Family(
        "aimass_edge_sensor_drift",
        "gauge",
        "Population stability index of a sensor's values; 0.25 is large.",
        by_label("sensor", {name: found.inputs for name, found in status.drift.items()}),
    )
