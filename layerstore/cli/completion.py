"""Completion of commands and options in a shell, made by click."""

from __future__ import annotations

import click
from click.shell_completion import get_completion_class


@click.command(
    epilog="""\b
Examples:
  layerstore completion bash > /etc/bash_completion.d/layerstore
  layerstore completion zsh > "${fpath[1]}/_layerstore"
  layerstore completion fish > ~/.config/fish/completions/layerstore.fish"""
)
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
@click.pass_context
def completion(context: click.Context, shell: str) -> None:
    """Print a completion script.

    It completes layerstore's commands and options in a shell.
    """
    kind = get_completion_class(shell)
    assert kind is not None
    click.echo(kind(context.find_root().command, {}, "layerstore", "_LAYERSTORE_COMPLETE").source())
