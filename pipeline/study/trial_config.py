"""The scientific configuration of one trial: every field that may change a number, and nothing else.

Standard library only, so that a machine with just torch can run a trial. `study.config` validates dictionaries against
these classes with pydantic; a field that is added here with a default changes the identity of every trial, on purpose.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

Component = dict[str, Any]  # {"name": ..., option: value, ...}: a dataset, backbone or regularizer with its options


def _check(condition: bool, message: str) -> None:
    if not condition:
        raise ValueError(message)


@dataclass(frozen=True, kw_only=True)
class Optimizer:
    """How the weights are updated."""

    __pydantic_config__: ClassVar[dict[str, Any]] = {"extra": "forbid", "strict": True, "allow_inf_nan": False}

    name: Literal["sgd", "adamw"] = "sgd"
    lr: float = 0.1
    "Peak learning rate."
    weight_decay: float = 5e-4
    "L2 penalty (sgd) or decoupled decay (adamw)."
    momentum: float = 0.9
    "Momentum of sgd; unused by adamw."
    nesterov: bool = True
    "Nesterov momentum of sgd; unused by adamw."
    beta1: float = 0.9
    "First-moment decay of adamw; unused by sgd."
    beta2: float = 0.999
    "Second-moment decay of adamw; unused by sgd."

    def __post_init__(self) -> None:
        _check(self.lr > 0, f"lr must be > 0, got {self.lr}")
        _check(self.weight_decay >= 0, f"weight_decay must be >= 0, got {self.weight_decay}")
        for name in ("momentum", "beta1", "beta2"):
            _check(0 <= getattr(self, name) < 1, f"{name} must be in [0, 1), got {getattr(self, name)}")
        _check(self.momentum > 0 or not self.nesterov or self.name != "sgd", "nesterov needs momentum > 0; set nesterov: false")


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """Learning rate over the trial, as a factor of the peak."""

    __pydantic_config__: ClassVar[dict[str, Any]] = {"extra": "forbid", "strict": True, "allow_inf_nan": False}

    name: Literal["cosine", "multistep", "constant"] = "cosine"
    warmup_epochs: float = 0.0
    "Linear warm-up from 0, in epochs; may be a fraction of one."
    milestones: list[float] = field(default_factory=lambda: [0.5, 0.75])
    "multistep: where the rate drops, as shares of all epochs, e.g. 0.5 is half-way."
    gamma: float = 0.1
    "multistep: factor at each milestone."

    def __post_init__(self) -> None:
        _check(self.warmup_epochs >= 0, f"warmup_epochs must be >= 0, got {self.warmup_epochs}")
        _check(
            all(0 < m < 1 for m in self.milestones) and sorted(self.milestones) == self.milestones,
            f"milestones must rise within (0, 1): they are shares of all epochs, got {self.milestones}",
        )
        _check(0 < self.gamma <= 1, f"gamma must be in (0, 1], got {self.gamma}")


@dataclass(frozen=True, kw_only=True)
class Augment:
    """Standard augmentation, batched on the device."""

    __pydantic_config__: ClassVar[dict[str, Any]] = {"extra": "forbid", "strict": True, "allow_inf_nan": False}

    crop_padding: int = 0
    "Zero padding in pixels before a random crop of the original size; 0 switches it off."
    flip: bool = False
    "Horizontal flip with probability 1/2."

    def __post_init__(self) -> None:
        _check(self.crop_padding >= 0, f"crop_padding must be >= 0, got {self.crop_padding}")


@dataclass(frozen=True, kw_only=True)
class TrialConfig:
    """Everything that may change a number of one trial."""

    __pydantic_config__: ClassVar[dict[str, Any]] = {"extra": "forbid", "strict": True, "allow_inf_nan": False}

    task: Literal["classification"] = "classification"
    dataset: Component
    backbone: Component
    loss: dict[str, dict[str, Any]] = field(default_factory=lambda: {"ce": {}})
    "Terms of the training loss by name; each has a `weight`, a `start_epoch` and its own options."
    regularizers: list[Component] = field(default_factory=list)
    epochs: int = 200
    batch_size: int = 128
    optimizer: Optimizer = field(default_factory=Optimizer)
    schedule: Schedule = field(default_factory=Schedule)
    augment: Augment = field(default_factory=Augment)
    grad_clip: float | None = None
    "Largest global gradient norm; null switches clipping off."
    ema: float | None = None
    "Decay of an exponential moving average of the weights, which is then what is evaluated; null switches it off."
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    "auto: bfloat16 autocast on CUDA, float32 on CPU."
    evaluate_test: Literal["each_epoch", "selected"] = "each_epoch"
    "each_epoch also records best_test; selected reads the test split only for the last and the best validation epoch."

    def __post_init__(self) -> None:
        _check(self.epochs >= 1, f"epochs must be >= 1, got {self.epochs}")
        _check(self.batch_size >= 2, f"batch_size must be >= 2 (batch norm needs two images), got {self.batch_size}")
        _check(self.grad_clip is None or self.grad_clip > 0, f"grad_clip must be > 0 or null, got {self.grad_clip}")
        _check(self.ema is None or 0 < self.ema < 1, f"ema must be in (0, 1) or null, got {self.ema}")
        _check(
            self.schedule.warmup_epochs <= self.epochs,
            f"schedule.warmup_epochs ({self.schedule.warmup_epochs}) must not exceed epochs ({self.epochs})",
        )

    def to_dict(self) -> dict[str, Any]:
        """Nested plain dictionary with every default filled in."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, config: dict[str, Any]) -> TrialConfig:
        """The inverse of `to_dict`."""
        parts = {"optimizer": Optimizer, "schedule": Schedule, "augment": Augment}
        return cls(**{key: parts[key](**value) if key in parts else value for key, value in config.items()})
