"""The order of channels in a WAV file, which is the order of all audio in memory."""

# FFmpeg's names of the channels; the position is the bit of a WAV file's channel mask.
CHANNEL_ORDER = ("FL", "FR", "FC", "LFE", "BL", "BR", "FLC", "FRC", "BC", "SL", "SR", "TC", "TFL", "TFC", "TFR", "TBL",
                 "TBC", "TBR")
