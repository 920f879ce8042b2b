"""Small audio files in formats that the project itself does not write."""

from fractions import Fraction

import av
import numpy as np

# The sample formats of encoders that do not take planar floats.
FORMATS = {"alac": "s32p", "flac": "s32", "wavpack": "s32p", "tta": "s32", "pcm_s24le": "s32", "pcm_s32le": "s32",
           "pcm_f64le": "dbl", "mp2": "s16"}


def encode(path, codec, samples, rate=44100, layout=None, kind=None, **options):
    """Write (channels, samples), floats or integers, with FFmpeg in a sample format that the encoder takes."""
    layout, kind = layout or ("mono", "stereo")[len(samples) - 1], kind or FORMATS.get(codec, "fltp")
    packed = kind.removesuffix("p")
    samples = samples / -float(np.iinfo(samples.dtype).min) if samples.dtype.kind == "i" else samples.astype(np.float64)
    if packed in ("s16", "s32"):
        samples = np.clip(np.rint(samples * 2.0 ** (int(packed[1:]) - 1)), *(np.iinfo(f"i{int(packed[1:]) // 8}").min,
                                                                             np.iinfo(f"i{int(packed[1:]) // 8}").max))
    dtype = {"s16": np.int16, "s32": np.int32, "flt": np.float32, "dbl": np.float64}[packed]
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=rate, layout=layout, options=options)
        stream.format = kind
        for start in range(0, samples.shape[1], 1024):
            block = np.ascontiguousarray(samples[:, start : start + 1024].T.reshape(1, -1), dtype)
            frame = av.AudioFrame.from_ndarray(block, packed, layout)
            frame.sample_rate, frame.time_base, frame.pts = rate, Fraction(1, rate), start
            for packet in stream.encode(frame):
                container.mux(packet)
        for packet in stream.encode(None):
            container.mux(packet)
