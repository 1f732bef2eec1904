"""From an experiment to what runs: plan → write → send (`submit.py`), and what each of the three needs."""
