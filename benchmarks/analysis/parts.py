"""One measurement, in a process of its own that stands in a project's folder: `python -m benchmarks.analysis.parts NAME`.

Prints a JSON object: part -> seconds, and `peak_mib`, the largest resident memory of the process so far.
"""

from __future__ import annotations

import importlib
import json
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pipeline.store.trial_store import TrialStore
from pipeline.study.params import load_params
from pipeline.study.project import METRICS, OUTCOMES, PLAN, TABLES, absolute_url

MLFLOW = "sqlite:///peer.db"
IMPORTS, ALL = "imports", "all"
# Function -> the part that its calls count as, where a module calls it by that name.
STAGE = {
    "collect": "collect: join with the records, read the histories",
    "write_results": "write results/*.parquet",
    "build_tables": "build the tables",
    "write_tables": "write the tables in five formats",
    "write_curves": "curves/*.csv: mean and SD a cell and epoch",
}
REPORT = {"build_tables": "build the tables", "draw": "figures", "write_report": "index and a page a trial"}


class Clock:
    """Seconds by part."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        started = time.perf_counter()
        yield
        self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - started

    def watch(self, module: Any, parts: dict[str, str]) -> None:
        """Time the functions that a module calls by these names."""
        for name, part in parts.items():
            setattr(module, name, self._timed(getattr(module, name), part))

    def _timed(self, function: Callable[..., Any], part: str) -> Callable[..., Any]:
        def timed(*args: Any, **options: Any) -> Any:
            with self.part(part):
                return function(*args, **options)

        return timed


def tables(clock: Clock) -> None:
    """All formats of all tables and metrics.json, from plan and store; no history is read."""
    with clock.part(IMPORTS):
        import scipy.stats  # noqa: F401  # what ranks are made with

        from pipeline.analysis.aggregate import summary_metrics
        from pipeline.analysis.collect import collect_trials, read_run_ids
        from pipeline.analysis.render.write import write_tables
        from pipeline.analysis.tables import build_tables, load_tables
    with clock.part(ALL):
        with clock.part("join of plan and store"):
            trials, _ = collect_trials(PLAN / "trials.parquet", _store(), read_run_ids(OUTCOMES))
        with clock.part(STAGE["build_tables"]):
            results = build_tables(load_tables(PLAN / "tables.json"), trials)
        with clock.part(STAGE["write_tables"]):
            write_tables(results, TABLES)
        METRICS.write_text(json.dumps(summary_metrics(results), indent=2, sort_keys=True) + "\n", encoding="utf-8")


def stage(clock: Clock) -> None:
    """The stage `aggregate`: the tables, results/*.parquet with all histories, curves."""
    with clock.part(IMPORTS):
        import scipy.stats  # noqa: F401  # what ranks are made with

        module = importlib.import_module("pipeline.analysis.study")
    clock.watch(module, STAGE)
    with clock.part(ALL):
        module.aggregate(load_params().store.url, say=lambda text: None)


def report(clock: Clock) -> None:
    """The stage `report`, with tracking off."""
    with clock.part(IMPORTS):
        import scipy.stats  # noqa: F401  # what ranks are made with

        module = importlib.import_module("pipeline.orchestration.publish")
    clock.watch(module, REPORT)
    with clock.part(ALL):
        module.publish(load_params(), say=lambda text: None)


def records(clock: Clock) -> None:
    """All records of the store as one Arrow table."""
    with clock.part(ALL):
        store = _store()
        assert store.records_table(store.summary(["trial_id"])) is not None


def search_runs(clock: Clock) -> None:
    """All runs of the peer's database as one pandas table."""
    with clock.part(IMPORTS):
        import mlflow
        import pandas as pd  # noqa: F401
    mlflow.set_tracking_uri(MLFLOW)
    names = [each.experiment_id for each in mlflow.search_experiments()]  # the database's schema is checked here, once a process
    with clock.part(ALL):
        assert len(mlflow.search_runs(names, max_results=50_000))


def fill_peer(clock: Clock) -> None:
    """A run a stored record: its last metrics, its other columns as tags; no history, which would take an hour and is not searched."""
    import mlflow
    from mlflow.entities import Metric, RunTag

    mlflow.set_tracking_uri(MLFLOW)
    client = mlflow.MlflowClient()
    experiment = client.create_experiment("peer")
    with clock.part(ALL):
        for record in _store().records().values():
            numbers = {name: value for name, value in record.items() if name.startswith(("metric_", "time_", "mem_"))}
            tags = [RunTag(name, str(value)[:5000]) for name, value in record.items() if name not in numbers]
            run = client.create_run(experiment)
            client.log_batch(run.info.run_id, metrics=[Metric(name, value, 0, 0) for name, value in numbers.items()], tags=tags[:100])
            client.set_terminated(run.info.run_id)


def _store() -> TrialStore:
    return TrialStore(absolute_url(load_params().store.url))


WAYS: dict[str, Callable[[Clock], None]] = {way.__name__: way for way in (tables, stage, report, records, search_runs, fill_peer)}


def peak_mib() -> float:
    """Largest resident memory of this process so far.

    From /proc, as `getrusage` counts the memory of the process that started this one, too.
    """
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith("VmHWM:"))


if __name__ == "__main__":
    watch = Clock()
    WAYS[sys.argv[1]](watch)
    print(json.dumps({**watch.seconds, "peak_mib": peak_mib()}))
