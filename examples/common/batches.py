"""The order of the samples and the seed of the dropout, of every epoch on its own.

Both frameworks take the same batches, and an epoch that is done again after a kill is the same.
"""

import numpy as np

from parity.common.arrays import Array


def batches(count: int, batch_size: int, seed: int, epoch: int) -> list[Array]:
    """The indices of every batch of an epoch, counted from 0; each sample comes once.

    The last batch may be smaller.

    >>> [batch.tolist() for batch in batches(5, 2, seed=0, epoch=0)]
    [[2, 4], [3, 0], [1]]
    """
    order = np.random.default_rng((seed, epoch)).permutation(count)
    return in_batches(order, batch_size)


def in_batches(indices: Array, batch_size: int) -> list[Array]:
    """Indices in their order, cut into batches."""
    return np.split(indices, range(batch_size, len(indices), batch_size))


def dropout_seed(seed: int, epoch: int) -> int:
    """What the framework's own generator starts an epoch from; the masks differ by framework."""
    return int(np.random.default_rng((seed, epoch, 1)).integers(2**31))


def as_input(images: Array) -> Array:
    """What a network gets: float32 in [0, 1]. Divided here, since a GPU may round a division."""
    return images.astype(np.float32) / np.float32(255)
