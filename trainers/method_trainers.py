"""One trainer a method: its model, its published hyper-parameters, its paper."""

from __future__ import annotations

from transformers import TrainerCallback

from hub_medsyn.modeling_convirt import ConVIRTModel
from hub_medsyn.modeling_gloria import GLoRIAModel
from hub_medsyn.modeling_mgca import MGCAModel
from trainers.vlp_trainer import VLPTrainer


class ConVIRTTrainer(VLPTrainer):
    """Trains a [`~hub_medsyn.modeling_convirt.ConVIRTModel`].

    `presets` are defaults of the options of pre-training. `official` has the numbers of edreisMD/ConVIRT-pytorch,
    with these differences: Adam's L2 penalty of 1e-6 is AdamW's decay; half precision is left to `--fp16`; and its
    cosine, stepped so seldom that the rate hardly falls, is a constant rate.
    """

    model_class = ConVIRTModel
    title = "ConVIRT"
    paper = "https://arxiv.org/abs/2010.00747"
    fixed = {
        "learning_rate": 1e-4,
        # differs from edreisMD/ConVIRT-pytorch: there Adam adds it to the gradient
        "weight_decay": 1e-6,
        # differs from edreisMD/ConVIRT-pytorch: there the rate starts whole and is stepped once an epoch
        "lr_scheduler_type": "cosine",
        "warmup_steps": 0.1,
        "per_device_train_batch_size": 32,
        "per_device_eval_batch_size": 32,
        # differs from edreisMD/ConVIRT-pytorch: there 1,000, with the best of every fifth kept
        "num_train_epochs": 50,
        # differs from edreisMD/ConVIRT-pytorch: there a random sentence is drawn. Different reports share many of
        # their sentences, each a false negative; a whole report stands once in a batch.
        "text_sampling": "full",
        # differs from edreisMD/ConVIRT-pytorch: there images are cropped and half of them mirrored
        "augmentation": "film",
    }
    presets = {
        "official": {
            **fixed,
            "max_grad_norm": 0.0,
            "lr_scheduler_type": "constant",
            "warmup_steps": 0,
            "num_train_epochs": 1000,
            "text_sampling": "sentence",
            "sentence_rule": "convirt",
            "augmentation": "crop",
            "horizontal_flip": True,
        },
        "paper": {**fixed, "text_sampling": "sentence"},
        "fixed": fixed,
    }


class GLoRIATrainer(VLPTrainer):
    """Trains a [`~hub_medsyn.modeling_gloria.GLoRIAModel`].

    `official` has the numbers of marshuang80/gloria, with these differences: half precision is left to `--fp16`, since
    a CPU has none; Adam's L2 penalty of 1e-6 is AdamW's decay; and the crop varies in size. Its learning rate falls
    when `eval_loss` does not. `official` and `paper` draw one random sentence of a report each time, as published;
    `fixed` takes whole reports.
    """

    model_class = GLoRIAModel
    title = "GLoRIA"
    paper = "https://openaccess.thecvf.com/content/ICCV2021/html/Huang_GLoRIA_ICCV_2021_paper.html"
    fixed = {
        "learning_rate": 5e-5,
        "adam_beta1": 0.5,
        # differs from marshuang80/gloria: there Adam adds it to the gradient
        "weight_decay": 1e-6,
        "max_grad_norm": 0.25,
        # differs from marshuang80/gloria: there the rate is halved when eval_loss does not fall
        "lr_scheduler_type": "cosine",
        "warmup_steps": 0.1,
        "per_device_train_batch_size": 48,
        "per_device_eval_batch_size": 48,
        "num_train_epochs": 50,
        "max_text_tokens": 97,
        # differs from marshuang80/gloria: there a random sentence is drawn, and sentences repeat across reports
        "text_sampling": "full",
        # differs from marshuang80/gloria: there images are cropped and nothing else
        "augmentation": "film",
    }
    presets = {
        "official": {
            **fixed,
            "lr_scheduler_type": "reduce_lr_on_plateau",
            "lr_scheduler_kwargs": {"factor": 0.5, "patience": 5},
            "warmup_steps": 0,
            "text_sampling": "sentence",
            "sentence_rule": "gloria",
            "augmentation": "crop",
        },
        "paper": {**fixed, "text_sampling": "sentence"},
        "fixed": fixed,
    }


class FrozenPrototypes(TrainerCallback):
    """Takes the prototypes' gradient away in the first epochs, before the optimiser sees it."""

    def on_pre_optimizer_step(self, args, state, control, model=None, **kwargs):
        if state.epoch < model.config.frozen_prototype_epochs:
            model.prototypes.weight.grad = None


class MGCATrainer(VLPTrainer):
    """Trains an [`~hub_medsyn.modeling_mgca.MGCAModel`].

    `official` has the numbers of HKU-MedAI/MGCA, but for the crop, which varies in size here. Every preset takes the
    whole text, `official` as the published code cleans it. The prototypes stay as they are for the first
    `frozen_prototype_epochs` epochs, and assignments are balanced over all processes.
    """

    model_class = MGCAModel
    title = "MGCA"
    paper = "https://arxiv.org/abs/2210.06044"
    fixed = {
        "learning_rate": 2e-5,
        "weight_decay": 0.05,
        "lr_scheduler_type": "cosine",
        "warmup_steps": 0.4,
        "per_device_train_batch_size": 72,
        "per_device_eval_batch_size": 72,
        "num_train_epochs": 50,
        "max_text_tokens": 112,
        "text_sampling": "full",
        # differs from HKU-MedAI/MGCA: there images are cropped and nothing else
        "augmentation": "film",
    }
    presets = {
        "official": {
            **fixed,
            "max_grad_norm": 0.0,
            "sentence_rule": "mgca",
            "augmentation": "crop",
            "text_columns": ["impression", "findings"],
        },
        "paper": fixed,
        "fixed": fixed,
    }

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.add_callback(FrozenPrototypes())


METHODS: dict[str, type[VLPTrainer]] = {"convirt": ConVIRTTrainer, "gloria": GLoRIATrainer, "mgca": MGCATrainer}
