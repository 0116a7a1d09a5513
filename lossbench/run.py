"""One run from start to end: train, measure the best weights, write down what happened."""

from __future__ import annotations

import errno
import traceback
from collections.abc import Callable, Sequence
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

from lossbench.build import Run
from lossbench.config import Config
from lossbench.console import say
from lossbench.device import environment
from lossbench.engine import Checkpoints, Metrics, train
from lossbench.engine.checkpoint import packed_json
from lossbench.errors import Diverged, LossbenchError, ResourceError, cause, is_memory
from lossbench.observe.csv_files import CsvFiles
from lossbench.observe.events import of_the_best
from lossbench.observe.hparams import sound_columns
from lossbench.observe.memory import PeakMemory
from lossbench.observe.range_file import write_range_test
from lossbench.observe.recorder import DeviceRecorder
from lossbench.observe.reporter import Report, Reporter
from lossbench.observe.run_dir import RunDirectory, Status, read_json
from lossbench.observe.screen import Screen
from lossbench.observe.spikes import Spikes
from lossbench.observe.tensorboard import TensorBoard
from lossbench.rates import recorded
from lossbench.resume import Resume
from lossbench.saved import FOLDER
from lossbench.summary import found_lr, hparams, identity, summarise

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def execute(
    run: Run,
    path: Path,
    overrides: Sequence[str],
    *,
    resume: Resume | None = None,
    stopped: Callable[[], bool] = lambda: False,
    brief: bool = False,
    report: Report | None = None,
) -> dict[str, Any]:
    """Train in the directory `path` and leave there all that the README's table of files names.

    Args:
        overrides: how the config was asked for, for the record.
        resume: the earlier part of this run, in the same directory.
        stopped: whether the run was asked to stop; its state is saved then.
        brief: one of many runs: its progress bar goes away, and it prints no lines.
        report: is told of each evaluation; one of many runs has a progress bar only if somebody is.

    Returns:
        The summary, as in `summary.json`. A diverged run has one too, of its best weights before; a stopped run has
        only its status and its step.

    Raises:
        ConfigError: the directory holds another run.
        CheckpointError: the records do not lead up to the checkpoint to go on from; nothing is changed.
        ResourceError: the directory cannot be written, or the memory does not suffice.
    """
    start = resume.step if resume else None
    memory = PeakMemory(run.device)
    directory = RunDirectory(path, identity(run.config), resume=resume.lock if resume else None)
    status: Status | None = None if resume else "failed"  # none: nothing has been changed
    ended: dict[str, object] = {}
    try:
        with closing(_recorder(run, directory)) as recorder:
            recorder.add(CsvFiles(path, run.player.columns, resume=start))
            spikes = recorder.add(Spikes(directory.log))
            checkpoints = _checkpoints(run, path, resume, lambda: {**recorder.progress(), "spikes": spikes.count})
            if resume:
                status = "failed"
                directory.reopen(resume.step)
                recorder.resume(resume.progress)
                spikes.count = resume.progress["spikes"]
                checkpoints.forget_after(resume.step)
                if resume.changed:  # a rollback returns to the settings of today
                    checkpoints.saved = None
            directory.config(run.config.text, list(overrides))
            _record_rate(run.config, directory)
            board = recorder.add(_board(run, path, start))
            recorder.add(_screen(run, start or 0, brief, hidden=brief and report is None))
            reporter = recorder.add(Reporter(report)) if report else None
            try:
                reason = train(
                    run.player,
                    run.batches,
                    run.length,
                    run.evaluation,
                    recorder,
                    run.best,
                    checkpoints,
                    averaged=run.averaged,
                    start=start or 0,
                    stopped=stopped,
                    pruned=lambda: reporter is not None and reporter.ends,
                )
                status, ended = "completed", {"reason": reason}
            except Diverged as error:
                status, ended = "diverged", {"error": str(error)}
            if ended.get("reason") == "stopped":
                board.status = status = "interrupted"
                return {"status": status, "steps": recorder.last.step if recorder.last else 0}
            board.status = status
            metrics = final_metrics(run)
            counted = {"spikes": spikes.count, "peak_memory": memory.bytes()}
            summary = summarise(run, recorder, status, metrics) | counted | ended
            if metrics:
                board.evaluated(summary["steps"], summary["epochs"], of_the_best(metrics))
            directory.summary(summary)
        return summary
    except KeyboardInterrupt:
        status = status and "interrupted"
        raise
    except LossbenchError as error:
        status, ended = status and "failed", {"error": cause(error)}
        raise
    except BaseException as error:
        ours = _in_our_words(error, run, path)
        status, ended = status and "failed", {"error": cause(ours or error)}
        with suppress(OSError):
            directory.log(traceback.format_exc())
        if ours:
            raise ours from error
        raise
    finally:
        if status is not None:
            with suppress(OSError):
                directory.status(status, **ended)
        directory.release()


def _record_rate(config: Config, directory: RunDirectory) -> None:
    """Write down how the rate was found, unless that was earlier in this run."""
    found = config.found_lr
    if found is not None and found.rates:
        write_range_test(directory.path, found.rates, found.losses, found.smoothed)
        directory.log(f"optim.lr=auto: {found.suggested} ({found.reason})")


def _recorder(run: Run, directory: RunDirectory) -> DeviceRecorder:
    player = run.player
    details = len(player.columns) - len(player.settings)
    flush_every = run.config.trainer.flush_every
    return DeviceRecorder([directory], device=run.device, flush_every=flush_every, details=details)


def _checkpoints(run: Run, path: Path, resume: Resume | None, progress: Callable[[], dict[str, Any]]) -> Checkpoints:
    config, options = run.config, run.config.checkpoint
    earlier = recorded(resume.checkpoint.facts) if resume else None  # a number typed meanwhile does not undo it
    per_epoch = run.batches.steps_per_epoch
    return Checkpoints(
        path / FOLDER,
        run.player,
        run.best,
        progress,
        say,
        facts={
            "config": config.typed,
            "choices": config.choices,
            "environment": environment(config.trainer.device, config.trainer.precision),
            **found_lr(config.found_lr or earlier),
        },
        files={"data.json": packed_json(run.data.fitted.to_json())},
        every=per_epoch if options.every == "epoch" else options.every if isinstance(options.every, int) else None,
        auto=options.every == "auto",
        minutes=options.minutes,
        keep=options.keep,
        averaged=run.averaged_best,
    )


def _in_our_words(error: BaseException, run: Run, path: Path) -> ResourceError | None:
    """The error of ours for memory or a disk that does not suffice."""
    if is_memory(error):
        return ResourceError(_smaller(run))
    if isinstance(error, OSError) and error.errno in FULL:
        return ResourceError(f"cannot write to {path}: {error.strerror}; make room, then resume={path}")
    return None


def _smaller(run: Run) -> str:
    """What to try where the memory did not suffice."""
    size, accumulate = run.batches.batch_size, run.batches.accumulate
    shape = tuple(run.data.input_shape)
    if size == 1:
        return f"out of memory with one input of shape {shape} at a time; try a smaller model or trainer.precision=bf16"
    halves = f"trainer.batch_size={size // 2} trainer.accumulate={2 * accumulate}"
    return f"out of memory with {size} inputs of shape {shape} at a time; try {halves}, or a smaller model"


def _board(run: Run, path: Path, resume: int | None) -> TensorBoard:
    task, scaled, columns = run.player.task, run.player.scale.enabled, run.player.columns
    compared = [f"{kind}/{name}" for kind in ("best", "test") for name in task.directions if "/" not in name]
    shared = sound_columns(read_json(path.parent / "sweep.json", {}).get("hparams"))
    return TensorBoard(
        path, hparams(run.config), compared, scaled=scaled, columns=columns, shared=shared, resume=resume
    )


def _screen(run: Run, start: int, brief: bool, *, hidden: bool) -> Screen:
    trainer = run.config.trainer
    return Screen(
        steps=run.length.steps,
        epochs=-(-run.length.steps // run.batches.steps_per_epoch),
        monitor=run.best.metric,
        batch_size=trainer.batch_size * trainer.accumulate,
        start=start,
        brief=brief,
        hidden=hidden,
    )


def final_metrics(run: Run) -> dict[str, Metrics]:
    """Each split's metrics with the best weights, and those of the best averaged weights, as `val_ema`, say.

    None where no evaluation came to pass.
    """
    if not run.best.weights:
        return {}
    splits, averaged = {"train": run.data.train, "val": run.data.val, "test": run.data.test}, {}
    if run.averaged is not None and run.averaged.best.weights:
        run.averaged.best.restore()
        kind = run.averaged.average.kind
        averaged = {f"{name}_{kind}": run.evaluate(splits[name]) for name in ("val", "test")}
    run.best.restore()
    return {name: run.evaluate(split) for name, split in splits.items()} | averaged
