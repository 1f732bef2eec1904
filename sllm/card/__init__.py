"""A model's card: the README.md in its folder, by which it explains itself."""
