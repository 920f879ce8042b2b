"""The page in the browser: denoise a song by mouse.

The page (app.js) shows what the kernel answers and asks it for everything else. A question is a message with an `id`,
the name of a `request` and its values; the method `_on_REQUEST` answers it in a thread of its own, so that a long one
can be cancelled. Files travel in pieces, because a server of notebooks refuses messages above 10 MB.
"""

import io
import logging
import os
import tempfile
import time
from contextlib import contextmanager
from pathlib import Path
from threading import Event, Thread

import anywidget
import soundfile as sf
import traitlets

from common.audio.formats import NEAREST, OUTPUT_SUFFIXES
from common.audio.reading import AudioReader, audio_name, read_audio
from common.denoising.auto import AUTO, model_for
from common.denoising.chunks import resampled
from common.denoising.files import DenoiseSettings, denoise_file, peak_words, removed_words
from common.denoising.jobs import DENOISED
from common.denoising.print_finding import find_noise
from common.errors import UserError
from common.labels import CLASS_NAMES, weights_name
from common.network.stft import STFT
from common.network.weights_files import pretrained_names
from common.notebook.listening import player_html
from common.notebook.overview import Overview

log = logging.getLogger(__name__)

# Bytes of a file in one message to the page.
PIECE_BYTES = 1 << 20


def _folder():
    """Make a folder that is removed at the end of the kernel."""
    return tempfile.TemporaryDirectory(prefix="denoising_app_", ignore_cleanup_errors=True)


@contextmanager
def _log_lines():
    """Collect what the library logs inside the `with` block as a list of lines."""
    lines, library = [], logging.getLogger("common")
    handler, level = logging.Handler(), library.level
    handler.emit = lambda record: lines.append(record.getMessage())
    library.addHandler(handler)
    library.setLevel(logging.INFO)
    try:
        yield lines
    finally:
        library.removeHandler(handler)
        library.setLevel(level)


class DenoisingApp(anywidget.AnyWidget):
    """A widget that denoises the file that is dropped on it.

    input_path: a file to begin with. device: see inference_form. What is uploaded and made lies in a temporary folder
    until the next file comes or the kernel ends.
    """

    _esm = Path(__file__).with_name("app.js")
    _css = Path(__file__).with_name("app.css")
    # Choices of the page, each a value and its words.
    weights = traitlets.List().tag(sync=True)
    suffix = traitlets.List().tag(sync=True)

    def __init__(self, input_path: str | Path = "", device: str = "auto"):
        words = {weights_name(name): name.replace("_", " ") for name in CLASS_NAMES}
        names = [(name, f"{name}: {words[name]}" if name in words else name) for name in pretrained_names()]
        super().__init__(weights=[(AUTO, "auto: white noise or any other"), *names],
                         suffix=[(suffix, suffix[1:]) for suffix in OUTPUT_SUFFIXES])
        self._device, self._path, self._overview = device, Path(input_path), None
        self._folder, self._files, self._cancelled = _folder(), {}, Event()
        self.on_msg(lambda _, *message: Thread(target=self._answer, args=message, daemon=True).start())

    def _answer(self, question, pieces):
        """Send the answer to a question, which is a sentence if it cannot be answered."""
        number, request = question.pop("id"), question.pop("request")
        try:
            answer = getattr(self, f"_on_{request}")(*pieces, **question) or {}
        except Exception as error:  # the page waits for an answer
            if not isinstance(error, UserError):
                log.exception("the page asked to %s", request)
                error = f"expected to {request} the file, but {type(error).__name__}: {error}: try again"
            answer = {"error": self._named(str(error))}
        pieces = answer.pop("pieces", ())
        self.send({"id": number, **answer}, pieces)

    def _named(self, text):
        """Name the song as its owner does, without the folder."""
        return text.replace(f"{self._path.parent}{os.sep}", "")

    def _tell(self, text, share=None):
        """Show what is being done and, from 0 to 1, how much of it is done."""
        self.send({"told": text, "share": share})

    def _on_begin(self, name):
        """Forget the last file and begin another with this name."""
        self._overview, self._files = None, {}
        self._folder.cleanup()
        self._folder = _folder()
        self._path = Path(self._folder.name, "uploaded", Path(name).name)
        self._path.parent.mkdir()
        self._path.touch()

    def _on_append(self, piece):
        """Append a piece to the file."""
        with open(self._path, "ab") as file:
            file.write(piece)

    def _on_open(self):
        """Read the file, if there is one, and describe it."""
        if not self._path.name:
            return {"seconds": 0}
        with _log_lines() as lines:
            self._overview = shown = self._overview or Overview(self._path, self._folder.name)
        own = self._path.suffix.lower()
        return {"name": self._path.name, "seconds": shown.seconds, "channels": shown.channels,
                "sample_rate": shown.sample_rate, "suffix": NEAREST.get(own, own if own in OUTPUT_SUFFIXES else ".wav"),
                "outcome": self._named("\n".join(lines))}

    def _on_view(self, start, end):
        """Show a stretch of the song: lowest samples, highest samples, spectrogram."""
        low, high, picture = self._overview.view(start, end)
        return {"pieces": [low.tobytes(), high.tobytes(), picture]}

    def _on_hear(self, start, end):
        """Give a stretch of the song as a WAV file."""
        sound = io.BytesIO()
        sf.write(sound, self._overview.stretch(start, end), self._overview.sample_rate, format="WAV")
        return {"pieces": [sound.getvalue()]}

    def _on_find(self):
        """Look for a moment of noise alone."""
        stft = STFT()
        with AudioReader(self._path) as reader:
            found = find_noise(resampled(reader.blocks(reader.sample_rate), reader.sample_rate, stft.sample_rate), stft)
        if not found:
            raise UserError("expected a moment of noise alone, but none is found: mark one, or denoise without")
        return {"print": found}

    def _on_denoise(self, weights, strength, suffix, noise_print):
        """Denoise the song and make its player."""
        self._cancelled.clear()
        started, seconds, folder = time.monotonic(), self._overview.seconds, Path(self._folder.name)
        targets = {name: folder / f"{name}{suffix}" for name in ("denoised", "removed")}

        def progress(done):
            if self._cancelled.is_set():
                raise UserError("cancelled; nothing was written")
            self._tell(f"{done:.0f} of {seconds:.0f} s are done", done / seconds)

        with _log_lines() as lines:
            settings = DenoiseSettings(strength, noise_print=noise_print)
            model = model_for(weights, self._device)(self._path)
            report = denoise_file(model, self._path, targets["denoised"], settings, targets["removed"], progress)
        took = time.monotonic() - started
        self._tell("preparing the player")
        self._files = targets | {"player": self._player(targets, report["gain"])}
        base = audio_name(self._path)
        lines += [peak_words(report)] if report["peak"] > 1 else []
        lines += [f"{seconds:.1f} s of audio in {took:.1f} s; {removed_words(report['removed_db'])}"]
        return {"outcome": self._named("\n".join(lines)),
                "files": {"denoised": f"{base}{DENOISED}{suffix}", "removed": f"{base}.removed{suffix}"}}

    def _player(self, targets, gain):
        """Write the page that plays the song before, after and what was removed, at the song's own level."""
        noisy, rate = read_audio(self._path)
        denoised, removed = (read_audio(path, rate)[0][:, : noisy.shape[-1]] for path in targets.values())
        denoised /= gain  # in place: these arrays are large
        page = Path(self._folder.name, "player.html")
        page.write_text(player_html({"noisy": noisy, "denoised": denoised, "removed": removed}, rate), "utf-8")
        return page

    def _on_cancel(self):
        """End the denoising."""
        self._cancelled.set()

    def _on_fetch(self, name, offset):
        """Give a piece of a file that was made, and the file's size."""
        with open(self._files[name], "rb") as file:
            file.seek(offset)
            return {"bytes": os.fstat(file.fileno()).st_size, "pieces": [file.read(PIECE_BYTES)]}
