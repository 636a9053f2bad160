"""Stages of a backbone by number. Registers no name: methods of this folder share it."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from pipeline.errors import IncompatibleError


def check_stages(stages: Sequence[int]) -> tuple[int, ...]:
    """The numbers themselves.

    Raises:
        ValueError: there are none, or one comes twice.
    """
    if not stages or len(set(stages)) < len(stages):
        raise ValueError(f"stages must be different numbers, at least one, got {list(stages)}")
    return tuple(stages)


def chosen_points(model: nn.Module, stages: Sequence[int]) -> list[nn.Identity]:
    """The ends of these stages, counted from 0, or from the end with -1 the last, in the order given.

    Raises:
        IncompatibleError: the backbone has too few stages, two numbers mean the same one, or it cannot be cut into stages.
    """
    points = model.stage_points()
    count = len(points)
    missing = [stage for stage in stages if not -count <= stage < count]
    if missing:
        raise IncompatibleError(f"this network has {count} stages, so there is no stage {missing[0]}")
    if len({stage % count for stage in stages}) < len(stages):
        raise IncompatibleError(f"this network has {count} stages, of which {list(stages)} names one twice")
    return [points[stage] for stage in stages]
