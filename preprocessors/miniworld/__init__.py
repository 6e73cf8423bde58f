"""The miniature world: a synthesiser of sounds, captions, pictures, frames and a voice, made on a CPU from nothing."""

WORLD = 1  # version, stored in every part that was trained in this world
SAMPLE_RATE = 16_000  # Hz
DURATION = 2.56  # seconds of one scene
SAMPLES = 40_960  # of one scene: 160 mel frames of 256
TEST_SEED = 1  # of the scenes that models are evaluated on
