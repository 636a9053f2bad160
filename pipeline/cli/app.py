"""What every command of `ablate` shares: the app, its options, how studies and trials are found, how answers are printed."""

from __future__ import annotations

import inspect
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pipeline.errors import PipelineError, UnknownNameError, counted

if TYPE_CHECKING:
    from pipeline.orchestration.planning import Plan
    from pipeline.store.records import Record
    from pipeline.study.config import StudyFile
    from pipeline.study.params import Params

app = typer.Typer(
    help="Ablation and benchmark studies in image classification: declare a study, run it, get tables you can defend.",
    epilog="Examples:\nablate plan\nablate run --study cifar10_small\nablate table backbones\nablate why 3f9c0a12",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
)
StudyOption = Annotated[str | None, typer.Option("--study", "-s", help="Study to use: studies/NAME.yaml, or a path. Default: params.yaml.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON for programs.")]

STARTED_IN = Path.cwd()


def lay_out_help(commands: typer.Typer) -> None:
    """Let paragraphs of help texts flow, and give each example a line: typer keeps the line breaks of docstrings, and breaks examples."""
    for command in commands.registered_commands:
        paragraphs = inspect.cleandoc(command.callback.__doc__ or "").split("\n\n") if command.callback else []
        command.help = "\n\n".join(paragraph.replace("\n", " ") for paragraph in paragraphs)
        command.epilog = (command.epilog or "").replace(":  ", ":\n").replace(" · ", "\n")


def load(study: str | None) -> tuple[StudyFile, Params]:
    from pipeline.study.config import load_study
    from pipeline.study.params import load_params

    params = load_params()
    if study and study.endswith((".yaml", ".yml")) and not Path(study).exists() and (STARTED_IN / study).exists():
        study = str(STARTED_IN / study)  # a path is meant from where the user stands
    return load_study(study or params.study), params


def planned(study: str | None, *, check: bool = True) -> tuple[Plan, dict[str, Record], Params]:
    """Plan, stored records and params; with `check` a plan without any known trial is refused, and said is which trials are blocked."""
    from pipeline.orchestration.planning import check_identified, make_plan
    from pipeline.store.trial_store import TrialStore
    from pipeline.study.project import absolute_url

    file, params = load(study)
    made = make_plan(file, params)
    if check:
        check_identified(made)
        note_blocked(made)
    return made, TrialStore(absolute_url(params.store.url)).records(), params


def note_blocked(made: Plan) -> None:
    for reason, number in made.why_blocked().items():
        note(f"{counted(number, 'trial')} blocked: {reason}")


def find(known: dict[str, Any], prefix: str, where: str = "the plan") -> str:
    matches = [trial_id for trial_id in known if trial_id.startswith(prefix)]
    if len(matches) == 1:
        return matches[0]
    if matches:
        raise PipelineError(f"{prefix!r} is the beginning of {len(matches)} trial ids: {', '.join(matches[:5])}. Give more digits.")
    raise UnknownNameError("trial", prefix, list(known)[:10], where=where, next_step="`ablate trials` lists them all.")


def print_json(value: Any) -> None:
    sys.stdout.write(json.dumps(value, indent=2, default=str) + "\n")


def say(line: str) -> None:
    sys.stdout.write(line + "\n")


def note(line: str) -> None:
    sys.stderr.write(line + "\n")
