"""A model that goes on learning: what comes in counts once, what goes out is better."""

import shutil
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import structs

from aimass_cloud.models.trained import TrainedModel
from aimass_cloud.recipes import tep
from aimass_cloud.training import RunSettings, train
from aimass_cloud.training.incremental import Delta, Inbox, Learner, Policy, Published
from aimass_cloud.training.incremental.policy import due, is_better, share_of
from aimass_cloud.training.incremental.windows import cut, drawn, kept, shelf_of
from aimass_shared.errors import BadUpdateError, DataError

DATA = tep.load()
RUN = RunSettings(steps=2, check=2, widths=(1.0, 0.5), options={"hidden": 8, "steps": 1})
POLICY = Policy(steps=5, publish_every_s=10.0, least_gain=0.0, batch=16)


class Clock:
    """A clock that a test sets."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture(scope="module")
def model() -> TrainedModel:
    return train("sensor-graph", RUN)


def _shard(path: Path, rows: np.ndarray, names: tuple[str, ...] = DATA.names) -> Path:
    table = pa.table({name: rows[:, number] for number, name in enumerate(names)})
    half = path.with_name(f".{path.name}")
    pq.write_table(table, half)
    return half.replace(path)


def _learner(
    model: TrainedModel, folder: Path, policy: Policy = POLICY
) -> tuple[Learner, list[Published], Clock]:
    told: list[Published] = []
    clock = Clock()
    learner = Learner(model, folder, policy=policy, publish=told.append, clock=clock)
    learner.open()
    return learner, told, clock


def test_a_shard_is_learnt_and_a_better_candidate_goes_out(
    model: TrainedModel, tmp_path: Path
) -> None:
    learner, told, clock = _learner(model, tmp_path)
    assert not learner.turn()
    _shard(tmp_path / "inbox" / "a.parquet", DATA.site_runs()[1])
    for _ in range(12):
        assert learner.turn()
    assert not told
    clock.now = 11.0
    learner.turn()
    (published,) = told
    assert published.reason == "schedule"
    assert published.error < published.before
    assert published.model.info.parent == model.id
    assert learner.model.id == published.model.id
    assert TrainedModel.load(tmp_path / published.model.id).id == published.model.id
    assert (tmp_path / "inbox" / "taken" / "a.parquet").is_file()


def test_a_faulty_shard_is_set_aside_with_its_reason(model: TrainedModel, tmp_path: Path) -> None:
    learner, _, _ = _learner(model, tmp_path)
    _shard(tmp_path / "inbox" / "bad.parquet", DATA.faults[6][DATA.fault_start :])
    _shard(tmp_path / "inbox" / "other.parquet", DATA.test[:, :2], ("x", "y"))
    learner.turn()
    refused = tmp_path / "inbox" / "refused"
    assert "alarm limit" in (refused / "bad.parquet.json").read_text()
    assert "XMEAS_01" in (refused / "other.parquet.json").read_text()
    assert {path.name for path in refused.glob("*.parquet")} == {"bad.parquet", "other.parquet"}


def test_an_update_of_sites_is_added_by_its_age_and_once(
    model: TrainedModel, tmp_path: Path
) -> None:
    learner, _, _ = _learner(model, tmp_path)
    change = {name: np.ones_like(array) for name, array in model.weights.items()}
    inbox = Inbox(tmp_path / "inbox")
    path = inbox.put("r1", Delta(model.id, change))
    copy = shutil.copy(path, tmp_path / "copy")
    learner.turn()
    after = learner._objective.whole()
    for name, array in model.weights.items():
        assert np.allclose(after[name].numpy(), array + POLICY.mixing, atol=1e-6)
    shutil.copy(copy, path)  # as if it had been killed before the file moved
    again, _, _ = _learner(model, tmp_path)
    again.turn()
    for name, tensor in again._objective.whole().items():
        assert np.array_equal(tensor.numpy(), after[name].numpy())


def test_updates_that_do_not_belong_are_refused(model: TrainedModel, tmp_path: Path) -> None:
    learner, _, _ = _learner(model, tmp_path)
    before = learner._objective.whole()
    inbox, zero = Inbox(tmp_path / "inbox"), {n: a * 0 for n, a in model.weights.items()}
    name = next(iter(zero))
    inbox.put("stranger", Delta("m-0", zero))
    inbox.put("nan", Delta(model.id, {**zero, name: zero[name] + np.float32(np.nan)}))
    inbox.put("short", Delta(model.id, {name: zero[name]}))
    (tmp_path / "inbox" / "junk.delta.safetensors").write_bytes(b"junk")
    learner.turn()
    assert len(list((tmp_path / "inbox" / "refused").glob("*.json"))) == 4
    for key, tensor in learner._objective.whole().items():
        assert np.array_equal(tensor.numpy(), before[key].numpy())


def test_drift_makes_a_candidate_due_at_once(model: TrainedModel, tmp_path: Path) -> None:
    policy = structs.replace(POLICY, publish_every_s=1e9, drift=1.01)
    contract = model.info.contract
    assert contract.alarm is not None
    never = structs.replace(contract.alarm, threshold=1e9)
    contract = structs.replace(contract, alarm=never)
    unwatched = replace(model, info=structs.replace(model.info, contract=contract))
    learner, told, _ = _learner(unwatched, tmp_path, policy)
    rows = DATA.site_runs()[1]
    _shard(tmp_path / "inbox" / "a.parquet", rows)
    for _ in range(3):
        learner.turn()
    assert not told
    noise = np.random.default_rng(1).normal(0, 1.0, rows.shape) * DATA.train.std(axis=0)
    _shard(tmp_path / "inbox" / "b.parquet", (rows + noise * 0.3).astype(np.float32))
    learner.turn()
    assert [one.reason for one in told] == ["drift"]


_KILLED = """
import sys
from pathlib import Path
from aimass_cloud.models.trained import TrainedModel
from aimass_cloud.training.incremental import Learner, Policy, follow
folder = Path(sys.argv[1])
learner = Learner(TrainedModel.load(folder / "start"), folder, policy=Policy(steps=1, batch=4),
                  publish=print)
learner.open()
print("open", flush=True)
follow(learner, lambda: False, idle_s=0.05)
"""


def test_a_learner_that_is_killed_goes_on_with_what_it_had(
    model: TrainedModel, tmp_path: Path
) -> None:
    model.save(tmp_path / "start")
    inbox = Inbox(tmp_path / "inbox")
    inbox.open()
    change = {name: np.ones_like(array) for name, array in model.weights.items()}
    inbox.put("r1", Delta(model.id, change))
    process = subprocess.Popen(
        [sys.executable, "-c", _KILLED, str(tmp_path)], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    with process:
        assert process.stdout.readline() == "open\n"
        while inbox.arrivals():
            assert process.poll() is None
            time.sleep(0.02)
        process.kill()
    learner, _, _ = _learner(model, tmp_path)
    for name, tensor in learner._objective.whole().items():
        assert np.allclose(tensor.numpy(), model.weights[name] + 0.6, atol=1e-6)


@given(staleness=st.integers(0, 50), most=st.integers(0, 10), mixing=st.floats(0.01, 1))
def test_an_update_weighs_less_the_older_it_is_and_nothing_beyond_the_bound(
    staleness: int, most: int, mixing: float
) -> None:
    policy = Policy(max_staleness=most, mixing=mixing)
    share = share_of(policy, staleness)
    assert 0.0 <= share <= mixing
    assert share >= share_of(policy, staleness + 1)
    assert (share == 0.0) == (staleness > most)


def test_a_candidate_is_due_by_time_or_drift_but_not_without_learning() -> None:
    policy = Policy(publish_every_s=10, drift=1.5)
    assert due(policy, seconds=99, drift=9, has_learnt=False) is None
    assert due(policy, seconds=9, drift=1, has_learnt=True) is None
    assert due(policy, seconds=10, drift=1, has_learnt=True) == "schedule"
    assert due(policy, seconds=0, drift=1.5, has_learnt=True) == "drift"
    assert is_better(Policy(least_gain=0.1), candidate=0.9, published=1.0)
    assert not is_better(Policy(least_gain=0.1), candidate=0.91, published=1.0)


@given(rows=st.integers(20, 60), held_back=st.floats(0.05, 0.4))
def test_nothing_learnt_from_is_judged_on(rows: int, held_back: float) -> None:
    values = np.arange(rows, dtype=np.float32)[:, None]
    shelf = shelf_of("a", values, 8, held_back=held_back)
    learnt, judged = (cut(shelf, starts, 8)[0] for starts in (shelf.starts, shelf.judged))
    assert learnt.max() < judged.min()
    assert judged.max() == rows - 1


def test_batches_favour_the_newest_shard_and_the_oldest_is_forgotten() -> None:
    shelves = [
        shelf_of(str(number), np.full((40, 1), number, np.float32), 8, held_back=0.2)
        for number in range(3)
    ]
    values, mask = drawn(shelves, np.random.default_rng(0), batch=100, newest=0.5, length=8)
    assert values.shape == (100, 8, 1)
    assert mask.all()
    assert (values[:, 0, 0] == 2).sum() == 50
    assert set(values[:, 0, 0]) == {0.0, 1.0, 2.0}
    assert [shelf.name for shelf in kept(shelves, 80)] == ["1", "2"]
    assert [shelf.name for shelf in kept(shelves, 1)] == ["2"]
    with pytest.raises(DataError, match="too few"):
        shelf_of("b", np.zeros((10, 1), np.float32), 8, held_back=0.2)


def test_a_file_that_is_no_update_says_so(tmp_path: Path) -> None:
    (tmp_path / "x.delta.safetensors").write_bytes(b"\x00" * 20)
    with pytest.raises(BadUpdateError, match="is no update of sites"):
        Delta.read(tmp_path / "x.delta.safetensors")
