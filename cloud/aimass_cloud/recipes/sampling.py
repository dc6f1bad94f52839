"""Training batches from samples in memory, drawn so that a run can be taken up at any step."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch

from aimass_cloud.models.network import Batch, Tensors

Transform = Callable[[Batch, np.random.Generator], Batch]


@dataclass(frozen=True, eq=False)
class Drawn:
    """Batches drawn with replacement; number k depends on the seed and k alone.

    Attributes:
        tensors: samples by name, with one leading axis.
        batch: samples of one step over all processes; `rank` of `world` gets every `world`-th.
        transform: changes a batch at random (augmentation), from the generator that it is given.
    """

    tensors: Tensors
    seed: int
    batch: int
    rank: int = 0
    world: int = 1
    transform: Transform | None = None

    def batches(self, start: int) -> Iterator[Batch]:
        """Batches from number `start` on, without end."""
        count = len(next(iter(self.tensors.values())))
        number = start
        while True:
            random = np.random.default_rng((self.seed, number))
            chosen = torch.from_numpy(random.integers(count, size=self.batch))
            mine = chosen[self.rank :: self.world]
            batch: Batch = {name: tensor[mine] for name, tensor in self.tensors.items()}
            if self.transform is not None:
                random = np.random.default_rng((self.seed, number, self.rank + 1))
                batch = self.transform(batch, random)
            yield batch
            number += 1
