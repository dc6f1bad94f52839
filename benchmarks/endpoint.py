"""The agent's local inference endpoint, against a server by hand and ONNX Runtime alone.

A model that takes microseconds, so that what is seen is the way to it: HTTP, the Open Inference
Protocol, admission, the queue, the worker's thread. The load generator is a process of its own and
the same for all servers.
"""

import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import onnxruntime

from aimass_shared.errors import AimassError
from benchmarks.children.tiny import SHAPE
from benchmarks.harness.measure import MICRO, Case, Figures, Sample, Scale, Turn
from benchmarks.harness.processes import Child, cpu_s

MODEL = Path(__file__).parent.parent / "tests" / "edge" / "data" / "monitor.onnx"
SERVERS = {"aimass": "aimass", "aimass, h11": "aimass-h11", "server by hand": "by-hand"}
OURS = ("aimass", "aimass, h11")
WALL, CPU, P99 = "us a request", "server CPU us a request", "p99 ms"


def run(scale: Scale) -> Figures:
    """One connection, then eight."""
    figures = Figures()
    with ExitStack() as stack:
        load = stack.enter_context(Child("load"))
        load.hear()
        servers = {
            who: stack.enter_context(Child("endpoint_server", kind, MODEL))
            for who, kind in SERVERS.items()
        }
        ports = {who: int(server.hear()["port"]) for who, server in servers.items()}
        for connections in (1, 8):
            contenders: dict[str, Turn] = {
                who: _asked(load, (server, ports[who]), connections, scale.seconds)
                for who, server in servers.items()
            }
            contenders["ONNX Runtime alone"] = alone(scale.seconds)
            name = f"{connections} connection{'s' if connections > 1 else ''}"
            figures.measure(Case(name, contenders, OURS), scale.rounds)
    figures.notes.append(
        "server and load generator share the cores; 'aimass, h11' is what aimass[edge] alone"
        " installs, 'aimass' has httptools"
    )
    return figures


def _asked(load: Child, server: tuple[Child, int], connections: int, seconds: float) -> Turn:
    """A turn of one server under load; the first requests are not counted."""
    process, port = server
    load.ask(port, connections, 0.1)

    def turn() -> Sample:
        before = cpu_s(process.pid)
        seen = load.ask(port, connections, seconds)
        used = cpu_s(process.pid) - before
        if seen["failed"] or not seen["requests"]:
            raise AimassError(f"{seen['failed']} of {seen['requests']} requests failed")
        return {
            WALL: seen["seconds"] / seen["requests"] * MICRO,
            CPU: used / seen["requests"] * MICRO,
            P99: seen["p99_ms"],
        }

    return turn


def alone(seconds: float) -> Turn:
    """The same session in a loop: no server at all."""
    work = _runs()

    def turn() -> Sample:
        began, cpu, runs = time.perf_counter(), time.thread_time(), 0
        while time.perf_counter() < began + seconds / 2:
            work()
            runs += 1
        wall = time.perf_counter() - began
        return {WALL: wall / runs * MICRO, CPU: (time.thread_time() - cpu) / runs * MICRO}

    return turn


def _runs() -> Callable[[], object]:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(str(MODEL), options, providers=["CPUExecutionProvider"])
    values = np.full(SHAPE, 2.0, np.float32)
    feeds = {"values": values, "mask": np.ones_like(values)}
    return lambda: session.run(None, feeds)
