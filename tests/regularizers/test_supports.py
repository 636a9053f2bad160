"""Which regularizers fit together."""

from __future__ import annotations

import itertools

import pytest

from pipeline import regularizers
from pipeline.errors import UnknownNameError

MIXING = {"mixup", "cutmix", "manifold_mixup"}


@pytest.mark.parametrize("pair", list(itertools.combinations(regularizers.names(), 2)), ids="-".join)
def test_pairs(pair: tuple[str, str]) -> None:
    """Any two fit unless both mix labels; then the reason names both."""
    fits, reason = regularizers.supports([{"name": name} for name in pair])
    assert fits is not (set(pair) <= MIXING)
    assert fits == (reason == "")
    assert fits or all(name in reason for name in pair)


def test_none_and_one() -> None:
    """No regularizer and each single one fit."""
    assert regularizers.supports([]) == (True, "")
    for name in regularizers.names():
        assert regularizers.supports([{"name": name}]) == (True, "")


def test_an_unknown_regularizer_is_named() -> None:
    """A regularizer that nobody registered is an error with the nearest name."""
    with pytest.raises(UnknownNameError, match=r"Unknown regularizer 'cutmx'\. Did you mean 'cutmix'\?"):
        regularizers.supports([{"name": "cutmx"}])
    with pytest.raises(UnknownNameError, match="Unknown regularizer 'mix_up'"):
        regularizers.create("mix_up")
