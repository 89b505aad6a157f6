"""A DiT on the latents of your own images, at 256 pixels: the folder is named once.

    python -m maskdiff_jax.main --mode=encode --config=configs/folder_latent.py:DIR --config.encode.vae=VAE
    python -m maskdiff_jax.main --config=configs/folder_latent.py:DIR

The class of an image is the sub-folder of DIR that it is in; without sub-folders the model is unconditional. Images of
any size and format become 256×256 squares; a tenth of them is held out. VAE is a folder of diffusers' AutoencoderKL, as
that of Stable Diffusion. Latents, of the mirrored images too, go to the folder DIR-latents: 32 KB an image; DIR itself
is not touched. The network is a DiT-B/2 in bfloat16, flow matching with times from a logit-normal (Esser et al. 2024,
arXiv 2403.03206), trained on 200,000 batches of 256 latents. Nothing of this has been measured on any folder. The final
report would decode all images (--config.evaluate.num=1000 asks for it); grids of samples are drawn either way.

    --config.encode.data.size=512                larger images; then also --config.data.tile=64, where memory is short

Cost: 129,534,736 parameters without classes; meant for one GPU, where we have not run it.
Expected result: not measured.
"""

from ml_collections.config_dict import placeholder

from maskdiff_jax.config import default_config


def get_config(folder: str = ""):
    config = default_config()
    config.steps = 200_000
    config.batch = 256
    config.data = {"name": "latents", "path": f"{folder.rstrip('/')}-latents" if folder else placeholder(str)}
    config.encode.data = {"name": "folder", "path": folder or placeholder(str), "size": 256}
    config.encode.flip = True
    config.resident = False
    config.model = {"name": "dit", "preset": "B", "patch": 2, "dtype": "bfloat16"}
    config.times = {"name": "logit_normal"}
    config.schedule = {"name": "constant", "learning_rate": 1e-4, "warmup": 1000}
    config.ema = (0.9999,)
    config.sample.num = 36
    config.sample.steps = 50
    config.sample.clip = False  # latents are not held in [-1, 1]
    config.evaluate.num = 0
    config.log.sample_every = 10_000
    config.log.heldout_every = 2_000
    config.log.checkpoint_every = 5_000
    return config
