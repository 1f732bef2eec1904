"""Where a run stands: from its files and the queue, as tables, as logs, live."""
