"""The command: arguments in, answers out. No logic of its own; what is heavy is imported when a command runs."""

from __future__ import annotations

import io
import os
import sys

import click

from layerstore import __version__, warnings
from layerstore.cli import signals
from layerstore.cli.commands import Commands
from layerstore.cli.options import Settings, database_option
from layerstore.errors import LayerstoreError, NotFoundError
from layerstore.paths import why_refused

# Click's own errors exit with 2, for wrong usage.
DONE, FOUND, BAD = 0, 1, 3


@click.group(
    cls=Commands,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
    epilog="""\b
Examples:
  layerstore import /var/lib/docker
  layerstore show localhost:5000/team/app
  layerstore verify
  layerstore export /var/lib/docker/image/overlay2/distribution

\b
Exit codes: 0 done; 1 findings, or not found; 2 wrong usage; 3 bad input or store.""",
)
@click.version_option(__version__, prog_name="layerstore")
@database_option
@click.pass_context
def command(context: click.Context) -> None:
    """Keep what a container engine remembers about its image layers in one SQLite file.

    Which compressed blob (digest) is which layer (DiffID), and which repositories have each blob.
    """
    from layerstore.cli.output import print_warning

    context.with_resource(warnings.told_to(print_warning))
    context.ensure_object(Settings)


def main() -> None:
    """Run the command, and exit with its code."""
    _prepare()
    with signals.interrupting():
        try:
            code = _outcome()
            _let_go_of_output()
        except (KeyboardInterrupt, click.Abort):
            code = _fail("interrupted; nothing is half written, run it again", 130)
            _let_go_of_output()
    sys.exit(code)


def _outcome() -> int:
    try:
        code = _run()
        sys.stdout.flush()
    except NotFoundError as error:
        code = _fail(error, FOUND)
    except LayerstoreError as error:
        code = _fail(error, BAD)
    except click.ClickException as error:
        _show(error)
        code = error.exit_code
    except BrokenPipeError:
        # Whoever read the pipe has gone, as `head` does; a shell says 141 for that.
        code = 141
    except OSError as error:
        what = "the output cannot be written" if error.filename is None else os.fsdecode(error.filename)
        code = _fail(f"{what}: {why_refused(error)}", BAD)
    return code


def _fail(error: object, code: int) -> int:
    from layerstore.cli.output import fail

    return fail(error, code)


def _show(error: click.ClickException) -> None:
    """Print click's own error, which may hold any argument, without what would steer a terminal."""
    from layerstore.cli.output import printable

    said = io.StringIO()
    error.show(said)
    click.echo("\n".join(map(printable, said.getvalue().expandtabs(2).split("\n"))), nl=False, err=True)


def _prepare() -> None:
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:  # closed by whoever started this
            setattr(sys, name, open(os.devnull, "w"))  # noqa: SIM115  # for as long as the process lives
        elif isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # a name in a path may be no UTF-8


def _run() -> int:
    if "_LAYERSTORE_COMPLETE" in os.environ:
        command.main(prog_name="layerstore", complete_var="_LAYERSTORE_COMPLETE")
    # Not click's own `main`, which takes a broken pipe for failure.
    try:
        with command.make_context("layerstore", sys.argv[1:]) as context:
            return int(command.invoke(context) or DONE)
    except click.exceptions.Exit as end:
        return end.exit_code


def _let_go_of_output() -> None:
    """Keep Python from complaining, when it ends, of what cannot be written."""
    try:
        sys.stdout.flush()
    except OSError:
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, sys.stdout.fileno())
        os.close(null)
