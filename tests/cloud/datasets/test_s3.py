"""The same data from an S3 store: a real HTTP server on loopback (moto)."""

import logging
from collections.abc import Iterator
from pathlib import Path

import httpx
import numpy as np
import pytest

from aimass_cloud.datasets import series, shards, tables
from aimass_cloud.datasets.places import located
from aimass_cloud.datasets.shards import Shards
from aimass_shared.errors import DataError, DownloadFailedError

moto = pytest.importorskip("moto.server")
NAMES = ("a", "b")


@pytest.fixture
def bucket(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """An empty bucket; the AWS variables point to its server."""
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = moto.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://{host}:{port}")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "plant")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    monkeypatch.setenv("AWS_REGION", "us-east-1")
    assert httpx.put(f"http://{host}:{port}/plant").is_success
    yield "s3://plant"
    server.stop()


def test_shards_in_a_store_are_those_of_a_disk(bucket: str, tmp_path: Path) -> None:
    rows = np.random.default_rng(0).normal(size=(500, 2)).astype(np.float32)
    addresses = (f"{bucket}/line 1/train", str(tmp_path / "train"))
    for address in addresses:
        shards.write(address, rows, NAMES, shard_rows=150)
    remote, local = (
        list(Shards.open(address).windows(20, stride=3, batch=16, seed=1)) for address in addresses
    )
    assert len(remote) == len(local) > 5
    for one, other in zip(remote, local, strict=True):
        np.testing.assert_array_equal(one, other)
    for limit in (series.MEMORY_BYTES, 1000):
        data = series.open(f"{bucket}/line 1", memory_bytes=limit)
        assert data.names == NAMES
        assert (data.shards is None) == (limit > 1000)
        np.testing.assert_array_equal(data.test[0].rows[0], rows[400])


def test_text_in_a_store(bucket: str) -> None:
    with located(f"{bucket}/data/x.csv").opened("wb") as file:
        file.write(b"a,b\n1,2\n")
    assert list(tables.read(f"{bucket}/data/x.csv")) == ["a", "b"]
    assert list(tables.read(f"{bucket}/data/")) == ["a", "b"]
    assert list(tables.read(f"{bucket}/data")) == ["a", "b"]


def test_what_a_store_has_not_or_does_not_answer(
    bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(DataError, match="no file or folder s3://plant/none"):
        tables.read(f"{bucket}/none.csv")
    with pytest.raises(DownloadFailedError, match=r"s3://other/x\.csv: .*AWS_\* variables"):
        tables.read("s3://other/x.csv")
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    with pytest.raises(DownloadFailedError, match="s3://plant"):
        tables.read(f"{bucket}/x.csv")
