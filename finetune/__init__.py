"""Fine-tuning: DiffFit adapters, minimax memories and losses, the loop; pretraining of small bases."""
