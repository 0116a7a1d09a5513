"""Checkpoints on disk: directories that are whole or not there, and that prove what they hold.

A checkpoint is a directory with weights as safetensors, state that `torch.load(weights_only=True)` reads, JSON, and a
manifest with the size and SHA-256 of each file and of itself. It is written beside its place, flushed to the disk and
renamed, so that a kill or a power loss leaves the old one or the new one. Nothing in it is ever unpickled freely.
"""

from __future__ import annotations

import errno
import hashlib
import io
import json
import os
import pickle
import shutil
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor

from lossbench.errors import CheckpointError, ResourceError, first_line

FORMAT = 1
MANIFEST = "manifest.json"


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint whose every file is what its manifest says."""

    path: Path
    facts: Mapping[str, Any]  # what `write` was given beside the files

    def tensors(self, name: str) -> dict[str, Tensor]:
        """A safetensors file, on the CPU."""
        try:
            return safetensors.torch.load(self._bytes(name))
        except SafetensorError as error:
            raise CheckpointError(f"{self.path / name} is no safetensors file: {error}") from error

    def state(self, name: str) -> dict[str, Any]:
        """Nested state, on the CPU; a pickle that would do more than that is refused."""
        data = io.BytesIO(self._bytes(name))
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                found = torch.load(data, map_location="cpu", weights_only=True)
        except pickle.UnpicklingError as error:
            raise CheckpointError(
                f"{self.path / name} holds more than tensors and numbers: refusing to load"
            ) from error
        except Exception as error:  # foreign bytes: anything can come out of them
            raise CheckpointError(f"{self.path / name} cannot be read: {first_line(error)}") from error
        if not isinstance(found, dict):
            raise CheckpointError(f"{self.path / name} was not written by lossbench")
        return found

    def json(self, name: str) -> Any:
        try:
            return json.loads(self._bytes(name))
        except (ValueError, RecursionError) as error:
            raise CheckpointError(f"{self.path / name} is no JSON: {first_line(error)}") from error

    def _bytes(self, name: str) -> bytes:
        if name not in self.facts["files"]:
            raise CheckpointError(f"{self.path} has no {name} that its {MANIFEST} vouches for")
        try:
            return (self.path / name).read_bytes()
        except OSError as error:
            raise CheckpointError(f"{self.path / name} cannot be read: {error.strerror}") from error


def write(path: Path, files: Mapping[str, bytes], facts: Mapping[str, Any]) -> None:
    """Make the directory `path` with these files and a manifest; it appears whole, and replaces one of its name.

    Raises:
        ResourceError: there is no room, or it cannot be written; what was there before is untouched.
    """
    needed = sum(map(len, files.values()))
    manifest = _sealed({"format": FORMAT, **facts, "files": {name: _described(data) for name, data in files.items()}})
    part = path.with_name(f"{path.name}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _check_room(path.parent, needed)
        shutil.rmtree(part, ignore_errors=True)
        part.mkdir()
        for name, data in {**files, MANIFEST: manifest}.items():
            with (part / name).open("xb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
        _sync(part)
        old = path.with_name(f"{path.name}.old")
        shutil.rmtree(old, ignore_errors=True)
        if path.exists():
            os.rename(path, old)
        os.rename(part, path)
        _sync(path.parent)
        shutil.rmtree(old, ignore_errors=True)
    except OSError as error:
        shutil.rmtree(part, ignore_errors=True)
        reason = error.strerror or str(error)
        raise ResourceError(
            f"cannot write the checkpoint '{path}': {reason}; make room and go on with lossbench train "
            f"resume={path.parents[1]}"
        ) from error


def read(path: Path) -> Checkpoint:
    """The checkpoint in the directory `path`, every byte of it verified.

    Raises:
        CheckpointError: it is none, it is of a newer format, or a file is missing, cut off or changed.
    """
    try:
        manifest = json.loads((path / MANIFEST).read_bytes())
        sealed = json.loads(_sealed({k: v for k, v in manifest.items() if k != "sha256"}))
    except (OSError, ValueError, AttributeError, RecursionError) as error:
        raise CheckpointError(f"{path} holds no checkpoint: its {MANIFEST} is missing or damaged") from error
    if isinstance(manifest.get("format"), int) and manifest["format"] > FORMAT:
        raise CheckpointError(
            f"{path} is of format {manifest['format']}, and this lossbench reads up to {FORMAT}; use a newer lossbench"
        )
    if manifest != sealed:
        raise CheckpointError(f"{path} is damaged: {MANIFEST} fails its checksum")
    try:
        for name, described in manifest["files"].items():
            if name != Path(name).name or not (path / name).is_file():
                raise CheckpointError(f"{path / name} is damaged: {os.strerror(errno.ENOENT)}")
            _verify(path / name, described)
    except (KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(f"{path}: this {MANIFEST} was not written by lossbench") from error
    return Checkpoint(path, manifest)


def packed_tensors(tensors: Mapping[str, Tensor]) -> bytes:
    """As safetensors; tensors that share memory are written once each."""
    return safetensors.torch.save({name: t.detach().cpu().contiguous().clone() for name, t in tensors.items()})


def packed_state(state: Mapping[str, Any]) -> bytes:
    """As `torch.save` has it."""
    file = io.BytesIO()
    torch.save(state, file)
    return file.getvalue()


def packed_json(value: Any) -> bytes:
    return json.dumps(value).encode()  # an indent would be ten times as slow


def point(link: Path, target: str) -> None:
    """Make `link` a symbolic link to its neighbour `target`, from one moment to the next."""
    part = link.with_name(f"{link.name}.part")
    part.unlink(missing_ok=True)
    part.symlink_to(target)
    os.replace(part, link)


def _described(data: bytes) -> dict[str, Any]:
    return {"size": len(data), "sha256": hashlib.sha256(data).hexdigest()}


def _sealed(manifest: Mapping[str, Any]) -> bytes:
    """The manifest as bytes, with a checksum of its own."""
    checksum = hashlib.sha256(json.dumps(manifest, sort_keys=True).encode()).hexdigest()
    return packed_json({**manifest, "sha256": checksum})


def _verify(path: Path, described: Mapping[str, Any]) -> None:
    try:
        size = path.stat().st_size
        if size != described["size"]:
            raise CheckpointError(f"{path} is damaged: {size:,} bytes instead of {described['size']:,}")
        with path.open("rb") as file:
            digest = hashlib.sha256()
            while block := file.read(1 << 20):
                digest.update(block)
    except OSError as error:
        raise CheckpointError(f"{path} is damaged: {error.strerror}") from error
    if digest.hexdigest() != described["sha256"]:
        raise CheckpointError(f"{path} is damaged: it fails its checksum")


def _check_room(directory: Path, needed: int) -> None:
    """Say so before the write, while there is room for everything else that the run still writes."""
    if shutil.disk_usage(directory).free < needed + (1 << 20):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def _sync(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
