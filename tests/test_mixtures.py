import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from common.data.pool import CLIP_PEAK, SONG, Clip, Pool
from common.errors import CallError, UserError
from common.network.stft import SAMPLE_RATE
from common.training.filters import BANDS, LOWEST_BAND_HZ, draw_equaliser, equalised
from common.training.mixture_validation import MixtureValidation, calibration_pairs, pool_validation
from common.training.mixtures import HALF_TAPS, MixtureSettings, MixtureSource, _interpolate, parse_noises
from common.training.overdrive import draw_overdrive, overdriven
from common.training.synthetic_noise import SYNTHETIC, synthetic

LABELS = ("dog_bark", "siren", "rain")


@pytest.fixture(scope="module")
def pool():
    """Two tones of two channels, and for each label two recordings of two short clips."""
    rng, clips, samples = np.random.default_rng(0), [], []

    def add(name, label, recording, audio):
        start = sum(map(len, samples))
        samples.append(np.rint(audio * CLIP_PEAK).astype(np.int16).ravel())
        clips.append(Clip(name, "train", label, recording, len(audio), start, audio.shape[1],
                          float(np.sqrt(np.mean(audio**2)))))

    t = np.arange(5 * SAMPLE_RATE) / SAMPLE_RATE
    for n, frequency in enumerate((440, 660)):
        song = 0.4 * np.stack([np.sin(2 * np.pi * f * t) for f in (frequency, 2 * frequency)])
        add(f"tone{n}", SONG, f"tone{n}", song)
    for label in LABELS:
        for n in range(4):
            add(f"{label}{n}", label, f"{label}-{n // 2}", rng.uniform(-0.3, 0.3, (1, 45000)))
    return Pool(clips, torch.from_numpy(np.concatenate(samples)))


def source(pool, **settings):
    plain = {"song_speed": (1, 1), "noise_speed": (1, 1), "lowpass_share": 0}
    return MixtureSource(pool, MixtureSettings(**plain | settings))


def test_rows_are_decided_alone(pool):
    made = source(pool)
    inputs, targets = made.batch(1, 2, range(6), 5000)
    for rows in (range(3), range(3, 6)):
        part = made.batch(1, 2, rows, 5000)
        assert torch.equal(part[0], inputs[rows]) and torch.equal(part[1], targets[rows])
    assert not torch.equal(inputs, made.batch(1, 3, range(6), 5000)[0])
    assert "white" in str(made.names(1, 2, range(60), 5000))


def test_every_song_is_as_likely_as_any_other(pool):
    shortened = [replace(clip, length=clip.length // 10) if clip.name == "tone0" else clip for clip in pool.clips]
    names = source(Pool(shortened, pool.samples)).names(0, 0, range(400), 5000)
    assert 160 < sum(name.startswith("tone0 ") for name in names) < 240  # by their lengths 36 were


def test_mixtures_hold_one_song_and_independent_noises_at_their_snr(pool):
    settings = {"snr_db": (5, 5), "target_snr_offset_db": None}
    noisy, target = source(pool, **settings).batch(3, 0, range(24), 40000)
    same_noisy, song = source(pool, **settings, clean_target=True).batch(3, 0, range(24), 40000)
    assert torch.equal(noisy, same_noisy)  # the same draws, another target
    first, second = noisy - song, target - song
    assert float(song.square().mean().sqrt()) == pytest.approx(1, rel=0.02)
    snrs = [-10 * np.log10(float(x.square().mean())) for x in (*first, *second)]
    assert np.mean(snrs) == pytest.approx(5, abs=0.2) and np.std(snrs) < 0.5
    correlations = [np.corrcoef(a, b)[0, 1] for a, b in zip(first, second, strict=True)]
    assert max(map(abs, correlations)) < 0.05


def test_a_target_can_follow_the_snr_of_its_input(pool):
    settings = {"snr_db": (0, 20), "noise": "white", "target_noise": "white"}
    drawn = {}
    for offset in (None, (6, 6)):
        noisy, target = source(pool, target_snr_offset_db=offset, **settings).batch(3, 0, range(24), 40000)
        song = source(pool, clean_target=True, target_snr_offset_db=offset, **settings).batch(3, 0, range(24), 40000)[1]
        drawn[offset] = [10 * np.log10(x.square().mean(-1).numpy()) for x in (noisy - song, target - song)]
    assert np.array_equal(drawn[None][0], drawn[6, 6][0])
    assert np.abs(drawn[6, 6][0] - drawn[6, 6][1] - 6).max() < 0.3
    assert np.std(drawn[None][0] - drawn[None][1]) > 3


@pytest.mark.parametrize("noise", ["white", "hum", "siren"])
def test_a_print_is_the_inputs_noise_elsewhere(pool, noise):
    """P1: the same clip at the same level, and no sample of it in the mixture."""
    made = source(pool, noise=noise, target_noise="rain", print_share=1.0, print_seconds=(0.3, 0.3))
    for row in range(20):
        drawn = made._draw(0, 0, row, 5000)
        noisy, heard = drawn.noise, drawn.print
        assert heard is not None and (heard.label, heard.gain, heard.speed) == (noisy.label, noisy.gain, noisy.speed)
        if noise == "siren":
            places = [set(range(p.begin, p.begin + p.length)) for p in (noisy, heard)]
            assert not places[0] & places[1] and set.union(*places) == set(range(heard.clip.length))
        else:
            assert heard.offset == 5000 and heard.seed == noisy.seed
    prints, noisy = made.prints(0, 0, range(20), 5000), made.batch(0, 0, range(20), 5000)[0]
    assert prints.shape == (20, int(0.3 * SAMPLE_RATE))
    song = source(pool, noise=noise, target_noise="rain", clean_target=True).batch(0, 0, range(20), 5000)[1]
    ratio_db = 10 * torch.log10(prints.square().mean() / (noisy - song).square().mean())
    assert float(ratio_db) == pytest.approx(0, abs=0.5)


def test_prints_come_for_a_share_of_the_rows_and_change_no_mixture(pool):
    batches = {}
    for share in (0.0, 0.6, 1.0):
        made = source(pool, print_share=share, print_seconds=(0.3, 0.4))
        batches[share] = made.batch(0, 3, range(60), 3000)[0]
        given = made.prints(0, 3, range(60), 3000).abs().amax(1) > 0
        assert float(given.float().mean()) == pytest.approx(share, abs=0.15)
    assert all(torch.equal(batches[0.0], other) for other in batches.values())


def test_pairs_without_a_top_band_are_low_passed_wholly_and_change_no_others(pool):
    """Input, target and print of a row end at one frequency; below it nothing changes."""
    settings = {"noise": "white", "target_noise": "hiss", "print_share": 1.0, "lowpass_hz": (9000, 9000)}
    n = SAMPLE_RATE
    whole, low_passed = ([*made.batch(0, 3, range(60), n), made.prints(0, 3, range(60), n)] for made in
                         (source(pool, **settings, lowpass_share=share) for share in (0.0, 0.4)))
    cut = np.array([not torch.equal(a, b) for a, b in zip(whole[0], low_passed[0], strict=True)])
    assert cut.mean() == pytest.approx(0.4, abs=0.15)
    for before, after in zip(whole, low_passed, strict=True):
        assert torch.equal(before[~cut], after[~cut])
        hz = np.fft.rfftfreq(before.shape[1], 1 / SAMPLE_RATE)
        ratio_db = 20 * np.log10(np.abs(np.fft.rfft(after[cut]) / np.fft.rfft(before[cut])).mean(0))
        assert np.abs(ratio_db[(hz > 100) & (hz < 8000)]).max() < 0.1
        assert ratio_db[hz > 9100].max() < -55


def test_an_equaliser_changes_each_octave_by_its_gain_and_keeps_the_level():
    audio = torch.randn(3, SAMPLE_RATE, generator=torch.Generator().manual_seed(1))
    equalisers = [draw_equaliser(np.random.default_rng(n), 5) if n != 1 else None for n in range(3)]
    after = equalised(audio.clone(), equalisers)
    assert torch.equal(after[1], audio[1])
    assert np.allclose(after.square().mean(1), audio.square().mean(1), rtol=1e-3)
    for row in (0, 2):
        ratio_db = 20 * np.log10(np.abs(np.fft.rfft(after[row]) / np.fft.rfft(audio[row])))
        at_bands = ratio_db[[round(LOWEST_BAND_HZ * 2**band) for band in range(BANDS)]]
        wanted = np.array(equalisers[row].gains_db)
        assert np.std(wanted) > 2 and np.abs((at_bands - wanted) - (at_bands - wanted).mean()).max() < 0.3
        assert np.abs(np.diff(ratio_db)).max() < 1  # no steps between the bands


@pytest.mark.parametrize("changes, low, high", [({"song_equaliser_db": 6.0}, 1, 1),
                                                ({"song_overdrive_db": (12.0, 24.0)}, 0.2, 0.8)])
def test_an_equaliser_and_an_overdrive_change_the_song_alone(pool, changes, low, high):
    """The noises of a row, its print and its SNR stay as they are."""
    # Rain is the song here: an equaliser that keeps the level leaves a tone as it is.
    pool = Pool([replace(clip, label=SONG) if clip.label == "rain" else clip for clip in pool.clips if clip.label],
                pool.samples)
    n, settings = SAMPLE_RATE // 2, {"noise": "siren", "target_noise": "dog_bark", "print_share": 1.0}
    before = source(pool, **settings, clean_target=True)
    made = source(pool, **settings, **changes, clean_target=True)
    (noisy, song), (noisy_before, song_before) = (x.batch(0, 3, range(20), n) for x in (made, before))
    changed = (song - song_before).abs().amax(1)
    assert ((changed > 0.1) | (changed == 0)).all()
    assert low <= float((changed > 0).float().mean()) <= high  # of the songs
    assert np.allclose(song.square().mean(1), song_before.square().mean(1), rtol=1e-3)
    assert float((noisy - song - (noisy_before - song_before)).abs().max()) < 1e-5
    assert torch.equal(made.prints(0, 3, range(20), n), before.prints(0, 3, range(20), n))


def test_an_equaliser_leaves_silence_silent():
    silence = torch.zeros(1, SAMPLE_RATE)
    assert torch.equal(equalised(silence.clone(), [draw_equaliser(np.random.default_rng(0), 5)]), silence)


def test_an_overdrive_adds_the_odd_harmonics_of_a_clipped_tone_and_keeps_the_level():
    tone = math.sqrt(2) * torch.sin(2 * math.pi * 100 * torch.arange(SAMPLE_RATE) / SAMPLE_RATE)
    silence = torch.zeros_like(tone)
    after = overdriven(torch.stack([tone, tone, tone, silence]), [None, 0.01, 1000.0, 1000.0])
    assert torch.equal(after[0], tone) and torch.equal(after[3], silence)
    assert float((after[1] - tone).abs().max()) < 1e-3  # tanh is straight for small values
    assert np.allclose(after.square().mean(1)[:3], 1, rtol=1e-4)
    harmonics = np.abs(np.fft.rfft(after[2]))[100:1000:100] / (SAMPLE_RATE / 2)  # a square wave: 4 / (pi k)
    assert np.allclose(harmonics, [4 / (math.pi * k) * (k % 2) for k in range(1, 10)], atol=0.01)


def test_an_overdrive_comes_before_an_equaliser_and_changes_none_of_its_draws(pool):
    rows, n, settings = range(20), SAMPLE_RATE // 2, {"noise": "siren", "clean_target": True}
    plain, equal, both = (source(pool, **settings, **more) for more in (
        {}, {"song_equaliser_db": 6.0}, {"song_equaliser_db": 6.0, "song_overdrive_db": (0, 24)}))
    drawn = [both._draw(0, 3, row, n) for row in rows]
    assert [row._replace(overdrive=None) for row in drawn] == [equal._draw(0, 3, row, n) for row in rows]
    song = overdriven(plain.batch(0, 3, rows, n)[1], [row.overdrive for row in drawn])
    assert torch.equal(both.batch(0, 3, rows, n)[1], equalised(song, [row.equaliser for row in drawn]))


def test_half_of_the_songs_are_overdriven():
    drawn = [draw_overdrive(np.random.default_rng(n), (-6, 24)) for n in range(400)]
    gains_db = 20 * np.log10([gain for gain in drawn if gain is not None])
    assert 160 <= len(gains_db) <= 240
    assert -6 <= min(gains_db) < 0 and 18 < max(gains_db) <= 24
    assert draw_overdrive(np.random.default_rng(0), None) is None


def test_calibration_takes_songs_that_training_does_not_as_they_are_with_noises_that_validation_does_not(pool):
    splits = {"tone0": "train", "tone1": "validation"}
    clips = [replace(clip, split=splits.get(clip.name, "validation" if clip.recording.endswith("1") else "train"))
             for clip in pool.clips]
    settings = MixtureSettings("siren", "rain", clean_target=True, song_speed=(0.5, 2), song_equaliser_db=6.0,
                               song_overdrive_db=(0, 9), noise_speed=(1, 1), lowpass_share=0, print_share=0)
    pairs = calibration_pairs(Pool(clips, pool.samples), settings)
    assert set(pairs.song_names(0, 0, range(20), 5000)) == {"tone1"}
    drawn = [pairs._draw(0, 0, row, 5000) for row in range(20)]
    assert {row.noise.clip.recording for row in drawn} == {"siren-0"}
    assert {row.target_noise.clip.recording for row in drawn} == {"rain-0"}
    assert all(row.song.speed == 1 and row.equaliser is row.overdrive is None and row.print for row in drawn)
    validation = pool_validation(pairs.pool, settings, 20)
    assert {validation.source._draw(0, 0, row, 5000).noise.clip.recording for row in range(20)} == {"siren-1"}
    assert set(validation.song_names()) == {"tone1"}
    assert set(pool_validation(pairs.pool, settings, 20, "train").song_names()) == {"tone0"}
    noisy, target = pairs.batch(0, 0, range(20), 5000)
    song = MixtureSource(pairs.pool, replace(pairs.mixture, clean_target=True), "train", "validation").batch(
        0, 0, range(20), 5000)[1]
    assert min(float((x - song).square().mean(1).min()) for x in (noisy, target)) > 0


@pytest.mark.parametrize("wrong, said", [({"lowpass_share": 1.5}, "lowpass_share from 0 to 1, got 1.5"),
                                         ({"lowpass_hz": (9000, 8000)}, "LOW <= HIGH .* got 9000 8000"),
                                         ({"lowpass_hz": (0, 8000)}, "lowpass_hz .* with 1 <= LOW .* got 0 8000"),
                                         ({"song_equaliser_db": -1.0}, "song_equaliser_db from 0 to 20, got -1.0"),
                                         ({"song_equaliser_db": np.nan}, "song_equaliser_db from 0 to 20, got nan"),
                                         ({"song_overdrive_db": (9, 3)}, "song_overdrive_db LOW HIGH .* got 9 3"),
                                         ({"song_overdrive_db": (np.nan, 3)}, "song_overdrive_db .* got nan 3"),
                                         ({"song_overdrive_db": (0, 61)}, "song_overdrive_db .* HIGH <= 60, got 0 61"),
                                         ({"snr_db": (0, np.inf)}, "snr_db LOW HIGH .* got 0 inf"),
                                         ({"print_seconds": (0.1, 1)}, "print_seconds .* 0.25 <= LOW .* got 0.1 1"),
                                         ({"song_speed": (0, 1)}, "song_speed .* 0.05 <= LOW .* got 0 1")])
def test_wrong_settings_are_refused(wrong, said):
    with pytest.raises(CallError, match=said):
        MixtureSettings(**wrong)


def test_a_clip_that_is_too_short_gives_no_print(pool):
    short = [replace(clip, length=20000) if clip.label != SONG else clip for clip in pool.clips]
    made = source(Pool(short, pool.samples), noise="siren", target_noise="rain", print_share=1.0)
    assert not made.prints(0, 0, range(8), 3000).any()


def test_validation_never_repeats_the_draws_of_training(pool):
    both = Pool([*pool.clips, *(replace(clip, split="validation") for clip in pool.clips)], pool.samples)
    made = [MixtureSource(both, MixtureSettings("white", "white"), split) for split in ("train", "validation")]
    assert not torch.equal(*(m.batch(0, 0, range(4), 3000)[0] for m in made))


def test_the_noises_of_a_pair_share_no_label(pool):
    made = source(pool, noise="dog_bark,rain:3", target_noise="classes,other,white:0.5")
    names = [name.split(" + ")[1].split(" / ") for name in made.names(0, 0, range(400), 1000)]
    assert {a.rstrip("0123") for a, _ in names} == {"dog_bark", "rain"}
    assert all(a.rstrip("0123") != b.rstrip("0123") for a, b in names)
    assert np.mean([a.startswith("rain") for a, _ in names]) == pytest.approx(0.75, abs=0.08)
    assert {b.rstrip("0123") for _, b in names} == {*LABELS, "white"}


def test_a_crop_is_the_clips_own_samples_at_speed_one_and_looped(pool):
    clip = pool.clips[2]
    args = [torch.tensor([x]) for x in (clip.start, clip.length, 44990)]
    speed = torch.ones(1, dtype=torch.float64)
    crop = _interpolate(pool.samples, *args, speed, 40, 40 + 2 * HALF_TAPS + 1)[0]
    expected = pool.samples[clip.start : clip.start + clip.length].float().roll(10)[:40]
    assert (crop - expected).abs().max() < 0.1


@pytest.mark.parametrize("speed", [0.94, 1.06])
def test_played_faster_a_tone_is_higher(speed):
    t = np.arange(50000)
    samples = torch.from_numpy(np.rint(20000 * np.sin(2 * np.pi * 5000 * t / 44100)).astype(np.int16))
    y = _interpolate(samples, torch.tensor([0]), torch.tensor([50000]), torch.tensor([1000]),
                     torch.tensor([speed], dtype=torch.float64), 20000, 21300)[0].numpy()
    expected = 20000 * np.sin(2 * np.pi * 5000 * (1000 + speed * np.arange(20000)) / 44100)
    assert 10 * np.log10(np.mean(expected**2) / np.mean((y - expected) ** 2)) > 45


def test_silent_parts_of_songs_are_not_drawn(pool):
    quiet = pool.samples.clone()
    clips = pool.clips[:1] + pool.clips[2:]
    quiet[: int(2.5 * SAMPLE_RATE)] = 0
    quiet[clips[0].length : clips[0].length + int(2.5 * SAMPLE_RATE)] = 0
    made = source(Pool(clips, quiet), clean_target=True)
    _, songs = made.batch(0, 0, range(40), 10000)
    assert (songs.square().mean(1) > 1e-3).all()


@pytest.mark.parametrize("name", SYNTHETIC)
def test_synthetic_noises_have_unit_power_and_their_spectra(name):
    x = torch.cat([synthetic(name, seed, 1 << 16) for seed in range(6)])
    assert float(x.square().mean()) == pytest.approx(1, abs=0.15)
    power = torch.fft.rfft(x).abs().square()
    f = torch.fft.rfftfreq(len(x), 1 / SAMPLE_RATE)

    def band(low, high):
        return float(power[(f >= low) & (f < high)].mean())

    slope = 10 * np.log10(band(4000, 8000) / band(400, 800))  # over a decade
    expected = {"white": 0, "pink": -10, "brown": -20}
    if name in expected:
        assert slope == pytest.approx(expected[name], abs=1)
    elif name == "hiss":
        assert slope > 10
    else:
        assert power[f < 800].sum() > 0.99 * power.sum()
    assert not torch.equal(synthetic(name, 1, 100), synthetic(name, 2, 100))


def test_noises_are_named_with_weights():
    shares = parse_noises("mixed", LABELS)
    assert shares == pytest.approx({"white": 0.2, "dog_bark": 0.3, "siren": 0.3, "rain": 0.2})
    assert parse_noises("siren:3, hum", LABELS) == pytest.approx({"siren": 0.75, "hum": 0.25})
    assert parse_noises("mixed:2,pink:2", LABELS)["white"] == pytest.approx(0.1)


@pytest.mark.parametrize("text, message", [("thunder", "got 'thunder'"), ("white:0", "above 0"), ("hum:x", "above 0"),
                                           ("white:nan", "above 0"), ("white:inf", "at most 1000000")])
def test_wrong_noises_are_named(text, message):
    with pytest.raises(CallError, match=message):
        parse_noises(text, LABELS)


def test_wrong_settings(pool):
    with pytest.raises(CallError, match="LOW <= HIGH"):
        MixtureSettings(snr_db=(5, 1))
    for noise in ("siren", "classes"):
        with pytest.raises(CallError, match="another label than the input's"):
            source(pool, noise=noise, target_noise="siren")


def test_no_recording_is_on_both_sides_of_a_pair(pool):
    """Even where clips of several labels are pieces of one recording."""
    shared = [replace(c, recording="one") if c.label in ("siren", "rain") and c.name[-1] in "01" else c
              for c in pool.clips]
    made = source(Pool(shared, pool.samples), noise="siren", target_noise="rain,dog_bark:0.1")
    by_name = {c.name: c.recording for c in shared}
    pairs = [name.split(" + ")[1].split(" / ") for name in made.names(0, 0, range(200), 1000)]
    assert all(by_name[a] != by_name[b] for a, b in pairs) and sum(by_name[a] == "one" for a, _ in pairs) > 50
    alone = [replace(c, recording="one") if c.label in ("siren", "rain") else c for c in pool.clips]
    with pytest.raises(UserError, match="other recordings than one, but rain have none"):
        source(Pool(alone, pool.samples), noise="siren", target_noise="rain").batch(0, 0, range(1), 1000)


def test_validation_measures_the_improvement_and_can_be_shared(pool):
    validation = MixtureValidation(source(pool, snr_db=(0, 10), clean_target=True), 5, 20000, batch_size=2)

    class Half(torch.nn.Module):
        def forward(self, noisy, print_power=None):
            return 0.5 * noisy

    gains = validation.gains(Half(), slice(None))
    parts = [validation.gains(Half(), slice(rank, None, 2)) for rank in range(2)]
    assert len(gains) == 5 and sorted(gains) == pytest.approx(sorted(parts[0] + parts[1]), abs=1e-3)
    noisy, clean = validation.source.batch(0, 0, range(1), 20000)
    expected = 10 * torch.log10((noisy - clean).square().sum() / (0.5 * noisy - clean).square().sum())
    assert gains[0] == pytest.approx(float(expected), abs=1e-3)
