"""`lossbench export`: a trained model as a file of its own, compared with the model before it is kept."""

from __future__ import annotations

import importlib
import io
import logging
import shutil
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from torch import Tensor, nn

from lossbench.commands.files import check_place, replaced
from lossbench.commands.load import saved
from lossbench.commands.usage import Asked
from lossbench.console import say
from lossbench.engine.checkpoint import packed_json
from lossbench.errors import ConfigError, LossbenchError, first_line, refuse_memory

FOLDER = "export"
SUFFIXES = {"torch": ".pt2", "onnx": ".onnx"}
BATCHES = (1, 2, 7)
RTOL, ATOL = 1e-4, 1e-5

Function = Callable[[Tensor], Tensor]


def run(asked: Asked) -> None:
    """Export the model, compare, and put the preprocessing beside it.

    Raises:
        LossbenchError: no such run, a model that cannot be exported, or one that gives other outputs once exported.
    """
    kind, force = asked.values.get("--format", "torch"), "--force" in asked.switches
    if kind == "onnx":
        _need_onnx()
    found = saved(asked.path, asked.values.get("--checkpoint"), ["trainer.device=cpu"], asked.config_dirs)
    path = _place(asked.values.get("--output"), found.run / FOLDER, SUFFIXES[kind])
    beside, data = path.with_suffix(".data.json"), packed_json(found.fitted.to_json())
    if "--output" in asked.values or path.parent.is_dir():
        check_place(path, force=force)
        check_place(beside, force=force or (beside.is_file() and beside.read_bytes() == data))
    shape = found.fitted.input_shape
    with TemporaryDirectory() as scratch:
        whole = Path(scratch) / path.name
        said = export(kind, found.model(torch.device("cpu")), shape, whole)
        path.parent.mkdir(exist_ok=True)
        with replaced(path) as part:
            shutil.copyfile(whole, part)
    with replaced(beside) as part:
        part.write_bytes(data)
    say(f"{path}: the weights of step {found.step:,}; {said}")
    say(f"its inputs are encoded ones, of shape ({', '.join(['N', *map(str, shape)])}): {beside} says how")


def export(kind: str, model: nn.Module, shape: tuple[int, ...], path: Path) -> str:
    """Write the model, read it again and compare; what to say of it.

    Raises:
        ConfigError: the model cannot be exported, or gives other outputs once it is, or none that are finite.
    """
    try:
        with _quiet():
            _refuse_unusable(model, shape)
            exported = EXPORTS[kind](model, shape, path)
            off = None if exported is None else difference(model, exported, shape)
    except (LossbenchError, OSError):
        raise
    except Exception as error:  # torch's exporters raise what they like about a model that they cannot read
        refuse_memory(error)
        raise ConfigError(f"the model cannot be exported ({kind}): {first_line(error)}") from error
    if off is None:
        return "not compared with the model: onnxruntime is not installed"
    return f"on batches of {', '.join(map(str, BATCHES))} at most {off:.2g} from the model"


def to_torch(model: nn.Module, shape: tuple[int, ...], path: Path) -> Function:
    """Write a torch.export program, and read it again."""
    dynamic = ({0: torch.export.Dim("batch")},)
    program = torch.export.export(model, (torch.zeros(2, *shape),), dynamic_shapes=dynamic)
    torch.export.save(program, path)
    found: Function = torch.export.load(path).module()
    return found


def to_onnx(model: nn.Module, shape: tuple[int, ...], path: Path) -> Function | None:
    """Write an ONNX model, and read it again where onnxruntime is installed."""
    torch.onnx.export(
        model,
        (torch.zeros(2, *shape),),
        path,
        input_names=["input"],
        output_names=["output"],
        dynamic_shapes=({0: torch.export.Dim("batch")},),
        dynamo=True,
        external_data=False,
        verbose=False,
    )
    importlib.import_module("onnx").checker.check_model(str(path))
    try:
        runtime = importlib.import_module("onnxruntime")
    except ImportError:
        return None
    session = runtime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return lambda inputs: torch.from_numpy(session.run(None, {"input": inputs.numpy()})[0])


EXPORTS: dict[str, Callable[[nn.Module, tuple[int, ...], Path], Function | None]] = {
    "torch": to_torch,
    "onnx": to_onnx,
}


def difference(model: nn.Module, exported: Function, shape: tuple[int, ...]) -> float:
    """The largest difference between the outputs of both on random inputs.

    Raises:
        ConfigError: it is more than rounding.
    """
    generator, largest = torch.Generator().manual_seed(0), 0.0
    for size in BATCHES:
        inputs = torch.randn(size, *shape, generator=generator)
        with torch.no_grad():
            ours, theirs = model(inputs), exported(inputs)
        if ours.shape != theirs.shape:
            raise ConfigError(f"once exported, the model gives shape {tuple(theirs.shape)}, not {tuple(ours.shape)}")
        off = float((ours - theirs).abs().max())
        if not torch.allclose(ours, theirs, rtol=RTOL, atol=ATOL):
            raise ConfigError(
                f"once exported, the model gives other outputs, by up to {off:.2g}; nothing is kept. "
                "Does it draw random numbers, or ask how large a batch is?"
            )
        largest = max(largest, off)
    return largest


def _refuse_unusable(model: nn.Module, shape: tuple[int, ...]) -> None:
    with torch.no_grad():
        outputs = model(torch.randn(2, *shape, generator=torch.Generator().manual_seed(0)))
    if not outputs.isfinite().all():
        raise ConfigError("the model's outputs are not finite: nothing to export; --checkpoint names another one")


def _need_onnx() -> None:
    for name in ("onnx", "onnxscript"):
        try:
            importlib.import_module(name)
        except ImportError as error:
            raise ConfigError(f"--format onnx needs {name}: pip install 'lossbench[onnx]'") from error


def _place(output: str | None, folder: Path, suffix: str) -> Path:
    if output is None:
        return folder / f"model{suffix}"
    if Path(output).suffix.lower() != suffix:
        raise ConfigError(f"--output must end in {suffix}, got '{output}'")
    return Path(output)


@contextmanager
def _quiet() -> Iterator[None]:
    """Without what torch's exporters print and warn of, which is about themselves."""
    level = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with warnings.catch_warnings(), redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(level)
