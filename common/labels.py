"""The words for noises."""

# UrbanSound8K's classes, in the order of their numbers.
CLASS_NAMES = ("air_conditioner", "car_horn", "children_playing", "dog_bark", "drilling",
               "engine_idling", "gun_shot", "jackhammer", "siren", "street_music")
WHITE, MIXED = "white", "mixed"
# What the classifier of noises tells apart, see common.denoising.auto.
LABELS = (WHITE, *CLASS_NAMES)


def weights_name(noise: str) -> str:
    """The name of the pretrained weights for a noise: class0 ... class9 for UrbanSound8K's classes, else its own.

    The words may be written as people write them: `dog_bark`, `dog bark`, `Dog-bark`, `White`.
    """
    label = noise.strip().lower().replace(" ", "_").replace("-", "_")
    if label in CLASS_NAMES:
        return f"class{CLASS_NAMES.index(label)}"
    return label if label in (WHITE, MIXED) else noise
