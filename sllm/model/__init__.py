"""The language models: each a whole architecture on one page."""
