"""The graph that a model learned, for people and other programs."""

import asyncio
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Literal

from aimass_cloud.models.relations import Graph, as_graphml, as_json, as_png, graph_of
from aimass_cloud.models.trained import TrainedModel
from aimass_shared.errors import MissingExtraError

Form = Literal["json", "graphml", "png"]

MEDIA: Mapping[Form, str] = {
    "json": "application/json",
    "graphml": "application/xml",
    "png": "image/png",
}
_WRITERS: Mapping[Form, Callable[[Graph], bytes]] = {
    "json": as_json,
    "graphml": as_graphml,
    "png": as_png,
}


async def graph_file(directory: Path, form: Form) -> bytes:
    """The graph of the model in a directory, in a form.

    Raises:
        NotFoundError: the model's network has no graph.
        MissingExtraError: a picture or GraphML needs the extra `train`.
    """
    return await asyncio.to_thread(_written, directory, form)


def _written(directory: Path, form: Form) -> bytes:
    graph = graph_of(TrainedModel.load(directory))
    try:
        return _WRITERS[form](graph)
    except ModuleNotFoundError as error:
        raise MissingExtraError(
            f'this needs {error.name}: pip install "aimass[cloud,train]", or ask for json'
        ) from error
