"""LoRA adapters: which layers they are on, saved ones, switched off for the reference."""
