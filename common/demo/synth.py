"""Synthesis of demonstration sounds: short songs of four stems, and the ten UrbanSound8K noise classes.

They serve the demo and the tests and are no model of real music. The same generator state gives the same samples.
Audio is float32 at SAMPLE_RATE, and mono (samples,) where no shape is given.
"""

from functools import lru_cache

import numpy as np
from scipy.signal import butter, lfilter, sosfilt

from common.seeds import stream

SAMPLE_RATE = 44100
STEMS = ("drums", "bass", "other", "vocals")
MAJOR, MINOR = (0, 2, 4, 5, 7, 9, 11), (0, 2, 3, 5, 7, 8, 10)
# Chord roots as degrees of the scale, one per bar.
PROGRESSIONS = ((0, 4, 5, 3), (0, 5, 3, 4), (5, 3, 0, 4), (0, 3, 4, 3), (1, 4, 0, 0), (0, 6, 5, 4))


def _times(seconds):
    return np.arange(int(seconds * SAMPLE_RATE)) / SAMPLE_RATE


def _filtered(audio, kind, frequency_hz, order=2):
    return sosfilt(butter(order, frequency_hz, kind, fs=SAMPLE_RATE, output="sos"), audio)


@lru_cache(maxsize=256)
def _tone(frequency_hz, seconds, brightness, decay_s, attack_s=0.005):
    """Make harmonics up to 18 kHz whose level falls as n ** -brightness; high ones decay faster."""
    t = _times(seconds)
    n_harmonics = max(1, min(32, int(18000 / frequency_hz)))
    # All harmonics are powers of one decaying rotation, summed as a polynomial (Horner).
    rotation = np.exp((2j * np.pi * frequency_hz - 0.3 / decay_s) * t).astype(np.complex64)
    tone = np.zeros_like(rotation)
    for k in range(n_harmonics, 0, -1):
        tone = (tone + np.float32(k**-brightness)) * rotation
    return tone.imag * np.exp(-t / decay_s) * np.minimum(1, t / attack_s) * np.minimum(1, (seconds - t) / 0.02)


def _place(track, sound, second, gain=1.0):
    start = min(len(track), int(second * SAMPLE_RATE))
    end = min(len(track), start + len(sound))
    track[start:end] += gain * sound[: end - start]


def _kick():
    t = _times(0.35)
    return np.sin(2 * np.pi * (45 * t + 9 * (1 - np.exp(-t * 30)))) * np.exp(-t * 9) + 0.3 * np.exp(-t * 400)


def _snare(rng):
    t = _times(0.25)
    return 0.5 * np.sin(2 * np.pi * 190 * t) * np.exp(-t * 22) + 0.5 * rng.standard_normal(len(t)) * np.exp(-t * 18)


def _hat(rng, seconds):
    t = _times(seconds)
    return _filtered(rng.standard_normal(len(t)), "high", 7000) * np.exp(-t * 8 / seconds) * 0.4


def _drums(rng, n_bars, beat, length):
    track, kick, snare = np.zeros(length), _kick(), _snare(rng)
    swing = rng.uniform(0, 0.15)
    extra_kick = rng.choice([1.5, 2.5, 3.5])
    for bar in range(n_bars):
        for at in (0, 2, extra_kick):
            _place(track, kick, (4 * bar + at) * beat, 0.9)
        for at in (1, 3):
            _place(track, snare, (4 * bar + at) * beat, 0.6)
        for eighth in range(8):
            late = swing if eighth % 2 else 0
            _place(track, _hat(rng, 0.05 if eighth != 7 else 0.25), (4 * bar + (eighth + late) / 2) * beat,
                   rng.uniform(0.3, 0.5))
    return track


def song(seed: int, seconds: float = 16.0) -> dict[str, np.ndarray]:
    """Make the stems of one song, each (2, samples), with its own key, tempo, chord progression and timbres."""
    rng = np.random.default_rng(seed)
    beat, scale = 60 / rng.uniform(84, 138), (MAJOR, MINOR)[seed % 2]
    tonic_hz = 55 * 2 ** (rng.integers(12) / 12)
    progression = PROGRESSIONS[rng.integers(len(PROGRESSIONS))]
    brightness, lead_brightness = rng.uniform(1.0, 1.9), rng.uniform(0.8, 1.6)
    length, n_bars = int(seconds * SAMPLE_RATE), int(np.ceil(seconds / (4 * beat)))
    tracks = {"drums": _drums(rng, n_bars, beat, length)} | {name: np.zeros(length) for name in STEMS[1:]}

    def pitch(degree, octave):
        return tonic_hz * 2 ** (octave + degree // 7 + scale[degree % 7] / 12)

    strummed, riff = rng.random() < 0.5, rng.integers(-2, 5, 8)
    detune = 1 + rng.normal(0, 0.002, 3)
    for bar in range(n_bars):
        root, start = progression[bar % 4], 4 * bar * beat
        for at in (0, 1.5, 2.5):
            _place(tracks["bass"], _tone(pitch(root, 0), beat, 1.6, 0.5), start + at * beat, 0.8)
        for repeat in range(4 if strummed else 1):
            for k, third in enumerate((0, 2, 4)):
                chord = _tone(pitch(root + third, 2) * detune[k], beat * (1 if strummed else 4), brightness,
                              0.4 if strummed else 2.5, 0.004 if strummed else 0.06)
                _place(tracks["other"], chord, start + repeat * beat + 0.012 * k, 0.22)
        for at, step in zip(np.arange(8) / 2, riff, strict=True):
            if rng.random() < 0.7:
                note = _tone(pitch(root + step, 3), beat * rng.choice([0.5, 1.0]), lead_brightness, 0.8, 0.02)
                _place(tracks["vocals"], note, start + at * beat, 0.25)
    return {name: _stereo(rng, track) for name, track in tracks.items()}


def _stereo(rng, track):
    """Pan a track and add an early reflection on the other side."""
    pan, delay = rng.uniform(0.35, 0.65), int(rng.uniform(0.008, 0.02) * SAMPLE_RATE)
    echo = np.concatenate([np.zeros(delay), track[:-delay]]) * 0.25
    stereo = np.stack([track * np.sqrt(pan) + echo * np.sqrt(1 - pan), track * np.sqrt(1 - pan) + echo * np.sqrt(pan)])
    return (0.3 * stereo).astype(np.float32)


def _air_conditioner(rng, t):
    hum_hz = rng.choice([100, 120]) * rng.uniform(0.99, 1.01)
    fan = _filtered(rng.standard_normal(len(t)), "low", rng.uniform(500, 1200), 1)
    hum = sum(np.sin(2 * np.pi * hum_hz * k * t) / k for k in (1, 2, 3))
    hiss = _filtered(rng.standard_normal(len(t)), "high", 3000, 1)
    return fan * (1 + 0.15 * np.sin(2 * np.pi * rng.uniform(0.5, 2) * t)) + 0.12 * hum + 0.1 * hiss


def _car_horn(rng, t):
    low = rng.uniform(330, 440)
    chord = sum(np.sign(np.sin(2 * np.pi * f * t)) + np.sin(2 * np.pi * 3 * f * t) for f in (low, low * 1.26))
    edges = np.sort(rng.uniform(0, t[-1], 3))
    blown = (t < edges[0]) | ((t > edges[1]) & (t < edges[2]))
    gate = lfilter([0.004], [1, -0.996], blown.astype(float))
    return _filtered(chord, "low", 6000) * gate + 0.02 * rng.standard_normal(len(t))


def _voice(rng, t, base_hz, n_calls):
    """Make calls of a voice: a gliding pulse train through two formants."""
    out = np.zeros(len(t))
    for _ in range(n_calls):
        call = _times(rng.uniform(0.2, 0.6))
        glide = base_hz * rng.uniform(0.8, 1.3) * (1 + rng.uniform(-0.3, 0.5) * call / call[-1])
        buzz = np.cumsum(glide) / SAMPLE_RATE % 1 - 0.5
        formants = sum(_filtered(buzz, "band", (f * 0.9, f * 1.15)) for f in (rng.uniform(600, 1100),
                                                                            rng.uniform(1800, 3200)))
        _place(out, formants * np.abs(np.sin(np.pi * call / call[-1])) ** 0.5, rng.uniform(0, t[-1]))
    return out


def _children_playing(rng, t):
    calls = sum(_voice(rng, t, rng.uniform(280, 480), int(2 * t[-1]) + 1) for _ in range(4))
    return calls + 0.02 * _filtered(rng.standard_normal(len(t)), "band", (400, 4000))


def _dog_bark(rng, t):
    out, pitch_hz = np.zeros(len(t)), rng.uniform(250, 600)
    for at in np.arange(rng.uniform(0, 0.3), t[-1], rng.uniform(0.35, 0.8)):
        bark = _times(rng.uniform(0.12, 0.25))
        buzz = np.cumsum(pitch_hz * (1.2 - 0.6 * bark / bark[-1])) / SAMPLE_RATE % 1 - 0.5
        rough = buzz + 0.4 * rng.standard_normal(len(bark))
        _place(out, _filtered(rough, "band", (400, 3500)) * np.sin(np.pi * bark / bark[-1]), at)
    return out + 0.003 * rng.standard_normal(len(t))


def _drilling(rng, t):
    motor_hz, ticks_hz = rng.uniform(180, 320), rng.uniform(35, 60)
    whine = sum(np.sin(2 * np.pi * motor_hz * k * t) / k for k in range(1, 12))
    grit = rng.standard_normal(len(t)) * (0.4 + (np.sin(2 * np.pi * ticks_hz * t) > 0.3))
    return 0.4 * whine + _filtered(grit, "high", 1500, 1)


def _engine_idling(rng, t):
    firing_hz = rng.uniform(18, 32) * (1 + 0.02 * np.sin(2 * np.pi * 0.7 * t))
    phase = np.cumsum(firing_hz) / SAMPLE_RATE % 1
    thump = np.exp(-phase * 9) * np.sin(2 * np.pi * 70 * phase / firing_hz)
    rattle = _filtered(rng.standard_normal(len(t)), "band", (800, 5000)) * np.exp(-phase * 6)
    return thump + 0.12 * rattle + 0.1 * _filtered(rng.standard_normal(len(t)), "low", 300)


def _gun_shot(rng, t):
    out = np.zeros(len(t))
    for at in np.sort(rng.uniform(0, 0.8 * t[-1], rng.integers(1, 4))):
        s = _times(1.2)
        crack = rng.standard_normal(len(s)) * np.exp(-s * 60)
        tail = _filtered(rng.standard_normal(len(s)), "low", 1200) * np.exp(-s * 5)
        _place(out, crack + 0.6 * tail, at)
    return out + 0.001 * rng.standard_normal(len(t))


def _jackhammer(rng, t):
    out, ring_hz = np.zeros(len(t)), rng.uniform(1200, 2600)
    for at in np.arange(0, t[-1], 1 / rng.uniform(14, 24)):
        s = _times(0.06)
        blow = np.exp(-s * 70) * rng.standard_normal(len(s)) + 0.5 * np.exp(-s * 50) * np.sin(2 * np.pi * ring_hz * s)
        _place(out, blow, at, rng.uniform(0.8, 1.1))
    return out + 0.05 * _filtered(rng.standard_normal(len(t)), "low", 800)


def _siren(rng, t):
    low, high, rate_hz = rng.uniform(450, 700), rng.uniform(1100, 1600), rng.choice([0.25, 0.5, 3.0])
    sweep = low + (high - low) * (0.5 - 0.5 * np.cos(2 * np.pi * rate_hz * t + rng.uniform(0, 6)))
    phase = 2 * np.pi * np.cumsum(sweep) / SAMPLE_RATE
    return sum(np.sin(k * phase) / k for k in (1, 2, 3, 4)) + 0.03 * rng.standard_normal(len(t))


def _street_music(rng, t):
    stems = song(int(rng.integers(1 << 30)), len(t) / SAMPLE_RATE + 0.1)
    far = (stems["other"] + stems["vocals"]).mean(axis=0)[: len(t)]
    crowd = _filtered(rng.standard_normal(len(t)), "band", (300, 3000), 1)
    return _filtered(far, "band", (250, 5000)) + 0.01 * crowd


NOISE_MAKERS = (_air_conditioner, _car_horn, _children_playing, _dog_bark, _drilling, _engine_idling,
                _gun_shot, _jackhammer, _siren, _street_music)


def noise(class_id: int, seed: int, seconds: float) -> np.ndarray:
    """Make a noise of an UrbanSound8K class (0 to 9), (1, samples), with a peak of 0.7."""
    sound = NOISE_MAKERS[class_id](stream(seed, "noise", class_id), _times(seconds))
    return (0.7 * sound / np.abs(sound).max()).astype(np.float32)[None]
