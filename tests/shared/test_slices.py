"""Which slice a board gets: memory and formats are hard limits, time is a wish."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aimass_shared.errors import UnfitReleaseError
from aimass_shared.slices import Board, SliceCost, SliceSpec, beside, choose, fits, is_timely

BOARD = Board("board", memory_mib=100, cpu_time_factor=4, window_budget_ms=2.0)


def cost(memory_mib: float, reference_ms: float) -> SliceCost:
    return SliceCost(
        model_bytes=1000, memory_mib=memory_mib, reference_ms=reference_ms, val_error=1.0
    )


OFFERS = {
    SliceSpec(1.0, "fp32"): cost(60, 1.0),
    SliceSpec(1.0, "int8"): cost(55, 0.9),
    SliceSpec(0.5, "int8"): cost(50, 0.4),
    SliceSpec(0.25, "int8"): cost(45, 0.2),
}


def test_the_widest_slice_that_keeps_up_is_chosen() -> None:
    assert choose(BOARD, OFFERS) == SliceSpec(0.5, "int8")


def test_of_one_width_the_format_is_chosen_that_the_board_likes_best() -> None:
    fast = Board("fast", memory_mib=100, cpu_time_factor=1, window_budget_ms=2.0)
    assert choose(fast, OFFERS) == SliceSpec(1.0, "int8")
    liking = Board("x86", 100, 1, 2.0, precisions=("fp32", "int8"))
    assert choose(liking, OFFERS) == SliceSpec(1.0, "fp32")


def test_a_board_too_slow_for_all_gets_the_fastest() -> None:
    slow = Board("slow", memory_mib=100, cpu_time_factor=100, window_budget_ms=2.0)
    assert choose(slow, OFFERS) == SliceSpec(0.25, "int8")


def test_memory_is_a_hard_limit_and_the_error_says_what_is_needed() -> None:
    small = Board("small", memory_mib=40, cpu_time_factor=1, window_budget_ms=50)
    with pytest.raises(UnfitReleaseError, match=r"w0\.25-int8, needs 45 MiB.*gives 40 MiB"):
        choose(small, OFFERS)


def test_a_format_that_the_board_cannot_run_is_never_chosen() -> None:
    only = Board("fp32-only", 100, 100, 2.0, precisions=("fp32",))
    assert choose(only, OFFERS) == SliceSpec(1.0, "fp32")
    with pytest.raises(UnfitReleaseError, match="runs fp32"):
        choose(only, {SliceSpec(0.5, "int8"): cost(1, 0.1)})


def test_names_are_those_of_files_and_tables() -> None:
    assert SliceSpec(0.5, "int8").name == "w0.50-int8"
    assert SliceSpec(1.0, "fp32", cut="head3").name == "w1.00-fp32-head3"


costs = st.builds(cost, st.floats(1, 200), st.floats(0.01, 10))
specs = st.builds(SliceSpec, st.sampled_from([0.25, 0.5, 1.0]), st.sampled_from(["fp32", "int8"]))
boards = st.builds(
    Board, st.just("any"), st.floats(1, 200), st.floats(0.5, 20), st.floats(0.01, 50)
)


@given(boards, st.dictionaries(specs, costs, min_size=1))
def test_what_is_chosen_fits_and_nothing_wider_that_is_timely_fits(
    board: Board, offers: dict[SliceSpec, SliceCost]
) -> None:
    try:
        chosen = choose(board, offers)
    except UnfitReleaseError:
        assert not any(fits(board, spec, one) for spec, one in offers.items())
        return
    assert fits(board, chosen, offers[chosen])
    better = [
        spec
        for spec, one in offers.items()
        if fits(board, spec, one) and is_timely(board, one) and spec.width > chosen.width
    ]
    assert better == []


def test_a_head_is_never_chosen_since_it_answers_nothing_by_itself() -> None:
    head = SliceSpec(1.0, "int8", cut="cut-relu-1")
    wide = Board("wide", memory_mib=100, cpu_time_factor=1, window_budget_ms=2.0)
    whole = SliceSpec(0.5, "int8")
    assert choose(wide, {head: cost(1, 0.1), whole: cost(50, 0.4)}) == whole
    with pytest.raises(UnfitReleaseError, match="no whole slice"):
        choose(wide, {head: cost(1, 0.1)})


def test_what_tensorrt_refuses_is_not_for_boards_whose_models_it_runs() -> None:
    refused = SliceCost(1000, 60, 0.1, 1.0, tensorrt="refused (ScatterND: reduction)")
    built = SliceCost(1000, 50, 0.1, 1.0, tensorrt="builds")
    offers = {SliceSpec(1.0, "fp32"): refused, SliceSpec(0.5, "fp32"): built}
    plain = Board("plain", 100, 1, 2.0)
    orin = Board("orin", 100, 1, 2.0, tensorrt=True)
    assert choose(plain, offers) == SliceSpec(1.0, "fp32")
    assert choose(orin, offers) == SliceSpec(0.5, "fp32")
    with pytest.raises(UnfitReleaseError, match="TensorRT"):
        choose(orin, {SliceSpec(1.0, "fp32"): refused})


def test_beside_a_slice_are_narrower_ones_as_far_as_there_is_room() -> None:
    half, quarter = SliceSpec(0.5, "int8"), SliceSpec(0.25, "int8")
    roomy = Board("roomy", memory_mib=200, cpu_time_factor=1, window_budget_ms=2.0)
    assert beside(roomy, OFFERS, SliceSpec(1.0, "fp32"), most=9) == [half, quarter]
    assert beside(roomy, OFFERS, SliceSpec(1.0, "fp32"), most=1) == [quarter]
    assert beside(roomy, OFFERS, half, most=9) == [quarter]
    assert beside(roomy, OFFERS, quarter, most=9) == []
    assert beside(roomy, OFFERS, half, most=0) == []
    assert beside(BOARD, OFFERS, half, most=9) == [quarter]
    assert beside(BOARD, OFFERS, SliceSpec(1.0, "fp32"), most=9) == [], "60 and 45 are over 100"


@given(boards, st.dictionaries(specs, costs, min_size=1), st.integers(0, 3))
def test_all_that_a_board_holds_at_once_has_room(
    board: Board, offers: dict[SliceSpec, SliceCost], most: int
) -> None:
    try:
        chosen = choose(board, offers)
    except UnfitReleaseError:
        return
    found = beside(board, offers, chosen, most=most)
    assert len(found) <= most
    assert sum(offers[spec].memory_mib for spec in [chosen, *found]) <= board.memory_mib
    widths = [spec.width for spec in [chosen, *found]]
    assert widths == sorted(set(widths), reverse=True)
    assert all(fits(board, spec, offers[spec]) for spec in found)
