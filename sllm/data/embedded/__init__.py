"""Text of our own."""
