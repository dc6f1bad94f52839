"""Narrower slices beside the active one, and the cloud asked first: real sessions, real sockets."""

import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from msgspec import structs

from aimass_edge.config import BoardSettings, CapacitySettings, HandoffSettings, Policy
from aimass_edge.handoff import Handoff
from aimass_edge.predict import Predictor
from aimass_edge.runtime import Session, open_session
from aimass_edge.runtime.paced import PacedSession
from aimass_shared.errors import ModelLoadFailedError, OverloadedError
from aimass_shared.manifest import SliceEntry
from aimass_shared.slices import SliceSpec

Make = Callable[..., Any]
BOARD = BoardSettings(name="test-board")
CAPACITY = CapacitySettings(default_deadline_ms=30_000, queue_limit=64, safety=1.5)
WIDE_S = 0.2


def slow_where_wide(path: Path, board: BoardSettings) -> Session:
    """Every run of the widest slice takes long; narrower ones lie in folders of that name."""
    inner = open_session(path, board)
    if path.parent.name.startswith("narrow"):
        return inner
    ticks = iter(range(10**6))
    return PacedSession(inner, WIDE_S + 1.0, clock=lambda: float(next(ticks)))


def narrowed(release: Any, tmp_path: Path, file: str = "monitor.onnx") -> tuple[SliceEntry, Path]:  # noqa: ANN401  a release
    folder = tmp_path / f"narrow-{file}"
    folder.mkdir()
    source = Path(__file__).parent.parent / "data" / file
    (folder / "model.onnx").write_bytes(source.read_bytes())
    return structs.replace(release.entry, spec=SliceSpec(0.25, "fp32")), folder


async def test_a_request_that_the_active_slice_is_late_for_is_answered_by_a_narrower_one(
    make_release: Make, make_request: Make, tmp_path: Path
) -> None:
    release = make_release()
    async with Predictor(BOARD, CAPACITY, opener=slow_where_wide) as predictor:
        await predictor.activate(*release)
        hasty = make_request(deadline_ms=150)
        with pytest.raises(OverloadedError, match="would-be-late"):
            await predictor.infer(hasty)
        await predictor.narrow("r1", [narrowed(release, tmp_path)])
        assert predictor.status().narrower == ("w0.25-fp32",)
        assert (await predictor.infer(hasty)).parameters["slice"] == "w0.25-fp32"
        patient = await predictor.infer(make_request(deadline_ms=10_000))
        assert patient.parameters["slice"] == "w1.00-fp32"
        assert (predictor.counts.answered, predictor.counts.narrowed) == (2, 1)


async def test_narrower_slices_go_with_their_release_and_stay_if_others_do_not_load(
    make_release: Make, make_request: Make, tmp_path: Path
) -> None:
    first = make_release("r1")
    async with Predictor(BOARD, CAPACITY) as predictor:
        await predictor.narrow("r1", [])
        await predictor.activate(*first)
        await predictor.narrow("r1", [narrowed(first, tmp_path)])
        broken = tmp_path / "broken"
        broken.mkdir()
        (broken / "model.onnx").write_bytes(b"no model")
        with pytest.raises(ModelLoadFailedError):
            await predictor.narrow("r1", [(first.entry, broken)])
        assert predictor.status().narrower == ("w0.25-fp32",)
        await predictor.activate(*make_release("r2"))
        assert predictor.status().narrower == ()
        await predictor.narrow("r1", [narrowed(first, tmp_path, "fails.onnx")])
        assert predictor.status().narrower == (), "they are of a release that is gone"
        assert (await predictor.infer(make_request())).version == "r2"


def handoff(url: str, policy: Policy, **more: Any) -> Handoff:  # noqa: ANN401  settings
    settings = HandoffSettings(policies={"tiny": policy}, **more)
    return Handoff(url, settings, bearer=lambda: "")


async def test_who_asks_the_cloud_first_gets_its_answer_and_its_own_if_there_is_none(
    make_release: Make,
    make_request: Make,
    cloud: Any,  # noqa: ANN401  a server
) -> None:
    async with (
        handoff(cloud.url, "cloud-first", failures_to_open=10_000) as way,
        Predictor(BOARD, CAPACITY, cloud=way) as predictor,
    ):
        await predictor.activate(*make_release())
        asked = make_request(deadline_ms=2000)
        assert (await predictor.infer(asked)).parameters["place"] == "cloud"
        kept = make_request(deadline_ms=2000, parameters={"may_hand_off": False})
        assert (await predictor.infer(kept)).parameters["place"] == "local"
        cloud.mode = "busy"
        assert (await predictor.infer(asked)).parameters["place"] == "local"
        assert predictor.counts.hand_offs_failed == 1


async def test_a_cloud_that_accepts_and_says_nothing_costs_no_answer(
    make_release: Make, make_request: Make
) -> None:
    # The kernel accepts for it; nobody ever reads.
    with socket.create_server(("127.0.0.1", 0)) as listener:
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        async with (
            handoff(url, "cloud-first", failures_to_open=10_000, reserve_ms=500) as way,
            Predictor(BOARD, CAPACITY, cloud=way) as predictor,
        ):
            await predictor.activate(*make_release())
            for _ in range(5):
                answer = await predictor.infer(make_request(deadline_ms=600))
                assert answer.parameters["place"] == "local"
            counts = predictor.counts
    assert (counts.answered, counts.late, counts.refused) == (5, 0, 0)
    assert counts.hand_offs_failed >= 1


async def test_what_must_never_leave_the_site_does_not(
    make_release: Make,
    make_request: Make,
    cloud: Any,  # noqa: ANN401  a server
) -> None:
    settings = CapacitySettings(queue_limit=0)
    async with (
        handoff(cloud.url, "never-leave-site") as way,
        Predictor(BOARD, settings, cloud=way) as predictor,
    ):
        await predictor.activate(*make_release())
        with pytest.raises(OverloadedError, match="queue-full"):
            await predictor.infer(make_request(deadline_ms=2000))
    assert cloud.headers == []
