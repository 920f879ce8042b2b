"""The words for noises."""

# UrbanSound8K's classes, in the order of their numbers.
CLASS_NAMES = ("air_conditioner", "car_horn", "children_playing", "dog_bark", "drilling",
               "engine_idling", "gun_shot", "jackhammer", "siren", "street_music")
WHITE, MIXED = "white", "mixed"
