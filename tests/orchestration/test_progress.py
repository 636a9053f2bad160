"""What a person reads while trials run."""

from __future__ import annotations

import io
import re
from collections.abc import Callable

import pytest

from pipeline.orchestration import progress
from pipeline.orchestration.cost import CostModel
from pipeline.orchestration.forecast import Forecast
from pipeline.orchestration.progress import ProgressView, clock
from tests.orchestration.priced import priced_record, priced_spec


class Screen:
    """A view of `trials` trials of 10 epochs, each expected to take 60 s, and what it wrote."""

    def __init__(self, trials: int, slots: int = 1, *, is_forecast: bool = True) -> None:
        specs = [priced_spec(seed=seed) for seed in range(trials)]
        self.ids = [spec.trial_id for spec in specs]
        model = CostModel.learn([priced_record(priced_spec(seed=99), 60.0)], device="cpu")
        self.stream = io.StringIO()
        self.view = ProgressView(trials, 10 * trials, Forecast(specs, model, slots) if is_forecast else None, stream=self.stream)

    @property
    def text(self) -> str:
        """All that was written."""
        return self.stream.getvalue()


@pytest.fixture(name="wait")
def wait_fixture(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """Moves the clock."""
    now = [1000.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])

    def wait(seconds: float) -> None:
        now[0] += seconds

    return wait


def test_a_line_counts_and_tells_the_time_left(wait: Callable[[float], None]) -> None:
    """Before the first trial it is the forecast."""
    screen = Screen(4, slots=2)
    assert screen.view.line() == "0/4 trials, 0 running, 0 failed, 2:00 left"
    screen.view.started(screen.ids[0])
    wait(30)
    for _ in range(5):
        screen.view.epoch(screen.ids[0])
    assert screen.view.line() == "0/4 trials, 1 running, 0 failed, 60 trials/h, 2:00 left"


def test_finished_trials_correct_the_time_left(wait: Callable[[float], None]) -> None:
    """Half as long as expected."""
    screen = Screen(3)
    screen.view.started(screen.ids[0])
    wait(30)
    screen.view.finished(screen.ids[0], 10, failed=False)
    assert screen.view.line() == "1/3 trials, 0 running, 0 failed, 120 trials/h, 1:00 left"


def test_without_a_forecast_the_share_of_the_epochs_tells(wait: Callable[[float], None]) -> None:
    """5 of 20 epochs in 30 s."""
    screen = Screen(2, is_forecast=False)
    assert screen.view.line() == "0/2 trials, 0 running, 0 failed"
    screen.view.started(screen.ids[0])
    wait(30)
    for _ in range(5):
        screen.view.epoch(screen.ids[0])
    assert screen.view.line().endswith("1:30 left")


def test_the_forecast_is_compared_with_what_it_took(wait: Callable[[float], None]) -> None:
    """At the end, from the start of the first trial on; what came before it is said apart."""
    screen = Screen(2)
    with screen.view:
        wait(6)
        for trial_id in screen.ids:
            screen.view.started(trial_id)
            wait(63)
            screen.view.finished(trial_id, 10, failed=False)
    assert screen.text.splitlines()[-1] == "forecast 2:00, took 2:06 (+5 %), after 0:06 of starting up"


def test_a_forecast_of_seconds_is_not_compared_in_percent(wait: Callable[[float], None]) -> None:
    """Two seconds that became eight are no finding."""
    spec = priced_spec()
    stream = io.StringIO()
    with ProgressView(1, 10, Forecast([spec], CostModel.learn([priced_record(spec, 2.0)], device="cpu"), 1), stream=stream) as view:
        view.started(spec.trial_id)
        wait(8)
        view.finished(spec.trial_id, 10, failed=False)
    assert stream.getvalue().splitlines()[-1] == "forecast 0:02, took 0:08, after 0:00 of starting up"


def test_a_forecast_of_some_trials_is_not_compared_with_all(wait: Callable[[float], None]) -> None:
    """Where nothing was known of one of them, the time it took stands alone."""
    known, strange = priced_spec(), priced_spec("resnet14")
    model = CostModel.learn([priced_record(known, 60.0)], device="cpu")
    model.refuse(strange, "failed")
    stream = io.StringIO()
    with ProgressView(2, 20, Forecast([known, strange], model, 1), stream=stream) as view:
        for spec in (known, strange):
            view.started(spec.trial_id)
            wait(60)
            view.finished(spec.trial_id, 10, failed=False)
    assert stream.getvalue().splitlines()[-1] == "forecast unknown, took 2:00, after 0:00 of starting up"


@pytest.mark.parametrize("how", ["aborted", "elsewhere", "interrupted"])
def test_a_run_that_did_not_run_all_is_not_compared(wait: Callable[[float], None], how: str) -> None:
    """It says nothing of the forecast."""
    screen = Screen(2)
    try:
        with screen.view:
            screen.view.started(screen.ids[0])
            wait(60)
            screen.view.finished(screen.ids[0], 10, failed=False)
            if how == "interrupted":
                raise KeyboardInterrupt
            getattr(screen.view, how)(screen.ids[1])
    except KeyboardInterrupt:
        assert how == "interrupted"
    assert "1/2 trials" in screen.text
    assert "forecast" not in screen.text


def test_requeued_trials_are_named_and_still_to_come(wait: Callable[[float], None]) -> None:
    """They are not running, and their epochs are not done; what is printed is not read as markup."""
    screen = Screen(1)
    screen.view.started(screen.ids[0])
    wait(20)
    screen.view.epoch(screen.ids[0])
    screen.view.requeued(screen.ids[0], "resnet8 [seed 0]: its worker was lost")
    assert screen.text == "again resnet8 [seed 0]: its worker was lost\n"
    assert screen.view.line() == "0/1 trial, 0 running, 0 failed, 1:00 left"
    screen.view.started(screen.ids[0], 4)
    assert screen.view.epochs_done == 4
    assert "0:36 left" in screen.view.line()


def test_trials_elsewhere_are_counted_apart(wait: Callable[[float], None]) -> None:
    """Until they are started here, or found finished."""
    screen = Screen(2)
    screen.view.elsewhere(screen.ids[0])
    assert screen.view.line() == "0/2 trials, 0 running, 0 failed, 1 elsewhere, 1:00 left"
    screen.view.started(screen.ids[0])
    assert screen.view.line() == "0/2 trials, 1 running, 0 failed, 2:00 left"
    screen.view.elsewhere(screen.ids[1])
    screen.view.finished(screen.ids[1], 10, failed=False)
    assert screen.view.line().startswith("1/2 trials, 1 running, 0 failed, ")
    assert "elsewhere" not in screen.view.line()


def test_failed_trials_are_named_at_once(wait: Callable[[float], None]) -> None:
    """As they are called, brackets and all."""
    screen = Screen(1)
    screen.view.started(screen.ids[0])
    screen.view.finished(screen.ids[0], 10, failed=True, message="resnet8 [seed 0]: loss is nan")
    assert screen.text == "failed resnet8 [seed 0]: loss is nan\n"
    assert screen.view.line().startswith("1/1 trial, 0 running, 1 failed")


def test_lines_come_now_and_then(wait: Callable[[float], None]) -> None:
    """Not with every tick."""
    screen = Screen(1)
    for _ in range(50):
        wait(1)
        screen.view.tick()
    assert len(re.findall("0/1 trial", screen.text)) == 2


def test_the_clock() -> None:
    """Hours only where there are some, and never less than nothing."""
    assert [clock(seconds) for seconds in (-3, 0, 61.4, 3723)] == ["0:00", "0:00", "1:01", "1:02:03"]
