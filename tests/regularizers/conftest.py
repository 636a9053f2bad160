"""A batch in which every image and label tells which image it is."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from pipeline.batch import Batch, Target


@pytest.fixture(scope="session")
def make_batch() -> Callable[..., Batch]:
    """Factory of a batch of `batch` images, each filled with its own index plus one, labelled by its index."""

    def make(batch: int = 6, channels: int = 2, height: int = 10, width: int = 7) -> Batch:
        index_B = torch.arange(batch)
        return Batch((index_B + 1.0)[:, None, None, None].expand(batch, channels, height, width).clone(), Target(index_B))

    return make
