"""Every key that a config may have, with its default. A config in ``configs/`` states what differs.

A **part** is a section with a ``name``: the name picks a factory from a table, the other keys are its options (the
factory's docstring lists them). A name with a colon, ``package.module:function``, is a factory of your own. Choosing
another name from the command line drops the options of the old one, so ``--config.weighting.name=debias`` is a whole
choice; new options may be given beside it. Other sections have a fixed set of keys. ``--config.clip=None`` is None.
"""

from ml_collections import ConfigDict
from ml_collections.config_dict import placeholder


def default_config() -> ConfigDict:
    """Flow matching with a DiT-S on digits, dense, in float32."""
    return ConfigDict(
        {
            "name": "",  # of the run, in reports; the config file's name where it is empty
            "seed": 0,
            "steps": 10_000,  # optimiser steps of the run; with stages, of a stage that does not say
            "batch": 128,  # images per step, over all devices and micro-batches
            "accumulate": 1,  # micro-batches per step
            "steps_per_call": 1,  # of a compiled call, a batch each: more where the device waits for the host
            "parallel": {
                "engine": "jit",  # of the gradient: train.parallel.ENGINES; shard_map is data-parallel only
                "fsdp": 1,  # devices over which parameters, moments and averages are cut; 1: none, 0: all of them
            },
            "data": {"name": "digits"},  # part: data.DATASETS
            "encode": {  # --mode=encode: images to the latents that ``data`` then reads, captions with them
                "data": {"name": "digits"},  # part: data.DATASETS, the images
                "vae": "",  # folder of an AutoencoderKL: config.json and safetensors
                "text": "",  # folder of a text encoder, or a file of embeddings; "": there are no captions
                "text_length": 0,  # tokens of a caption; 0: as many as the encoder usually has
                "flip": False,  # also the latents of the mirrored images
                "batch": 64,  # images per call of the autoencoder, over all devices
                "shard": 4096,  # records in a file; interrupted, the files that are finished are kept
                "dtype": "float32",  # of the arithmetic
            },
            "resident": True,  # keep the training images on the device, for small sets; False streams them
            "augment": {"name": "none"},  # part: data.AUGMENTS
            "profile": "",  # "10:20" writes a profiler trace of the steps after 10 up to 20 to the workdir
            "codec": {"name": "identity"},  # part: codec.CODECS
            "process": {"name": "linear_flow"},  # part: diffusion.PROCESSES
            "shift": 1.0,  # log SNR is lowered by 2·log(shift): above 1 is noisier, for larger images
            "prediction": {"name": "velocity"},  # part: diffusion.PREDICTIONS
            "inputs": {"name": "default"},  # part: diffusion.INPUTS
            "times": {"name": "stratified", "of": "uniform"},  # part: diffusion.TIMES
            "weighting": {"name": "constant", "space": "velocity"},  # part: diffusion.WEIGHTINGS
            "loss": {
                "normalise": False,  # divide the weighting by its v-space mean, so that all share a learning rate
                "max_weight": placeholder(float),  # cap of the weighting in its own space; None is none
                "vlb_weight": 0.0,  # of the bound that trains a learned variance, on tables; iDDPM: 0.001
                "weight_by_inclusion": False,  # weight visible tokens by 1/inclusion; MaskDM does not
            },
            "supervision": {"name": "dense"},  # part: masks.SUPERVISIONS
            "visibility": {"name": "all"},  # part: masks.VISIBILITIES
            "second_pass": {  # another forward pass of the same step under another mask (MDT)
                "weight": 0.0,  # of its loss; 0 leaves it out
                "visibility": {"name": "patch", "ratio": 0.4},  # part: masks.VISIBILITIES
            },
            "model": {"name": "dit", "preset": "S", "patch": 2},  # part: models.MODELS
            "condition": {
                "label": True,  # False: unconditional
                "drop_semantics": 0.1,  # chance of training on the null label
                "drop_everything": 0.0,  # chance of nulling the controls too
                "controls_high": (),  # names of recorded controls that say where things are: data.control_names
                "controls_low": (),  # names of those that say how they look
                "phase": {"name": "none"},  # part: diffusion.PHASES, how far the low ones are let in at t
                "text_padding": {"name": "zero"},  # part: cond.TEXT_PADDINGS
            },
            "optimizer": {"name": "adamw", "b2": 0.99, "weight_decay": 0.0},  # part: train.OPTIMIZERS
            "schedule": {"name": "cosine", "learning_rate": 3e-4, "warmup": 100},  # part: train.SCHEDULES
            "clip": 1.0,  # largest global norm of the gradient; None for no clipping
            "guard": {  # steps with a bad gradient are skipped and counted
                "spike": 0.0,  # bad is a norm above this multiple of the usual one; 0: only inf and NaN are bad
                "max_bad_steps": 50,  # so many in a row end the run
            },
            "debug_nans": False,  # stop at the first step with a NaN or inf, and name the operation that made it; slow
            "ema": (0.999,),  # decays of the averaged copies of the parameters; the first is sampled and evaluated
            "ema_warmup": True,  # decay min(decay, (1 + n)/(10 + n)) at update n
            # Stages, one after the other in the same run: each is a dict of the keys above that are its own, as
            # {"name": "masked", "steps": 1000, "visibility": {"name": "patch", "ratio": 0.75}, "batch": 512}. A part
            # with another name replaces the part, otherwise sections merge. () is one stage: the config itself.
            # Override one by its number: --config.stages[0].steps=500
            "stages": (),
            # What this run starts from: a run's workdir, an export, or a DiT of others (sources.KINDS); "": nothing
            "init_from": "",
            "handover": {  # from one stage to the next, and from init_from
                "weights": "raw",  # raw, or ema: the first average; optimiser and averages start afresh either way
                "positions": "interpolate",  # of learned positions to another grid; or extrapolate
                "renew": (),  # parameters to initialise anew, by the beginnings of their paths: ("final",)
            },
            "sample": {
                "sampler": {"name": "dpm_solver"},  # part: samplers.SAMPLERS
                "spacing": {"name": "uniform"},  # part: samplers.SPACINGS
                "steps": 25,  # network evaluations, about (Heun: two each)
                "guidance": {"name": "classifier_free", "scale": 1.0},  # part: diffusion.GUIDANCES
                "clip": True,  # hold the denoised image in [-1, 1]
                "num": 64,  # images in the grids that training draws
            },
            "evaluate": {
                "num": 1000,  # samples for the final report
                "batch": 500,  # images per call of the sampler
                "metrics": (),  # evaluate.METRICS on features of the samples: ("fid", "precision", "recall")
                "features": {"name": "inception", "weights": "inception.npz"},  # part: evaluate.FEATURES
                "reference": "",  # a file of statistics (ours, ADM's or EDM's) for the training images
                "judge": {"name": "none"},  # part: evaluate.JUDGES, the classifier behind class_accuracy
                "judge_guidance": 2.0,  # guidance scale of the samples that the judge sees
                "space": "velocity",  # prediction space of the dense held-out loss
                "times": {"name": "uniform"},  # part: diffusion.TIMES, its distribution of t; on edm take edm_lognormal
                "levels": 8,  # noise levels by which it is reported
                "images": 256,  # held-out images that it averages over
                "diagnose": {  # --mode=diagnose
                    "num": 256,  # held-out images, and samples
                    "context": 32,  # images behind the maps of what a pixel depends on
                    "steps": (5, 10, 25, 50, 100),  # numbers of sampling steps whose colours are compared
                },
                "bits_per_dim": {
                    "images": 0,  # held-out images for the variational bound; 0 does not measure it
                    "variance": "small",  # of the reverse steps on a table: small, large, learned
                    "steps": placeholder(int),  # drawn per image, unbiased; None takes the whole table
                },
            },
            "log": {
                "every": 50,  # steps between lines of metrics.jsonl
                "heldout_every": 500,  # steps between dense held-out losses
                "sample_every": 1000,  # steps between sample grids; 0 for no pictures during training
                "quality_every": 0,  # steps between the report's metrics of evaluate.num samples; 0 for none
                "checkpoint_every": 500,  # steps between checkpoints
                "page": True,  # write report.html at the end
                "board": "tensorboardx",  # who writes tensorboard/: train.writers.BOARDS; "clu" needs TensorFlow
                "keep_latest": 2,  # newest checkpoints kept
                "keep_every": placeholder(int),  # keep every checkpoint at a multiple of this step, too
                "keep_best": 0,  # keep so many of the best, too; --checkpoint=best samples and evaluates the first
                "best_metric": "heldout_ema/loss",  # the logged metric by which they are ranked
            },
        }
    )
