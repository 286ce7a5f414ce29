"""One trainer a method: its model, its published hyper-parameters, its paper."""

from __future__ import annotations

from hub_medsyn.modeling_convirt import ConVIRTModel

from .vlp_trainer import VLPTrainer


class ConVIRTTrainer(VLPTrainer):
    """Trains a [`~hub_medsyn.modeling_convirt.ConVIRTModel`].

    `presets` are defaults of the options of pre-training. `official` has the numbers of edreisMD/ConVIRT-pytorch,
    with two things it has no option for here: Adam with an L2 penalty of 1e-6, here AdamW with a decay of 1e-6, and a
    cosine that is stepped so seldom that the rate is constant.
    """

    model_class = ConVIRTModel
    title = "ConVIRT"
    paper = "https://arxiv.org/abs/2010.00747"
    presets = {
        "official": {
            "learning_rate": 1e-4,
            "weight_decay": 1e-6,
            "lr_scheduler_type": "constant",
            "per_device_train_batch_size": 32,
            "per_device_eval_batch_size": 32,
            "num_train_epochs": 1000,
            "text_sampling": "sentence",
            "sentence_rule": "official",
            "augmentation": "crop",
            "horizontal_flip": True,
        },
        "paper": {
            "learning_rate": 1e-4,
            "weight_decay": 1e-6,
            "lr_scheduler_type": "cosine",
            "warmup_steps": 0.1,
            "per_device_train_batch_size": 32,
            "per_device_eval_batch_size": 32,
            "num_train_epochs": 50,
            "text_sampling": "sentence",
            "augmentation": "film",
        },
        "fixed": {
            "learning_rate": 1e-4,
            "weight_decay": 1e-6,
            "lr_scheduler_type": "cosine",
            "warmup_steps": 0.1,
            "per_device_train_batch_size": 32,
            "per_device_eval_batch_size": 32,
            "num_train_epochs": 50,
            "text_sampling": "sentence",
            "augmentation": "film",
        },
    }


METHODS: dict[str, type[VLPTrainer]] = {"convirt": ConVIRTTrainer}
