"""The page that denoises a song, in a real browser."""

import io
import json
import os
import re
import socket
import subprocess
import sys
import time
from contextlib import closing

import numpy as np
import papermill
import pytest
from matplotlib.image import imread

from common.audio.reading import read_audio
from common.audio.writing import write_audio
from common.demo.synth import SAMPLE_RATE, song
from common.denoising.auto import model_for
from common.denoising.files import DenoiseSettings, denoise_file
from common.notebook.app import PIECE_BYTES
from common.notebook.overview import Overview
from tests.conftest import APP, ROOT

SERVER_SECONDS, ANSWER_SECONDS = 120, 120
NOISE_SECONDS = 1.5


@pytest.fixture(scope="module")
def app(tmp_path_factory):
    """The address of a server of the page; what it leaves behind is nothing."""
    folder = tmp_path_factory.mktemp("server")
    with closing(socket.create_server(("127.0.0.1", 0))) as free:
        port = free.getsockname()[1]
    server = subprocess.Popen([sys.executable, "-m", "voila", str(APP), f"--port={port}",
                               "--no-browser"], cwd=ROOT, env=os.environ | {"TMPDIR": str(folder)})
    try:
        deadline = time.monotonic() + SERVER_SECONDS
        while socket.socket().connect_ex(("127.0.0.1", port)):
            assert server.poll() is None and time.monotonic() < deadline, "voila does not start"
            time.sleep(0.1)
        yield f"http://127.0.0.1:{port}/"
    finally:
        server.terminate()
        server.wait(SERVER_SECONDS)
    assert list(folder.glob("denoising_app_*")) == []


@pytest.fixture(scope="module")
def opened(browser, app):
    """The page in a browser, one for all tests since it starts slowly; `answered` lists the addresses that it used."""
    with browser.new_context() as context:
        page = context.new_page()
        page.answered = []
        page.on("response", lambda response: page.answered.append(response.url))
        page.set_default_timeout(1000 * ANSWER_SECONDS)
        page.goto(app)
        ready(page)
        yield page


def ready(page):
    page.locator("fieldset[data-part=controls]:enabled").wait_for()


def part(page, name):
    return page.locator(f"[data-part={name}]")


def mark(page, start, end):
    """Type the moment of noise alone, in seconds."""
    part(page, "from").fill(start)
    part(page, "to").fill(end)
    part(page, "to").blur()


def click(page, name):
    part(page, name).click()
    ready(page)
    return part(page, "error").inner_text()


def take(page, path):
    part(page, "file").set_input_files(path)
    ready(page)
    return part(page, "error").inner_text()


@pytest.fixture(scope="module")
def noisy(tmp_path_factory):
    """A song after a moment of its noise alone, in a file of several pieces."""
    music = sum(song(3, 2.5).values())
    quiet = np.zeros((2, round(NOISE_SECONDS * SAMPLE_RATE)), np.float32)
    music = np.concatenate([quiet, music], axis=1)
    path = tmp_path_factory.mktemp("songs") / "a song.wav"
    write_audio(path, music + 0.02 * np.random.default_rng(0).standard_normal(music.shape), SAMPLE_RATE, "DOUBLE")
    assert path.stat().st_size > 2 * PIECE_BYTES
    return path


@pytest.mark.notebooks
def test_the_notebook_is_thin_stripped_and_shows_one_widget(tmp_path):
    code = [cell for cell in json.loads(APP.read_text())["cells"] if cell["cell_type"] == "code"]
    assert [cell["metadata"].get("tags") for cell in code] == [["parameters"], None]
    assert all(not cell["outputs"] and cell["execution_count"] is None for cell in code)
    papermill.execute_notebook(str(APP), str(tmp_path / "executed.ipynb"), cwd=str(APP.parent), progress_bar=False)
    cells = json.loads((tmp_path / "executed.ipynb").read_text())["cells"]
    shown, = [output["data"] for cell in cells for output in cell.get("outputs", [])]
    assert "application/vnd.jupyter.widget-view+json" in shown


def test_a_picture_shows_the_stretch_that_is_asked_for(tmp_path):
    rate, tone_hz = 48000, 6000
    tone = 0.5 * np.sin(2 * np.pi * tone_hz * np.arange(rate) / rate)
    write_audio(tmp_path / "tone.wav", np.stack([np.concatenate([0 * tone, tone])] * 3), rate)
    shown = Overview(tmp_path / "tone.wav", tmp_path)
    assert (shown.seconds, shown.channels, shown.sample_rate) == (2, 3, rate)
    for start, end, amplitude in ((0, 0.9, 0), (1.1, 2, 0.5), (1.5, 1.56, 0.5)):
        low, high, png = shown.view(start, end)
        assert (high.max(), low.min()) == pytest.approx((amplitude, -amplitude), abs=1e-3)
        brightness = imread(io.BytesIO(png))[..., :3].sum(axis=-1).mean(axis=1)  # (rows,), high frequencies first
        assert brightness.max() > 2 if amplitude else brightness.max() < 0.1
        assert not amplitude or 1 - brightness.argmax() / 256 == pytest.approx(2 * tone_hz / rate, abs=2 / 256)
    assert imread(io.BytesIO(shown.view(2, 2)[2])).shape[0] == 256  # a view has at least one sample


def test_a_song_is_denoised_in_the_browser(opened, app, noisy, tmp_path):
    assert take(opened, noisy) == ""
    assert "a song.wav: 0:04, 44.1 kHz, stereo" in part(opened, "song").inner_text()

    # The mouse marks what it is dragged over: the picture shows 4 s between its margins of 44 and 10 pixels.
    box = part(opened, "picture").bounding_box()
    x = [box["x"] + 44 + share * (box["width"] - 54) for share in (0.1, 0.2)]
    opened.mouse.move(x[1], box["y"] + 40)
    opened.mouse.down()
    opened.mouse.move(x[0], box["y"] + 150)
    opened.mouse.up()
    marked = [float(part(opened, name).input_value()) for name in ("from", "to")]
    assert marked == pytest.approx([0.4, 0.8], abs=0.02)
    assert click(opened, "find") == ""
    found = [float(part(opened, name).input_value()) for name in ("from", "to")]
    assert 0 <= found[0] < found[1] <= NOISE_SECONDS and found[1] - found[0] >= 0.5
    mark(opened, "0.2", "1.4")
    part(opened, "strength").fill("0.8")
    part(opened, "suffix").select_option(".aiff")
    assert click(opened, "denoise") == ""
    outcome = part(opened, "told").inner_text()
    assert "weights white" in outcome and re.search(r"4\.0 s of audio in .* s; what was removed is", outcome)

    player = opened.frame_locator("[data-part=player]")
    player.get_by_role("button", name="Play").click()
    player.locator("#wave:not([aria-valuenow='0.000'])").wait_for()  # it sounds, and the position moves on
    for version in ("denoised", "removed", "noisy"):
        player.get_by_role("button", name=version).click()
        player.get_by_role("button", name=version, pressed=True).wait_for()

    settings = DenoiseSettings(0.8, noise_print=(0.2, 1.4))
    denoise_file(model_for("white")(noisy), noisy, tmp_path / "denoised.aiff", settings, tmp_path / "removed.aiff")
    for name in ("denoised", "removed"):
        with opened.expect_download() as download:
            opened.get_by_role("button", name=f"download a song.{name}.aiff").click()
        assert download.value.suggested_filename == f"a song.{name}.aiff"
        arrived, expected = (read_audio(path)[0] for path in (download.value.path(), tmp_path / f"{name}.aiff"))
        assert arrived.shape == expected.shape and np.abs(arrived - expected).max() < 1e-6
        ready(opened)
    assert [url for url in opened.answered if not url.startswith((app, "data:", "blob:"))] == []


def test_a_mistake_gets_one_sentence_and_work_goes_on(opened, noisy, tmp_path):
    notes = opened.evaluate_handle("""() => {
        const dropped = new DataTransfer();
        dropped.items.add(new File(["no music"], "notes.txt"));
        return dropped;
    }""")
    part(opened, "drop").dispatch_event("drop", {"dataTransfer": notes})
    ready(opened)
    error = part(opened, "error").inner_text()
    assert error.startswith("expected a readable audio file, but notes.txt could not be decoded")
    (tmp_path / "empty.wav").touch()
    assert take(opened, tmp_path / "empty.wav").startswith("expected a readable audio file, but empty.wav")
    assert not part(opened, "work").is_visible()

    assert take(opened, noisy) == ""
    mark(opened, "1", "1.1")
    assert click(opened, "denoise").startswith("expected a noise print of at least 0.25 s")
    click(opened, "clear")
    part(opened, "denoise").click()
    assert click(opened, "cancel") == "cancelled; nothing was written"
    assert not part(opened, "result").is_visible()
