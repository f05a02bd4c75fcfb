"""The command: measures everything in one run, and prints one table of ratios."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import click

from benchmarks import godriver
from benchmarks.machine import this_machine
from benchmarks.report import Report, around_the_table
from benchmarks.scale import FULL, QUICK

PARTS = ("reads", "writes", "contended", "sizes", "transfers", "startup", "postgresql")


def _sizes(_context: click.Context, _option: click.Parameter, text: str | None) -> tuple[int, ...]:
    try:
        sizes = tuple(sorted({int(size) for size in text.split(",")})) if text else ()
    except ValueError as error:
        raise click.BadParameter("give numbers of layers, such as 10000,100000") from error
    if text and (len(sizes) < 2 or sizes[0] < 1000):
        raise click.BadParameter("give two or more, each of 1,000 layers or more")
    return sizes


@dataclass(frozen=True, slots=True)
class _Outputs:
    """Files that the command writes besides its table."""

    json: Path | None
    plot: Path | None
    markdown: Path | None

    def check(self, parts: Sequence[str]) -> None:
        """Find out before half an hour of measuring what would fail behind it.

        Raises:
            click.UsageError: a file cannot be written, or has not what is needed.
        """
        if self.plot is not None:
            if "sizes" not in parts:
                raise click.UsageError("--plot draws what the part `sizes` measures: add --part sizes")
            if self.plot.suffix not in (".svg", ".png"):
                raise click.UsageError(f"--plot draws .svg and .png, not {self.plot.name}")
        for file in (self.json, self.plot):
            if file is not None and not file.absolute().parent.is_dir():
                raise click.UsageError(f"there is no directory {file.parent}")
        if self.markdown is not None:
            try:
                around_the_table(self.markdown)
            except ValueError as error:
                raise click.UsageError(str(error)) from error

    def write(self, report: Report) -> None:
        for what in report.too_high():
            click.echo(f"beyond what it may reach: {what}", err=True)
        if self.json is not None:
            report.write_json(self.json)
        if self.plot is not None:
            from benchmarks.plot import draw

            draw(report.costs, str(report.machine), self.plot)
        if self.markdown is not None:
            report.write_into(self.markdown)


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--layers", type=click.IntRange(1000), help=f"Layers of the store. Otherwise {FULL.layers}.")
@click.option(
    "--sizes",
    callback=_sizes,
    help=f"Stores that are compared by size. Otherwise {','.join(map(str, FULL.sizes))}.",
)
@click.option("--files", type=click.IntRange(100), help=f"Files of the directory. Otherwise {FULL.files}.")
@click.option("--quick", is_flag=True, help="Small sizes and few rounds, for a look: the ratios are rough.")
@click.option("--part", "parts", multiple=True, type=click.Choice(PARTS), help="Measure this part only; repeatable.")
@click.option("--json", "json_file", type=click.Path(path_type=Path, dir_okay=False), help="Write all figures here.")
@click.option("--plot", "plot_file", type=click.Path(path_type=Path, dir_okay=False), help="Draw here: .svg or .png.")
@click.option(
    "--into",
    "markdown_file",
    type=click.Path(path_type=Path, dir_okay=False, exists=True),
    help="Put the table between its marks in this file, such as docs/speed.md.",
)
@click.option(
    "--go",
    "go_file",
    type=click.Path(path_type=Path, dir_okay=False, exists=True),
    help="Figures of Docker's Go driver, for a column of their own: JSON, see benchmarks/godriver.py.",
)
def command(
    *,
    layers: int | None,
    sizes: tuple[int, ...],
    files: int | None,
    quick: bool,
    parts: tuple[str, ...],
    json_file: Path | None,
    plot_file: Path | None,
    markdown_file: Path | None,
    go_file: Path | None,
) -> None:
    """Measure what layerstore costs, beside what is below it and beside others, and print a table of ratios.

    The stores are in a temporary directory (TMPDIR says where), which needs 25 GB for a million layers. A whole run
    takes about half an hour.

    \b
    python -m benchmarks --quick
    python -m benchmarks --json figures.json --plot benchmarks/cost.svg --into docs/speed.md
    python -m benchmarks --part reads --part writes --layers 100000
    """
    scale = QUICK if quick else FULL
    scale = replace(scale, layers=layers or scale.layers, sizes=sizes or scale.sizes, files=files or scale.files)
    chosen = [part for part in PARTS if part in parts or not parts]
    outputs = _Outputs(json_file, plot_file, markdown_file)
    outputs.check(chosen)
    try:
        go = None if go_file is None else godriver.read(go_file)
    except ValueError as error:
        raise click.UsageError(f"{go_file}: {error}") from error
    try:
        # Not above: --help does without the extra.
        from benchmarks.measuring import measure
    except ModuleNotFoundError as error:
        raise click.ClickException(f"{error}: pip install '.[bench]'") from error
    with tempfile.TemporaryDirectory(prefix="layerstore-benchmarks-") as folder:
        report = Report(this_machine(Path(folder)), scale, go=go)
        try:
            measure(report, chosen, Path(folder))
        finally:
            # Also of a run that broke off, which may have lasted long.
            click.echo(report.markdown())
    outputs.write(report)


if __name__ == "__main__":
    command(prog_name="python -m benchmarks")
