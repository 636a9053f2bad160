"""Chaos: a study is run while its driver, its workers and its nodes are killed at random; what is stored must be what it is without.

By hand: `python -m tests.chaos.storm --injections 30 --seed 1 [--netns]`; prints each injection and what came out.
"""

from __future__ import annotations

import argparse
import random
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

import pyarrow.parquet as pq

from pipeline.store.records import Record
from pipeline.store.trial_store import TrialStore
from tests.chaos.nodes import NetworkNamespaces, RayNodes, kill_tree
from tests.e2e.project import Project, make_project

STUDY = """\
study: tiny
seeds: {seeds}
defaults:
  dataset: {{name: cluttered_digits, canvas: 16, num_train: 96, num_val: 40, num_test: 60, clutter: 1}}
  backbone: resnet8
  epochs: {epochs}
  batch_size: 32
  optimizer: {{lr: 0.05}}
  ema: 0.9
arms:
  ce: {{}}
  cam: {{loss: {{cam: {{weight: 1.0}}}}}}
tables:
  regularizers:
    rows: {{regularizers: [none, manifold_mixup]}}
    columns: {{arm: [ce, cam]}}
    baseline: ce
"""
TIMED = ("time_", "mem_", "env_")
FREE = ("attempt", "resumed", "schema_version")


def chaos_project(folder: Path, *, seeds: int, epochs: int) -> Project:
    """A project whose trials last seconds and are checkpointed all the time."""
    project = make_project(folder)
    (project.folder / "studies/tiny.yaml").write_text(STUDY.format(seeds=seeds, epochs=epochs), encoding="utf-8")
    project.set_param("uri: sqlite:///mlflow.db", "uri: null")
    project.set_param("checkpoint_s: 120.0", "checkpoint_s: 0.3")
    project.set_param("lease_s: 60.0", "lease_s: 5.0")
    project.set_param("max_attempts: 3", "max_attempts: 50")  # the storm hits the same trial more often than life does
    return project


def undisturbed(project: Project) -> dict[str, Record]:
    """What the study gives when nothing happens, in a store of its own."""
    project.set_param("url: store", "url: store-calm")
    project.ablate("run")
    project.set_param("url: store-calm", "url: store")
    project.set_param("executor: serial", "executor: ray")
    return TrialStore(project.folder / "store-calm").records()


class Storm:
    """A study on a cluster, and what befalls it.

    Args:
        project: the study; its executor is Ray.
        nodes: the cluster, running.
        say: told of each injection.
    """

    def __init__(self, project: Project, nodes: RayNodes, rng: random.Random, say: Callable[[str], None]) -> None:
        self.project, self.nodes, self.rng, self.say = project, nodes, rng, say
        self.injected: Counter[str] = Counter()
        self.driver: subprocess.Popen[bytes] | None = None
        self.log = project.folder / "driver.log"
        self.back: dict[int, float] = {}  # node -> when it is started again
        self.events = project.folder / "logs/tiny.events.jsonl"
        self.kinds: list[str] = []
        self.told = 0  # letters of the event log when the driver was started last

    def run(self, injections: int, *, timeout: float = 900, pause_s: tuple[float, float] = (0.5, 5.0), kinds: Sequence[str] = ()) -> bool:
        """Run the study to its end with so many injections; False when it ended before all of them.

        Args:
            injections: how many.
            timeout: seconds for all of it.
            pause_s: shortest and longest time from a trial's start to the next injection.
            kinds: of the injections, in this order; otherwise drawn.
        """
        self.kinds = list(kinds)
        deadline = time.monotonic() + timeout
        self._start_driver()
        next_one: float | None = None  # counted from when trials run, lest all of it falls on starting up
        while True:
            assert time.monotonic() < deadline, f"not done in {timeout} s; the driver said: {self.log.read_text(encoding='utf-8')[-3000:]}"
            time.sleep(0.1)
            for index, when in list(self.back.items()):
                if time.monotonic() >= when:
                    del self.back[index]
                    self.nodes.start_worker(index)
            assert self.driver is not None
            status = self.driver.poll()
            if status is not None:
                assert status == 0, f"the driver ended with {status}: {self.log.read_text(encoding='utf-8')[-3000:]}"
                return self.injected.total() >= injections
            if next_one is None and self._is_training():
                next_one = time.monotonic() + self.rng.uniform(*pause_s)
            if self.injected.total() < injections and next_one is not None and time.monotonic() >= next_one:
                self._inject()
                next_one = None

    def _is_training(self) -> bool:
        """Whether a trial has begun since the driver was started last."""
        return '"trial_started"' in self.events.read_text(encoding="utf-8")[self.told :] if self.events.exists() else False

    def _inject(self) -> None:
        kind = self.kinds[self.injected.total()] if self.kinds else self.rng.choice(["driver", "worker", "worker", "node"])
        if kind == "worker":
            found = self.nodes.trial_workers()
            if not found:
                return
            victim = self.rng.choice(found)
            victim.kill()
            self.say(f"killed worker {victim.pid}")
        elif kind == "node":
            if len(self.back) >= 2:  # one stays
                return
            index = self.rng.choice([i for i in range(len(self.nodes.workers)) if i not in self.back])
            self.nodes.kill_worker(index)
            self.back[index] = time.monotonic() + self.rng.uniform(0.5, 3.0)
            self.say(f"killed node {index}")
        else:
            assert self.driver is not None
            kill_tree(self.driver.pid)
            self.driver.wait()
            self.say(f"killed driver {self.driver.pid}")
            self._start_driver()
        self.injected[kind] += 1

    def _start_driver(self) -> None:
        self.told = len(self.events.read_text(encoding="utf-8")) if self.events.exists() else 0
        environment = {**self.nodes.environment, "RAY_ADDRESS": self.nodes.address, "HOME": str(self.project.folder.parent)}
        environment |= {"PYTHONPATH": str(self.project.folder), "OMP_NUM_THREADS": "1"}
        command = [*self.nodes.prefix(None), sys.executable, "-m", "pipeline", "run"]
        with self.log.open("ab") as log:
            self.driver = subprocess.Popen(
                command, cwd=self.project.folder, env=environment, stdout=log, stderr=subprocess.STDOUT,
                stdin=subprocess.DEVNULL, start_new_session=True,
            )  # fmt: skip


def stored_times(project: Project) -> Counter[str]:
    """How many complete records each trial has in the segments of the store, those that a reader would pass over included."""
    found: Counter[str] = Counter()
    for path in sorted((project.folder / "store/segments").glob("[0-9]*.records.parquet")):
        table = pq.read_table(path, columns=["trial_id", "state"])
        found.update(row["trial_id"] for row in table.to_pylist() if row["state"] == "complete")
    return found


def compare(project: Project, calm: dict[str, Record]) -> list[str]:
    """What differs between the store after the storm and the calm one; nothing, if all is well."""
    store, reference = TrialStore(project.folder / "store"), TrialStore(project.folder / "store-calm")
    records, problems = store.records(), []
    problems += [f"{trial_id} is missing" for trial_id in calm if trial_id not in records]
    problems += [f"{trial_id} is stored {times} times" for trial_id, times in stored_times(project).items() if times != 1]
    for trial_id in calm.keys() & records.keys():
        mine, theirs = records[trial_id], calm[trial_id]
        for key in sorted(mine.keys() | theirs.keys()):
            if not key.startswith(TIMED) and key not in FREE and mine.get(key) != theirs.get(key):
                problems.append(f"{trial_id}: {key} is {mine.get(key)}, undisturbed {theirs.get(key)}")
        if _metrics(store.history(trial_id)) != _metrics(reference.history(trial_id)):
            problems.append(f"{trial_id}: its history differs")
    pictures = [place.panels_table(calm) for place in (store, reference)]
    if None in pictures or not pictures[0].sort_by("trial_id").equals(pictures[1].sort_by("trial_id")):  # type: ignore[union-attr]
        problems.append("the pictures differ")
    return problems


def _metrics(history: list[dict[str, object]]) -> list[dict[str, object]]:
    return [{key: value for key, value in row.items() if not key.startswith(("time_", "system_"))} for row in history]


def main() -> None:
    """Run storms until enough has been injected."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--injections", type=int, default=30)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--netns", action="store_true", help="each node in a network namespace of its own (root)")
    parser.add_argument("--seeds", type=int, default=8, help="of the study: 4 trials each")
    parser.add_argument("--epochs", type=int, default=60)
    options = parser.parse_args()
    rng, began = random.Random(options.seed), time.monotonic()

    def say(line: str) -> None:
        sys.stdout.write(f"{time.monotonic() - began:7.1f} s  {line}\n")
        sys.stdout.flush()

    with tempfile.TemporaryDirectory() as folder:
        project = chaos_project(Path(folder) / "project", seeds=options.seeds, epochs=options.epochs)
        calm = undisturbed(project)
        say(f"{len(calm)} trials undisturbed")
        with (NetworkNamespaces if options.netns else RayNodes)() as nodes:
            storm = Storm(project, nodes, rng, say)
            done = storm.run(options.injections, timeout=3000)
            problems = compare(project, calm)
        resumed = sum(record.get("resumed", 0) > 0 for record in TrialStore(project.folder / "store").records().values())
        say(f"injected {dict(storm.injected)}{'' if done else ', the study ended before the rest'}; {resumed} trials had been resumed")
        say("\n".join(problems) or "all trials stored once and equal to the undisturbed study, bit for bit")
    sys.exit(bool(problems))


if __name__ == "__main__":
    main()
