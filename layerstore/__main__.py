"""The command, as `python -m layerstore` and by its name: nothing is imported before a signal ends it quietly."""

import signal


def main() -> None:
    """Run the command, and exit with its code."""
    # Until there is something to clean up, Ctrl-C ends the process as it does one that is not Python's.
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    from layerstore.cli import main as run  # noqa: PLC0415  # takes as long as all the rest of the start

    run()


if __name__ == "__main__":
    main()
