"""The parts of `deploy/build-image`."""
