"""The model room: backbone (a VLM behind a narrow door), LoRA placement, policy heads, the policy."""
