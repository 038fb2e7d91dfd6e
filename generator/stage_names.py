"""The names of a job's stages in order, for code that must not import what the stages need.

`generator.pipeline.STAGES` holds the stages themselves; a test keeps the two alike.
"""

STAGE_NAMES = (
    "prepare", "base", "encode", "finetune", "generate", "score", "refine", "label", "evaluate",
    "bundle",
)  # fmt: skip
