"""When a run may start, what is due after a step, and what ends it."""
