"""What is here: doctor, schema, methods, models."""

from __future__ import annotations

import dataclasses
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from pipeline.cli.app import JsonOption, StudyOption, app, load, note, print_json, say
from pipeline.errors import PipelineError, counted


@app.command(epilog="Examples:  ablate doctor · ablate doctor --repair")
def doctor(
    study: StudyOption = None,
    repair: Annotated[
        bool, typer.Option("--repair", help="Put the store right: damaged files go to quarantine/, what crashed runs left is removed.")
    ] = False,
) -> None:
    """Look at this environment, the study, the data and every file of the store, and say what is wrong."""
    from pipeline.orchestration.doctor import examine

    problems = 0
    for word, line in examine(study, repair=repair):
        say(f"{word:<7}{line}")
        problems += word == "wrong"
    if problems:
        raise typer.Exit(2)


@app.command(epilog="Examples:  ablate schema > study.schema.json · ablate schema --study mine")
def schema(study: StudyOption = None) -> None:
    """JSON Schema of a study file, with the options of every registered method under $defs; with --study those of its plugins too."""
    from pipeline.orchestration.explain import study_schema

    if study is not None:
        load(study)
    print_json(study_schema())


@app.command(epilog="Examples:  ablate methods · ablate methods losses · ablate methods backbones --json · ablate methods --study mine")
def methods(
    kind: Annotated[str | None, typer.Argument(help="losses, regularizers, backbones or datasets; all without it.")] = None,
    study: StudyOption = None,
    as_json: JsonOption = False,
) -> None:
    """What a study may name: losses, regularizers, backbones and datasets with options, purpose and module; + marks plugins."""
    from pipeline.orchestration.methods import list_methods, options_text

    plugins: list[str] = []
    try:
        plugins = load(study)[0].study.plugins
    except PipelineError as error:
        if study is not None:
            raise
        note(f"Without the plugins of the active study: {error}")
    listing = list_methods(kind, plugins)
    if as_json:
        print_json(listing)
        return
    for word, entries in listing.items():
        say(f"{word} ({len(entries)})")
        for entry in entries:
            if "module" in entry:
                label = f" ({entry['label']})" if entry["label"] != entry["name"] else ""
                say(f"{'+' if entry['plugin'] else ' '} {entry['name']}{label}: {entry['purpose']}  [{entry['module']}]")
                if entry["options"]:
                    say(f"      {options_text(entry['options'])}")
        if any("module" not in entry for entry in entries):
            say(f"  `ablate methods {word}` lists them all.")


@app.command(
    epilog="Examples:  ablate models · ablate models vgg · ablate models 'timm_resnet5*' --size 224 · ablate models swin --unsupported"
)
def models(
    pattern: Annotated[
        str | None, typer.Argument(help="Part of a name, or a shape such as 'resnet*_cifar'; without it, all families.")
    ] = None,
    size: Annotated[int, typer.Option(min=1, help="Rows and columns of the image.")] = 32,
    channels: Annotated[int, typer.Option(min=1, help="Channels of the image: 1 grey, 3 colour.")] = 3,
    classes: Annotated[int, typer.Option(min=1, help="Number of classes.")] = 10,
    unsupported: Annotated[bool, typer.Option("--unsupported", help="Networks without exact class activation maps, and why.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Backbones: their families; with a pattern parameters, multiply-adds, feature map, stages and class activation maps of each.

    The feature map is channels x rows x columns before global average pooling. Multiply-adds are those of convolutions and linear
    layers for one image. Of many matches the first 40 are described and the others named: this builds every network without weights.
    """
    from pipeline.models import describe

    pattern = (pattern or "").strip() or None
    if unsupported:
        reasons = describe.reasons(pattern)
        if as_json:
            print_json(reasons)
        else:
            say("\n".join(reasons.values()))
        return
    if pattern is None:
        families = describe.families()
        if as_json:
            print_json(families)
            return
        table = Table("family", "backbones", "names", title="Families of backbones", title_justify="left")
        for family, names in families.items():
            table.add_row(family, str(len(names)), ", ".join(names[:8]) + (" ..." if len(names) > 8 else ""))
        Console().print(table)
        say(f"{sum(map(len, families.values()))} backbones. `ablate models PATTERN` describes some; --unsupported says what is left out.")
        return
    matches = describe.match(pattern)
    rows = [describe.describe(name, size=size, in_channels=channels, num_classes=classes) for name in matches[: describe.MOST]]
    if as_json:
        print_json([dataclasses.asdict(row) for row in rows] + [{"name": name} for name in matches[describe.MOST :]])
        return
    title = f"{counted(len(matches), 'backbone')}, {channels}x{size}x{size} images, {counted(classes, 'class', 'classes')}"
    heads = ("name", "parameters", "multiply-\nadds", "feature\nmap", "stages", "library", "class activation\nmap")
    table = Table(*heads, title=title, title_justify="left")
    for column in table.columns[:-1]:
        column.no_wrap = True
    table.columns[-1].max_width = 48
    for row in rows:
        shape = "x".join(map(str, row.feature_map)) if row.feature_map else "-"
        counts = ("-" if count is None else f"{count / 1e6:.2f} M" for count in (row.parameters, row.multiply_adds))
        table.add_row(row.name, *counts, shape, "-" if row.stages is None else str(row.stages), row.library or "-", row.reason or "yes")
    console = Console()
    # Where the terminal is too narrow it breaks lines; rich would cut names.
    console.width = max(console.width, console.measure(table, options=console.options.update_width(1000)).maximum)
    console.print(table)
    for row in rows:
        if row.problem:
            say(f"{row.name}: {row.problem}")
    if len(matches) > len(rows):
        say(f"Not described: {', '.join(matches[describe.MOST :])}")
