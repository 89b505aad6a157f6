"""Text to image: an mmDiT-B/2 on the latents and captions of Conceptual 12M at 256 pixels.

    python -m maskdiff_jax.main --mode=encode --config=configs/cc12m_mmdit.py --config.data.path=LATENTS \\
        --config.encode.data.path='SHARDS/*.tar' --config.encode.vae=VAE --config.encode.text=TEXT
    python -m maskdiff_jax.main --config=configs/cc12m_mmdit.py --config.data.path=LATENTS

SHARDS are tars of images and captions in the webdataset convention, as img2dataset writes them for CC12M (Changpinyo et
al. 2021, arXiv 2102.08981): 0001.jpg with 0001.txt. VAE is a folder of diffusers' AutoencoderKL with 4 channels; TEXT
one of a CLIP text encoder, of which the network is given 77 tokens and the pooled vector (with a T5 encoder, and
--config.encode.text_length=128, the tokens alone). Embeddings are large: 118 KB a caption of CLIP-L beside 16 KB of
latents, 1.5 TB for 11 million images. Samples in training are of the captions of held-out images.

Flow matching with times from a logit-normal as in SD3 (Esser et al. 2024, arXiv 2403.03206); captions are dropped for
one image in ten; tokens of padding repeat the text with noise (Berrada Ifriqi et al. 2024, arXiv 2411.03177). Sizes,
batch, rate and steps are ours.

Cost: 250,584,528 parameters, 500,000 steps of 1024 images; meant for a pod or some nodes of GPUs, where we have not
run it.
Expected result: not run.
"""

from ml_collections.config_dict import placeholder

from maskdiff_jax.config import default_config


def get_config():
    config = default_config()
    config.steps = 500_000
    config.batch = 1024
    config.data = {"name": "latents", "path": placeholder(str)}
    config.encode.data = {"name": "tar", "path": placeholder(str), "size": 256, "heldout": 10_000, "labels": False}
    config.encode.dtype = "bfloat16"
    config.resident = False
    config.model = {"name": "mmdit", "preset": "B", "patch": 2, "dtype": "bfloat16"}
    config.condition.text_padding = {"name": "noisy_replicate"}
    config.times = {"name": "logit_normal"}
    config.optimizer = {"name": "adamw", "b2": 0.95, "weight_decay": 0.03}
    config.schedule = {"name": "constant", "learning_rate": 1e-4, "warmup": 5000}
    config.ema = (0.9999,)
    config.sample.num = 36
    config.sample.steps = 50
    config.sample.guidance = {"name": "classifier_free", "scale": 4.0}
    config.sample.clip = False  # latents are not held in [-1, 1]
    config.evaluate.num = 0
    config.log.sample_every = 10_000
    config.log.heldout_every = 10_000
    config.log.checkpoint_every = 10_000
    config.log.keep_every = 100_000
    return config
