import csv
import re
import shutil

import numpy as np
import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from common.data.pairs import find_pairs
from common.errors import CallError, UserError
from common.locks import locked
from common.network.checkpoints import load_safely, load_weights, save_atomically, save_weights
from common.network.dcunet import FOLDED, LITERATURE, PLANS, DCUNet20
from common.network.model import Denoiser, computes_bfloat16_fast
from common.network.stft import STFT
from common.training import loop as training
from common.training.loop import train
from common.training.mixture_validation import pool_sources
from common.training.mixtures import MixtureSettings
from common.training.pair_batches import PairSource, PairValidation
from common.training.settings import Execution, TrainSettings
from common.training.timing import estimate
from tests.conftest import even_clock

MINI = {"width": 1, "epochs": 2, "steps_per_epoch": 3, "batch_size": 2, "warmup_steps": 2}


@pytest.fixture(scope="module")
def data(merged):
    """A source of noisy pairs and one short validation pair."""
    source = PairSource(find_pairs(*merged("merger_white.py", "train", 2, 2)[:2]))
    return source, PairValidation(find_pairs(*merged("merger_white.py", "validation", 2, 1)[:2])[:1])


@pytest.fixture(scope="module")
def finished(data, tmp_path_factory):
    folder = tmp_path_factory.mktemp("Weights")
    return folder, train(TrainSettings(**MINI), *data, folder)


class _Killed(BaseException):
    """Stands for a kill: nothing in the library catches it."""


class _Wrapped:
    """A source that does something else in batch()."""

    def __init__(self, source, batch):
        self.settings, self.names, self.batch, self.clean_target = source.settings, source.names, batch, False
        self.prints = source.prints


def test_weights_for_every_epoch_and_the_best_marked(finished):
    """T2"""
    folder, history = finished
    assert {p.name for p in folder.iterdir()} == {"epoch_001.pth", "epoch_002.pth", "best.pth", "history.csv",
                                                  "last.ckpt"}
    with open(folder / "history.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    gains = [float(row["validation_snr_improvement_db"]) for row in rows]
    assert [int(row["epoch"]) for row in rows] == [1, 2]
    assert gains == [h["validation_snr_improvement_db"] for h in history]
    best = 1 + int(np.argmax(gains))
    assert load_weights(folder / "best.pth")[1]["epoch"] == best
    states = [load_weights(folder / name)[0].state_dict() for name in ("best.pth", f"epoch_{best:03d}.pth")]
    assert all(torch.equal(states[0][k], states[1][k]) for k in states[0])


def test_the_saved_weights_have_the_improvement_that_is_written(finished, data):
    folder, history = finished
    model, info = load_weights(folder / "epoch_002.pth")
    assert training.validate(model, data[1]) == pytest.approx(history[1]["validation_snr_improvement_db"], abs=1e-6)
    assert info["settings"]["width"] == 1 and info["steps"] == 6


@pytest.mark.parametrize("kill_at", [1, 3, 4])
def test_a_killed_and_resumed_run_equals_an_uninterrupted_one(finished, data, tmp_path, kill_at):
    """T1, weight for weight, killed within an epoch and at its end."""
    source, validation = data

    def batch(seed, step, *args):
        if step == kill_at:
            raise _Killed
        return source.batch(seed, step, *args)

    with pytest.raises(_Killed):
        train(TrainSettings(**MINI), _Wrapped(source, batch), validation, tmp_path,
              Execution(checkpoint_seconds=0))
    history = train(TrainSettings(**MINI), source, validation, tmp_path)
    folder, expected = finished
    for name in ("epoch_001.pth", "epoch_002.pth"):
        a, b = (load_weights(f / name)[0].state_dict() for f in (folder, tmp_path))
        assert all(torch.equal(a[k], b[k]) for k in a)
    drop_time = [{k: v for k, v in row.items() if k != "seconds"} for row in history]
    assert drop_time == [{k: v for k, v in row.items() if k != "seconds"} for row in expected]


def test_a_finished_run_is_left_as_it_is(finished, data):
    folder, history = finished
    before = {p.name: p.read_bytes() for p in folder.iterdir()}
    assert train(TrainSettings(**MINI), *data, folder) == history
    assert before == {p.name: p.read_bytes() for p in folder.iterdir()}


def test_a_run_has_the_network_that_it_begins_with(data, tmp_path):
    factors, few = [1, 1, 2, 2, 2, 3, 3, 3, 3, 3], {"epochs": 1, "steps_per_epoch": 1, "batch_size": 2}
    save_weights(Denoiser(DCUNet20(3, FOLDED, factors, 1.0), STFT(hop_length=1024)), tmp_path / "w.pth", {})

    def network_of(folder, **settings):
        train(TrainSettings(**few | settings), *data, tmp_path / folder)
        model, info = load_weights(tmp_path / folder / "best.pth")
        assert info["settings"]["compression"] == model.network.compression
        return *model.network.settings().values(), float(model.network.compression), model.stft.hop_length

    assert network_of("tuned", start=tmp_path / "w.pth") == (3, FOLDED, factors, 1.0, 1024)
    assert network_of("wider", start=tmp_path / "w.pth", width=4) == (4, FOLDED, factors, 1.0, 1024)
    (tmp_path / "w.pth").unlink()  # what a run needs only to begin
    assert network_of("tuned", start=tmp_path / "w.pth") == (3, FOLDED, factors, 1.0, 1024)
    assert network_of("cooled", branch=tmp_path / "wider") == (4, FOLDED, factors, 1.0, 1024)
    state = torch.load(tmp_path / "wider" / "last.ckpt", weights_only=True)
    save_atomically(state | {"settings": state["settings"] | {"compression": 0.5}}, tmp_path / "wider" / "last.ckpt")
    assert network_of("once_noted_wrongly", branch=tmp_path / "wider") == (4, FOLDED, factors, 1.0, 1024)
    for name, wanted, own in (("compression", 0.25, "1.0"), ("hop_length", 512, "1024"), ("width", 5, "4"),
                              ("plan", LITERATURE, FOLDED), ("depth_factors", [2] * 10, re.escape(f"{factors}"))):
        with pytest.raises(UserError, match=f"expected weights of {name} .* to begin with, but .*wider has {own}: set"):
            network_of("other", branch=tmp_path / "wider", **{name: wanted})
    same = {"compression": 1, "hop_length": 1024, "width": 4, "plan": FOLDED, "depth_factors": factors}
    assert network_of("named", branch=tmp_path / "wider", **same) == (4, FOLDED, factors, 1.0, 1024)
    assert network_of("new", width=1) == (1, FOLDED, list(PLANS[FOLDED].depth_factors), 0.5, 512)
    with pytest.raises(UserError, match=r"width was 3 and is 1"):
        network_of("tuned", start=tmp_path / "w.pth", width=1)


def test_other_settings_are_refused_and_listed(finished, data):
    with pytest.raises(UserError, match=r"width was 1 and is 2; learning_rate was 0\.003 and is 0\.1"):
        train(TrainSettings(**(MINI | {"width": 2, "learning_rate": 0.1})), *data, finished[0])
    source, validation = data
    other = _Wrapped(source, source.batch)
    other.settings = lambda: source.settings() | {"pairs": 7}
    with pytest.raises(UserError, match=r"data\.pairs was \d and is 7"):
        train(TrainSettings(**MINI), other, validation, finished[0])


DAMAGES = {
    "cut": lambda data: data[: len(data) // 2], "the end lost": lambda data: data[:-30], "empty": lambda data: b"",
    "zeros": lambda data: bytes(len(data)), "a block of zeros": lambda d: d[:3000] + bytes(4096) + d[7096:],
    "one bit": lambda d: d[: len(d) // 2] + bytes([d[len(d) // 2] ^ 1]) + d[len(d) // 2 + 1 :],
    "text": lambda data: b"version https://git-lfs.github.com/spec/v1\n",
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
def test_a_damaged_checkpoint_is_told(finished, data, tmp_path, damage):
    """And what is left of the run: nothing is begun anew in silence, nothing is lost."""
    shutil.copytree(finished[0], tmp_path / "w")
    path = tmp_path / "w" / "last.ckpt"
    path.write_bytes(damage(path.read_bytes()))
    before = {p.name: p.read_bytes() for p in (tmp_path / "w").iterdir()}
    with pytest.raises(UserError, match=r"expected the whole state of a run in .*last\.ckpt, but it is damaged or "
                       r"something else: put a copy .* or train on from .*epoch_002\.pth with --start, into another"):
        train(TrainSettings(**MINI), *data, tmp_path / "w")
    assert before == {p.name: p.read_bytes() for p in (tmp_path / "w").iterdir()}


@pytest.mark.parametrize("change", [
    lambda state: state.pop("model"), lambda state: state.pop("settings"), lambda state: state["average"].popitem(),
    lambda state: state.update(optimizer={}), lambda state: state.update(settings=3),
    lambda state: state.update(epoch_start=None)])
def test_something_else_in_place_of_a_checkpoint_is_told(finished, data, tmp_path, change):
    state = load_safely(finished[0] / "last.ckpt")
    change(state)
    save_atomically(state, tmp_path / "last.ckpt")
    with pytest.raises(UserError, match=r"damaged or something else: put a copy .* or remove it to begin anew"):
        train(TrainSettings(**MINI), *data, tmp_path)


def test_two_runs_into_one_folder(finished, data, tmp_path):
    shutil.copytree(finished[0], tmp_path / "w")
    with locked(tmp_path / "w"), pytest.raises(CallError, match="another run is writing there"):
        train(TrainSettings(**MINI), *data, tmp_path / "w")
    train(TrainSettings(**MINI), *data, tmp_path / "w")
    assert not (tmp_path / "w" / ".lock").exists()


def test_checkpoints_are_as_often_as_they_should(data, tmp_path, monkeypatch):
    """A clock that advances by 4 s whenever it is read, 2 times a step and once more after a save."""
    saved = []
    monkeypatch.setattr(training, "time", even_clock(4))
    monkeypatch.setattr(training, "save_atomically", lambda content, path: saved.append(content["step"]))
    train(TrainSettings(**(MINI | {"epochs": 1, "steps_per_epoch": 12})), *data, tmp_path)
    assert saved == [8, 12]  # after more than 60 s, and at the end


def test_emulated_bfloat16_is_not_fast(monkeypatch):
    """PyTorch says yes to it on cards that emulate it."""
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation=True: including_emulation)
    assert not computes_bfloat16_fast("cuda")


def test_no_two_draws_of_a_run_share_a_stream(data, tmp_path, monkeypatch):
    """Two rows and the level, in each of three steps."""
    used, real = [], np.random.default_rng
    monkeypatch.setattr(np.random, "default_rng", lambda seed: used.append(seed) or real(seed))
    train(TrainSettings(**(MINI | {"epochs": 1})), *data, tmp_path)
    assert len({real(seed).random() for seed in used}) == len(used) == 3 * 3


def test_foreign_weights_are_not_overwritten(data, tmp_path):
    (tmp_path / "epoch_001.pth").write_bytes(b"precious")
    with pytest.raises(CallError, match="another folder"):
        train(TrainSettings(**MINI), *data, tmp_path)
    assert (tmp_path / "epoch_001.pth").read_bytes() == b"precious"


def test_a_loss_that_is_not_finite_stops_and_names_the_files(data, tmp_path):
    """T3: the batch that did it is found again, though nobody looked at every step."""
    source, validation = data
    asked = []

    def batch(seed, step, rows, n):
        noisy, target = source.batch(seed, step, rows, n)
        return (noisy * float("nan") if step == 1 else noisy), target

    def names(seed, step, rows, n):
        asked.append(step)
        return source.names(seed, step, rows, n)

    broken = _Wrapped(source, batch)
    broken.names = names
    with pytest.raises(UserError, match=r"finite loss, got another at step 1 with INPUT-S\dN\d.*\.wav"):
        train(TrainSettings(**(MINI | {"steps_per_epoch": 30})), broken, validation, tmp_path)
    assert asked == [1] and not list(tmp_path.glob("*.pth")) and not (tmp_path / "last.ckpt").exists()


@pytest.mark.parametrize("wrong", [{"loss": "l1"}, {"schedule": "cubic"}, {"epochs": 0}, {"batch_size": 1},
                                   {"minutes": 0.0}, {"seed": -1}, {"start": "mixed", "branch": "Long"}])
def test_wrong_settings_are_refused(wrong):
    with pytest.raises(CallError, match=r"expected .*, got .*: (choose|raise|leave)"):
        TrainSettings(**wrong)


@pytest.mark.parametrize("schedule", ["cosine", "linear"])
def test_the_schedule_warms_up_and_ends_at_zero(schedule):
    factors = [training.learning_rate_factor(step, step / 200, 20, schedule) for step in range(201)]
    assert factors[0] == pytest.approx(1 / 20) and max(factors) > 0.9 and factors.index(max(factors)) == 19
    assert factors[200] == pytest.approx(0, abs=1e-9) and np.all(np.diff(factors[20:]) < 0)


def test_a_constant_rate_only_warms_up():
    assert [training.learning_rate_factor(step, step / 10, 4, "constant") for step in (0, 3, 10)] == [0.25, 1, 1]


def test_a_branch_goes_on_where_a_run_stands_with_a_falling_rate(data, tmp_path):
    constant = TrainSettings(**(MINI | {"schedule": "constant"}))
    train(constant, *data, tmp_path / "constant")
    settings = TrainSettings(**(MINI | {"schedule": "linear", "epochs": 1, "steps_per_epoch": 2}),
                             branch=tmp_path / "constant")
    history = train(settings, *data, tmp_path / "branch")
    assert [row["steps"] for row in history] == [8]  # the draws of steps 7 and 8 of the run that it left
    assert history[0]["learning_rate"] == pytest.approx(constant.learning_rate / 2)
    state = torch.load(tmp_path / "branch" / "last.ckpt", weights_only=True)
    assert {float(s["step"]) for s in state["optimizer"]["state"].values()} == {8.0}
    assert train(settings, *data, tmp_path / "branch") == history


def test_prints_are_heard_in_training_and_validated(pool_folder, tmp_path, precision):
    sources = pool_sources(pool_folder, MixtureSettings(), 4)
    mini = MINI | {"epochs": 1}
    row, = train(TrainSettings(**mini), *sources, tmp_path / "folded")
    blind, with_print = (training.validate(load_weights(tmp_path / "folded" / "best.pth")[0], sources[1],
                                           with_print=heard) for heard in (False, True))
    assert row["validation_snr_improvement_db"] == pytest.approx(blind, abs=1e-4)
    assert row["validation_with_print_db"] == pytest.approx(with_print, abs=1e-4) and blind != with_print
    other, = train(TrainSettings(**mini), *pool_sources(pool_folder, MixtureSettings(print_share=0), 4),
                   tmp_path / "none")
    assert other["train_loss"] != row["train_loss"]
    literature, = train(TrainSettings("literature", **mini), *sources, tmp_path / "literature")
    assert "validation_with_print_db" not in literature


def test_a_budget_of_minutes_is_kept_and_resumed(data, tmp_path, monkeypatch):
    monkeypatch.setattr(training, "time", even_clock(0.1))
    settings = TrainSettings(**(MINI | {"minutes": 0.1, "epochs": 2}))
    history = train(settings, *data, tmp_path)
    assert len(history) == 2 and history[-1]["learning_rate"] < 0.1 * settings.learning_rate
    assert 5.9 < sum(row["seconds"] for row in history) < 7
    assert train(settings, *data, tmp_path) == history


def test_fine_tuning_begins_with_the_given_weights(finished, data, tmp_path):
    settings = TrainSettings(**(MINI | {"epochs": 1, "steps_per_epoch": 1, "learning_rate": 1e-12}),
                             start=finished[0] / "best.pth")
    train(settings, *data, tmp_path)
    before, after = (load_weights(folder / "best.pth")[0].state_dict() for folder in (finished[0], tmp_path))
    assert all(torch.allclose(before[k], after[k], atol=1e-6) for k in before if "weight" in k)
    with pytest.raises(UserError, match="start was None and is"):
        train(TrainSettings(**MINI, start=tmp_path / "best.pth"), *data, finished[0])


def test_curves_for_tensorboard(data, tmp_path):
    train(TrainSettings(**MINI), *data, tmp_path, Execution(tensorboard=True))
    events = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    assert {"loss", "learning rate", "validation SNR improvement (dB)"} <= set(events.Tags()["scalars"])
    assert [e.step for e in events.Scalars("epoch loss")] == [3, 6]


def test_a_watched_training_says_nothing_itself(data, finished, tmp_path, caplog):
    seen = []
    with caplog.at_level("INFO", "common.training.loop"):
        history = train(TrainSettings(**MINI), *data, tmp_path,
                        Execution(watch=lambda run: seen.append((run.step, len(run.history)))))
    assert seen == [(0, 0), (1, 0), (2, 0), (3, 1), (4, 1), (5, 1), (6, 2)] and "loss" not in caplog.text
    assert [row["train_loss"] for row in history] == [row["train_loss"] for row in finished[1]]


def test_the_time_of_a_training_is_measured_before_it(data, monkeypatch):
    monkeypatch.setattr("common.training.timing.time", even_clock(10.0))  # each part takes 10 s
    words = estimate(TrainSettings(**(MINI | {"epochs": 4})), *data)
    assert "12 steps of 2.50 s and 4 validations of 40.0 s" in words and "about 4 min" in words  # 30 s and 160 s
    monkeypatch.setattr(type(data[1]), "has_prints", True)  # each validation is done without prints and with them
    words = estimate(TrainSettings(**(MINI | {"epochs": 4})), *data)
    assert "4 validations of 80.0 s" in words and "about 6 min" in words


def test_a_network_learns_from_noisy_targets_alone(tmp_path, rng):
    """Noise2Noise end to end at the smallest size: tones in white noise, never a clean one shown."""
    class Tones:
        clean_target = False

        def batch(self, seed, step, rows, n):
            rng = np.random.default_rng([seed, step])
            t = np.arange(n) / 44100
            song = np.stack([sum(np.sin(2 * np.pi * f * t) for f in rng.uniform(100, 2000, 3)) for _ in rows])
            return [torch.from_numpy(song + 0.5 * rng.standard_normal(song.shape)).float() for _ in range(2)]

        def prints(self, *where):
            return None

        def settings(self):
            return {}

    class Chord:
        has_prints = False

        def gains(self, model, part, with_print=False):
            t = np.arange(98 * 512) / 44100
            clean = sum(np.sin(2 * np.pi * f * t) for f in (220, 554, 1318))
            noisy = clean + 0.5 * rng.standard_normal(len(t))
            with torch.no_grad():
                out = model(torch.from_numpy(noisy[None].astype(np.float32))).numpy()[0]
            return [10 * np.log10(np.sum((noisy - clean) ** 2) / np.sum((out - clean) ** 2))]

    settings = TrainSettings(width=2, epochs=1, steps_per_epoch=60, batch_size=2, learning_rate=5e-3, warmup_steps=10,
                             ema_decay=0.9)
    history = train(settings, Tones(), Chord(), tmp_path)
    assert history[-1]["validation_snr_improvement_db"] > 3
