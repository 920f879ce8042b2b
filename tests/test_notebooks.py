"""Every notebook under papermill on small inputs, against the numbers that it recorded."""

import ast
import csv
import json
import re
import shutil
import subprocess

import numpy as np
import papermill
import pytest
import soundfile as sf

from common.audio.reading import read_audio
from common.audio.writing import write_audio
from common.data.pairs import check_disjoint, pairs_in, songs_and_recordings
from common.demo.copies import make_copies
from common.evaluation.metrics import snr
from common.network.checkpoints import save_weights
from common.notebook.records import read_records, unquoted
from tests.conftest import APP, ROOT

# The page in the browser has its own tests, in test_app.py.
NOTEBOOKS = sorted({ROOT / "NoiseRemover.ipynb", *(ROOT / "notebooks").glob("*.ipynb")} - {APP})


def _run(notebook, tmp_path, checkout=ROOT, **parameters):
    executed = tmp_path / "executed.ipynb"
    papermill.execute_notebook(str(checkout / notebook), str(executed), {k: str(v) if hasattr(v, "parts") else v
                                                                         for k, v in parameters.items()},
                               cwd=str((checkout / notebook).parent), kernel_name="python3", progress_bar=False)
    return read_records(executed), executed


def training_rows(weights):
    with open(weights / "history.csv", newline="") as file:
        return list(csv.DictReader(file))


def parameter_cells(cells):
    """The code cells up to the one behind which papermill puts its values."""
    code = [c for c in cells if c["cell_type"] == "code"]
    tagged = [n for n, c in enumerate(code) if "parameters" in c["metadata"].get("tags", [])]
    assert len(tagged) == 1
    return code[: tagged[0] + 1], code[tagged[0] + 1 :]


def assigned(cells):
    """The names that cells give values to."""
    lines = [line for c in cells for line in "".join(c["source"]).splitlines()]
    return [line.split("=")[0].strip() for line in lines if "=" in line.split("#")[0]]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.name)
def test_notebooks_are_thin_and_stripped(path):
    cells = json.loads(path.read_text())["cells"]
    parameters, rest = parameter_cells(cells)
    names = assigned(parameters)
    assert names and all(name == name.upper() for name in names)
    source, used = ("\n".join("".join(c["source"]) for c in part) for part in (parameters + rest, rest))
    assert "class " not in source and "records.record(" in source
    assert all(not c["outputs"] and c["execution_count"] is None for c in parameters + rest)
    assert [n for n in names if n not in used] == []  # no parameter that does nothing


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.name)
def test_notebooks_begin_with_one_picture(path):
    introduction = "".join(json.loads(path.read_text())["cells"][0]["source"])
    picture, = re.findall(r"!\[[^]]+\]\(([^)]+)\)", introduction)
    assert (path.parent / picture).stat().st_size < 200_000


def test_papermill_sets_the_names_of_both_cells(tmp_path):
    parameters, _ = parameter_cells(json.loads((ROOT / "NoiseRemover.ipynb").read_text())["cells"])
    names = assigned(parameters)
    assert len(assigned(parameters[:1])) == 5 and len(set(names)) == len(names) > 20
    made = papermill.execute_notebook(str(ROOT / "NoiseRemover.ipynb"), str(tmp_path / "out.ipynb"),
                                      dict.fromkeys(names, "given"), prepare_only=True, kernel_name="python3")
    values = {}
    for cell in [c for c in made.cells if c.cell_type == "code"][: len(parameters) + 1]:
        exec(cell.source, values)
    assert {values[name] for name in names} == {"given"}


@pytest.fixture
def checkout(tmp_path):
    """A copy of the files of this checkout, as they are now, without data."""
    listed = subprocess.run(["git", "ls-files", "-co", "--exclude-standard", "-z"], cwd=ROOT, capture_output=True,
                            check=True)
    folder = tmp_path / "checkout"
    for name in filter(None, listed.stdout.decode().split("\0")):
        if (ROOT / name).is_file() and not name.startswith(("tests/", "benchmarks/")):
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(ROOT / name, folder / name)
    return folder


def shown(executed, kind):
    """The outputs of an executed notebook that have data of a kind, or the text that it printed."""
    outputs = [o for c in json.loads(executed.read_text())["cells"] for o in c.get("outputs", [])]
    if kind == "stream":
        return "".join("".join(o["text"]) for o in outputs if o["output_type"] == "stream")
    return [o["data"][kind] for o in outputs if kind in o.get("data", {})]


@pytest.mark.notebooks
def test_all_runs_on_a_fresh_checkout(checkout, tmp_path):
    """The default paths: the demo's data are made once, and every notebook takes them."""
    small = {"WIDTH": 1, "EPOCHS": 2, "STEPS_PER_EPOCH": 2, "SPEECH_METRICS": False, "N_SAMPLES": 1, "LISTEN": False}
    records, executed = _run("NoiseRemover.ipynb", tmp_path, checkout, **small)
    text = shown(executed, "stream")
    assert f"There is no data yet: generated songs and noises are mixed in {checkout / 'data' / 'demo'}" in text
    assert "The whole training takes about 1 min" in text and "epoch 1/2" not in text
    assert records["n_segments"] == 24 and records["n_songs"] == 4 and len(records["train_losses"]) == 2
    assert 5 < records["input_snr_db"] < 25
    progress = [line for line in shown(executed, "text/plain") if "".join(line).startswith("epoch ")]
    assert len(progress) == 1 and "epoch 2 of 2, step 4" in "".join(progress[0])  # one line, which is replaced
    assert any("improvement dB" in "".join(table) for table in shown(executed, "text/html"))
    made = [path for path in (checkout / "data" / "demo").rglob("*") if path.is_file()]
    assert 50e6 < sum(path.stat().st_size for path in made) < 80e6  # 20 MB more for what a demo makes of it
    segments = "notebooks/generate_best_segments.ipynb"
    chosen, executed = _run(segments, tmp_path, checkout, LISTEN=False)
    text = shown(executed, "stream")
    assert "There is no data yet" not in text and text.count("are already in") == 3
    assert chosen["n_train"] < chosen["n_candidates"] and chosen["n_test"] == 24
    with pytest.raises(papermill.PapermillExecutionError, match=r"n_segments was .* and is 3: use the same ones"):
        _run(segments, tmp_path, checkout, LISTEN=False, N_SEGMENTS=3)
    assert [path for path in made if not path.is_file()] == []


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
    data = tmp_path / "data"
    data.mkdir()
    for split in ("train", "validation", "test"):
        (data / split).symlink_to(merged("merger_white.py", split, 2, 2)[0].parent)
    small = {"WIDTH": 1, "EPOCHS": 2, "STEPS_PER_EPOCH": 4, "BATCH_SIZE": 2, "SEGMENTS_PER_PAIR": 1, "N_SAMPLES": 2,
             "SPEECH_METRICS": False, "DEVICE": "cpu", "TRAIN_DIR": data / "train",
             "VALIDATION_DIR": data / "validation", "TEST_DIR": data / "test", "WEIGHTS_DIR": tmp_path / "Weights",
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
    ("NoiseRemover.ipynb", {"TEST_DIR": "nowhere"}, "nowhere/input does not exist"),
    ("notebooks/generate_best_segments.ipynb", {"SOURCE": "nowhere"}, "one input/ and target/, in nowhere"),
])
def test_a_users_mistake_gets_one_sentence(merged, tmp_path, notebook, parameters, message):
    if "MODEL_PATH" in parameters:  # there is a test set
        parameters = parameters | {"TEST_DIR": merged("merger_white.py", "test", 2, 2)[0].parent}
    with pytest.raises(papermill.PapermillExecutionError, match=message):
        _run(notebook, tmp_path, **parameters)
    cells = json.loads((tmp_path / "executed.ipynb").read_text())["cells"]
    shown = [o["traceback"] for c in cells for o in c.get("outputs", []) if o["output_type"] == "error"]
    assert len(shown) == 1 and len(shown[0]) == 1 and shown[0][0].startswith("CallError: expected")


@pytest.mark.notebooks
def test_two_copies_become_a_denoiser(tmp_path):
    first, second = make_copies(tmp_path / "tapes", seconds=24)
    records, executed = _run("notebooks/two_copies.ipynb", tmp_path, COPY_A=first, COPY_B=second,
                             OUTPUT_DIR=tmp_path / "set", WEIGHTS_DIR=tmp_path / "weights", EPOCHS=1,
                             STEPS_PER_EPOCH=2, DEVICE="cpu")
    assert records["n_pairs"] == 2 and records["n_segments"] >= 2
    assert records["improvements_db"]["mixed"] > 0 and np.isfinite(records["improvements_db"]["fine-tuned"])
    outputs = executed.read_text()
    assert "image/png" in outputs and "iframe" in outputs and "fine-tuned: " in outputs
