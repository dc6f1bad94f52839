"""Pictures that commands write: matplotlib, which is of the extra `train`, and PNG."""

import io
from typing import TYPE_CHECKING

from aimass_shared.errors import MissingExtraError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

DOTS_PER_INCH = 120


def empty(width_in: float, height_in: float) -> "Figure":
    """A picture to draw on, in inches.

    Raises:
        MissingExtraError: matplotlib is not installed.
    """
    try:
        from matplotlib.figure import Figure  # noqa: PLC0415  of the extra `train`
    except ModuleNotFoundError as error:
        raise MissingExtraError(
            f'--png needs {error.name}: pip install "aimass[cloud,train]"'
        ) from error
    return Figure((width_in, height_in), DOTS_PER_INCH, layout="constrained")


def png(figure: "Figure") -> bytes:
    """The bytes of a picture."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    return buffer.getvalue()
