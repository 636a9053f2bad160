"""What is kept of an object by itself, and that it comes back through bytes."""

from __future__ import annotations

import functools
import io
from collections import deque
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from pipeline.stateful import Stateful


class Gatherer(Stateful):
    """Holds a value of each kind that is kept, and some that are not."""

    def __init__(self, option: float = 0.5) -> None:
        self.option = option
        self.steps, self.name, self.nothing, self.flag = 0, "a", None, False
        self.parameter = nn.Parameter(torch.zeros(3))
        self.parameters_in_a_list = [nn.Parameter(torch.zeros(2)), nn.Parameter(torch.zeros(1))]
        self.late: Tensor | None = None
        self.head = nn.Linear(2, 2)
        self.rng = torch.Generator()
        self.rows: list[dict[str, Any]] = []
        self.by_class: dict[int, tuple[Tensor, float]] = {}
        self.function = functools.partial(max, 1)
        self.recent: deque[float] = deque()
        self.kind = nn.Linear


@torch.no_grad()
def gather(thing: Gatherer) -> None:
    """Change everything, in place and anew."""
    thing.steps, thing.name, thing.nothing, thing.flag = 7, "b", 1.25, True  # type: ignore[assignment]
    thing.parameter += 1
    thing.parameters_in_a_list[1] += 2
    thing.late = torch.arange(4.0)
    thing.head.weight.fill_(3)
    torch.rand(5, generator=thing.rng)
    thing.rows.append({"epoch": 1, "value": 0.1, "tensor": torch.ones(2)})
    thing.by_class[3] = (torch.ones(1), 2.0)
    thing.recent.append(1.0)


def through_bytes(state: dict[str, Any]) -> dict[str, Any]:
    file = io.BytesIO()
    torch.save(state, file)
    return torch.load(io.BytesIO(file.getvalue()), weights_only=True)


def test_everything_that_is_kept_comes_back() -> None:
    """Numbers, text, tensors, modules, generators and containers of them come back; parameters stay the same objects."""
    old, new = Gatherer(), Gatherer()
    gather(old)
    parameter, in_list, weight = new.parameter, new.parameters_in_a_list[1], new.head.weight
    new.load_state_dict(through_bytes(old.state_dict()))
    assert (new.option, new.steps, new.name, new.nothing, new.flag) == (0.5, 7, "b", 1.25, True)
    assert new.parameter is parameter
    assert new.parameters_in_a_list[1] is in_list
    assert new.head.weight is weight
    assert parameter.tolist() == [1, 1, 1]
    assert in_list.tolist() == [2]
    assert weight.tolist() == [[3, 3], [3, 3]]
    assert new.late is not None
    assert new.late.tolist() == [0, 1, 2, 3]
    assert torch.equal(torch.rand(3, generator=new.rng), torch.rand(3, generator=old.rng))
    assert new.rows[0]["epoch"] == 1
    assert new.rows[0]["tensor"].tolist() == [1, 1]
    assert new.by_class[3][1] == 2.0


def test_the_rest_is_as_newly_built() -> None:
    """What is not kept stays what the new object has."""
    old, new = Gatherer(), Gatherer()
    gather(old)
    function = new.function
    new.load_state_dict(through_bytes(old.state_dict()))
    assert new.function is function
    assert not new.recent
    assert new.kind is nn.Linear


def test_what_was_dropped_is_dropped() -> None:
    """A key or an attribute that the saved object no longer had is gone from the new one, too."""
    old, new = Gatherer(), Gatherer()
    new.by_class[9] = (torch.zeros(1), 0.0)
    del old.name
    new.load_state_dict(through_bytes(old.state_dict()))
    assert new.by_class == {}
    assert not hasattr(new, "name")


def test_frozen_classes_and_nesting() -> None:
    """An object inside a list inside a frozen dataclass is written to, and stays the same object."""

    @dataclass(frozen=True)
    class Frozen(Stateful):
        parts: list[Any]
        size: int = 3

    old, new = Frozen([Gatherer(), 1]), Frozen([Gatherer(), 1])
    gather(old.parts[0])
    inner = new.parts[0]
    new.load_state_dict(through_bytes(old.state_dict()))
    assert new.parts[0] is inner
    assert inner.steps == 7


@pytest.mark.parametrize("made", [torch.Generator(), nn.Linear(1, 1)], ids=["generator", "object"])
def test_what_is_made_late_is_refused(made: object) -> None:
    """A generator or module that a new object does not have yet cannot be filled, and is not mistaken for data."""
    old, new = Gatherer(), Gatherer()
    old.late = made  # type: ignore[assignment]
    state = through_bytes(old.state_dict())
    with pytest.raises(TypeError, match="a newly built NoneType stands where a checkpoint has the state of a"):
        new.load_state_dict(state)


def test_a_view_does_not_carry_its_whole_storage() -> None:
    """A small part of a large tensor is saved as a small one, and no graph with it."""
    thing = Gatherer()
    thing.late = (torch.zeros(1000, requires_grad=True) * 2)[:3]
    state = thing.state_dict()["late"]
    assert state.untyped_storage().nbytes() == 12
    assert not state.requires_grad
