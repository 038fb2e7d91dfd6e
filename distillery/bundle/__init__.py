"""The product: `distilled.safetensors` and the folder around it."""
