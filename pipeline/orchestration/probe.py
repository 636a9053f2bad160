"""Probes: a trial of a few steps on this machine, for networks and data of which no trial is stored yet.

A probe is `run_trial` itself on a few images of the real dataset, with two epochs of which the second is timed, and is stretched to
the whole: `epochs x (steps x step time + images x time of an image) + what happens once`. It is remembered beside the prepared
datasets for the same trial, code, library and device.
"""

from __future__ import annotations

import math
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from pipeline.data.image_data import SPLITS, ImageData
from pipeline.errors import PipelineError, counted
from pipeline.orchestration.cost import CostModel, Kind
from pipeline.orchestration.planning import open_data
from pipeline.orchestration.remembered import Remembered
from pipeline.study.code_key import digest_of
from pipeline.study.identity import digest
from pipeline.study.spec import TrialSpec
from pipeline.training.evaluate import EVAL_BATCH
from pipeline.trial import environment, run_trial

FILE = "probes.json"
CAP_S = 60.0  # no probe is begun later than this after the first
TRAIN_S, EVALUATE_S = 0.5, 0.25  # wanted time of a timed epoch's steps, and of its evaluation
SLOW_STEP_S = 2.0  # a step longer than this is not tried; that of a small batch is stretched
SMALL = 8  # images of a small batch
FINAL_PASSES = 3.0  # where the end of a trial is not timed: it is taken for so many evaluations of the test split
LR = 1e-6  # time does not depend on it, and nothing diverges


@dataclass(frozen=True)
class Probe:
    """Times of one kind of trial, in seconds.

    Attributes:
        step_s: of a training step with the trial's own batch.
        image_s: of evaluating one image.
        once_s: of what happens once, whatever the size of the dataset.
        final_image_s: of what happens once for each image of the test split.
    """

    step_s: float
    image_s: float
    once_s: float
    final_image_s: float

    def seconds(self, spec: TrialSpec, sizes: dict[str, int]) -> float:
        """Of a whole trial on splits of these sizes."""
        config = spec.config
        steps = max(1, sizes["train"] // config["batch_size"])
        evaluated = sizes["val"] + (sizes["test"] if config["evaluate_test"] == "each_epoch" else 0)
        epoch_s = steps * self.step_s + evaluated * self.image_s
        return float(config["epochs"] * epoch_s + self.once_s + sizes["test"] * self.final_image_s)


def add_probes(
    model: CostModel, specs: Sequence[TrialSpec], prepared: Path, *, threads: int, measure_new: bool = True, log: Callable[[str], None]
) -> list[str]:
    """Add to the model a probe of every setup (network, data, batch) among these trials that it knows nothing of.

    Args:
        model: what is known; it names the device.
        specs: trials whose data is prepared.
        prepared: folder of the prepared datasets.
        threads: CPU threads of a trial.
        measure_new: False: only what is remembered.
        log: told before the first probe.

    Returns:
        Why probes failed or were not made, a sentence each; the trials concerned are of unknown cost.
    """
    remembered = Remembered(prepared / FILE, _is_answer)
    troubles: list[str] = []
    unknown = {}
    for spec in _one_a_setup((spec for spec in specs if not model.knows(spec)), model.kind):
        key = _key(spec, model.device, threads)
        if key in remembered:
            _add(model, spec, remembered[key])
        else:
            unknown[key] = spec
    if not unknown or not measure_new:
        return troubles
    log(f"probing {counted(len(unknown), 'network')} ...")
    began = time.monotonic()
    for key, spec in unknown.items():
        if time.monotonic() - began > CAP_S:
            troubles.append(f"no more probes after {CAP_S:.0f} s; plan again to go on with them")
            break
        try:
            remembered[key] = _measured(spec, prepared, torch.device(model.device), threads)
        except Exception as error:  # noqa: BLE001 - foreign code, or no memory; the plan goes on without this estimate
            message = (str(error).strip() or "no message").splitlines()[0][:300]
            troubles.append(f"the probe of {spec.config['backbone']['name']} failed: {type(error).__name__}: {message}")
            model.refuse(spec, troubles[-1])
            continue
        _add(model, spec, remembered[key])
        remembered.save()
    return troubles


def measure(spec: TrialSpec, data: ImageData, device: torch.device) -> Probe:
    """Time a few steps and evaluations of a trial.

    Raises:
        PipelineError: the trial did not get through.
        Exception: whatever a method's own code raises.
    """
    batch_size = spec.config["batch_size"]
    small = _Rehearsal(spec, data, device, batch_size=min(SMALL, batch_size), steps=1, images=SMALL)
    step_s = small.step_s * batch_size / small.batch_size
    if step_s > SLOW_STEP_S:
        return Probe(step_s, small.image_s, 0.0, FINAL_PASSES * small.image_s)
    steps = _between(2, TRAIN_S / step_s, 20)
    images = _between(2 * SMALL, EVALUATE_S / small.image_s, EVAL_BATCH)
    small = _Rehearsal(spec, data, device, batch_size=small.batch_size, steps=1, images=SMALL)  # libraries are imported now
    full = _Rehearsal(spec, data, device, batch_size=batch_size, steps=steps, images=images)
    more = full.tested - small.tested
    final_image_s = max(0.0, full.once_s - small.once_s) / more if more > 0 else FINAL_PASSES * full.image_s
    return Probe(full.step_s, full.image_s, min(small.once_s, full.once_s), final_image_s)


class _Rehearsal:
    """A trial of two epochs on a part of its data, the second one timed."""

    def __init__(self, spec: TrialSpec, data: ImageData, device: torch.device, *, batch_size: int, steps: int, images: int) -> None:
        part = take_part(data, {"train": batch_size * steps, "val": images, "test": images})
        self.batch_size, self.tested = batch_size, len(part.split("test"))
        record = run_trial(replace(spec, config=_shortened(spec.config, batch_size)), data=part, device=device)
        if record["state"] != "complete":
            raise PipelineError(record["reason"])
        timed = record.history[-1]
        self.step_s = timed["time_train_s"] / max(1, len(part.split("train")) // batch_size)
        evaluated = len(part.split("val")) + self.tested
        self.image_s = (timed["time_epoch_s"] - timed["time_train_s"]) / max(1, evaluated)
        self.once_s = record["time_total_s"] - sum(row["time_epoch_s"] for row in record.history)


def take_part(data: ImageData, wanted: dict[str, int]) -> ImageData:
    """A dataset with at most so many images a split, spread evenly over it, so that all classes are likely among them."""
    rows, ranges, stop = [], {}, 0
    for split in SPLITS:
        first, last = data.ranges[split]
        number = min(wanted[split], last - first)
        rows.append(np.linspace(first, last - 1, number).astype(np.int64) if number else np.empty(0, np.int64))
        ranges[split] = (stop, stop := stop + number)
    index_N = np.concatenate(rows)
    mask_NHW = None if data.mask_NHW is None else data.mask_NHW[index_N]
    return replace(data, image_NHWC=data.image_NHWC[index_N], label_N=data.label_N[index_N], mask_NHW=mask_NHW, ranges=ranges)


def _shortened(config: dict[str, Any], batch_size: int) -> dict[str, Any]:
    """Two epochs in which every term of the loss acts."""
    terms = {name: {**term, "start_epoch": 0, "ramp_epochs": 0} for name, term in config["loss"].items()}
    times = {"epochs": 2, "batch_size": batch_size, "evaluate_test": "each_epoch", "loss": terms}
    return {**config, **times, "optimizer": {**config["optimizer"], "lr": LR}, "schedule": {**config["schedule"], "warmup_epochs": 0.0}}


def _one_a_setup(specs: Iterable[TrialSpec], kind: Callable[[TrialSpec], Kind]) -> list[TrialSpec]:
    """For each setup a trial with the methods that most of its trials have."""
    by_setup: dict[str, dict[str, list[TrialSpec]]] = defaultdict(lambda: defaultdict(list))
    for spec in specs:
        by_setup[kind(spec).setup][kind(spec).methods].append(spec)
    return [max(methods.values(), key=len)[0] for methods in by_setup.values()]


def _measured(spec: TrialSpec, prepared: Path, device: torch.device, threads: int) -> dict[str, Any]:
    """A probe as JSON, with the sizes of the splits."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        data = open_data(spec, prepared)
        probe = measure(spec, data, device)
    finally:
        torch.set_num_threads(before)
        if device.type == "cuda":
            torch.cuda.empty_cache()
    return {**asdict(probe), "sizes": {split: len(data.split(split)) for split in SPLITS}}


def _add(model: CostModel, spec: TrialSpec, answer: dict[str, Any]) -> None:
    times = {name: answer[name] for name in Probe.__dataclass_fields__}
    model.add_probe(spec, Probe(**times).seconds(spec, answer["sizes"]))


def _key(spec: TrialSpec, device: str, threads: int) -> str:
    where = environment(torch.device(device))
    place = [device, where["env_device_name"], where["env_torch"], threads, digest_of([__name__])]
    return digest([_shortened(spec.config, spec.config["batch_size"]), spec.data_digest, spec.code_key, place])


def _is_answer(value: Any) -> bool:
    if not isinstance(value, dict) or not isinstance(value.get("sizes"), dict) or set(value["sizes"]) != set(SPLITS):
        return False
    numbers = [*value["sizes"].values(), *(value.get(name) for name in Probe.__dataclass_fields__)]
    return all(isinstance(number, int | float) and math.isfinite(number) for number in numbers)


def _between(least: int, wanted: float, most: int) -> int:
    return int(min(max(least, wanted), most))
