"""Training batches: which examples are in each, and each process's share of them."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any, Generic, TypeVar

import lightning.pytorch as L
from torch.utils.data import DataLoader, Dataset, Sampler

T = TypeVar("T")
# The batches of an epoch, as indices of examples. Seeded by (seed, epoch); None: the same batches every time.
Plan = Callable[[Sequence[int] | None], list[list[int]]]


class PerRankSampler(Sampler[list[int]]):
    """One process's examples of each batch of an epoch; without a seed every epoch has the same batches.

    A batch belongs to the whole run and is planned from (seed, epoch) alone, so the number of processes that share it
    does not change it. If it has fewer examples than processes, some get none, but every process takes every step.
    """

    def __init__(self, plan: Plan, seed: int | None, rank: int, world_size: int) -> None:
        self.plan, self.seed = plan, seed
        self.rank, self.world_size = rank, world_size
        self.set_epoch(0)

    def set_epoch(self, epoch: int) -> None:  # Lightning calls it
        self.batches = self.plan(None if self.seed is None else (self.seed, epoch))

    def __iter__(self) -> Iterator[list[int]]:
        # Every world_size-th example: batches are sorted by length, so each process gets similar lengths.
        yield from (batch[self.rank :: self.world_size] for batch in self.batches)

    def __len__(self) -> int:
        return len(self.batches)


class Examples(Dataset[T]):
    def __init__(self, examples: Sequence[T]) -> None:
        self.examples = examples

    def __len__(self) -> int:
        return len(self.examples)

    def __getitem__(self, index: int) -> T:
        return self.examples[index]


class ExampleData(L.LightningDataModule, Generic[T]):
    """Training and validation examples, in batches.

    Args:
        plan: the batches of an epoch of the given examples; see Plan.
        collate: makes a batch from a list of examples, which may be empty.
    """

    def __init__(
        self,
        train: Sequence[T],
        val: Sequence[T],
        *,
        plan: Callable[[Sequence[T], Sequence[int] | None], list[list[int]]],
        collate: Callable[[list[T]], Any],
        seed: int,
    ) -> None:
        super().__init__()
        self.train, self.val = train, val
        self.plan, self.collate, self.seed = plan, collate, seed

    def steps_per_epoch(self) -> int:
        return len(self.plan(self.train, (self.seed, 0)))

    def train_dataloader(self) -> DataLoader[Any]:
        return self._loader(self.train, self.seed)

    def val_dataloader(self) -> DataLoader[Any]:
        return self._loader(self.val, None)

    def _loader(self, examples: Sequence[T], seed: int | None) -> DataLoader[Any]:
        assert self.trainer is not None
        sampler = PerRankSampler(
            lambda epoch: self.plan(examples, epoch), seed, self.trainer.global_rank, self.trainer.world_size
        )
        return DataLoader(Examples(examples), batch_sampler=sampler, collate_fn=self.collate)
