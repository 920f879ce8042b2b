"""The Deep Complex U-Net, its transforms and its weights files. Modules here know nothing of songs or training."""
