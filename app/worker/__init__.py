"""The worker: takes stages from the queue and runs each in a process of its own."""
