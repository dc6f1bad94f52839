"""What a learner must not lose: its weights, its optimizer, and what it has taken and published."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec
import torch
from safetensors import SafetensorError
from safetensors.torch import load as unpacked
from safetensors.torch import save as packed

from aimass_cloud.models.files import write_whole
from aimass_cloud.models.network import Tensors
from aimass_shared.errors import StateCorruptError

STATE = "state.bin"
NEVER_TAKEN_TWICE = 10_000
_LENGTH_BYTES = 8


class Ledger(msgspec.Struct, frozen=True):
    """What happened so far.

    Attributes:
        published: ids of models, the one that it began with first.
        taken: names of the newest arrivals that are in the weights or in memory. shards: of those.
        steps: taken in all; `published_steps` of them before the last candidate.
        first_error: of the published model on the first shard after it was published, 0 if none.
        announced: how many of `published` were told to whoever listens.
    """

    published: tuple[str, ...]
    taken: tuple[str, ...] = ()
    shards: tuple[str, ...] = ()
    steps: int = 0
    published_steps: int = 0
    first_error: float = 0.0
    announced: int = 1

    def after(self, name: str, *, shard: bool) -> "Ledger":
        """The ledger with one more arrival."""
        taken = (*self.taken, name)[-NEVER_TAKEN_TWICE:]
        shards = (*self.shards, name)[-NEVER_TAKEN_TWICE:] if shard else self.shards
        return msgspec.structs.replace(self, taken=taken, shards=shards)


@dataclass(frozen=True, eq=False)
class State:
    """All of it. `moments` are the optimizer's, by number of the weight and name."""

    ledger: Ledger
    weights: Tensors
    moments: Tensors

    @classmethod
    def of(cls, ledger: Ledger, weights: Tensors, optimizer: torch.optim.Optimizer) -> "State":
        """What is there now."""
        moments = {
            f"{number}/{name}": torch.as_tensor(value)
            for number, entry in optimizer.state_dict()["state"].items()
            for name, value in entry.items()
        }
        return cls(ledger, weights, moments)

    def restore(self, optimizer: torch.optim.Optimizer, names: Sequence[str]) -> None:
        """Give an optimizer of these weights its state back."""
        state: dict[int, Tensors] = {number: {} for number in range(len(names))}
        for key, value in self.moments.items():
            number, _, name = key.partition("/")
            state[int(number)][name] = value
        whole = optimizer.state_dict()
        whole["state"] = {number: entry for number, entry in state.items() if entry}
        optimizer.load_state_dict(whole)


def save(directory: Path, state: State) -> None:
    """Write the state in one file, whole.

    Raises:
        StorageError: the disk refuses; the state before is as it was.
    """
    directory.mkdir(parents=True, exist_ok=True)
    ledger = msgspec.json.encode(state.ledger)
    tensors = {f"weight/{name}": tensor for name, tensor in state.weights.items()}
    tensors |= {f"moment/{name}": tensor for name, tensor in state.moments.items()}
    head = len(ledger).to_bytes(_LENGTH_BYTES, "little")
    write_whole(directory / STATE, head + ledger + packed(tensors))


def load(directory: Path) -> State | None:
    """The state in a directory, if there is one.

    Raises:
        StateCorruptError: it is damaged.
    """
    try:
        content = (directory / STATE).read_bytes()
    except FileNotFoundError:
        return None
    end = _LENGTH_BYTES + int.from_bytes(content[:_LENGTH_BYTES], "little")
    try:
        ledger = msgspec.json.decode(content[_LENGTH_BYTES:end], type=Ledger)
        tensors = unpacked(content[end:])
    except (msgspec.DecodeError, SafetensorError) as error:
        raise StateCorruptError(f"{directory / STATE} does not decode: {error}") from error
    return State(ledger, _named(tensors, "weight/"), _named(tensors, "moment/"))


def _named(tensors: Tensors, prefix: str) -> Tensors:
    return {
        name.removeprefix(prefix): tensor
        for name, tensor in tensors.items()
        if name.startswith(prefix)
    }
