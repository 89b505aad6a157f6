"""MaskDM on the latents of ImageNet at 256 pixels: DiT-B/2 sees a quarter of its 256 tokens, then half, then all.

    python -m maskdiff_jax.main --config=configs/imagenet256_maskdm_b2_latent.py --config.data.path=LATENTS

LATENTS as in `imagenet256_dit_b2_latent`, whose network, process and data these are; its first command makes them with
either config. The stages are those of Lei et al. 2023 (arXiv 2306.11363), who pre-train a U-ViT on masked pixels and
not on latents: ratios, blocks of 2×2 tokens, batches and numbers of steps are ours. Each stage starts from the raw
weights of the one before with a fresh optimiser and fresh averages. The switches of `cifar_maskdm` apply.

Cost: 130,315,808 parameters, 450,000 steps; an image costs a quarter in the first stage of what it does in the last.
Meant for a node of GPUs or TPUs, where we have not run it.
Expected result: unknown; at equal FLOPs or seconds, a lower dense held-out loss than `imagenet256_dit_b2_latent` would
speak for the stages. `maskdiff_jax.compare` says whether it is so.
"""

from configs import imagenet256_dit_b2_latent


def get_config():
    config = imagenet256_dit_b2_latent.get_config()
    config.stages = (
        {"name": "75%", "steps": 200_000, "batch": 1024, "visibility": {"name": "block", "ratio": 0.75, "block": 2}},
        {"name": "50%", "steps": 100_000, "batch": 512, "visibility": {"name": "block", "ratio": 0.5, "block": 2}},
        {"name": "full", "steps": 150_000, "batch": 256},
    )
    return config
