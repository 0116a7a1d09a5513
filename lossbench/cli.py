"""The command line. Heavy imports stay inside the sub-commands: `--help` and `list` need neither torch nor Hydra."""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Callable, Sequence
from functools import partial
from importlib import import_module

from lossbench import __version__
from lossbench.commands.usage import USAGES, parse
from lossbench.errors import ConfigError, LossbenchError, did_you_mean, printable, refuse_memory

USAGE = """\
lossbench: which loss, optimizer or schedule is better, by how much, and is the difference real.

  lossbench train [KEY=VALUE ...]     train one combination; with -m, a sweep over many (--help for more)
  lossbench check [KEY=VALUE ...]     all that can be known without training
  lossbench plot KEY=VALUE ...        the learning rate over a run, drawn without training; several in one picture
  lossbench find-lr [KEY=VALUE ...]   a good learning rate, by a range test
  lossbench compare PATH ...          which arm of a sweep, or of several, is better, and whether that is chance
  lossbench evaluate PATH             the metrics of a trained model, on its run's data or on others
  lossbench predict PATH              what a trained model says of new rows: --input FILE --output FILE
  lossbench export PATH               a trained model as a file of its own: torch.export or ONNX
  lossbench repair PATH               a run's TensorBoard file, made again from its CSV files
  lossbench list [WHAT]               losses, datasets, models, optims, schedulers or experiments
  lossbench show GROUP=NAME           the card of one option, such as loss=focal
  lossbench completion bash|zsh|fish  a script that completes commands and options: eval "$(lossbench completion bash)"
  lossbench --version

Examples:
  lossbench train loss=focal optim=adamw
  lossbench train dataset=diabetes loss=huber loss.delta=0.5
  lossbench train -m loss=cross_entropy,focal,label_smoothing 'seed=range(0,3)'
  tensorboard --logdir outputs

PATH is a run's directory, such as outputs/DATE/TIME-NAME; compare takes a sweep's, and folders of runs, too. All but
list, show and completion have a --help. Any command takes --debug, which shows the traceback of an error.
"""


def main(arguments: Sequence[str] | None = None) -> None:
    """Run a command and exit.

    0 done, 1 internal error, 2 usage or config, 3 data, 4 diverged, 5 checkpoint, 6 resource, 10 a sweep with failed
    jobs, 130 interrupted, 143 terminated.
    """
    _open_closed_streams()
    words = list(sys.argv[1:] if arguments is None else arguments)
    debug = "--debug" in words
    words = [word for word in words if word != "--debug"]
    try:
        _run(words)
        sys.stdout.flush()
    except KeyboardInterrupt as stop:
        _exit(143 if type(stop).__name__ == "Terminated" else 130)
    except BrokenPipeError:  # a reader that closed our output early is no error
        _exit(0)
    except SystemExit:
        raise
    except BaseException as error:
        if debug:
            traceback.print_exception(error)
        _exit(_report(error, words))


def _run(words: list[str]) -> None:
    commands: dict[str, Callable[[list[str]], None]] = {
        "train": _train,
        **{name: partial(_other, name) for name in USAGES},
        "list": _list,
        "show": _show,
        "completion": _completion,
    }
    if not words or words[0] in ("--help", "-h", "help"):
        print(USAGE, end="")
    elif words[0] in ("--version", "-V"):
        print(f"lossbench {__version__}")
    elif words[0] in commands:
        commands[words[0]](words[1:])
    else:
        hint = f"; did you mean 'lossbench train {words[0]}'?" if "=" in words[0] else did_you_mean(words[0], commands)
        raise ConfigError(f"unknown command '{words[0]}'{hint} (lossbench --help)")


def _train(words: list[str]) -> None:
    import signal
    import threading

    from lossbench.stopping import terminate

    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, terminate)
        signal.signal(signal.SIGUSR2, terminate)

    from lossbench.app import train

    train(words)


def _other(name: str, words: list[str]) -> None:
    """A command of `lossbench.commands`; its words are read, and its --help printed, before torch is imported."""
    asked = parse(name, words)
    if asked is not None:
        import_module(f"lossbench.commands.{name.replace('-', '_')}").run(asked)


def _list(words: list[str]) -> None:
    from lossbench.listing import show_list

    show_list(words)


def _show(words: list[str]) -> None:
    from lossbench.listing import show_card

    show_card(words)


def _completion(words: list[str]) -> None:
    from lossbench.completion import complete

    complete(words)


def _report(error: BaseException, words: Sequence[str]) -> int:
    """Say in one line what went wrong; the exit code."""
    found: LossbenchError | None = error if isinstance(error, LossbenchError) else None
    if found is None and "hydra" in sys.modules:
        from lossbench.hydra_errors import translate

        found = translate(error, words)
    if found is None:
        try:
            refuse_memory(error)
        except LossbenchError as memory:
            found = memory
    if found is None and isinstance(error, OSError):
        place = f" '{error.filename}'" if error.filename else ""
        text, code = f"{error.strerror or error}{place}", 6
    elif found is None:
        text, code = f"internal error: {type(error).__name__}: {error} (--debug shows where)", 1
    else:
        text, code = str(found), found.code
    sys.stderr.write(f"lossbench: error: {printable(text)}\n")
    return code


def _open_closed_streams() -> None:
    """Let what was closed (`>&-`) lead nowhere, in this process and those that it starts: no file takes its number."""
    while (descriptor := os.open(os.devnull, os.O_RDWR)) <= 2:
        os.set_inheritable(descriptor, True)
    os.close(descriptor)
    for number, name in ((1, "stdout"), (2, "stderr")):
        if getattr(sys, name) is None:
            setattr(sys, name, os.fdopen(number, "w"))


def _exit(code: int) -> None:
    """Leave with the exit code."""
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    sys.exit(code)
