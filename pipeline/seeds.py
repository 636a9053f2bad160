"""Derived seeds: one independent stream for each purpose, paired across arms by construction.

A seed is a hash of named axes (purpose, dataset, seed index). The arm is not an axis, so all arms of a comparison share the
initial weights, the data order and the augmentation stream wherever that is possible, and differences between them are paired.
"""

from __future__ import annotations

import hashlib

PURPOSES = ("split", "init", "order", "augment", "regularizer", "episode")


def derive(purpose: str, *axes: object) -> int:
    """Seed in [0, 2**63) of the stream `purpose` at these axes.

    Args:
        purpose: one of `PURPOSES`.
        axes: what the stream depends on, e.g. the digest of the dataset and the seed index, or the name of a regularizer.

    Raises:
        ValueError: the purpose is unknown.
    """
    if purpose not in PURPOSES:
        raise ValueError(f"unknown purpose {purpose!r} of a seed; known: {', '.join(PURPOSES)}")
    text = "\x1f".join([purpose, *map(str, axes)])
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1
