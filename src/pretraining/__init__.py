"""Pre-training of the tiny Kosmos-2: captions and grounding of simulator scenes."""
