"""The coordinator: trains, federates, slices, signs, rolls out and serves models."""
