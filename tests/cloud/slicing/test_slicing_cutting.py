"""Which cuts are worth a slice, and how times and codecs are measured."""

import math
import time
from itertools import pairwise

import numpy as np
import pytest
from tests import graphs

from aimass_cloud.slicing import cuts
from aimass_cloud.slicing.cutting import SMALLER, worth_cutting
from aimass_cloud.slicing.profiling import Subject, Way, handed_off, in_cloud, packing, timed
from aimass_shared.planning.profiles import Candidate

ONE = {"x": np.linspace(-1, 1, 400, dtype=np.float32).reshape(1, 400)}


def chosen(name: str, count: int) -> tuple[cuts.Cuts, list[cuts.Cut]]:
    whole = cuts.whole(graphs.GRAPHS[name]())
    found = cuts.cuts_of(whole, most_tensors=2, sizes={"sequence": 16})
    inputs = [value.name for value in whole.model.graph.input]
    return found, worth_cutting(found, count, inputs)


@pytest.mark.parametrize("name", ["mobilenet", "resnet", "yolo", "lstm", "late input"])
def test_each_later_cut_sends_less(name: str) -> None:
    _, kept = chosen(name, 9)
    assert kept
    sizes = [cut.bytes_per_sample or math.inf for cut in kept]
    assert all(later <= SMALLER * earlier for earlier, later in pairwise(sizes))
    assert sorted(kept, key=lambda cut: cut.head_nodes) == kept


def test_the_first_and_the_last_stay_where_fewer_are_wanted() -> None:
    found, kept = chosen("resnet", 9)
    assert found.input_bytes is not None
    assert all((cut.bytes_per_sample or 0) < found.input_bytes for cut in kept)
    assert not any(cut.splits for cut in kept)
    assert chosen("resnet", 2)[1] == [kept[0], kept[-1]]
    assert chosen("resnet", 0)[1] == []


def test_a_cut_that_all_inputs_cross_is_none() -> None:
    _, kept = chosen("loop", 9)
    assert all("x" not in cut.names for cut in kept)


def subject(error: float = 0.0) -> Subject:
    return Subject(ONE, [ONE], lambda _outputs: error, lambda found: found, seconds=0.01)


def test_time_is_that_of_the_processor_and_not_of_waiting() -> None:
    ms, spread = timed(lambda: time.sleep(0.002), most_seconds=0.1)
    assert ms < 1.5
    assert spread >= 0.0


def test_inputs_in_a_codec_are_candidates_where_they_are_smaller() -> None:
    found = {one.candidate.codec: one for one in in_cloud(subject(), dict)}
    assert list(found) == ["none", "fp16", "int8"]
    sizes = [one.bytes_up for one in found.values()]
    assert sizes == sorted(sizes, reverse=True)
    wide = Subject({"x": np.array([[1e30, np.inf]])}, [], lambda _o: 0.0, lambda e: e, 0.01)
    assert [one.candidate.codec for one in in_cloud(wide, dict)] == ["none"]


def test_outputs_that_a_head_gives_do_not_travel() -> None:
    early = {"early": np.zeros((1, 9000), np.float32)}
    way = Way(lambda given: {**given, **early}, packing("none"), lambda got: {"y": got["x"]}, ["x"])
    one = Candidate(1.0, "fp32", "split", "cut-x")
    profile = handed_off(subject(0.25), one, way, memory_mib=3.0)
    assert ONE["x"].nbytes < profile.bytes_up < ONE["x"].nbytes + 100
    assert (profile.loss, profile.memory_mib) == (0.25, 3.0)
    assert way.answer(ONE).keys() == {"x", "early", "y"}
