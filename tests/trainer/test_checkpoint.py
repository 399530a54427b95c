"""A checkpoint is whole, written by this trainer and for this run, or it is refused with one sentence."""

from __future__ import annotations

import hashlib
import os
import pickle

import pytest
import torch

from trainer.checkpoint import MAGIC, CheckpointError, identity, load_checkpoint, require_same, save_checkpoint
from trainer.config import TrainConfig

CONTENTS = {"weights": torch.arange(1000.0), "tokens": 7, "nested": {"list": [1, None]}}
CONFIG = {"rungs": [10], "seq_len": 4}


def test_what_is_saved_is_loaded(tmp_path):
    save_checkpoint(tmp_path / "new" / "run.pt", CONTENTS)
    loaded = load_checkpoint(tmp_path / "new" / "run.pt")
    assert torch.equal(loaded.pop("weights"), CONTENTS["weights"])
    assert loaded == {"tokens": 7, "nested": {"list": [1, None]}}
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["run.pt"]  # no temporary file stays


def test_a_missing_file_is_refused(tmp_path):
    with pytest.raises(CheckpointError, match="run.pt: the checkpoint cannot be read: No such file"):
        load_checkpoint(tmp_path / "run.pt")


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 zip", pickle.dumps({"a": 1})])
def test_a_foreign_file_is_refused(tmp_path, content):
    (tmp_path / "run.pt").write_bytes(content)
    with pytest.raises(CheckpointError, match="not a checkpoint of this trainer"):
        load_checkpoint(tmp_path / "run.pt")


@pytest.mark.parametrize("kept", [30, 60, 95, 500, -1])
def test_a_truncated_file_is_refused(tmp_path, kept):
    path = tmp_path / "run.pt"
    save_checkpoint(path, CONTENTS)
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(CheckpointError, match="damaged or cut short"):
        load_checkpoint(path)


def test_one_changed_bit_is_found(tmp_path):
    path = tmp_path / "run.pt"
    save_checkpoint(path, CONTENTS)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match="damaged"):
        load_checkpoint(path)


def with_hash(payload: bytes) -> bytes:
    return MAGIC + hashlib.sha256(payload).hexdigest().encode() + b"\n" + payload


@pytest.mark.parametrize(
    "payload", [b"", b"PK", b"PK\x03\x04" + b"\0" * 500, pickle.dumps({"a": 1}), pickle.dumps(pickle.PickleBuffer)],
    ids=range(5),
)  # fmt: skip
def test_a_payload_that_is_not_ours_is_refused_though_its_hash_fits(tmp_path, payload):
    (tmp_path / "run.pt").write_bytes(with_hash(payload))
    with pytest.raises(CheckpointError, match="run.pt: not what this trainer writes"):
        load_checkpoint(tmp_path / "run.pt")


def test_a_payload_cannot_run_code(tmp_path):
    class Harm:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "harmed"),)

    torch.save({"tokens": Harm()}, tmp_path / "payload")
    (tmp_path / "run.pt").write_bytes(with_hash((tmp_path / "payload").read_bytes()))
    with pytest.raises(CheckpointError, match="not what this trainer writes"):
        load_checkpoint(tmp_path / "run.pt")
    assert not (tmp_path / "harmed").exists()


def test_a_save_that_fails_leaves_the_old_file(tmp_path):
    path = tmp_path / "run.pt"
    save_checkpoint(path, CONTENTS)
    with pytest.raises(Exception, match="pickle"):
        save_checkpoint(path, {"local": lambda: None})
    assert load_checkpoint(path)["tokens"] == 7


def test_a_folder_that_cannot_be_made_is_reported(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(CheckpointError, match="the checkpoint cannot be written"):
        save_checkpoint(tmp_path / "file" / "run.pt", CONTENTS)


@pytest.mark.parametrize(
    "changes",
    [{"rungs": [10, 20]}, {"num_threads": 2}, {"device": "cuda"}, {"cache_dir": "x"}, {"data": ["moved.txt"]}],
)
def test_horizon_location_and_threads_may_differ(changes):
    same_run(changes, digest="a")


@pytest.mark.parametrize(
    ("changes", "digest", "named"),
    [
        ({"d_model": 64}, "a", "d_model is 128 there and 64 here"),
        ({"learning_rate": 1.0, "seed": 3}, "a", "learning_rate is 0.001 there and 1.0 here; seed is 0 there and 3"),
        ({"precision": "bf16"}, "a", "precision"),
        ({}, "b", "corpus is 'a' there and 'b' here"),
    ],
)
def test_another_run_is_refused_with_every_difference(changes, digest, named):
    with pytest.raises(CheckpointError, match=f"run.pt: the checkpoint belongs to another run: .*{named}"):
        same_run(changes, digest)


def same_run(changes, digest):
    stored = identity(TrainConfig.from_flat("hybrid", CONFIG), "a")
    require_same("run.pt", stored, identity(TrainConfig.from_flat("hybrid", {**CONFIG, **changes}), digest))
