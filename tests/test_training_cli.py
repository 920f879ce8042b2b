"""`python -m common.training`, as a user calls it."""

import csv
import json
import re
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch

from common.data.pool import Pool
from common.errors import CallError, UserError
from common.labels import weights_name
from common.network.checkpoints import code_commit, load_weights, save_weights
from common.training import confidence_fit, loop, recipe
from common.training.__main__ import _trained_mixture
from common.training.mixtures import MixtureSettings
from common.training.recipe import run_recipe, trainable
from common.training.settings import TrainSettings
from tests.conftest import ROOT, even_clock

SMALL = ["--width", 1, "--batch-size", 2, "--warmup-steps", 2, "--device", "cpu", "--n-validation", 2]


def test_pack_and_train_on_a_pool(call, corpus, tmp_path):
    done = call("-m", "common.training", "pack", *corpus, "-o", tmp_path / "pool", "--compact", tmp_path / "pool.zip",
                "--megabytes", 1)
    assert "train 0.7 / 4.0 min" in done.stderr and "kbit/s" in done.stderr
    call("-m", "common.training", "unpack", tmp_path / "pool.zip", "-o", tmp_path / "there")
    done = call("-m", "common.training", "run", tmp_path / "there", "-o", tmp_path / "w", *SMALL, "--epochs", 1,
                "--steps-per-epoch", 2, "--noise", "siren", "--clean-target", "--plan", "literature", "--loss",
                "weighted_sdr")
    assert "epoch 1/1" in done.stderr
    model, info = load_weights(tmp_path / "w" / "best.pth")
    assert model.network.plan_name == "literature" and info["method"] == "Noise2Clean"
    settings = info["settings"]
    assert settings["data.pool_sha256"] == Pool.load(tmp_path / "there").sha256() and info["commit"] == code_commit()
    assert (settings["loss"], settings["data.noise"], settings["data.clean_target"]) == ("weighted_sdr", "siren", True)


def test_published_weights_are_small_and_say_what_they_are(call, pool_folder, model, tmp_path):
    trained = {"branch": None, "data.noise": "white", "data.target_noise": "white", "data.snr_db": [0.0, 9.0],
               "data.target_snr_offset_db": [-2.0, 3.0], "data.print_share": 0.3, "data.clean_target": False}
    paths = {"data": "/home/me/pool", "settings": {"start": "/home/me/w/best.pth"} | trained}
    save_weights(model, tmp_path / "m.pth", {"method": "Noise2Noise"} | paths)
    flags = ["-m", "common.training", "publish", tmp_path / "m.pth", pool_folder, "-o", tmp_path / "p.pth",
             "--n-validation", 3, "--device", "cpu", "--calibration-pairs"]
    done = call(*flags, 8, "--info", '{"licence": "CC BY-NC", "noise": "hiss"}')
    plain, careful = (float(part) for part in re.search(r"(\S+) dB plain and (\S+) dB as", done.stderr).groups())
    published, info = load_weights(tmp_path / "p.pth")
    assert careful > plain + 1 and info.pop("validation_snr_improvement_db") == pytest.approx(careful, abs=0.005)
    assert info.pop("confidence")["plain_db"] == pytest.approx(plain, abs=0.005)
    plain, careful = (float(part) for part in re.search(
        r"published, (\S+) dB plain and (\S+) dB as published with noise prints", done.stderr).groups())
    assert info.pop("validation_with_print_db") == pytest.approx(careful, abs=0.005)
    assert info.pop("print_confidence")["plain_db"] == pytest.approx(plain, abs=0.005)
    assert info == {"method": "Noise2Noise", "noise": "hiss", "licence": "CC BY-NC", "data": "pool",
                    "settings": {"start": "best.pth"} | trained}
    for found, n_features in ((published.confidence, 3), (published.print_confidence, 6)):
        assert found.weight.shape == (n_features,) and np.abs(found.weight).max() > 0
    assert {t.dtype for t in torch.load(tmp_path / "p.pth", weights_only=True)["state"].values()
            if t.is_floating_point()} == {torch.float16}
    call(*flags, 0)
    bold, info = load_weights(tmp_path / "p.pth")
    assert bold.confidence is None and bold.print_confidence is None
    assert info["confidence"] is None and info["print_confidence"] is None
    assert info["validation_with_print_db"] == pytest.approx(plain, abs=0.05)  # of waveforms; in bands until here


def test_a_classifier_joins_the_weights_that_it_listens_through(call, pool_folder, model, tmp_path):
    save_weights(model, tmp_path / "m.pth", {"noise": "mixed"})
    before = torch.load(tmp_path / "m.pth", weights_only=True)
    call("-m", "common.training", "classify", tmp_path / "m.pth", pool_folder, "--n-per-label", 2, "--device", "cpu")
    after = torch.load(tmp_path / "m.pth", weights_only=True)
    assert before.pop("classifier") is None and after.pop("classifier")["weight"].shape == (100, 11)
    assert after.keys() == before.keys() and after["info"] == before["info"]
    assert all(torch.equal(after["state"][name], x) for name, x in before["state"].items())


def test_train_on_merged_pairs(call, merged, tmp_path):
    for split in ("train", "validation"):
        (tmp_path / "data").mkdir(exist_ok=True)
        (tmp_path / "data" / split).symlink_to(merged("merger_white.py", split, 2, 2)[0].parent)
    flags = ["-m", "common.training", "run", tmp_path / "data", "-o", tmp_path / "w", *SMALL, "--epochs", 1,
             "--steps-per-epoch", 2]
    call(*flags)
    assert load_weights(tmp_path / "w" / "best.pth")[1]["method"] == "Noise2Noise"
    call(*flags[:4], "-o", tmp_path / "tuned", *flags[6:], "--start", tmp_path / "w" / "best.pth")
    assert load_weights(tmp_path / "tuned" / "best.pth")[1]["settings"]["start"].endswith("best.pth")
    assert "expected a pool for --snr-db" in call(*flags, "--snr-db", 0, 5, code=2).stderr
    assert "width was 1 and is 2" in call(*flags, "--width", 2, code=1).stderr


@pytest.mark.parametrize("flags, message", [
    (["run", "nowhere", "-o", "w"], "nowhere/train/input does not exist"),
    (["recipe", "nowhere", "-o", "w", "--minutes", 1], "nowhere is none"),
    (["run", "nowhere", "-o", "w", "--loss", "l1"], "expected"),
    (["publish", "mixed", "nowhere", "-o", "w.pth", "--calibration-pairs", "-1"], "expected a number of at least 0"),
])
def test_wrong_calls_end_with_code_2(call, flags, message):
    assert message in call("-m", "common.training", *flags, code=2).stderr


def test_the_recipe_keeps_its_budget_and_goes_on(pool_folder, tmp_path, monkeypatch):
    for module in (loop, recipe):
        monkeypatch.setattr(module, "time", even_clock(0.1))
    settings = TrainSettings(width=1, batch_size=2, warmup_steps=2, minutes=0.5)
    pool = Pool.load(pool_folder)
    heard = set()

    def calibrate(model, pairs, *args):
        heard.update(clip.name for clip in pairs.songs)
        return confidence_fit.calibrate(model, pairs, *args)
    monkeypatch.setattr(recipe, "calibrate", calibrate)
    rows = run_recipe(pool, tmp_path, settings, ["white", "siren"], n_validation=2)
    assert heard == {clip.name for clip in pool.select("validation", songs=True)}
    plan = json.loads((tmp_path / "plan.json").read_text())
    assert 0.25 < plan["universal_minutes"] + 2 * plan["fine_tuning_minutes"] < 0.5  # the rest goes to validations
    assert plan["universal_minutes"] == pytest.approx(2 * plan["fine_tuning_minutes"])
    assert [row["noise"] for row in rows] == ["mixed", "white", "siren"]
    for row in rows:
        model, info = load_weights(tmp_path / f"{weights_name(row['noise'])}.pth")
        assert model.network.width == 1 and info["kept"] == row["kept"]
        gains = [row[f"{name}_db"] for name in ("universal", "mean", "fine-tuned")]
        assert (gains[2] is None) == (row["noise"] == "mixed") and None not in gains[:2]
        assert row[f"{row['kept']}_db"] == max(gain for gain in gains if gain is not None)
        assert info["validation_snr_improvement_db"] == row["with_confidence_db"]
        state = torch.load(tmp_path / f"{weights_name(row['noise'])}.pth", weights_only=True)["state"]
        assert {t.dtype for t in state.values() if t.is_floating_point()} == {torch.float16}
    white, siren, mean = (load_weights(tmp_path / name)[0].state_dict()["network.mask.weight_real"]
                          for name in ("white/best.pth", "siren/best.pth", "mean.pth"))
    assert torch.allclose(mean, (white + siren) / 2, atol=1e-6) and not torch.equal(white, siren)
    with open(tmp_path / "table.csv", newline="") as file:
        assert [row["kept"] for row in csv.DictReader(file)] == [row["kept"] for row in rows]
    epochs = [len(list((tmp_path / name).glob("epoch_*.pth"))) for name in ("universal", "white", "siren")]
    assert epochs == [8, 1, 1]
    assert run_recipe(pool, tmp_path, settings, ["white", "siren"], n_validation=2) == rows
    with pytest.raises(UserError, match=r"planned for, 0\.5 minutes for white, siren, got others"):
        run_recipe(pool, tmp_path, settings, ["white"], n_validation=2)
    with pytest.raises(CallError, match=r"half of 0\.0001 minutes for training"):
        run_recipe(pool, tmp_path / "short", replace(settings, minutes=1e-4), ["white"], n_validation=2)
    with pytest.raises(CallError, match="expected noises among white, air_conditioner"):
        run_recipe(pool, tmp_path, settings, ["thunder"])
    assert len(trainable(pool)) == 11


def test_the_recipe_needs_no_audio_library():
    heavy = "soundfile av soxr pandas pesq pystoi librosa scipy joblib accelerate matplotlib tensorboard"
    code = f"import sys, common.training.__main__; print([m for m in '{heavy}'.split() if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_weights_are_published_on_mixtures_like_those_of_their_training():
    info = {"settings": {"width": 4, "data.noise": "siren", "data.target_noise": "rain", "data.snr_db": [0.0, 9.0],
                         "data.target_snr_offset_db": None, "data.print_share": 0.1, "data.clean_target": True,
                         "data.song_speed": [0.5, 2.0], "data.song_equaliser_db": 5.0, "data.songs": 3}}
    as_trained = MixtureSettings("siren", "rain", snr_db=(0.0, 9.0), target_snr_offset_db=None)
    assert _trained_mixture(info, {}) == as_trained
    assert _trained_mixture(info, {"noise": "hiss"}) == replace(as_trained, noise="hiss")
    assert _trained_mixture({}, {}) == MixtureSettings()
