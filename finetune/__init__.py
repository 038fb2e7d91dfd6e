"""Fine-tuning: DiffFit adapters, minimax memories and losses; pretraining of small bases."""
