"""A checkpoint is whole or it is not used: cut off, changed, foreign, of a newer format, or without room for it."""

from __future__ import annotations

import errno
import json
import os
import pickle
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from lossbench.engine.checkpoint import (
    Checkpoint,
    _sealed,
    packed_json,
    packed_state,
    packed_tensors,
    point,
    read,
    write,
)
from lossbench.engine.restore import found, newest
from lossbench.errors import CheckpointError, ResourceError

TENSORS = {"w": torch.arange(6.0).reshape(2, 3), "n": torch.tensor(7)}
STATE = {"step": 3, "betas": (0.9, 0.999), 0: [torch.ones(2), float("inf")], "none": None}


def files():
    return {
        "model.safetensors": packed_tensors(TENSORS),
        "state.pt": packed_state(STATE),
        "data.json": packed_json([1]),
    }


def made(folder, *steps):
    for step in steps:
        write(folder / "checkpoints" / f"step-{step:08d}", files(), {"step": step})
    return folder / "checkpoints"


def test_what_is_written_is_read(tmp_path):
    root = made(tmp_path, 3)
    checkpoint = read(root / "step-00000003")
    assert checkpoint.facts["step"] == 3
    assert all(torch.equal(checkpoint.tensors("model.safetensors")[k], v) for k, v in TENSORS.items())
    state = checkpoint.state("state.pt")
    assert (state["step"], state["betas"], state["none"]) == (3, (0.9, 0.999), None)
    assert torch.equal(state[0][0], torch.ones(2))
    assert checkpoint.json("data.json") == [1]
    assert sorted(p.name for p in root.iterdir()) == ["step-00000003"]


def test_weights_that_share_memory_are_written_once_each(tmp_path):
    tied = torch.ones(3)
    write(tmp_path / "c" / "step-00000001", {"m": packed_tensors({"a": tied, "b": tied.view(3)})}, {})
    assert set(read(tmp_path / "c" / "step-00000001").tensors("m")) == {"a", "b"}


@pytest.mark.parametrize("name", [*files(), "manifest.json"])
@pytest.mark.parametrize("share", [0.0, 0.01, 0.3, 0.7, 0.99, 1.0])
def test_a_flipped_bit_anywhere_is_noticed(tmp_path, name, share):
    path = made(tmp_path, 3) / "step-00000003"
    data = bytearray((path / name).read_bytes())
    data[round(share * (len(data) - 1))] ^= 1
    (path / name).write_bytes(data)
    with pytest.raises(CheckpointError, match=name):
        read(path)


@pytest.mark.parametrize("name", [*files(), "manifest.json"])
@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.9, 0.999])
def test_a_file_that_is_cut_off_is_noticed(tmp_path, name, share):
    path = made(tmp_path, 3) / "step-00000003"
    os.truncate(path / name, int(share * (path / name).stat().st_size))
    with pytest.raises(CheckpointError, match=name):
        read(path)


@pytest.mark.parametrize("name", files())
def test_a_file_that_is_missing_is_noticed(tmp_path, name):
    path = made(tmp_path, 3) / "step-00000003"
    (path / name).unlink()
    with pytest.raises(CheckpointError, match=f"{name} is damaged: No such file or directory"):
        read(path)


def test_the_newest_whole_one_is_used_with_a_warning(tmp_path):
    root = made(tmp_path, 1, 2, 10)
    said = []
    assert newest(root, said.append).path.name == "step-00000010"
    assert said == []
    (root / "step-00000010" / "state.pt").write_bytes(b"")
    os.truncate(root / "step-00000002" / "manifest.json", 5)
    assert newest(root, said.append).path.name == "step-00000001"
    assert len(said) == 1
    assert "step-00000010/state.pt is damaged: 0 bytes instead of" in said[0]
    assert said[0].endswith("; using step-00000001")
    shutil.rmtree(root / "step-00000001")
    with pytest.raises(CheckpointError, match=r"no checkpoint of .* is whole; the newest: .*state\.pt is damaged"):
        newest(root, said.append)
    with pytest.raises(CheckpointError, match="holds no checkpoint to go on from"):
        newest(tmp_path / "none", said.append)


def resealed(path, name, data):
    """A forger's checkpoint: the file replaced and the manifest made to fit."""
    facts = json.loads((path / "manifest.json").read_text())
    kept = {n: (path / n).read_bytes() for n in facts.pop("files")}
    del facts["sha256"], facts["format"]
    write(path, {**kept, name: data}, facts)


class Harm:
    def __reduce__(self):
        return os.system, ("touch harmed",)


@pytest.mark.parametrize("protocol", [2, 4])
def test_a_foreign_pickle_is_refused_and_not_run(tmp_path, monkeypatch, protocol):
    monkeypatch.chdir(tmp_path)
    path = made(tmp_path, 3) / "step-00000003"
    torch.save({"state": Harm()}, tmp_path / "evil.pt", pickle_protocol=protocol)
    for data in ((tmp_path / "evil.pt").read_bytes(), pickle.dumps(Harm(), protocol=protocol)):
        resealed(path, "state.pt", data)
        with pytest.raises(CheckpointError, match=r"state\.pt (holds more than tensors and numbers|cannot be read)"):
            read(path).state("state.pt")
        resealed(path, "model.safetensors", data)
        with pytest.raises(CheckpointError, match="is no safetensors file"):
            read(path).tensors("model.safetensors")
    assert not (tmp_path / "harmed").exists()


def test_a_newer_format_says_so(tmp_path):
    path = made(tmp_path, 3) / "step-00000003"
    manifest = json.loads((path / "manifest.json").read_text())
    (path / "manifest.json").write_text(json.dumps({**manifest, "format": 2}))
    with pytest.raises(
        CheckpointError, match="is of format 2, and this lossbench reads up to 1; use a newer lossbench"
    ):
        read(path)


@pytest.mark.parametrize("text", ["", "[]", "3", "null", "{}", '{"files": 3}', "\x00"])
def test_any_manifest_is_refused_in_one_line(tmp_path, text):
    path = made(tmp_path, 3) / "step-00000003"
    (path / "manifest.json").write_text(text)
    with pytest.raises(CheckpointError) as caught:
        read(path)
    assert "\n" not in str(caught.value)


def test_links_move_from_one_moment_to_the_next(tmp_path):
    root = made(tmp_path, 1, 2)
    for step in (1, 2):
        point(root / "last", f"step-{step:08d}")
        assert os.readlink(root / "last") == f"step-{step:08d}"
        assert read(root / "last").facts["step"] == step
    assert [p.name for p in found(root, "step")] == ["step-00000001", "step-00000002"]


def test_without_room_nothing_changes(tmp_path, monkeypatch):
    root = made(tmp_path, 1)
    full = shutil.disk_usage(root)._replace(free=1000)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: full)
    with pytest.raises(ResourceError, match="No space left on device; make room and go on with"):
        made(tmp_path, 2)
    assert sorted(p.name for p in root.iterdir()) == ["step-00000001"]
    read(root / "step-00000001")


CHILD = """
import resource, sys
from pathlib import Path
sys.path.insert(0, {tests!r})
from test_checkpoint import made
resource.setrlimit(resource.RLIMIT_FSIZE, ({limit}, {limit}))
made(Path({folder!r}), 2)
"""


@pytest.mark.parametrize("limit", [0, 100, 300, 1000])
def test_a_disk_that_fills_during_the_write(tmp_path, limit):
    """A real limit on the size of files, in a process of its own."""
    root = made(tmp_path, 1)
    code = CHILD.format(tests=str(Path(__file__).parent), folder=str(tmp_path), limit=limit)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.stderr.splitlines()[-1].startswith("lossbench.errors.ResourceError: cannot write the checkpoint")
    assert os.strerror(errno.EFBIG) in done.stderr
    assert sorted(p.name for p in root.iterdir()) == ["step-00000001"]
    read(root / "step-00000001")


KILLED = """
import os, signal, sys
from pathlib import Path
sys.path.insert(0, {tests!r})
from test_checkpoint import made
calls = 0
def hook(event, args):
    global calls
    if event in ("open", "os.mkdir", "os.rename", "os.symlink", "shutil.rmtree", "os.rmdir", "os.remove"):
        calls += 1
        if calls == {at}: os.kill(os.getpid(), signal.SIGKILL)
made(Path({folder!r}), 1)
sys.addaudithook(hook)
made(Path({folder!r}), 2)
made(Path({folder!r}), 2)
print(calls)
"""


def test_killed_at_every_call_that_touches_the_disk(tmp_path):
    """Wherever the process is killed, a whole checkpoint is left, and nothing that looks like one and is not."""
    for at in range(1, 60):
        folder = tmp_path / str(at)
        pid = os.fork()
        if pid == 0:
            code = KILLED.format(tests=str(Path(__file__).parent), folder=str(folder), at=at)
            try:
                exec(code, {})
                os._exit(0)
            finally:
                os._exit(1)
        _, status = os.waitpid(pid, 0)
        whole = [read(path).facts["step"] for path in found(folder / "checkpoints", "step")]
        assert whole in ([1], [1, 2])
        if os.WIFEXITED(status):
            assert os.WEXITSTATUS(status) == 0
            assert at > 20
            return
    raise AssertionError("never left alive")


def test_a_checkpoint_is_not_read_without_its_manifest():
    with pytest.raises(CheckpointError, match="cannot be read"):
        Checkpoint(Path("nowhere"), {"files": {"model.safetensors": {}}}).tensors("model.safetensors")


@pytest.mark.parametrize("files", [{}, {"../../file": {"size": 0, "sha256": ""}}, {"fifo": {"size": 0, "sha256": ""}}])
def test_only_files_of_the_directory_that_the_manifest_names_are_read(tmp_path, files):
    """A manifest that names others, or a device, is damaged; a file that it does not name is not read."""
    path = made(tmp_path, 3) / "step-00000003"
    (tmp_path / "file").write_bytes(b"")
    os.mkfifo(path / "fifo")
    facts = {"format": 1, "step": 3, "files": files}
    (path / "manifest.json").write_bytes(_sealed(facts))
    with pytest.raises(CheckpointError, match=r"damaged|vouches for"):
        read(path).tensors("model.safetensors")


def test_a_checkpoint_says_the_step_that_its_name_says(tmp_path):
    root = made(tmp_path, 3)
    write(root / "step-00000007", files(), {"step": -5})
    said = []
    assert newest(root, said.append).facts["step"] == 3
    assert "step-00000007 says that it is of step -5; using step-00000003" in said[0]
