"""What an object has become since it was built, as plain data: so a trial can be saved and continued in another process."""

from __future__ import annotations

from typing import Any

_KIND, _STATE = "kind of state", "state"  # keys that mark what is not plain data
_OBJECT, _GENERATOR, _OTHER = "object", "generator", "other"


class Stateful:
    """An object whose attributes are its state, unless it says otherwise.

    Kept of the attributes: tensors, bool, int, float, str, None, `torch.Generator`, everything that has `state_dict` and
    `load_state_dict` itself (`nn.Module`), and lists, tuples and dictionaries of these. Anything else (functions, NumPy arrays, sets,
    objects of classes of one's own) is left as a newly built object has it. A class for which that is wrong overrides both methods.
    """

    def state_dict(self) -> dict[str, Any]:
        """Plain data and tensors; the tensors are the live ones."""
        return saved(vars(self))

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Become what `state` was taken of; for an object built with the same options.

        Tensors of equal shape and type are written to in place, so that a parameter stays the one that the optimizer knows.
        """
        restored(vars(self), state)


def saved(value: Any) -> Any:
    """The value as plain data and tensors."""
    import torch

    if value is None or type(value) in (bool, int, float, str):
        return value
    if isinstance(value, torch.Tensor):
        value = value.detach()
        return value.clone() if value.untyped_storage().nbytes() > value.nbytes else value  # a file holds storages as a whole
    if isinstance(value, torch.Generator):
        return {_KIND: _GENERATOR, _STATE: value.get_state()}
    if _has_state(value):
        return {_KIND: _OBJECT, _STATE: value.state_dict()}
    if type(value) in (list, tuple):
        return type(value)(saved(item) for item in value)
    if isinstance(value, dict) and all(type(key) in (bool, int, float, str) for key in value):
        return {key: saved(item) for key, item in value.items()}
    return {_KIND: _OTHER}


def restored(current: Any, state: Any) -> Any:
    """What `saved` was given, made of its outcome `state` and of what a newly built object has in its place.

    Raises:
        TypeError: an object or a generator is not there yet, so nobody knows how to build it.
    """
    import torch

    if isinstance(state, dict) and _KIND in state:
        if state[_KIND] == _GENERATOR and isinstance(current, torch.Generator):
            current.set_state(state[_STATE])
        elif state[_KIND] == _OBJECT and _has_state(current):
            current.load_state_dict(state[_STATE])
        elif state[_KIND] != _OTHER:
            raise TypeError(f"a newly built {type(current).__name__} stands where a checkpoint has the state of a {state[_KIND]}")
        return current
    if isinstance(state, torch.Tensor) and isinstance(current, torch.Tensor):
        if (state.shape, state.dtype) == (current.shape, current.dtype):
            with torch.no_grad():
                return current.copy_(state)
        return state
    if isinstance(state, list | tuple) and type(current) is type(state) and len(current) == len(state):
        return type(state)(restored(mine, item) for mine, item in zip(current, state, strict=True))
    if isinstance(state, dict) and isinstance(current, dict):
        for key in current.keys() - state.keys():
            del current[key]
        current.update({key: restored(current.get(key), item) for key, item in state.items()})
        return current
    return state


def _has_state(value: object) -> bool:
    return not isinstance(value, type) and hasattr(value, "state_dict") and hasattr(value, "load_state_dict")
