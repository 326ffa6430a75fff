"""Random crops, as a pure function of the number of the batch: any process can make any batch again."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache
from typing import Protocol, Required, TypedDict, Unpack

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, get_worker_info

from rgsud_core.errors import RgsudError
from rgsud_core.images import Image
from trainer.batch import Batch, Crop
from trainer.data.folders import ImageFolder
from trainer.data.pairing import PairedFolder


class Cut(TypedDict, total=False):
    """How crops are cut and shared out; see :class:`UnpairedBatches`."""

    crop: Required[int]
    batch: Required[int]
    seed: Required[int]
    rank: int
    world: int
    cache_bytes: int


class Source(Protocol):
    """Rain that batches bring along."""

    name: str

    def draw(self, number: int, crops: Sequence[Crop]) -> tuple[Tensor, Tensor]:
        """Rain for batch `number`, uint8 N,1,c,c, and which crops it is for, bool N."""


CACHE_BYTES = 2 << 30
_ORDER, _BOX = 0, 1


@lru_cache(maxsize=8)
def _epoch_order(count: int, seed: int, domain: int, epoch: int) -> NDArray[np.int64]:
    return np.random.default_rng((seed, domain, _ORDER, epoch)).permutation(count)


class _CropStream:
    """An endless stream of crops over images, or over tuples of aligned images.

    Sample g of the stream is image g % n of the order of epoch g // n; batch `number` of rank r takes the
    samples from (number * world + r) * batch on. Nothing is drawn from a generator with a past.
    """

    def __init__(
        self,
        ids: Sequence[str],
        load: Callable[[int], Image | tuple[Image, ...]],
        *,
        domain: int,
        crop: int,
        batch: int,
        seed: int,
        rank: int = 0,
        world: int = 1,
        cache_bytes: int = CACHE_BYTES,
    ) -> None:
        self.ids, self.load, self.domain = ids, load, domain
        self.crop, self.batch, self.seed, self.rank, self.world = crop, batch, seed, rank, world
        self.cache: dict[int, tuple[Image, ...]] = {}
        self.cache_bytes, self.cached = cache_bytes, 0

    def _images(self, index: int) -> tuple[Image, ...]:
        if index not in self.cache:
            loaded = self.load(index)
            images = loaded if isinstance(loaded, tuple) else (loaded,)
            size = sum(image.nbytes for image in images)
            worker = get_worker_info()
            # Every image is wanted equally often, so throwing one out for another gains nothing.
            if self.cached + size > self.cache_bytes // (worker.num_workers if worker else 1):
                return images
            self.cached += size
            self.cache[index] = images
        return self.cache[index]

    def _sample(self, number: int) -> tuple[Crop, list[Image]]:
        epoch, position = divmod(number, len(self.ids))
        index = int(_epoch_order(len(self.ids), self.seed, self.domain, epoch)[position])
        images = self._images(index)
        height, width = images[0].shape[:2]
        rng = np.random.default_rng((self.seed, self.domain, _BOX, number))
        crop = Crop(
            id=self.ids[index],
            top=int(rng.integers(max(height - self.crop, 0) + 1)),
            left=int(rng.integers(max(width - self.crop, 0) + 1)),
            size=self.crop,
            flip=bool(rng.integers(2)),
        )
        return crop, [crop.cut(image) for image in images]

    def draw(self, number: int) -> tuple[list[Crop], list[Tensor]]:
        """Batch `number`: its crops, and uint8 N,3,c,c for each aligned image."""
        first = (number * self.world + self.rank) * self.batch
        samples = [self._sample(first + i) for i in range(self.batch)]
        stacks = [
            np.stack(cuts).transpose(0, 3, 1, 2) for cuts in zip(*(cuts for _, cuts in samples), strict=True)
        ]
        return [crop for crop, _ in samples], [
            torch.from_numpy(np.ascontiguousarray(stack)) for stack in stacks
        ]


class _Batches(Dataset[Batch]):
    """Batches by their number."""

    def batch(self, number: int) -> Batch:
        """Batch `number`, counted from 0: the same in every process and in any order of calls."""
        raise NotImplementedError

    def __getitem__(self, number: int) -> Batch:
        return self.batch(number)

    def loader(self, start: int = 0, workers: int = 0) -> Iterator[Batch]:
        """Batches start, start + 1, ... without end; made ahead by `workers` processes, or here for 0.

        Each worker keeps a cache of its own, so together they keep `cache_bytes` as well.
        """
        loader = DataLoader(
            self,
            batch_size=None,
            sampler=itertools.count(start),
            num_workers=workers,
            prefetch_factor=4 if workers else None,
            # Of its own: the loader draws a seed, and a run's random state must not tell where it resumed.
            generator=torch.Generator(),
        )
        try:
            yield from loader
        except RgsudError as error:
            # A worker's error comes with its traceback; the sentence is what follows the name.
            kind = type(error)
            name = f"{kind.__module__}.{kind.__qualname__}: "
            raise kind(str(error).rsplit(name, 1)[-1].rstrip()) from None


class UnpairedBatches(_Batches):
    """Batches of two unpaired domains, each in its own order, cut into random squares and mirrored by chance.

    `crop` in pixels; `batch` is the number of crops of each domain a rank takes; within an epoch of a domain
    the `world` ranks share its images out without overlap. Decoded images are kept in memory up to
    `cache_bytes`, half of it for either domain. Each batch comes with the rain of the `sources`.
    """

    def __init__(
        self, rainy: ImageFolder, clean: ImageFolder, *, sources: Sequence[Source] = (), **cut: Unpack[Cut]
    ) -> None:
        self.sources = sources
        cut["cache_bytes"] = cut.get("cache_bytes", CACHE_BYTES) // 2
        self.rainy, self.clean = (
            _CropStream(folder.ids, folder.load, domain=domain, **cut)
            for domain, folder in enumerate((rainy, clean))
        )

    def batch(self, number: int) -> Batch:
        crops, (rainy,) = self.rainy.draw(number)
        _, (clean,) = self.clean.draw(number)
        batch = Batch(rainy, clean, crops)
        for source in self.sources:
            drawn = source.draw(number * self.clean.world + self.clean.rank, crops)
            batch.rain[source.name], batch.has[source.name] = drawn
        return batch


class PairedBatches(_Batches):
    """The supervised counterpart of UnpairedBatches: rainy images and their truth under the same crops."""

    def __init__(self, pairs: PairedFolder, **cut: Unpack[Cut]) -> None:
        self.pairs = _CropStream(pairs.ids, pairs.load, domain=0, **cut)

    def batch(self, number: int) -> Batch:
        crops, (rainy, clean) = self.pairs.draw(number)
        return Batch(rainy, clean, crops)
