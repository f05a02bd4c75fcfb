"""The command: arguments in, answers out. No logic of its own; what is heavy is imported when a command runs."""

from __future__ import annotations

import io
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from types import FrameType
from typing import Final

import click
from click.shell_completion import get_completion_class

from layerstore import __version__, warnings
from layerstore.cli.options import Settings, database_option
from layerstore.cli.output import fail, print_warning, printable
from layerstore.errors import LayerstoreError, NotFoundError
from layerstore.paths import why_refused

# Click's own errors exit with 2, for wrong usage.
DONE, FOUND, BAD, INTERRUPTED = 0, 1, 3, 130

COMMANDS: Final = {
    "import": ("transfer", "import_", "Import what container engines know of layers."),
    "export": ("transfer", "export", "Write what the store knows for an engine."),
    "verify": ("transfer", "verify", "Check a store, and repair it."),
    "diff": ("transfer", "diff", "Compare two stores."),
    "show": ("show", "show", "Show what is known about a layer, blob, repository or image."),
    "query": ("query", "query", "Ask the database with SQL."),
    "stats": ("database", "stats", "Show how much the database holds."),
    "serve": ("serve", "serve", "Show the store in a browser."),
    "candidates": ("push", "candidates", "Explain from which repositories a push would mount a layer."),
    "plan": ("push", "plan", "Predict a push of an image, layer by layer."),
    "list": ("entries", "list_", "List entries."),
    "get": ("entries", "get", "Print an entry."),
    "set": ("entries", "set_", "Store an entry."),
    "delete": ("entries", "delete", "Remove an entry."),
    "quarantine": ("quarantine", "quarantine", "List, restore or drop what was set aside."),
    "prune": ("transfer", "prune", "Remove entries that are no longer needed."),
    "backup": ("database", "backup", "Copy the store to a new file."),
    "recover": ("database", "recover", "Make a new database from a damaged one."),
    "schema": ("database", "schema", "Show or change the revision of the database's schema."),
    "completion": ("", "completion", "Print a completion script."),
}
"""By name: the module below `layerstore.cli`, the command's name in it, and what `--help` says of it."""


class Commands(click.Group):
    """The commands of the table, in its order. Each is loaded when it runs, so that `--help` waits for none of them.

    Source: click.palletsprojects.com, "Complex Applications", "Lazily Loading Subcommands".
    """

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the names of the commands."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Return a command, or `None` if there is none of this name."""
        if cmd_name not in COMMANDS:
            return None
        module, attribute, _ = COMMANDS[cmd_name]
        found: click.Command = getattr(import_module(f".{module}", __name__), attribute)
        return found

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write what the table says of each command."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, said) for name, (_, _, said) in COMMANDS.items()])


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
    context.with_resource(warnings.told_to(print_warning))
    context.ensure_object(Settings)


command.commands = dict.fromkeys(COMMANDS)  # type: ignore[assignment]  # names, of which click asks if one was meant


@click.command(
    epilog="""\b
Examples:
  layerstore completion bash > /etc/bash_completion.d/layerstore
  layerstore completion zsh > "${fpath[1]}/_layerstore"
  layerstore completion fish > ~/.config/fish/completions/layerstore.fish"""
)
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def completion(shell: str) -> None:
    """Print a completion script.

    It completes layerstore's commands and options in a shell.
    """
    kind = get_completion_class(shell)
    assert kind is not None
    click.echo(kind(command, {}, "layerstore", "_LAYERSTORE_COMPLETE").source())


def main() -> None:
    """Run the command, and exit with its code."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:  # closed by whoever started this
            setattr(sys, name, open(os.devnull, "w"))  # noqa: SIM115  # for as long as the process lives
        elif isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # a name in a path may be no UTF-8
    with interrupting():
        try:
            code = _outcome()
            _let_go_of_output()
        except (KeyboardInterrupt, click.Abort):
            code = fail("interrupted; nothing is half written, run it again", INTERRUPTED)
            _let_go_of_output()
    sys.exit(code)


def _outcome() -> int:
    """Run the command; say what goes wrong, and return the code for it."""
    try:
        code = _run()
        sys.stdout.flush()
    except NotFoundError as error:
        code = fail(error, FOUND)
    except LayerstoreError as error:
        code = fail(error, BAD)
    except click.ClickException as error:
        # It may hold any argument, also what would steer a terminal.
        said = io.StringIO()
        error.show(said)
        click.echo("\n".join(map(printable, said.getvalue().expandtabs(2).split("\n"))), nl=False, err=True)
        code = error.exit_code
    except BrokenPipeError:
        # Whoever read the pipe has gone, as `head` does; a shell says 141 for that.
        code = 141
    except OSError as error:
        what = "the output cannot be written" if error.filename is None else os.fsdecode(error.filename)
        code = fail(f"{what}: {why_refused(error)}", BAD)
    return code


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


_ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_MAY_BE_IGNORED = (signal.SIGINT, signal.SIGHUP)
"""Those that stay ignored: a shell ignores SIGINT for what runs in its background, `nohup` SIGHUP."""


@contextmanager
def interrupting() -> Iterator[None]:
    """Raise KeyboardInterrupt in the body when a signal comes that ends it, unless one is being dealt with already.

    So what is being written is cleaned up first, and no second signal interrupts that.
    """
    is_over = False

    def interrupt(_number: int, _frame: FrameType | None) -> None:
        if not is_over and not _is_interrupted(sys.exc_info()[1]):
            raise KeyboardInterrupt

    before = {number: signal.getsignal(number) for number in _ENDING}
    for number, handler in before.items():
        if handler is not signal.SIG_IGN or number not in _MAY_BE_IGNORED:
            signal.signal(number, interrupt)
    hook, sys.unraisablehook = sys.unraisablehook, _interrupt_again
    try:
        yield
    finally:
        is_over = True
        sys.unraisablehook = hook
        for number, handler in before.items():
            signal.signal(number, handler)


def _interrupt_again(lost: sys.UnraisableHookArgs) -> None:
    """Send the signal once more whose exception came where Python can only drop it: in a finaliser or callback."""
    if lost.exc_type is not KeyboardInterrupt:
        sys.__unraisablehook__(lost)
        return
    from threading import Timer

    Timer(0.01, os.kill, (os.getpid(), signal.SIGTERM)).start()


def _is_interrupted(error: BaseException | None) -> bool:
    """Tell whether an interrupt is on its way through the frames, from the exception that is being dealt with."""
    while error is not None:
        if isinstance(error, KeyboardInterrupt):
            return True
        error = error.__context__
    return False
