"""The player in a real browser: what sounds, where, and how it is steered."""

import base64
import io
import json
import re
import time

import nbconvert
import nbformat
import numpy as np
import papermill
import pytest

from common.audio.encoders import OPUS_RATE, encode_opus
from common.audio.reading import read_audio
from common.notebook import listening, plots
from tests.conftest import ROOT

# Records in each frame all that reaches the loudspeaker (left channel) as a list of samples, window.heardSamples.
RECORDER = """
const connect = AudioNode.prototype.connect;
const record = async node => {
  const code = `registerProcessor("recorder", class extends AudioWorkletProcessor {
    process([input]) { this.port.postMessage([currentTime, input[0] ?? new Float32Array(128)]); return true; }
  })`;
  await node.context.audioWorklet.addModule("data:text/javascript," + encodeURIComponent(code));
  const recorder = new AudioWorkletNode(node.context, "recorder");
  recorder.port.onmessage = ({data: [time, samples]}) => { if (time >= begin) heardSamples.push(...samples); };
  window.contextTime = () => node.context.currentTime;
  connect.call(node, recorder);
  connect.call(recorder, node.context.destination);
};
window.heardSamples = [];
window.begin = 0;  // what sounded before is left out
AudioNode.prototype.connect = function (target, ...rest) {
  if (target === this.context.destination) record(this);
  return connect.call(this, target, ...rest);
};
"""


class Player:
    """A player in a frame, as a person sees and steers it."""

    def __init__(self, frame):
        self.frame, self.press = frame, frame.page.keyboard.press

    def button(self, name):
        return self.frame.get_by_role("button", name=name)

    def is_on(self, name):
        return self.button(name).get_attribute("aria-pressed") == "true"

    def plays(self):
        return self.frame.inner_text("#play") == "Pause"

    def position(self):
        return float(self.frame.get_attribute("#wave", "aria-valuenow"))

    def drag(self, start, end):
        """Press the mouse at a share of the waveform's width and release it at another."""
        box, mouse = self.frame.locator("#wave").bounding_box(), self.frame.page.mouse
        x, y = box["x"], box["y"] + 30
        mouse.move(x + start * box["width"], y)
        mouse.down()
        mouse.move(x + end * box["width"], y, steps=4)
        mouse.up()

    def click(self, share):
        self.drag(share, share)

    def wait_until(self, seconds):
        self.frame.wait_for_function("at => document.querySelector('#wave').ariaValueNow >= at", arg=seconds)

    def recorded(self):
        return np.array(self.frame.evaluate("heardSamples"))

    def listen(self, seconds):
        """Record from 0.1 s after now on, when a switch is over."""
        self.frame.wait_for_function("window.contextTime")
        self.frame.evaluate("begin = contextTime() + 0.1; heardSamples.length = 0")
        self.frame.wait_for_function("n => heardSamples.length >= n", arg=seconds * OPUS_RATE)
        return self.recorded()

    def level(self):
        """Return the RMS of what sounds. A busy machine leaves gaps of silence, so it is the median of 10 ms each."""
        samples = self.listen(0.3)
        return np.median(np.std(samples[:len(samples) // 480 * 480].reshape(-1, 480), axis=1))


@pytest.fixture
def open_players(page, tmp_path):
    """Write HTML to a file and open it without a network; returns its players. An error of a script fails the test."""
    errors = []
    page.on("pageerror", lambda error: errors.append(error))
    page.add_init_script(RECORDER)
    page.context.set_offline(True)

    def _open(html):
        file = tmp_path / "page.html"
        file.write_text(f"<!DOCTYPE html><meta charset=utf-8>{html}", encoding="utf-8")
        page.goto(file.as_uri(), wait_until="domcontentloaded")
        for frame in page.frames[1:]:
            frame.wait_for_selector("#wave[aria-valuenow]")
        return [Player(frame) for frame in page.frames[1:]]
    yield _open
    assert errors == []


def noises(rng, seconds, n=1):
    """White noise up to 15 kHz with an RMS of 0.1 at the rate of the page, (2, samples) each; Opus ends at 20 kHz."""
    spectra = rng.standard_normal((n, 2, seconds * 15_000, 2)) @ [1, 1j]
    return 0.1 * OPUS_RATE * (seconds / 60_000) ** 0.5 * np.fft.irfft(spectra, seconds * OPUS_RATE)


def tone(frequency_hz, seconds, level=0.5):
    return level * np.sin(2 * np.pi * frequency_hz * np.arange(seconds * OPUS_RATE) / OPUS_RATE)


def data_of(page):
    return json.loads(re.search(r'type="application/json">(.*?)</script>', page, re.DOTALL).group(1))


def test_versions_and_blocks_sound_in_step(open_players, rng):
    """Two versions of one noise, across the end of a block and a switch: to the sample where they belong."""
    noise, = noises(rng, 12)
    player, = open_players(listening.listening_panel({"noisy": noise, "denoised": 0.5 * noise}, OPUS_RATE).data)
    player.click(9.0 / 12)
    player.press("Space")
    player.wait_until(10.6)
    player.press("2")
    player.wait_until(11.3)
    player.press("Space")
    heard, song = player.recorded(), noise[0]
    spectrum = np.fft.rfft(heard, 2 ** 20) * np.conj(np.fft.rfft(song, 2 ** 20))
    shift = int(np.argmax(np.fft.irfft(spectrum)))  # cyclic: the song begins before the recording
    begin = -(shift - 2 ** 20) if shift > len(heard) else -shift
    gains = []
    for start in range(round(9.2 * OPUS_RATE), round(11.2 * OPUS_RATE), 4800):
        window, there = song[start : start + 4800], start - begin
        fits = [heard[there + lag : there + lag + 4800] @ window for lag in range(-3, 4)]
        assert np.argmax(fits) == 3  # no shift of even one sample
        gains.append(fits[3] / (window @ window))
    gains = np.array(gains)
    switch = np.argmax(gains < 0.9)
    np.testing.assert_allclose(gains[:switch], 1, atol=0.02)  # no gap at the end of the block
    np.testing.assert_allclose(gains[switch + 1 :], 0.5, atol=0.02)
    last = np.flatnonzero(np.abs(heard) > 0.01)[-1] + begin
    assert last / OPUS_RATE == pytest.approx(player.position(), abs=0.04)  # the line is where the sound is


def test_neither_switch_nor_seam_nor_loop_clicks(open_players):
    """No two samples differ by more than those of the tones themselves do."""
    player, = open_players(listening.listening_panel({"noisy": tone(300, 11), "denoised": tone(450, 11)},
                                                     OPUS_RATE).data)
    player.drag(9.8 / 11, 10.3 / 11)
    player.press("Space")
    for key in ("2", "1", "2", "ArrowRight", "l", "1"):
        time.sleep(0.3)
        player.press(key)
    time.sleep(0.3)
    player.press("Space")
    time.sleep(0.2)
    heard = player.recorded()
    assert np.abs(heard).max() > 0.45
    assert np.abs(np.diff(heard)).max() < 1.5 * 0.5 * 2 * np.pi * 450 / OPUS_RATE


def test_the_version_that_is_chosen_sounds(open_players):
    frequencies = {"noisy": 500, "denoised": 1000, "removed": 2000}
    player, = open_players(listening.listening_panel({n: tone(f, 5) for n, f in frequencies.items()}, OPUS_RATE).data)
    player.button("Play").click()
    for key, (name, frequency) in enumerate(frequencies.items(), 1):
        before = player.position()
        player.press(str(key))
        assert player.is_on(name) and 0 <= player.position() - before < 1  # it goes on from where it was
        spectrum = np.abs(np.fft.rfft(player.listen(0.1)[:4800]))
        assert 10 * np.argmax(spectrum) == frequency


def test_keys_and_clicks_steer(open_players, rng):
    player, = open_players(listening.listening_panel({"noisy": noises(rng, 20)[0]}, OPUS_RATE).data)
    assert not player.plays() and player.frame.inner_text("#time") == "0:00.0 / 0:20.0"
    assert not player.button("Match").is_visible()  # nothing to compare with
    player.click(0.5)
    assert player.position() == pytest.approx(10, abs=0.05)
    player.press("ArrowRight")
    player.press("ArrowRight")
    assert player.position() == 20
    player.press("ArrowLeft")
    assert player.position() == 15 and not player.plays()
    player.press("Space")
    player.wait_until(15.3)
    assert player.plays()
    player.press("Space")
    stopped = player.position()
    time.sleep(0.3)
    assert not player.plays() and player.position() == stopped


def test_it_stops_at_the_end_and_begins_anew(open_players, rng):
    player, = open_players(listening.listening_panel({"noisy": noises(rng, 1)[0]}, OPUS_RATE).data)
    player.click(0.1)
    player.press("Space")
    player.button("Play").wait_for()
    assert player.position() == 1
    player.press("Space")
    player.frame.wait_for_function("document.querySelector('#wave').ariaValueNow < 0.9")
    assert player.plays()


def test_loops_of_the_whole_and_of_a_marked_stretch(open_players, rng):
    player, = open_players(listening.listening_panel({"noisy": noises(rng, 2)[0]}, OPUS_RATE).data)
    player.click(0.75)
    player.press("l")
    player.press("Space")
    player.frame.wait_for_function("document.querySelector('#wave').ariaValueNow < 0.5")
    assert player.plays() and player.is_on("Loop")
    player.press("l")
    player.drag(0.5, 0.7)  # while it plays
    assert player.is_on("Loop")
    positions = []
    for _ in range(30):
        positions.append(player.position())
        time.sleep(0.05)
    assert min(positions) > 0.98 and max(positions) < 1.42 and np.any(np.diff(positions) < 0)
    player.click(0.1)
    player.wait_until(1.6)  # a click elsewhere takes the mark away


def test_matched_versions_are_equally_loud(open_players, rng):
    loud, quiet = noises(rng, 15, 2)
    panel = listening.listening_panel({"noisy": 2 * loud, "removed": 0.2 * quiet}, OPUS_RATE)
    player, = open_players(panel.data)
    assert "\u221220.0 dB" in player.button("removed").inner_text()
    player.button("Match volume").click()
    player.button("Loop").click()
    player.press("Space")
    player.wait_until(0.1)
    levels = []
    for key in "121":
        player.press(key)
        levels.append(player.level())
    np.testing.assert_allclose(levels, levels[0], rtol=0.1)
    player.frame.locator("#volume").fill("50")
    assert player.level() == pytest.approx(levels[0] / 4, rel=0.1)


def test_only_one_of_several_players_sounds(open_players, rng):
    panel = listening.listening_panel({"noisy": noises(rng, 5)[0]}, OPUS_RATE).data
    first, second = open_players(panel + panel)
    first.button("Loop").click()
    first.button("Play").click()
    first.wait_until(0.3)
    second.button("Play").click()
    second.wait_until(0.3)
    first.button("Play").wait_for()
    assert second.plays() and not first.plays()


def test_names_are_shown_and_never_run(open_players, rng):
    name = '</script><b>"x" & \'y\' SONG'
    player, = open_players(listening.listening_panel({name: noises(rng, 1)[0]}, OPUS_RATE, title=name).data)
    assert player.button(name).is_visible() and player.frame.locator("b").count() == 0
    assert player.frame.page.locator("h4").inner_text() == name and player.frame.page.locator("b").count() == 0


def test_a_browser_without_the_codec_says_so(open_players, rng, monkeypatch):
    monkeypatch.setattr(listening, "encode_opus", lambda audio, bit_rate: b"no sound")
    player, = open_players(listening.listening_panel({"noisy": noises(rng, 1)[0]}, OPUS_RATE).data)
    player.button("Play").click()
    player.frame.get_by_text("use a current browser").wait_for()
    assert not player.plays()


def test_a_saved_notebook_plays(open_players, tmp_path):
    """After papermill and nbconvert, with no kernel; the picture is there once, under its title."""
    source = """
import numpy as np
from common.notebook import listening, plots
audio = {"noisy": 0.1 * np.ones((2, 44100)), "denoised": np.zeros((2, 44100))}
listening.listening_panel(audio, 44100, "a song", plots.audio_figure(audio, 44100))"""
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(source)])
    nbformat.write(notebook, tmp_path / "notebook.ipynb")
    papermill.execute_notebook(tmp_path / "notebook.ipynb", tmp_path / "saved.ipynb", cwd=ROOT, kernel_name="python3",
                               progress_bar=False)
    player, = open_players(nbconvert.HTMLExporter().from_filename(tmp_path / "saved.ipynb")[0])
    page = player.frame.page
    assert page.get_by_role("heading", name="a song").count() == 1 and page.locator("img").count() == 1
    player.button("denoised").click()
    player.press("Space")
    player.wait_until(0.2)


def decoded(version, tmp_path):
    """Decode the first block of a version, without its margins."""
    margin = round(listening.MARGIN_SECONDS * OPUS_RATE)
    file = tmp_path / "block.webm"
    file.write_bytes(base64.b64decode(version["blocks"][0]))
    return read_audio(file)[0][:, margin:-margin]


def test_versions_keep_their_levels_and_never_clip(rng, tmp_path):
    """One gain for all, and only where full scale would be passed."""
    loud, = noises(rng, 2)
    quiet = {"noisy": 0.1 * loud, "denoised": 0.02 * loud}
    for gain in (1, 100):
        versions = data_of(listening.player_html({n: gain * x for n, x in quiet.items()}, OPUS_RATE))["versions"]
        noisy, denoised = (decoded(version, tmp_path) for version in versions)
        assert noisy.shape == loud.shape
        assert np.std(noisy) / np.std(denoised) == pytest.approx(5, rel=0.02)
        assert np.std(noisy) == pytest.approx(0.01, rel=0.02) if gain == 1 else 0.85 < np.abs(noisy).max() < 1


def test_matched_gains_pass_no_peak():
    gains = listening._matched_gains(np.array([0.1, 0.01, 0.0]), np.array([0.5, 0.4, 0.0]))
    assert gains[0] * 0.1 == pytest.approx(gains[1] * 0.01)
    assert gains[1] * 0.4 == pytest.approx(listening.TOP)


def test_surround_sound_and_shorter_versions(rng, tmp_path):
    six = rng.uniform(-0.1, 0.1, (6, 44100))
    page = data_of(listening.player_html({"noisy": six, "denoised": six[0, :22050]}, 44100))
    noisy, denoised = (decoded(version, tmp_path) for version in page["versions"])
    assert page["seconds"] == 1 and noisy.shape == denoised.shape == (1, 48000)
    assert np.abs(denoised[:, 24500:]).max() < 1e-3


def test_ten_minutes_of_three_versions_stay_below_20_mb(rng):
    """White noise is the hardest to compress."""
    noise, = noises(rng, 20)
    blocks = listening._blocks(noise, listening._bit_rate(2, 3 * 600))
    assert len(blocks) == 2 and sum(map(len, blocks)) * 3 * 30 < 19.8e6
    assert len(encode_opus(noise, listening._bit_rate(2, 30))) > 2 * len("".join(blocks))  # short sounds are better


def test_the_picture_of_a_panel_is_not_shown_twice(rng):
    audio = {"noisy": noises(rng, 1)[0]}
    figure = plots.audio_figure(audio, OPUS_RATE)
    assert "data:image/png;base64," in listening.listening_panel(audio, OPUS_RATE, "a", figure).data
    assert figure.number not in plots.plt.get_fignums()
    figure.savefig(io.BytesIO())  # it can still be saved
