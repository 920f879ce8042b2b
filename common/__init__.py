"""Song denoising without clean training data: the library behind the scripts and notebooks."""
