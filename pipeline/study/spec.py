"""What is handed to whoever runs a trial: a resolved configuration, a seed, and the identity made of them."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

from pipeline.study.trial_config import TrialConfig


@dataclass(frozen=True)
class TrialSpec:
    """One trial, resolved: nothing is left to look up but its data.

    Attributes:
        trial_id: identity by content (see `study.identity`).
        cell_id: the same without the seed.
        config: `TrialConfig` as a plain dictionary, canonical.
        seed: repetition index.
        data_digest: digest of the prepared dataset.
        code_key: digest over the code that the trial uses.
        upstream: ids of trials whose results this one starts from, e.g. its teacher.
        plugins: modules to import before names are looked up; no part of the identity, the code in them is (`code_key`).
    """

    trial_id: str
    cell_id: str
    config: dict[str, Any]
    seed: int
    data_digest: str
    code_key: str
    upstream: tuple[str, ...] = field(default=())
    plugins: tuple[str, ...] = field(default=())

    @property
    def settings(self) -> TrialConfig:
        """`config`, typed."""
        return TrialConfig.from_dict(self.config)

    def to_dict(self) -> dict[str, Any]:
        """Plain dictionary, ready for JSON."""
        return asdict(self) | {"upstream": list(self.upstream), "plugins": list(self.plugins)}

    @classmethod
    def from_dict(cls, spec: dict[str, Any]) -> TrialSpec:
        """The inverse of `to_dict`."""
        return cls(**{**spec, "upstream": tuple(spec.get("upstream", ())), "plugins": tuple(spec.get("plugins", ()))})
