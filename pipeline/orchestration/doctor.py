"""What is wrong with this environment."""

from __future__ import annotations

import platform
import shutil
import sys
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

from pipeline.errors import PipelineError, counted
from pipeline.store.trial_store import TrialStore
from pipeline.study.config import load_study
from pipeline.study.params import load_params
from pipeline.study.plugins import FOLDER
from pipeline.study.project import absolute_url

NEEDED = ("torch", "torchvision", "torchdistill", "pyarrow", "pydantic", "scikit-learn", "safetensors")
FOR_STUDIES = ("ray", "mlflow", "dvc", "matplotlib", "scipy", "typer", "rich")
LOW_DISK_GIB = 2


def examine(study: str | None) -> Iterator[tuple[bool, str]]:
    """Findings as (is it fine, one line that says what and, where not, what to do)."""
    yield (
        sys.version_info >= (3, 11),
        f"Python {platform.python_version()}" + ("" if sys.version_info >= (3, 11) else ": 3.11 or newer is needed"),
    )
    for name in (*NEEDED, *FOR_STUDIES):
        try:
            yield True, f"{name} {metadata.version(name)}"
        except metadata.PackageNotFoundError:
            extra = "[study]" if name in FOR_STUDIES else ""
            yield False, f"{name} is not installed: pip install 'cam-ablate{extra}', or `make study`, which installs all"
    yield from _torch()
    free = shutil.disk_usage(Path.cwd()).free / 2**30
    yield (
        free >= LOW_DISK_GIB,
        f"{free:.1f} GiB free here" + ("" if free >= LOW_DISK_GIB else f"; less than {LOW_DISK_GIB} GiB may stop a study"),
    )
    try:
        params = load_params()
        yield True, "params.yaml"
        file = load_study(study or params.study)
        yield True, f"study {file.study.study}: {counted(len(file.study.tables), 'table')}"
        for name in file.study.plugins:
            path = sys.modules[name].__file__ or "a folder without __init__.py"
            inside = Path(path).is_relative_to(FOLDER.absolute())
            yield True, f"plugin {name}: {path}" + ("" if inside else f"; not in {FOLDER}/, so `dvc repro` does not notice its edits")
    except PipelineError as error:
        yield False, str(error)
        return
    try:
        store = TrialStore(absolute_url(params.store.url))
        store.check_writable()
        yield True, f"store {params.store.url}: {counted(len(store.records()), 'trial')}, writable"
    except PipelineError as error:
        yield False, str(error)
    try:
        from pipeline.orchestration.planning import make_plan

        plan = make_plan(file, params)
        yield (
            True,
            f"plan: {counted(len(plan.trials), 'trial')}"
            + (f"; {sum(map(len, plan.blocked.values()))} wait for data (`ablate prepare`)" if plan.blocked else ""),
        )
    except PipelineError as error:
        yield False, str(error)


def _torch() -> Iterator[tuple[bool, str]]:
    import torch

    if torch.cuda.is_available():
        yield True, f"CUDA: {torch.cuda.device_count()} x {torch.cuda.get_device_name(0)}"
    else:
        yield True, "no CUDA device: trials run on the CPU"
