"""The parts of a release that are written here, for `deploy/release`, without privileges."""
