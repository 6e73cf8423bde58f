"""The miniature world: numpy synthesis of scenes as sounds, captions, pictures, video frames and speech."""

WORLD = 1  # version, stored in every model that was trained on it
SAMPLE_RATE = 16_000  # Hz
DURATION = 2.56  # seconds of one scene
SAMPLES = 40_960  # of one scene: 160 mel frames of 256
TEST_SEED = 1  # of the scenes that models are evaluated on
