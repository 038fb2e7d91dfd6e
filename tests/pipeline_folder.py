"""A folder with the files of a DiT pipeline, made without torch."""

import json
from pathlib import Path

import numpy as np

from distillery.tensorfile import write_tensors


def write_folder(folder: Path, class_name: str = "DiTPipeline") -> Path:
    """Write the files of a pipeline, with weights of one number."""
    configs = {
        "transformer": {"sample_size": 8, "num_embeds_ada_norm": 5},
        "vae": {"block_out_channels": [8, 8, 8]},
    }
    for part, config in configs.items():
        (folder / part).mkdir(parents=True)
        (folder / part / "config.json").write_text(json.dumps(config))
        write_tensors(folder / part / "model.safetensors", {"w": np.zeros(1, np.float32)})
    (folder / "scheduler").mkdir()
    (folder / "scheduler" / "scheduler_config.json").write_text("{}")
    index = {"_class_name": class_name, "id2label": {"0": "cat"}}
    (folder / "model_index.json").write_text(json.dumps(index))
    (folder / "README.md").write_text("---\nlicense: mit\n---\n")
    return folder
