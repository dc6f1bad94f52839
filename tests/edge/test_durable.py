"""Files that are replaced in one step, or stay as they were."""

from pathlib import Path

import pytest

from aimass_edge.durable import replace_durably


def test_the_new_content_is_there_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "state.json"
    for content in (b"first, and longer", b"second"):
        replace_durably(path, content)
        assert path.read_bytes() == content
    assert [one.name for one in tmp_path.iterdir()] == ["state.json"]


def test_where_the_disk_refuses_the_old_content_stays(tmp_path: Path) -> None:
    path = tmp_path / "state.json"
    replace_durably(path, b"old")
    path.with_suffix(".new").mkdir()
    with pytest.raises(OSError, match="directory"):
        replace_durably(path, b"new")
    assert path.read_bytes() == b"old"
