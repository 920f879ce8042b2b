"""Every notebook under papermill on small inputs, against the numbers that it recorded."""

import ast
import csv
import json

import numpy as np
import papermill
import pytest
import soundfile as sf

from common.audio.reading import read_audio
from common.audio.writing import write_audio
from common.data.pairs import check_disjoint, pairs_in, songs_and_recordings
from common.evaluation.metrics import snr
from common.network.checkpoints import save_weights
from common.notebook.records import read_records, unquoted
from tests.conftest import APP, ROOT

# The page in the browser has its own tests, in test_app.py.
NOTEBOOKS = sorted({ROOT / "NoiseRemover.ipynb", *(ROOT / "notebooks").glob("*.ipynb")} - {APP})


def _run(notebook, tmp_path, **parameters):
    executed = tmp_path / "executed.ipynb"
    papermill.execute_notebook(str(ROOT / notebook), str(executed), {k: str(v) if hasattr(v, "parts") else v
                                                                      for k, v in parameters.items()},
                               cwd=str((ROOT / notebook).parent), kernel_name="python3", progress_bar=False)
    return read_records(executed), executed


def training_rows(weights):
    with open(weights / "history.csv", newline="") as file:
        return list(csv.DictReader(file))


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.name)
def test_notebooks_are_thin_and_stripped(path):
    cells = json.loads(path.read_text())["cells"]
    code = [c for c in cells if c["cell_type"] == "code"]
    parameters = [c for c in code if "parameters" in c["metadata"].get("tags", [])]
    assert len(parameters) == 1
    names = [line.split("=")[0].strip() for line in parameters[0]["source"] if "=" in line.split("#")[0]]
    assert names and all(name == name.upper() for name in names)
    source = "\n".join("".join(c["source"]) for c in code)
    assert "class " not in source and "records.record(" in source
    assert all(not c["outputs"] and c["execution_count"] is None for c in code)
    used = "\n".join("".join(c["source"]) for c in code if c is not parameters[0])
    assert [n for n in names if n not in used] == []  # no parameter that does nothing


@pytest.mark.notebooks
def test_best_segments(merged, tmp_path):
    source = merged("merger_mixed_white.py", "train", 3, 2)[0].parent
    records, _ = _run("notebooks/generate_best_segments.ipynb", tmp_path, SOURCE=source, N_SEGMENTS=4,
                      OUTPUT_DIR=tmp_path / "segments", HOP_SECONDS=1.0, DIVERSITY_WEIGHT=0.0, SKIP_START_SECONDS=0.0,
                      SKIP_END_SECONDS=0.0)
    assert records["n_candidates"] == 12 and records["n_chosen"] == records["n_train"] == 4
    assert 1 >= records["mean_decorrelation_chosen"] > records["mean_decorrelation"] > 0.5
    assert len(list((tmp_path / "segments" / "train" / "input").glob("*.wav"))) == 4


@pytest.mark.notebooks
def test_a_song_is_a_starting_dataset(corpus, tmp_path, rng):
    """One song and a noise folder suffice."""
    loudness = np.repeat(rng.uniform(0.2, 1, 40), 44100)
    write_audio(tmp_path / "song.wav", 0.2 * loudness * rng.standard_normal((2, 40 * 44100)), 44100)
    records, _ = _run("notebooks/generate_best_segments.ipynb", tmp_path, SOURCE=tmp_path / "song.wav", N_PAIRS=3,
                      NOISES_DIR=corpus[1], OUTPUT_DIR=tmp_path / "segments", N_SEGMENTS=6, N_HELD_OUT=2,
                      DIVERSITY_WEIGHT=1.0, SKIP_START_SECONDS=1.0, SKIP_END_SECONDS=1.0)
    assert (records["n_train"], records["n_validation"], records["n_test"]) == (6, 2, 2)
    assert records["n_candidates"] == 3 * 7 and records["diversity_chosen"] > records["diversity_random"]
    splits = ("train", "validation", "test")
    check_disjoint(**{split: songs_and_recordings(pairs_in(tmp_path / "segments" / split)) for split in splits})


@pytest.mark.notebooks
def test_train_evaluate_and_select_weights(merged, tmp_path):
    folders = {}
    for split in ("train", "validation", "test"):
        folders[split] = merged("merger_white.py", split, 2, 2)[0].parent
    small = {"WIDTH": 1, "EPOCHS": 2, "STEPS_PER_EPOCH": 4, "BATCH_SIZE": 2, "SEGMENTS_PER_PAIR": 1, "N_SAMPLES": 2,
             "SPEECH_METRICS": False, "DEVICE": "cpu", "TRAIN_DIR": folders["train"],
             "VALIDATION_DIR": folders["validation"], "TEST_DIR": folders["test"], "WEIGHTS_DIR": tmp_path / "Weights",
             "SAMPLES_DIR": tmp_path / "Samples"}
    records, executed = _run("NoiseRemover.ipynb", tmp_path, **small)
    assert records["n_segments"] == 4 and records["n_songs"] == 2 and len(records["train_losses"]) == 2
    assert records["output_snr_db"] == pytest.approx(records["input_snr_db"] + records["improvement_db"], abs=1e-6)
    assert records["white_improvement_db"] == records["improvement_db"]
    made = {p.name for p in (tmp_path / "Samples").iterdir()}
    assert {"metrics.csv", "summary.csv", "snr_distributions.png", "sample_001_plot.png",
            "sample_002_denoised.wav"} <= made
    assert (tmp_path / "Weights" / "training_curves.png").stat().st_size > 5000
    assert {"improvement_by_noise.png", "summary.md", "sample_001_noisy.wav"} <= made
    assert "do nothing" in executed.read_text()
    # Select another .pth: what is evaluated is that file.
    losing = min(training_rows(tmp_path / "Weights"), key=lambda row: float(row["validation_snr_improvement_db"]))
    again, _ = _run("NoiseRemover.ipynb", tmp_path, **(small | {
        "MODE": "evaluate", "MODEL_PATH": tmp_path / "Weights" / f"epoch_00{losing['epoch']}.pth", "LISTEN": False}))
    assert again["n_segments"] == 4 and again["input_snr_db"] == records["input_snr_db"]
    assert "train_losses" not in again and again["output_snr_db"] != records["output_snr_db"]
    # Compare: several files over one test set, beside methods that train nothing.
    paths = {"best": str(tmp_path / "Weights" / "best.pth"), "other": str(tmp_path / "Weights" / "epoch_001.pth")}
    side_by_side, _ = _run("NoiseRemover.ipynb", tmp_path, **(small | {
        "MODE": "compare", "MODEL_PATHS": paths, "BASELINES": ["oracle bounded complex mask"], "SAMPLE_INDICES": [1],
        "LISTEN": False}))
    gains = side_by_side["improvements_db"]
    assert set(gains) == {"do nothing", *paths, "oracle bounded complex mask"} and gains["do nothing"] == 0
    assert gains["best"] == pytest.approx(records["improvement_db"], abs=1e-6)
    assert gains["oracle bounded complex mask"] > 3
    assert side_by_side["manifest_sha256"] == records["manifest_sha256"]


@pytest.mark.notebooks
def test_train_on_a_pool(pool_folder, tmp_path):
    records, _ = _run("NoiseRemover.ipynb", tmp_path, POOL_DIR=pool_folder, TEST_DIR="", WIDTH=1, EPOCHS=1,
                      STEPS_PER_EPOCH=2, BATCH_SIZE=2, DEVICE="cpu", WEIGHTS_DIR=tmp_path / "Weights", NOISE="siren")
    assert len(records["train_losses"]) == 1 and "n_segments" not in records
    assert (tmp_path / "Weights" / "best.pth").is_file() and (tmp_path / "Weights" / "tensorboard").is_dir()


@pytest.mark.notebooks
@pytest.mark.parametrize("strength", [0.0, 1.0])
def test_denoise_an_entire_song(merged, model, tmp_path, strength):
    input_dir, _, rows = merged("merger_white.py", "test", 2, 2)
    save_weights(model, tmp_path / "m.pth", {})
    source, target = input_dir / rows[0]["input_file"], tmp_path / "out" / "song.flac"
    records, _ = _run("notebooks/denoising_entire_song.ipynb", tmp_path, MODEL_PATH=tmp_path / "m.pth",
                      INPUT_AUDIO_PATH=source, OUTPUT_AUDIO_PATH=target, STRENGTH=strength,
                      CLIP="limit", RESIDUAL_AUDIO_PATH=tmp_path / "rest.wav")
    assert records["same_length"] and records["seconds"] == pytest.approx(sf.info(source).duration)
    noisy, out, rest = (read_audio(p)[0] for p in (source, target, tmp_path / "rest.wav"))
    # What the untrained network removes may pass full scale, where samples are limited.
    whole = (np.abs(out) < 0.999) & (np.abs(rest) < 0.999)
    assert whole.mean() > 0.9 and np.abs(noisy - out - rest)[whole].max() < 2 / 32768
    assert np.array_equal(noisy, out) == (strength == 0)
    assert (records["removed_db"] is None) == (strength == 0)  # nothing removed: minus infinity
    assert target.with_suffix(".png").stat().st_size > 10000


@pytest.mark.notebooks
def test_a_song_is_denoised_without_any_parameter(tmp_path):
    """On a fresh checkout: the bundled excerpt, and weights that fit its noise."""
    records, _ = _run("notebooks/denoising_entire_song.ipynb", tmp_path, OUTPUT_AUDIO_PATH=tmp_path / "out.wav")
    clean, noisy = (read_audio(ROOT / "docs" / "samples" / f"1_white_{name}.wav")[0] for name in ("clean", "noisy"))
    assert records["same_length"] and snr(clean, read_audio(tmp_path / "out.wav")[0]) > snr(clean, noisy) + 6


@pytest.mark.notebooks
def test_a_noise_print_is_taken_and_recorded(model, tmp_path, rng):
    write_audio(tmp_path / "song.wav", 0.1 * rng.standard_normal((1, 88200)), 44100)
    save_weights(model, tmp_path / "m.pth", {})
    records, _ = _run("notebooks/denoising_entire_song.ipynb", tmp_path, MODEL_PATH=tmp_path / "m.pth", LISTEN=False,
                      INPUT_AUDIO_PATH=tmp_path / "song.wav", OUTPUT_AUDIO_PATH=tmp_path / "out.wav",
                      NOISE_PRINT=[(0, 0.5), (1, 1.5)])
    assert records["noise_print"] == [[0, 0.5], [1, 1.5]]


@pytest.mark.parametrize("parameter", [(0.0, 2.5), [(0, 1), (2, 3)], [0.0, 2.5], [[0, 1]], None, "auto", "(1) a.wav"])
def test_papermills_text_of_a_tuple_is_read(parameter):
    handed_on = papermill.translators.PythonTranslator.translate(parameter)
    assert unquoted(ast.literal_eval(handed_on)) == parameter


@pytest.mark.notebooks
@pytest.mark.parametrize("notebook, parameters, message", [
    ("NoiseRemover.ipynb", {"MODE": "evaluate", "MODEL_PATH": "none.pth"}, "none.pth does not exist"),
    ("NoiseRemover.ipynb", {"MODE": "listen"}, "expected MODE train, evaluate or compare"),
    ("NoiseRemover.ipynb", {"TRAIN_DIR": "nowhere"}, "nowhere/input does not exist"),
])
def test_a_users_mistake_gets_one_sentence(tmp_path, notebook, parameters, message):
    with pytest.raises(papermill.PapermillExecutionError, match=message):
        _run(notebook, tmp_path, **parameters)
    cells = json.loads((tmp_path / "executed.ipynb").read_text())["cells"]
    shown = [o["traceback"] for c in cells for o in c.get("outputs", []) if o["output_type"] == "error"]
    assert len(shown) == 1 and len(shown[0]) == 1 and shown[0][0].startswith("CallError: expected")
