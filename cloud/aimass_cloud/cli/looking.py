"""Commands that look into a model: its graph as a file, and why it answered as it did."""

import argparse
import json
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

from aimass_cloud.admin import Admin, Watch, segment
from aimass_cloud.models.files import write_whole
from aimass_shared.errors import InvalidSettingError

MOST_PARTS = 12


async def graph(admin: Admin, args: argparse.Namespace, _watch: Watch) -> Any:  # noqa: ANN401  JSON of any shape
    """Write the graph of a model to a file, or give it as JSON."""
    path = f"/api/v1/models/{segment(args.model)}/graph"
    if not args.out:
        found = await admin.call("GET", path)
        return found if args.json else found["edges"]
    form = Path(args.out).suffix.removeprefix(".")
    if form not in {"json", "graphml", "png"}:
        raise InvalidSettingError(f"--out {args.out}: end it in .png, .graphml or .json")
    content = await admin.fetch(f"{path}?{urlencode({'form': form})}")
    return _written(Path(args.out), content)


async def explain(admin: Admin, args: argparse.Namespace, _watch: Watch) -> Any:  # noqa: ANN401  JSON of any shape
    """Explain an answer of a model: to one of its own samples, or to that in a file."""
    body = {
        "method": args.method,
        "sample": args.sample,
        "output": args.output,
        "sensor": args.sensor,
        "inputs": _read(args.inputs),
    }
    found = await admin.call("POST", f"/api/v1/models/{segment(args.model)}/explain", body)
    if args.json:
        return found
    parts = [{"part": name, "share": share} for name, share in found["parts"][:MOST_PARTS]]
    kept = {name: found[name] for name in ("method", "milliseconds", "total")}
    return {**kept, "parts": parts, "edges": found["edges"]}


def _written(path: Path, content: bytes) -> dict[str, Any]:
    write_whole(path, content)
    return {"file": str(path), "bytes": len(content)}


def _read(path: str | None) -> dict[str, Any]:
    """Inputs of a JSON file.

    Raises:
        InvalidSettingError: it is none.
    """
    if path is None:
        return {}
    try:
        return dict(json.loads(Path(path).read_text("utf-8")))
    except (OSError, ValueError, TypeError) as error:
        raise InvalidSettingError(f"--inputs {path}: {error}") from error
