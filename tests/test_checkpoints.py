import os
import pickle
import subprocess

import pytest
import torch

from common.errors import UserError
from common.network import checkpoints, weights_files
from common.network.checkpoints import load_weights, save_weights
from common.network.dcunet import DCUNet20
from common.network.model import Denoiser
from common.network.stft import STFT
from common.network.weights_files import find_weights


def test_a_file_rebuilds_its_own_model(model, tmp_path):
    save_weights(model, tmp_path / "m.pth", {"noise": "white", "score": 1.5})
    again, info = load_weights(tmp_path / "m.pth")
    assert info == {"noise": "white", "score": 1.5} and not again.training and again.stft == model.stft
    x = torch.randn(1, 30000)
    with torch.no_grad():
        assert torch.equal(model(x), again(x))


def test_other_stft_settings_travel_with_the_weights(tmp_path):
    save_weights(Denoiser(DCUNet20(1), STFT(hop_length=256, sample_rate=48000)), tmp_path / "m.pth", {})
    assert load_weights(tmp_path / "m.pth")[0].stft == STFT(hop_length=256, sample_rate=48000)


def test_half_precision_halves_the_file_and_hardly_changes_the_output(model, tmp_path):
    save_weights(model, tmp_path / "full.pth", {})
    save_weights(model, tmp_path / "half.pth", {}, half=True)
    tensors = [sum(t.nbytes for t in torch.load(tmp_path / f, weights_only=True)["state"].values())
               for f in ("full.pth", "half.pth")]
    assert tensors[1] < 0.52 * tensors[0]
    x = torch.randn(1, 60000)
    with torch.no_grad():
        full, half = (load_weights(tmp_path / f)[0](x) for f in ("full.pth", "half.pth"))
    assert 20 * torch.log10((full - half).norm() / full.norm()) < -40


@pytest.mark.parametrize("content, message", [
    (b"", "cannot be loaded"), (b"not weights", "cannot be loaded"), (torch.zeros(3), "holds a Tensor"),
    ({"state": {}}, "says None"), ({"format": checkpoints.FORMAT, "network": {"width": 1}, "stft": {}, "info": {},
                                    "state": {"a": torch.zeros(1)}}, "other tensors")])
def test_files_that_are_no_weights_get_one_sentence(tmp_path, content, message):
    if isinstance(content, bytes):
        (tmp_path / "m.pth").write_bytes(content)
    else:
        torch.save(content, tmp_path / "m.pth")
    with pytest.raises(UserError, match=message):
        load_weights(tmp_path / "m.pth")
    with pytest.raises(UserError, match="does not exist"):
        load_weights(tmp_path / "none.pth")


@pytest.mark.parametrize("confidence", [torch.ones(3), [1.0], "all", {"weight": torch.ones(50)}])
def test_a_confidence_of_another_form_gets_one_sentence(model, tmp_path, confidence):
    torch.save(checkpoints.weights_content(model, {}) | {"confidence": confidence}, tmp_path / "m.pth")
    with pytest.raises(UserError, match="expected a confidence of the shapes"):
        load_weights(tmp_path / "m.pth")


class _Harmful:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (self.path,)


def test_loading_executes_nothing(tmp_path):
    for name, save in (("zip.pth", torch.save), ("raw.pth", lambda o, p: p.write_bytes(pickle.dumps(o, 2)))):
        save({"state": _Harmful(str(tmp_path / "harm"))}, tmp_path / name)
        with pytest.raises(UserError, match="cannot be loaded"):
            load_weights(tmp_path / name)
    assert not (tmp_path / "harm").exists()


def test_a_name_stands_for_a_pretrained_file(model, tmp_path, monkeypatch):
    monkeypatch.setattr(weights_files, "PRETRAINED", tmp_path)
    save_weights(model, tmp_path / "white.pth", {"noise": "white"})
    assert find_weights("white") == tmp_path / "white.pth" and load_weights("white")[1] == {"noise": "white"}
    with pytest.raises(UserError, match="mixed does not exist"):
        load_weights("mixed")


def test_weights_say_their_commit_where_there_is_one(tmp_path, monkeypatch):
    git = ["git", "-C", str(tmp_path), "-c", "user.name=a", "-c", "user.email=b"]
    monkeypatch.setattr(checkpoints, "PRETRAINED", tmp_path / "pretrained_weights")
    assert checkpoints.code_commit() is None
    (tmp_path / "a.py").touch()
    for command in (["init", "-q"], ["add", "a.py"], ["commit", "-qm", "first"]):
        subprocess.run([*git, *command], check=True)
    commit = checkpoints.code_commit()
    assert len(commit) == 12
    (tmp_path / "a.py").write_text("changed")
    assert checkpoints.code_commit() == commit + "+"
