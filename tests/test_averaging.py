import pytest
import torch

from common.errors import UserError
from common.network.checkpoints import load_weights, save_weights
from common.network.dcunet import FOLDED, LITERATURE, DCUNet20
from common.network.model import Denoiser
from common.network.stft import STFT
from common.training.weight_averaging import average


def write(path, width=2, seed=0, plan=FOLDED, **settings):
    torch.manual_seed(seed)
    model = Denoiser(DCUNet20(width, plan), STFT())
    for norm in model.modules():
        if isinstance(norm, torch.nn.BatchNorm2d):
            norm.running_mean.normal_()
    save_weights(model, path, {"method": "Noise2Noise", "settings": settings})
    return model.state_dict()


def test_the_mean_in_which_a_file_given_twice_counts_twice(tmp_path):
    a, b = tmp_path / "a.pth", tmp_path / "b.pth"
    first, second = write(a, seed=1, noise="siren", epochs=1), write(b, seed=2, noise="white", epochs=1)
    model, info = average([a, b, b])
    for name, value in model.state_dict().items():
        if value.is_floating_point():
            assert torch.allclose(value, (first[name] + 2 * second[name]) / 3, atol=1e-6), name
    assert info["settings"] == {"noise": ["siren", "white"], "epochs": 1} and info["method"] == "Noise2Noise"
    assert info["averaged"] == [str(a), str(b), str(b)]


def test_networks_of_different_form(tmp_path):
    a, b, c = (tmp_path / f"{name}.pth" for name in "abc")
    write(a), write(b, width=3), write(c, plan=LITERATURE)
    for other in (b, c):
        with pytest.raises(UserError, match=r"expected networks of one form, .*: average weights that were fine-tuned"):
            average([a, other])


def test_from_a_shell(tmp_path, monkeypatch, caplog):
    from common.training.__main__ import main

    write(tmp_path / "a.pth", seed=1), write(tmp_path / "b.pth", seed=2)
    monkeypatch.setattr("sys.argv", ["training", "average", str(tmp_path / "a.pth"), str(tmp_path / "b.pth"), "-o",
                                     str(tmp_path / "c.pth")])
    main()
    written, info = load_weights(tmp_path / "c.pth")
    expected, _ = average([tmp_path / "a.pth", tmp_path / "b.pth"])
    assert all(torch.equal(x, y) for x, y in zip(written.state_dict().values(), expected.state_dict().values(),
                                                 strict=True))
    assert len(info["averaged"]) == 2
