"""Run trials on a pool of Ray actors: on this machine, or on the cluster at RAY_ADDRESS.

Ray is a disposable executor over a list of missing trials. Workers write each record to the store the moment a trial ends, so a lost
driver loses no finished trial, and checkpoints there, so a lost worker loses little of a running one. What comes back through Ray is for
people to watch and for deciding what to start next.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from pipeline import data
from pipeline.errors import ClusterError, ConfigError, DataError, PipelineError, StoreError, counted
from pipeline.orchestration.execution import RETRIED, Context, Listener, dress, lost_record
from pipeline.orchestration.jobs import Job, Waiting, guard_fraction, share_for
from pipeline.orchestration.planning import PlannedTrial
from pipeline.orchestration.ray_session import alive_nodes, check_capacity, ray_session
from pipeline.orchestration.ray_worker import Event, TrialWorker, files_of, record_of
from pipeline.store.claims import Claims
from pipeline.store.records import Record
from pipeline.store.trial_store import TrialStore
from pipeline.study.params import Resources

LOOK_S = 0.25  # the longest the driver sleeps between two looks
NODES_EVERY_S = 2.0
ELSEWHERE_EVERY_S = 2.0  # between two looks at trials that another run is at
START_FAILURES = 5  # workers in a row that do not come up
STARTING = 64  # workers that come up at a time
MOST_ASKED = 1000  # of an autoscaler: trials


@dataclass(frozen=True)
class Needs:
    """What the driver knows beforehand of each trial.

    Attributes:
        seconds: how long it will take; longer ones start first.
        peak_bytes: the most memory that like trials took on a GPU, or None where none was measured.
    """

    seconds: Callable[[PlannedTrial], float] = lambda trial: 0.0
    peak_bytes: Callable[[PlannedTrial], int | None] = lambda trial: None


def run_on_ray(
    trials: Sequence[PlannedTrial], context: Context, resources: Resources, listener: Listener, *, token: str, needs: Needs | None = None
) -> None:
    """Run the trials; returns when all have ended or been given up.

    Args:
        token: id of a claim that the driver holds in the store, by which a node can tell that it sees the same store.
        needs: what is known of the trials beforehand.

    Raises:
        ClusterError: Ray cannot be reached, or cannot ever offer what a trial asks for.
        StoreError, DataError, ConfigError: a worker could not read its data or code, or not store its record.
        KeyboardInterrupt: Ctrl-C; workers are stopped, the store is whole.
    """
    with ray_session(context, resources) as ray:
        pool = Pool(ray, context, resources, listener, token, needs or Needs())
        try:
            pool.run(trials)
        finally:
            pool.close()


@dataclass
class _Slot:
    """One worker of the pool, and what it is at."""

    actor: Any
    share: float
    ready: Any
    node: str = ""
    host: str = ""
    job: Job | None = None
    events: Any = None
    knows: set[str] = field(default_factory=set)

    @property
    def is_starting(self) -> bool:
        return self.ready is not None

    @property
    def is_idle(self) -> bool:
        return self.ready is None and self.job is None


class Pool:
    """Workers on the nodes of a cluster, as many as fit, and the trials that they share out.

    Args:
        ray: the module, connected.
        context, resources, listener, token, needs: as for `run_on_ray`.
        worker: class of the actors.
        gpu_bytes: memory of a GPU, where it is known; None: the first GPU that Ray gives is asked.
    """

    def __init__(
        self,
        ray: Any,
        context: Context,
        resources: Resources,
        listener: Listener,
        token: str,
        needs: Needs,
        *,
        worker: type = TrialWorker,
        gpu_bytes: int | None = None,
    ) -> None:
        self.ray, self.context, self.resources, self.listener, self.token, self.needs = ray, context, resources, listener, token, needs
        self.worker = worker
        self.store = TrialStore(context.store_url)
        self.claims = Claims(self.store, context.owner, context.lease_s)
        self.is_cluster = bool(os.environ.get("RAY_ADDRESS"))
        self.slots: list[_Slot] = []
        self.waiting = Waiting()
        self.elsewhere: list[Job] = []
        self.problem: PipelineError | None = None  # nothing more is started
        self.bad_data: dict[str, DataError] = {}
        self._nodes: dict[str, dict[str, float]] = {}
        self._looked_at_nodes = self._looked_elsewhere = 0.0
        self._failures = 0
        self._payloads: dict[str, Any] = {}
        self._gpu_bytes = gpu_bytes
        self._asked = 0

    def run(self, trials: Sequence[PlannedTrial]) -> None:
        """Run the trials.

        Raises:
            PipelineError: what made it stop early; trials that were running have been let finish.
        """
        smallest = {"CPU": float(self.context.threads)}
        if self.context.device == "cuda":
            smallest["GPU"] = min(1.0, self.resources.gpus_per_trial)
        check_capacity(self.ray, smallest, self.resources.wait_s)
        if self.context.device == "cuda" and self._gpu_bytes is None:
            self._gpu_bytes = self.ray.get(self.ray.remote(num_cpus=0, num_gpus=0.01)(_gpu_bytes).remote())
        self.waiting = Waiting(Job(trial, self.needs.seconds(trial), self._share(trial)) for trial in trials)
        while True:
            if self.problem is None:
                self._look_elsewhere()
                self._grow()
                self._dispatch()
                self._let_go()
            elif not any(slot.job for slot in self.slots):
                raise self.problem
            if not (len(self.waiting) or self.elsewhere or any(slot.job for slot in self.slots)):
                break
            self._collect()
            self.listener.tick()
        if self.bad_data:
            raise next(iter(self.bad_data.values()))

    def close(self) -> None:
        """End all workers."""
        if self.is_cluster:
            self._ask_autoscaler(over=True)
        for slot in list(self.slots):
            self._discard(slot)

    # --- workers -----------------------------------------------------------------------------------------------------------------

    def _share(self, trial: PlannedTrial) -> float:
        if self.context.device != "cuda":
            return 0.0
        peak = self.needs.peak_bytes(trial) if self.resources.gpu_packing else None
        return share_for(peak, self._gpu_bytes) if peak and self._gpu_bytes else self.resources.gpus_per_trial

    def _grow(self) -> None:
        """Start workers for the shares that wait, as far as the nodes and `max_concurrent` allow; stop idle ones that are in the way."""
        now = time.monotonic()
        if now - self._looked_at_nodes > NODES_EVERY_S:
            self._nodes, self._looked_at_nodes = alive_nodes(self.ray), now
            if self.is_cluster:
                self._ask_autoscaler()
        for share in self.waiting.shares():
            wanted = self.waiting.count(share) - sum(slot.share == share and not slot.job for slot in self.slots)
            while wanted > 0:
                full = self.resources.max_concurrent is not None and len(self.slots) >= self.resources.max_concurrent
                if full or not self._fits(share):
                    idle = next((slot for slot in self.slots if slot.is_idle and not self.waiting.count(slot.share)), None)
                    if idle is None:
                        return
                    self._discard(idle)
                    continue
                self._start(share)
                wanted -= 1

    def _fits(self, share: float) -> bool:
        """Whether the nodes have room for one more worker; Ray finds the node, and lets the worker wait where GPUs are in fragments."""
        if sum(slot.is_starting for slot in self.slots) >= STARTING:
            return False
        cpus = sum(node.get("CPU", 0.0) // self.context.threads for node in self._nodes.values())
        gpus = sum(node.get("GPU", 0.0) for node in self._nodes.values())
        return len(self.slots) < cpus and sum(slot.share for slot in self.slots) + share <= gpus + 1e-6

    def _start(self, share: float) -> None:
        options = {"num_cpus": self.context.threads, "num_gpus": share, "max_restarts": 0}
        actor = self.ray.remote(self.worker).options(**options).remote(self.context, guard_fraction(share, self._gpu_bytes))
        job = self.waiting.peek(share)
        self.slots.append(_Slot(actor, share, actor.come_up.remote(self.token, job.trial.to_json() if job else None)))

    def _came_up(self, slot: _Slot) -> None:
        ref, slot.ready = slot.ready, None
        try:
            place = self.ray.get(ref)
        except self.ray.exceptions.RayError as error:
            self._discard(slot)
            self._failures += 1
            if self._failures >= START_FAILURES and not self.slots:
                self.problem = ClusterError(
                    f"{counted(self._failures, 'worker')} in a row did not come up. The last thing Ray said: {_last_line(error)} "
                    "Are the libraries of requirements.lock installed on the nodes?"
                )
            time.sleep(min(LOOK_S * 2**self._failures, 5.0))
            return
        self._failures = 0
        slot.node, slot.host = place["node"], place["host"]
        if not place["sees_store"]:
            self.problem = ClusterError(
                f"Node {slot.host} does not see the store {self.context.store_url}. Set store.url in params.yaml to a folder that all "
                "nodes see, or to an object-store URL such as s3://bucket/store."
            )

    def _discard(self, slot: _Slot) -> None:
        self.ray.kill(slot.actor, no_restart=True)
        self.slots.remove(slot)

    def _ask_autoscaler(self, *, over: bool = False) -> None:
        """Tell a cluster that starts nodes on demand what the trials that run and wait could use together."""
        from ray.autoscaler.sdk import request_resources

        open_jobs = 0 if over else len(self.waiting) + len(self.elsewhere) + sum(slot.job is not None for slot in self.slots)
        asked = min(open_jobs, self.resources.max_concurrent or open_jobs, MOST_ASKED)
        if asked != self._asked:
            bundle = {"CPU": self.context.threads} | ({"GPU": self.resources.gpus_per_trial} if self.context.device == "cuda" else {})
            request_resources(bundles=[bundle] * asked)
            self._asked = asked

    def _let_go(self) -> None:
        """On a cluster, end workers for which nothing waits, so that nodes that were started on demand may go."""
        if self.is_cluster and not len(self.waiting) and not self.elsewhere:
            for slot in [slot for slot in self.slots if slot.is_idle]:
                self._discard(slot)

    # --- trials ------------------------------------------------------------------------------------------------------------------

    def _dispatch(self) -> None:
        for slot in [slot for slot in self.slots if slot.is_idle]:
            job = self.waiting.take(slot.share)
            while job and job.trial.spec.data_digest in self.bad_data:
                self.listener.aborted(job.trial)
                job = self.waiting.take(slot.share)
            if job is None and not any(other.job for other in self.slots):
                job = self.waiting.take_alone(slot.share)
            if job is not None:
                self._begin(slot, job)

    def _begin(self, slot: _Slot, job: Job) -> None:
        trial = replace(job.trial, attempt=job.trial.attempt + job.attempts)
        slot.job = job
        try:
            if self.is_cluster and trial.spec.data_digest not in slot.knows:
                self._bring_data(slot, trial)
            slot.events = slot.actor.run.options(num_returns="streaming").remote(trial.to_json())
        except self.ray.exceptions.RayError as error:
            self._lost(slot, error)

    def _bring_data(self, slot: _Slot, trial: PlannedTrial) -> None:
        """Send a prepared dataset through the object store, once, to a node that does not see it."""
        text, digest = trial.to_json(), trial.spec.data_digest
        if not self.ray.get(slot.actor.has_data.remote(text)):
            if digest not in self._payloads:
                self._payloads[digest] = self.ray.put(files_of(data.folder(trial.spec.config["dataset"], Path(self.context.prepared))))
            self.ray.get(slot.actor.put_data.remote(text, self._payloads[digest]))
        slot.knows.add(digest)

    def _collect(self) -> None:
        """Wait for news of the workers, and act on it."""
        pending = {slot.ready if slot.is_starting else slot.events: slot for slot in self.slots if not slot.is_idle}
        if not pending:
            time.sleep(LOOK_S)
            return
        news, _ = self.ray.wait(list(pending), num_returns=1, timeout=LOOK_S, fetch_local=True)
        for item in news:
            slot = pending[item]
            if slot.is_starting:
                self._came_up(slot)
                continue
            try:
                events = self.ray.get(next(slot.events))
            except (self.ray.exceptions.RayError, StopIteration) as error:
                self._lost(slot, error)
                continue
            for event in events:
                self._heard(slot, event)

    def _heard(self, slot: _Slot, event: Event) -> None:
        job, kind = slot.job, event["event"]
        assert job is not None
        if kind == "started":
            self.listener.started(job.trial)
        elif kind == "epoch":
            self.listener.epoch(job.trial, event["row"])
        else:
            slot.job = slot.events = None
            if kind == "finished":
                self._finished(slot, job, record_of(event))
            elif kind == "taken":
                self.listener.elsewhere(job.trial)
                self.elsewhere.append(job)
            else:
                self._aborted(job, event)

    def _finished(self, slot: _Slot, job: Job, record: Record) -> None:
        failure = record.get("failure") if record["state"] == "failed" else ""
        if failure in RETRIED:
            self._discard(slot)  # its process may keep what it has allocated, or a broken context
            most = self.resources.max_attempts
            again = job.after_out_of_memory(most) if failure == "out_of_memory" else job.after_loss(False, most)
            if again:
                more = "while nothing else runs" if job.alone else f"with {job.share:.3g} of a GPU" if job.share else "elsewhere"
                self._requeue(job, f"{record['reason']}; again, {more if failure == 'out_of_memory' else 'in a fresh process'}")
                return
        self.listener.finished(job.trial, record)

    def _lost(self, slot: _Slot, error: Exception) -> None:
        """The process of a worker is gone, by itself or with its node."""
        job, slot.job = slot.job, None
        assert job is not None
        self._discard(slot)
        self._nodes = alive_nodes(self.ray)
        node_lost = slot.node not in self._nodes or bool(getattr(error, "preempted", False))
        if isinstance(error, self.ray.exceptions.OutOfMemoryError):
            again, why = job.after_out_of_memory(self.resources.max_attempts), f"memory ran out on {slot.host}"
        else:
            again = job.after_loss(node_lost, self.resources.max_attempts)
            why = f"node {slot.host} was lost" if slot.node not in self._nodes else f"its worker on {slot.host} was lost"
        if again:
            self._requeue(job, f"{why}; again, from its last checkpoint if it has one")
            return
        if self.claims.take(job.trial_id):  # the dead worker's
            self.claims.release(job.trial_id)
        reason = f"given up after {counted(job.attempts, 'attempt')}: {why}"
        trial = replace(job.trial, attempt=job.trial.attempt + job.attempts - 1)
        record = dress(lost_record(job.trial.spec, reason), trial, self.context.origin)
        self.store.append([record])
        self.listener.finished(job.trial, record)

    def _requeue(self, job: Job, why: str) -> None:
        self.listener.requeued(job.trial, why)
        self.waiting.put(job)

    def _aborted(self, job: Job, event: Event) -> None:
        self.listener.aborted(job.trial)
        message = f"{job.trial.name}: {event['error']}"
        if event["event"] == "crashed":
            self.problem = self.problem or ClusterError(f"A worker failed outside of its trial: {message}")
        elif event["kind"] == "DataError":
            self.bad_data.setdefault(job.trial.spec.data_digest, DataError(message))
        else:
            self.problem = self.problem or {"ConfigError": ConfigError, "StoreError": StoreError}.get(event["kind"], PipelineError)(message)

    def _look_elsewhere(self) -> None:
        """Take back trials that no other run is at any more: it has finished them, which a worker will see, or it is gone."""
        if not self.elsewhere or time.monotonic() - self._looked_elsewhere < ELSEWHERE_EVERY_S:
            return
        self._looked_elsewhere = time.monotonic()
        held = self.claims.held()
        for job in [job for job in self.elsewhere if job.trial_id not in held]:
            self.elsewhere.remove(job)
            self.waiting.put(job)


def _last_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[-1].strip() if lines else type(error).__name__


def _gpu_bytes() -> int:
    import torch

    return int(torch.cuda.get_device_properties(0).total_memory)
