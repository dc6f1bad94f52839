"""The bench of the agent: it asks real processes, and its figures can be bad."""

import asyncio

import pytest
from benchmarks.edge import __main__ as command
from benchmarks.edge.faults import ALWAYS, Seen, ask, device
from benchmarks.harness.processes import Child


def test_a_cloud_that_refuses_costs_no_answer_and_one_that_is_well_gives_them() -> None:
    async def asked(mode: str) -> Seen:
        seen = Seen()
        async with device(url, ALWAYS) as predictor:
            cloud.ask(mode)
            await ask(predictor, seen, 3)
        return seen

    with Child("faulty_cloud") as cloud:
        url = f"http://127.0.0.1:{cloud.hear()['port']}"
        well, refused = asyncio.run(asked("ok")), asyncio.run(asked("refuse"))
    assert (well.cloud, well.unanswered) == (3, 0)
    assert (refused.local, refused.cloud, refused.unanswered) == (3, 0, 0)


def test_late_and_missing_answers_are_seen() -> None:
    assert Seen([1.0, 200.0], unanswered=2).share_in_time() == 0.25


def test_what_there_is_is_listed(capsys: pytest.CaptureFixture[str]) -> None:
    assert command.main(["--list"]) == 0
    assert capsys.readouterr().out.startswith("faults")
