"""DiT-B/2 on the latents of ImageNet at 256 pixels: what most papers train first.

    python -m maskdiff_jax.main --mode=encode --config=configs/imagenet256_dit_b2_latent.py \\
        --config.encode.vae=VAE --config.encode.data.data_dir=DIR --config.data.path=LATENTS
    python -m maskdiff_jax.main --config=configs/imagenet256_dit_b2_latent.py --config.data.path=LATENTS

VAE is a folder of diffusers' AutoencoderKL with 4 channels, as that of Stable Diffusion; DIR has TFDS's imagenet2012,
which its owners give out by hand. The first command writes 44 GB: mean and standard deviation of the latents of every
image and of its mirror image. Images are centre-cropped. The recipe is that of DiT (Peebles & Xie 2023, arXiv
2212.09748): 1000 steps of linear betas, the noise and a learned variance predicted, Adam at 1e-4 with no weight decay,
batch 256, average 0.9999, 250 steps of sampling. Clipping the gradient is ours.

    --config.model.level_features=diffusers      features of the noise level as diffusers has them; a network so
                                                 trained can be exported with --mode=export --format=diffusers
    --config.data.tile=32                        decode larger latents by squares

Metrics: --mode=evaluate --workdir=D --metrics=fid --reference=FILE, with ADM's statistics of ImageNet.

Cost: 130,315,808 parameters, 400,000 steps of 256 images; meant for a node of GPUs or TPUs, where we have not run it.
Expected result: not run. That of Peebles & Xie is FID 43.5 after 400,000 steps, without guidance.
"""

from ml_collections.config_dict import placeholder

from configs import imagenet256_dit


def get_config():
    config = imagenet256_dit.get_config()
    config.data = {"name": "latents", "path": placeholder(str)}
    config.encode.data = {
        "name": "tfds",
        "dataset": "imagenet2012",
        "data_dir": placeholder(str),
        "heldout_split": "validation",
        "size": 256,
    }
    config.encode.flip = True
    config.encode.dtype = "bfloat16"
    config.model.preset = "B"
    config.log.sample_every = 10_000
    return config
