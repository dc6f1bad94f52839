"""What a coordinator may read: what lies below its roots, whatever the path looks like."""

from pathlib import Path

import pytest

from aimass_cloud.app.roots import DataRoots
from aimass_shared.errors import InvalidSettingError


@pytest.fixture
def roots(tmp_path: Path) -> DataRoots:
    (tmp_path / "data" / "plant").mkdir(parents=True)
    (tmp_path / "secret").mkdir()
    (tmp_path / "data" / "out").symlink_to(tmp_path / "secret")
    return DataRoots([str(tmp_path / "data"), "s3://bucket/data"], otherwise=())


def test_what_is_below_a_root_may_be_read(roots: DataRoots, tmp_path: Path) -> None:
    plant = str(tmp_path / "data" / "plant")
    assert roots.checked("") == ""
    assert roots.checked(plant) == plant
    assert roots.checked(f"{plant}/../plant/new.csv") == f"{plant}/new.csv"
    assert roots.checked(str(tmp_path / "data")) == str(tmp_path / "data")
    assert roots.checked("s3://bucket/data/a.parquet") == "s3://bucket/data/a.parquet"
    assert roots.path(plant) == Path(plant)


@pytest.mark.parametrize(
    "address",
    [
        "secret",
        "data/../secret",
        "data/out/key",
        "database",
        "file:///etc/passwd",
        "s3://bucket/database",
        "s3://bucket/data/../keys",
        "s3://other/data",
        "S3://bucket/data/x",
    ],
)
def test_nothing_else_may_be_read(roots: DataRoots, tmp_path: Path, address: str) -> None:
    where = address if ":" in address else str(tmp_path / address)
    with pytest.raises(InvalidSettingError, match=r"training\.data_roots"):
        roots.checked(where)


@pytest.mark.parametrize("address", ["", "s3://bucket/data/run"])
def test_a_model_is_taken_from_this_machine_only(roots: DataRoots, address: str) -> None:
    with pytest.raises(InvalidSettingError, match="no folder on the coordinator"):
        roots.path(address)


def test_without_roots_in_the_settings_the_defaults_hold(tmp_path: Path) -> None:
    roots = DataRoots((), otherwise=(tmp_path,))
    assert roots.checked(str(tmp_path / "x")) == str(tmp_path / "x")
    with pytest.raises(InvalidSettingError, match=str(tmp_path)):
        roots.checked("/etc")
