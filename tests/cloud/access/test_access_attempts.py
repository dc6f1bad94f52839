import pytest

from aimass_cloud.access.attempts import Attempts
from aimass_cloud.access.cache import Recent
from aimass_shared.errors import TooManyAttemptsError


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def test_the_limit_is_per_address_and_ends_with_the_window() -> None:
    clock = Clock()
    attempts = Attempts(limit=3, window_s=60, clock=clock)
    for _ in range(3):
        attempts.check("a")
        attempts.failed("a")
        clock.now += 10
    attempts.check("b")
    with pytest.raises(TooManyAttemptsError, match="wait 30 s"):
        attempts.check("a")
    clock.now += 30
    attempts.check("a")


def test_a_flood_of_addresses_takes_bounded_memory() -> None:
    attempts = Attempts(limit=1, max_addresses=10)
    for number in range(1000):
        attempts.failed(f"{number}")
    assert len(attempts._counts) == 10
    with pytest.raises(TooManyAttemptsError):
        attempts.check("999")


async def test_a_value_is_loaded_again_when_it_is_old_forgotten_or_absent() -> None:
    clock, loads = Clock(), []

    async def load(name: str) -> str | None:
        loads.append(name)
        return None if name == "absent" else name.upper()

    recent = Recent(load, 5.0, max_entries=2, clock=clock)
    assert [await recent.get("a"), await recent.get("a")] == ["A", "A"]
    assert loads == ["a"]
    clock.now += 5
    await recent.get("a")
    recent.forget("a")
    await recent.get("a")
    assert loads == ["a", "a", "a"]
    assert [await recent.get("absent"), await recent.get("absent")] == [None, None]
    await recent.get("b")
    await recent.get("c")  # pushes "a" out
    loads.clear()
    await recent.get("c")
    await recent.get("a")
    assert loads == ["a"]
