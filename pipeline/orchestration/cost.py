"""What trials cost in seconds and memory, learned from every stored trial, whichever study it belongs to.

A trial costs `epochs x (steps x step time + evaluation) + what happens once`. A record tells the total only, so the model divides
`time_total_s` by the epochs done and multiplies by the epochs to come: exact for trials of the same length, too much for longer ones
and too little for shorter ones by the share of what happens once (building the network, the final evaluation, the pictures).
"""

from __future__ import annotations

import json
import math
from collections import defaultdict, deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from statistics import fmean, median
from typing import Any

from pipeline.errors import counted
from pipeline.store.records import Record
from pipeline.study.identity import canonical_json
from pipeline.study.spec import TrialSpec

LATEST = 20  # stored trials of one kind whose median counts
ROUNDS = 10  # of the median polish; what is left of an error halves with each
MEASURED, SIMILAR, PROBE, MEAN, UNKNOWN = "measured", "similar", "probe", "mean", "unknown"
WORDS = {
    MEASURED: "measured",
    SIMILAR: "from the same network and data with other methods",
    PROBE: "from a probe",
    MEAN: "by the mean of all",
    UNKNOWN: "of unknown cost, not counted",
}  # in the order of trust


@dataclass(frozen=True)
class Estimate:
    """What one trial will take.

    Attributes:
        seconds: None where nothing is known.
        source: 'measured': stored trials of the same network, data, batch and methods; 'similar': of the same network, data and batch,
            times what its methods cost elsewhere; 'probe': a few steps on this machine; 'mean': the mean of all stored trials; 'unknown'.
        reason: why nothing is known; '' where something is.
    """

    seconds: float | None
    source: str
    reason: str = ""


@dataclass(frozen=True)
class Kind:
    """What decides how long an epoch takes.

    Attributes:
        setup: network with its options, dataset, batch size, precision, and how often the test split is evaluated, as canonical JSON.
        methods: names of the loss terms and of the regularizers, likewise; their options count for little, and searches vary them.
    """

    setup: str
    methods: str

    @classmethod
    def of(cls, config: Mapping[str, Any], data_digest: str) -> Kind:
        """The kind of a resolved configuration."""
        setup = [config["backbone"], data_digest, config["batch_size"], config["precision"], config["evaluate_test"]]
        methods = [sorted(config["loss"]), sorted(component["name"] for component in config["regularizers"])]
        return cls(canonical_json(setup), canonical_json(methods))


class CostModel:
    """Estimates of trials on one type of device; better with every trial that is added.

    The median of the latest trials of a kind counts. For a kind never seen, log(seconds an epoch) is taken as the sum of an effect of
    the setup and an effect of the methods, fitted by median polish (Tukey, Exploratory Data Analysis, 1977): CutMix that cost a third
    more on one network is expected to do so on the next.

    Args:
        device: 'cpu' or 'cuda': only trials on it count.
        device_name: trials on a device of this name are preferred, if there are any of the same kind.
        threads: likewise those with this number of CPU threads.
        images: dataset digest -> training images, for the mean of all, which is then a mean by image.
    """

    def __init__(
        self, device: str, *, device_name: str | None = None, threads: int | None = None, images: Mapping[str, int] | None = None
    ) -> None:
        self.device, self.device_name, self.threads, self.images = device, device_name, threads, dict(images or {})
        self._seconds: dict[Kind, dict[int, deque[float]]] = defaultdict(lambda: defaultdict(lambda: deque(maxlen=LATEST)))
        self._per_image: dict[Kind, float] = {}
        self._peaks: dict[Kind, int] = {}
        self._probes: dict[Kind, float] = {}
        self._refused: dict[str, str] = {}
        self._kinds: dict[str, Kind] = {}
        self._epoch_s: dict[Kind, tuple[float | None, str]] = {}
        self._effects: tuple[dict[str, float], dict[str, float]] | None = None

    @classmethod
    def learn(
        cls,
        records: Iterable[Record],
        *,
        device: str,
        device_name: str | None = None,
        threads: int | None = None,
        images: Mapping[str, int] | None = None,
    ) -> CostModel:
        """A model of all that is stored; records that tell no times are passed over."""
        model = cls(device, device_name=device_name, threads=threads, images=images)
        for record in sorted(records, key=lambda record: record.get("time_finished_ns", 0)):
            if (kind := model._kind_of_record(record)) is not None:
                model._count(kind, record)
        return model

    def add(self, spec: TrialSpec, record: Record) -> None:
        """Correct the model by a trial that has just finished."""
        self._count(self.kind(spec), record)
        self._forget()

    def add_probe(self, spec: TrialSpec, seconds: float) -> None:
        """A probe said that this trial takes so long; trials that were really run count more."""
        self._probes[self.kind(spec)] = seconds / spec.config["epochs"]
        self._forget()

    def refuse(self, spec: TrialSpec, reason: str) -> None:
        """A probe of this trial failed: trials of its setup are of unknown cost until one has been run."""
        self._refused[self.kind(spec).setup] = reason
        self._forget()

    def seconds(self, spec: TrialSpec) -> Estimate:
        """What a trial will take from its start to its record."""
        kind = self.kind(spec)
        epoch_s, source = self._epoch_seconds(kind)
        if epoch_s is None:
            return Estimate(None, UNKNOWN, self._refused.get(kind.setup, "no stored trial to estimate from"))
        return Estimate(epoch_s * spec.config["epochs"], source)

    def knows(self, spec: TrialSpec) -> bool:
        """Whether a trial or a probe of the same setup is known."""
        return self.kind(spec).setup in self._polish()[0]

    def peak_bytes(self, spec: TrialSpec) -> int | None:
        """The largest peak of stored trials of the same setup, those with the same methods if there are any; None: nobody knows."""
        kind = self.kind(spec)
        if kind in self._peaks:
            return self._peaks[kind]
        return max((peak for other, peak in self._peaks.items() if other.setup == kind.setup), default=None)

    def kind(self, spec: TrialSpec) -> Kind:
        """The kind of a trial, worked out once a cell."""
        if spec.cell_id not in self._kinds:
            self._kinds[spec.cell_id] = Kind.of(spec.config, spec.data_digest)
        return self._kinds[spec.cell_id]

    def _kind_of_record(self, record: Record) -> Kind | None:
        cell_id = record.get("cell_id", "")
        if cell_id not in self._kinds:
            try:
                spec = json.loads(record["spec"])
                self._kinds[cell_id] = Kind.of(spec["config"], spec["data_digest"])
            except (KeyError, TypeError, ValueError, AttributeError):  # a record of another version, or made by hand
                return None
        return self._kinds[cell_id]

    def _count(self, kind: Kind, record: Record) -> None:
        if record.get("env_device") != self.device:
            return
        if peak := record.get("mem_peak_bytes"):
            self._peaks[kind] = max(int(peak), self._peaks.get(kind, 0))
        total_s, epochs = record.get("time_total_s"), record.get("epochs_done")
        if not total_s or not epochs or record["state"] == "failed":
            return
        epoch_s = total_s / epochs
        likeness = 2 * (record.get("env_device_name") == self.device_name) + (record.get("env_threads") == self.threads)
        self._seconds[kind][likeness].append(epoch_s)
        if record.get("time_step_s") and record.get("time_train_s"):
            batch_size = json.loads(kind.setup)[2]
            steps = record["time_train_s"] / record["time_step_s"] / epochs
            self._per_image[kind] = epoch_s / (steps * batch_size)

    def _forget(self) -> None:
        self._epoch_s, self._effects = {}, None

    def _epoch_seconds(self, kind: Kind) -> tuple[float | None, str]:
        if kind not in self._epoch_s:
            self._epoch_s[kind] = self._work_out(kind)
        return self._epoch_s[kind]

    def _work_out(self, kind: Kind) -> tuple[float | None, str]:
        if kind in self._seconds:
            return self._typical(kind), MEASURED
        if kind in self._probes:
            return self._probes[kind], PROBE
        setups, methods = self._polish()
        if kind.setup in setups:
            known = any(other.setup == kind.setup for other in self._seconds)
            return math.exp(setups[kind.setup] + methods.get(kind.methods, 0.0)), SIMILAR if known else PROBE
        if not self._seconds or kind.setup in self._refused:
            return None, UNKNOWN
        images = self.images.get(json.loads(kind.setup)[1])
        if images and self._per_image:
            return images * fmean(self._per_image.values()), MEAN
        return fmean(self._typical(other) for other in self._seconds), MEAN

    def _typical(self, kind: Kind) -> float:
        return median(self._seconds[kind][max(self._seconds[kind])])

    def _polish(self) -> tuple[dict[str, float], dict[str, float]]:
        """Effect of each setup and of each choice of methods on log(seconds an epoch)."""
        if self._effects is None:
            known = {**self._probes, **{kind: self._typical(kind) for kind in self._seconds}}
            logs = {kind: math.log(seconds) for kind, seconds in known.items() if seconds > 0}
            setups: dict[str, float] = {}
            methods: dict[str, float] = dict.fromkeys((kind.methods for kind in logs), 0.0)
            for _ in range(ROUNDS):
                setups = _medians((kind.setup, value - methods[kind.methods]) for kind, value in logs.items())
                methods = _medians((kind.methods, value - setups[kind.setup]) for kind, value in logs.items())
            self._effects = setups, methods
        return self._effects


def _medians(pairs: Iterable[tuple[str, float]]) -> dict[str, float]:
    groups: dict[str, list[float]] = defaultdict(list)
    for name, value in pairs:
        groups[name].append(value)
    return {name: median(values) for name, values in groups.items()}


def in_words(sources: Mapping[str, int]) -> str:
    """'40 trials measured, 14 from a probe'."""
    parts = [(number, words) for source, words in WORDS.items() if (number := sources.get(source, 0))]
    return ", ".join(f"{counted(number, 'trial') if index == 0 else number} {words}" for index, (number, words) in enumerate(parts))
