"""The order of the samples and the seed of the dropout in each epoch.

Both frameworks take the same batches, and an epoch that is repeated after a kill is the same.
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
    """Indices, in this order, in batches."""
    return np.split(indices, range(batch_size, len(indices), batch_size))


def dropout_seed(seed: int, epoch: int) -> int:
    """The seed of the framework's generator for an epoch; the dropout masks differ by framework."""
    return int(np.random.default_rng((seed, epoch, 1)).integers(2**31))


def as_input(images: Array) -> Array:
    """The input of a network: float32 in [0, 1]. Divided here, since a GPU may round a division."""
    return images.astype(np.float32) / np.float32(255)
