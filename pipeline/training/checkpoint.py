"""A running trial as bytes, and back.

What each part of a trial keeps is said by the part (`state_dict`). Here it only becomes bytes, which changes no number, so this code
is no part of a trial's identity (`study.code_key.PLUMBING`).
"""

from __future__ import annotations

import hashlib
import io
import json
import pickle
from typing import Any, Protocol

import torch

from pipeline.stateful import restored, saved

FORMAT = 1


class Checkpoints(Protocol):
    """Where the checkpoints of one trial lie, and how often they are made."""

    def due(self) -> bool:
        """Whether to save now; asked after each optimisation step, so it must be cheap."""

    def save(self, payload: bytes) -> None:
        """Keep this checkpoint."""

    def load(self) -> bytes | None:
        """The newest whole one, if any."""


class UnusableError(Exception):
    """A checkpoint from which this trial cannot go on; it starts anew and its record says why."""


class Snapshots:
    """All parts of one trial in its checkpoints.

    Args:
        checkpoints: where they lie.
        trial_id: a checkpoint of another trial is refused, and so is one of another version of torch or kind of device, whose
            numbers would be other ones.
        device: where the trial runs; its global generator is a part.

    Attributes:
        refused: why a checkpoint was not used, '' while none was refused; with a reason, none is looked at any more.
    """

    def __init__(self, checkpoints: Checkpoints, trial_id: str, device: torch.device) -> None:
        self.refused = ""
        self._checkpoints, self._device, self._parts = checkpoints, device, dict[str, Any]()
        self._label = {"format": FORMAT, "trial_id": trial_id, "torch": str(torch.__version__), "device": device.type}

    def keep(self, **parts: Any) -> None:
        """Take these in: objects with a state, generators, or lists of them (see `pipeline.stateful`)."""
        self._parts |= parts

    def due(self) -> bool:
        """Whether to save now."""
        return self._checkpoints.due()

    def save(self) -> None:
        """Save all parts as they are."""
        random = {"cpu": torch.get_rng_state()}
        if self._device.type == "cuda":
            random["cuda"] = torch.cuda.get_rng_state(self._device)
        self._checkpoints.save(pack(self._label, {"parts": saved(self._parts), "random": random}))

    def restore(self) -> bool:
        """Bring all parts to where the newest checkpoint has them; False without one.

        Raises:
            UnusableError: it does not fit; the parts are then good for nothing.
        """
        payload = None if self.refused else self._checkpoints.load()
        if payload is None:
            return False
        state = unpack(payload, self._label, self._device)
        try:
            restored(self._parts, state["parts"])
            torch.set_rng_state(state["random"]["cpu"])
            if self._device.type == "cuda":
                torch.cuda.set_rng_state(state["random"]["cuda"], self._device)
        except (AttributeError, KeyError, RuntimeError, TypeError, ValueError) as error:
            raise UnusableError(f"it does not fit the trial ({_first_line(error)})") from error
        return True


def pack(label: dict[str, Any], state: dict[str, Any]) -> bytes:
    """A line of JSON, the label and the sha256 of what follows, and `torch.save` of the state."""
    body = io.BytesIO()
    torch.save(state, body)
    line = json.dumps({**label, "sha256": hashlib.sha256(body.getbuffer()).hexdigest()})
    return b"".join((line.encode(), b"\n", body.getbuffer()))


def unpack(payload: bytes, label: dict[str, Any], device: torch.device) -> dict[str, Any]:
    """The state of a payload with this label; what lay on a GPU lies on `device`.

    Raises:
        UnusableError: it is damaged or has another label.
    """
    line, _, body = payload.partition(b"\n")
    try:
        found = json.loads(line)
    except ValueError:
        found = None
    if not isinstance(found, dict):
        raise UnusableError("it is damaged: it does not begin with a label")
    for key, wanted in label.items():
        if found.get(key) != wanted:
            raise UnusableError(f"its {key} is {found.get(key)!r}, and here it is {wanted!r}")
    if found.get("sha256") != hashlib.sha256(body).hexdigest():
        raise UnusableError("it is damaged: its sha256 is another one")
    try:
        return torch.load(
            io.BytesIO(body),
            weights_only=True,
            map_location=lambda storage, location: storage.cuda(device.index) if location.startswith("cuda") else storage,
        )
    except (EOFError, RuntimeError, pickle.UnpicklingError) as error:
        raise UnusableError(f"it cannot be read ({_first_line(error)})") from error


def _first_line(error: Exception) -> str:
    return f"{type(error).__name__}: {error}".splitlines()[0]
