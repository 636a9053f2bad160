"""Identity of a trial: a hash of its content, never of names, paths, hosts or worker counts."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from typing import Any

from pipeline.study.spec import TrialSpec

IDENTITY_VERSION = 1
ID_LENGTH = 16  # hex digits: 64 bits, so 10 million trials collide with probability 3e-6


def canonical_json(value: Any) -> str:
    """The one JSON text of a value: sorted keys, no spaces, no NaN."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False, ensure_ascii=False)


def digest(value: Any) -> str:
    """sha256 of the canonical JSON, shortened to `ID_LENGTH` hex digits."""
    return hashlib.sha256(canonical_json(value).encode()).hexdigest()[:ID_LENGTH]


def identity_parts(config: dict[str, Any], data_digest: str, code_key: str, upstream: Sequence[str] = ()) -> dict[str, Any]:
    """What a cell's identity is made of. The dataset counts by its content, not by its name or options."""
    return {
        "version": IDENTITY_VERSION,
        "config": {key: value for key, value in config.items() if key != "dataset"},
        "data": data_digest,
        "code": code_key,
        "upstream": list(upstream),
    }


def make_spec(
    config: dict[str, Any], seed: int, data_digest: str, code_key: str, upstream: Sequence[str] = (), *, plugins: Sequence[str] = ()
) -> TrialSpec:
    """A trial with its identity: `trial_id` = hash(cell identity, seed index)."""
    return make_specs(config, [seed], data_digest, code_key, upstream, plugins=plugins)[0]


def make_specs(
    config: dict[str, Any],
    seeds: Sequence[int],
    data_digest: str,
    code_key: str,
    upstream: Sequence[str] = (),
    *,
    plugins: Sequence[str] = (),
) -> list[TrialSpec]:
    """The trials of one cell, a seed index each; they share `config`."""
    parts = identity_parts(config, data_digest, code_key, upstream)
    cell_id = digest(parts)
    return [
        TrialSpec(
            trial_id=digest({**parts, "seed": seed}),
            cell_id=cell_id,
            config=config,
            seed=seed,
            data_digest=data_digest,
            code_key=code_key,
            upstream=tuple(upstream),
            plugins=tuple(plugins),
        )
        for seed in seeds
    ]
