"""Tools around the chain."""
