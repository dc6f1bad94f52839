"""Inputs that travel with a model, and what they should give. Numpy only.

Slicing calibrates, checks and measures with them, children of a model are judged on them: nobody
needs the data again, which may be large, private or gone.
"""

import io
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from aimass_shared.errors import StateCorruptError

Arrays = dict[str, NDArray[Any]]


@dataclass(frozen=True, eq=False)
class Part:
    """Some samples.

    Attributes:
        inputs: by the name of the network's input, all with one leading axis.
        truth: what the recipe's measure needs beside the outputs.
    """

    inputs: Arrays
    truth: Arrays

    def __len__(self) -> int:
        """How many samples there are."""
        return len(next(iter(self.inputs.values())))


@dataclass(frozen=True, eq=False)
class Samples:
    """What a model carries.

    Attributes:
        calibration: held back from training; every choice is made on it.
        test: nothing is chosen on it; the figures of a report come from it.
        selftest: a few inputs that a device proves a slice with.
    """

    calibration: Part
    test: Part
    selftest: Arrays

    def packed(self) -> bytes:
        """As one compressed `.npz` file."""
        buffer = io.BytesIO()
        arrays: dict[str, Any] = {
            f"{place}/{name}": array
            for place, arrays in self._places().items()
            for name, array in arrays.items()
        }
        np.savez_compressed(buffer, **arrays)
        return buffer.getvalue()

    @classmethod
    def unpacked(cls, packed: bytes) -> "Samples":
        """Read what `packed` wrote.

        Raises:
            StateCorruptError: it is damaged.
        """
        places: dict[str, Arrays] = {name: {} for name in _PLACES}
        try:
            with np.load(io.BytesIO(packed), allow_pickle=False) as file:
                for key in file.files:
                    place, _, name = key.partition("/")
                    places[place][name] = file[key]
        except (ValueError, OSError, KeyError, EOFError) as error:
            raise StateCorruptError(f"samples of a model do not decode: {error}") from error
        held, held_truth, test, test_truth, selftest = places.values()
        return cls(Part(held, held_truth), Part(test, test_truth), selftest)

    def _places(self) -> dict[str, Arrays]:
        parts = (
            *(self.calibration.inputs, self.calibration.truth),
            *(self.test.inputs, self.test.truth),
            self.selftest,
        )
        return dict(zip(_PLACES, parts, strict=True))


_PLACES = ("calibration", "calibration-truth", "test", "test-truth", "selftest")
