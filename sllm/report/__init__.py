"""What a run has come to: its life, and one page that shows it."""
