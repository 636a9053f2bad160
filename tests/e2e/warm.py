"""Imported once by the server that processes are forked from: everything an `ablate` that trains nothing imports and reads."""

from __future__ import annotations

import pandas  # noqa: F401 - pyarrow imports it on the first table that it turns into Python objects

import pipeline.cli
import pipeline.orchestration.explain
import pipeline.orchestration.run  # noqa: F401
from pipeline.orchestration.methods import KINDS
from pipeline.study.code_key import code_key

code_key({registry.get(name).module for registry, names in KINDS.values() for name in names()})
