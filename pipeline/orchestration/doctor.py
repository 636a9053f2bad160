"""What is wrong with this environment."""

from __future__ import annotations

import platform
import shutil
import sys
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import Literal

from pipeline.errors import PipelineError, counted
from pipeline.store.claims import held
from pipeline.store.repair import QUARANTINE
from pipeline.store.repair import examine as examine_store
from pipeline.store.repair import repair as repair_store
from pipeline.store.trial_store import TrialStore
from pipeline.study.config import load_study
from pipeline.study.params import Params, load_params
from pipeline.study.plugins import FOLDER
from pipeline.study.project import absolute_url

NEEDED = ("torch", "torchvision", "torchdistill", "pyarrow", "pydantic", "scikit-learn", "safetensors")
FOR_STUDIES = ("ray", "mlflow", "dvc", "matplotlib", "scipy", "typer", "rich")
LOW_DISK_GIB = 2


Word = Literal["ok", "wrong", "note", "done"]


def examine(study: str | None, *, repair: bool = False) -> Iterator[tuple[Word, str]]:
    """What is here, as (how it is, one line that says what and, where it is wrong, what to do).

    Args:
        study: its name; None: the active one.
        repair: put the store right; what was done has the word `done`.
    """
    yield _fine(sys.version_info >= (3, 11), f"Python {platform.python_version()}", "3.11 or newer is needed")
    for name in (*NEEDED, *FOR_STUDIES):
        try:
            yield "ok", f"{name} {metadata.version(name)}"
        except metadata.PackageNotFoundError:
            extra = "[study]" if name in FOR_STUDIES else ""
            yield "wrong", f"{name} is not installed: pip install 'cam-ablate{extra}', or `make study`, which installs all"
    yield "ok", _devices()
    free = shutil.disk_usage(Path.cwd()).free / 2**30
    yield _fine(free >= LOW_DISK_GIB, f"{free:.1f} GiB free here", f"less than {LOW_DISK_GIB} GiB may stop a study")
    try:
        params = load_params()
        yield "ok", "params.yaml"
        file = load_study(study or params.study)
        yield "ok", f"study {file.study.study}: {counted(len(file.study.tables), 'table')}"
        for name in file.study.plugins:
            path = sys.modules[name].__file__ or "a folder without __init__.py"
            inside = Path(path).is_relative_to(FOLDER.absolute())
            yield "ok", f"plugin {name}: {path}" + ("" if inside else f"; not in {FOLDER}/, so `dvc repro` does not notice its edits")
    except PipelineError as error:
        yield "wrong", str(error)
        return
    try:
        yield from _store(params, repair=repair)
    except PipelineError as error:
        yield "wrong", str(error)
    try:
        from pipeline.orchestration.planning import make_plan

        plan = make_plan(file, params)
        waiting = f"; {sum(map(len, plan.blocked.values()))} wait for data (`ablate prepare`)" if plan.blocked else ""
        yield "ok", f"plan: {counted(len(plan.trials), 'trial')}{waiting}"
    except PipelineError as error:
        yield "wrong", str(error)


def _store(params: Params, *, repair: bool) -> Iterator[tuple[Word, str]]:
    store = TrialStore(absolute_url(params.store.url))
    store.check_writable()
    found = repair_store(store) if repair else examine_store(store)
    for finding in found:
        yield "done" if repair else "wrong" if finding.severity == "damage" else "note", f"store {params.store.url}: {finding}"
    damaged = sum(finding.severity == "damage" for finding in found)
    if damaged and not repair:
        yield "wrong", f"store {params.store.url}: {counted(damaged, 'damaged file')}; `ablate doctor --repair` does what is said above"
    else:
        yield "ok", f"store {params.store.url}: {counted(len(store.records()), 'trial')}, writable"
        if found and not repair:
            yield (
                "note",
                f"store {params.store.url}: {counted(len(found), 'leftover')}, harmless; `ablate doctor --repair` tidies up",
            )
    if quarantined := len(store.files.names(QUARANTINE)):
        yield "note", f"store {params.store.url}: {counted(quarantined, 'damaged file')} in {QUARANTINE}/, kept until you remove them"
    if running := held(store.files):
        yield "note", f"store {params.store.url}: {counted(len(running), 'claim')} of runs that are going on"


def _fine(fine: bool, line: str, otherwise: str) -> tuple[Word, str]:
    return ("ok", line) if fine else ("wrong", f"{line}: {otherwise}")


def _devices() -> str:
    import torch

    if torch.cuda.is_available():
        return f"CUDA: {torch.cuda.device_count()} x {torch.cuda.get_device_name(0)}"
    return "no CUDA device: trials run on the CPU"
