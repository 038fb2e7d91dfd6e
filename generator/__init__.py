"""The pipeline: stages with files, sampling and guidance, controls, estimates."""
