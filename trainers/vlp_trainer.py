"""The trainer of all image-text methods: encode, gather with gradient, losses."""

from __future__ import annotations

import json
import logging
import math
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import torch
from timm.layers import convert_sync_batchnorm
from torch import nn
from torch.utils.data import DataLoader, Dataset
from transformers import ProcessorMixin, Trainer, TrainerCallback, TrainerState
from transformers.trainer import TRAINER_STATE_NAME, TRAINING_ARGS_NAME
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR, EvalLoopOutput, TrainOutput, rotate_checkpoints

from hub_medsyn.modeling_medsyn import MedSynPreTrainedModel
from medsyn.errors import UserError
from trainers.checkpoints import BATCHES_NAME, check_same_run
from trainers.data.collators import PairCollator
from trainers.data.pairs import PairDataset
from trainers.data.samplers import DistinctTextBatchSampler, WholeBatches
from trainers.distributed import GradientCache, gather_features
from trainers.training_arguments import VLPTrainingArguments

# A checkpoint brings its optimiser and schedule along: others given at a resume would be ignored silently.
RESUMED_ARGUMENTS = (
    "optim",
    "learning_rate",
    "lr_scheduler_type",
    "lr_scheduler_kwargs",
    "warmup_steps",
    "weight_decay",
    "adam_beta1",
    "adam_beta2",
    "adam_epsilon",
    "max_grad_norm",
    "max_text_tokens",
    "seed",
)
logger = logging.getLogger(__name__)


class NonFiniteLossError(UserError):
    """The loss became NaN or infinite; names the items of the batch."""


class EpochOfSampler(TrainerCallback):
    """Tells the sampler which epoch begins, also after a resume."""

    def __init__(self, sampler: DistinctTextBatchSampler):
        self.sampler = sampler

    def on_epoch_begin(self, args, state, control, **kwargs):
        self.sampler.epoch = int(state.epoch or 0)


def training_batch_norms(model: MedSynPreTrainedModel) -> list[nn.Module]:
    """Every BatchNorm of the model that takes its statistics, while training, from the items it gets."""
    if model.config.freeze_batch_norm:
        return []
    return [module for module in model.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]


def takes_batch_statistics(model: MedSynPreTrainedModel) -> bool:
    """Whether a BatchNorm of the model takes its statistics, while training, from the items of one process alone."""
    return not all(isinstance(norm, nn.SyncBatchNorm) for norm in training_batch_norms(model))


class VLPTrainer(Trainer):
    """Trains a [`~hub_medsyn.modeling_medsyn.MedSynPreTrainedModel`] on pairs of image and report.

    The loss is that of the global batch on any number of processes: features are gathered with their gradients before
    the loss. Reports never repeat within a global batch. What a checkpoint resumes equals the straight run, step for
    step.

    Args:
        model ([`~hub_medsyn.modeling_medsyn.MedSynPreTrainedModel`]): Frozen here as its configuration says.
        args ([`~trainers.training_arguments.VLPTrainingArguments`]): Batch sizes are per process.
        train_dataset ([`~trainers.data.pairs.PairDataset`]): The pairs to learn from.
        eval_dataset ([`~trainers.data.pairs.PairDataset`], *optional*): The pairs that `eval_loss` is of.
        processor (`ProcessorMixin`): Tokenizer and image processor, saved with the model.

    Raises:
        UserError: If a global batch holds fewer than two texts, or more than there are different ones; if gradients
            are to be cached for a model whose BatchNorm trains, or BatchNorm synchronised where none does.
    """

    def __init__(
        self,
        model: MedSynPreTrainedModel,
        args: VLPTrainingArguments,
        train_dataset: PairDataset,
        processor: ProcessorMixin,
        eval_dataset: PairDataset | None = None,
        **kwargs,
    ):
        model.freeze()
        if args.gradient_cache_chunk_size is not None and training_batch_norms(model):
            raise UserError(
                f"gradient_cache_chunk_size={args.gradient_cache_chunk_size} cannot equal the plain loss: BatchNorm "
                "would take its statistics from a chunk; set freeze_batch_norm, or leave gradient caching out"
            )
        if args.sync_batch_norm:
            if not training_batch_norms(model):
                raise UserError(
                    "sync_batch_norm has nothing to synchronise: the model has no BatchNorm or "
                    "freeze_batch_norm keeps it from training; leave one of the two out"
                )
            model = convert_sync_batchnorm(model)
        if args.channels_last:
            model.vision_model.to(memory_format=torch.channels_last)
        limit = getattr(model.config.text_config, "max_position_embeddings", 512)
        collator = PairCollator(
            tokenizer=processor.tokenizer,
            processor=processor.image_processor,
            max_length=min(args.max_text_tokens, processor.tokenizer.model_max_length, limit),
        )
        super().__init__(
            model=model,
            args=args,
            data_collator=collator,
            train_dataset=train_dataset,
            eval_dataset=eval_dataset,
            processing_class=processor,
            **kwargs,
        )
        self.train_sampler = DistinctTextBatchSampler(
            train_dataset.distinct_keys(), args.train_batch_size * args.world_size, seed=args.seed
        )
        self.add_callback(EpochOfSampler(self.train_sampler))
        if args.world_size > 1 and self.is_world_process_zero() and takes_batch_statistics(model):
            logger.warning(
                "BatchNorm takes its statistics from the %d pairs of each process, so that %d processes do not train "
                "as one process with a batch of %d would; freeze_batch_norm=True, or sync_batch_norm=True on GPUs, "
                "makes them equal",
                args.train_batch_size,
                args.world_size,
                self.train_sampler.batch_size,
            )
        self._parts: dict[str, list[torch.Tensor]] = defaultdict(list)
        self._cache: GradientCache | None = None
        self._eval_batches: WholeBatches | None = None
        self._evaluated: list[dict[str, torch.Tensor]] = []

    def get_train_dataloader(self) -> DataLoader:
        self._train_collisions = self.train_sampler.collisions_of_a_plain_shuffle()
        return self.accelerator.prepare(self._loader(self.train_dataset, self.train_sampler))

    def get_eval_dataloader(self, eval_dataset: PairDataset | None = None) -> DataLoader:
        dataset = self.eval_dataset if eval_dataset is None else eval_dataset
        self._eval_batches = self.eval_batches(dataset)
        # Not prepared by the accelerator, which would repeat rows until all processes have as many.
        return self._loader(dataset, self._eval_batches.slices(self.args.process_index, self.args.world_size))

    def eval_batches(self, dataset: PairDataset) -> WholeBatches:
        """Returns the global batches of an evaluation, equal each time and on any number of processes."""
        return WholeBatches(dataset.distinct_keys(), self.args.eval_batch_size * self.args.world_size, self.args.seed)

    def evaluation_loop(self, *args, metric_key_prefix: str = "eval", **kwargs) -> EvalLoopOutput:
        """The loss and its parts over all rows: each global batch counts by its rows, on any number of processes."""
        self._evaluated = []
        output = super().evaluation_loop(*args, metric_key_prefix=metric_key_prefix, **kwargs)
        sizes = np.array([len(batch) for batch in self._eval_batches.batches])
        means = {
            f"{metric_key_prefix}_{name}": float(
                np.average([parts[name].item() for parts in self._evaluated], weights=sizes)
            )
            for name in self._evaluated[0]
        }
        return output._replace(metrics={**output.metrics, **means}, num_samples=int(sizes.sum()))

    def _loader(self, dataset: Dataset, batch_sampler: Iterable) -> DataLoader:
        return DataLoader(
            dataset,
            batch_sampler=batch_sampler,
            collate_fn=self.data_collator,
            num_workers=self.args.dataloader_num_workers,
            pin_memory=self.args.dataloader_pin_memory,
            persistent_workers=self.args.dataloader_persistent_workers,
            prefetch_factor=self.args.dataloader_prefetch_factor,
            # Its own: drawing the workers' seed from the global generator would shift dropout after an evaluation.
            generator=torch.Generator().manual_seed(self.args.seed),
        )

    def training_step(self, model, inputs, num_items_in_batch=None) -> torch.Tensor:
        loss = super().training_step(model, inputs, num_items_in_batch)
        if self._cache is not None:
            self._cache.backward(model, self.accelerator)
            self._cache = None
        return loss

    def compute_loss(self, model, inputs, return_outputs: bool = False, num_items_in_batch=None):
        inputs = dict(inputs)
        ids = inputs.pop("ids")
        inputs.pop("return_loss")
        if self.args.channels_last:
            inputs["pixel_values"] = inputs["pixel_values"].contiguous(memory_format=torch.channels_last)
        if model.training and self.args.gradient_cache_chunk_size is not None:
            self._cache = GradientCache(model, inputs, self.args.gradient_cache_chunk_size)
            features = self._cache.features
        else:
            features = gather_features(model(**inputs, features_only=True))
        if not model.training:
            batch = self._eval_batches.batches[len(self._evaluated)]
            # In the order of processes, whose last ones may have repeated a row.
            features = {name: tensor[: len(batch)] for name, tensor in features.items()}
        parts = self.accelerator.unwrap_model(model).losses(features)
        loss = sum(parts.values())
        if not torch.isfinite(loss):
            raise NonFiniteLossError(
                f"the loss is {loss.item()} at step {self.state.global_step}, in the batch of {', '.join(ids)}; "
                "lower --learning_rate, raise --warmup_steps or look at these images"
            )
        if model.training:
            for name, value in parts.items():
                self._parts[name].append(value.detach())
        else:
            self._evaluated.append({"loss": loss.detach()} | {name: value.detach() for name, value in parts.items()})
        return (loss, {"loss": loss}) if return_outputs else loss

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Adds the means of the loss's parts since they were last logged, beside the loss they belong to."""
        if "loss" in logs:
            logs.update({name: torch.stack(values).mean().item() for name, values in self._parts.items()})
            self._parts.clear()
        if "loss" in logs and not any("repeats_kept_apart" in entry for entry in self.state.log_history):
            logs["repeats_kept_apart"] = self._train_collisions
            logs["rows_waiting"] = self.train_sampler.rows_waiting
        super().log(logs, start_time)

    def train(self, resume_from_checkpoint: str | None = None, **kwargs):
        """
        Args:
            resume_from_checkpoint (`str`, *optional*):
                A checkpoint folder of a run with the same model and batches. One that has all the steps asked for is
                loaded and not trained further.

        Raises:
            FileNotFoundError: If the folder is no checkpoint of this trainer.
            UserError: If the checkpoint holds weights alone, or was written by another number of processes or batch
                size, on other rows or texts, or under another setting of model, text, image or optimiser: the run
                could not be resumed as it was.
        """
        if resume_from_checkpoint is not None:
            check_same_run(resume_from_checkpoint, self.model.config, self._batches())
            state = TrainerState.load_from_json(str(Path(resume_from_checkpoint) / TRAINER_STATE_NAME))
            if state.global_step >= self.planned_steps():
                # Trainer looks whether it is done after a step only, and would take one more.
                self._load_from_checkpoint(resume_from_checkpoint)
                self.state = state
                evaluated = any(
                    "eval_loss" in entry and entry["step"] == state.global_step for entry in state.log_history
                )
                if self.args.eval_strategy != "no" and not evaluated:
                    self.evaluate()  # as the straight run did once this checkpoint was written
                if self.args.load_best_model_at_end and state.best_model_checkpoint is not None:
                    self._load_best_model()
                return TrainOutput(state.global_step, math.nan, {})
            if state.max_steps != self.planned_steps() and self.args.lr_scheduler_type != "constant":
                logger.warning(
                    "%s is of a run of %d steps and is resumed for %d in all: the learning rate follows a schedule of "
                    "that length from here on, as in no straight run",
                    resume_from_checkpoint,
                    state.max_steps,
                    self.planned_steps(),
                )
        return super().train(resume_from_checkpoint=resume_from_checkpoint, **kwargs)

    def planned_steps(self) -> int:
        """Steps of the optimiser that the arguments ask for."""
        if self.args.max_steps > 0:
            return self.args.max_steps
        steps_per_epoch = math.ceil(len(self.train_sampler) / self.args.gradient_accumulation_steps)
        return math.ceil(self.args.num_train_epochs * steps_per_epoch)

    def _batches(self) -> dict:
        """Returns what a resumed run has to share with the one before, as JSON gives it back."""
        pairs, arguments = self.train_dataset, json.loads(self.args.to_json_string())
        return {
            "processes": self.args.world_size,
            "global_batch_size": self.train_sampler.batch_size,
            "accumulation_steps": self.args.gradient_accumulation_steps,
            "rows": len(pairs),
            "ids_and_texts": pairs.fingerprint(),
            "image_size": pairs.processor.output_size,
            "text_sampling": pairs.text_sampling,
            "sentence_rule": pairs.sentence_rule,
            "augmentation": pairs.augmentation,
            "horizontal_flip": pairs.flip,
            **{name: arguments[name] for name in RESUMED_ARGUMENTS},
        }

    def _save(self, output_dir: str | None = None, state_dict=None):
        """Leaves out the pickle of the arguments: the card tells them, and no file here can run code."""
        super()._save(output_dir, state_dict)
        if self.args.should_save:
            (Path(output_dir or self.args.output_dir) / TRAINING_ARGS_NAME).unlink()

    def _save_checkpoint(self, model, trial):
        """Marks the checkpoint as whole once all processes have written theirs, and removes older ones only then."""
        run = self._get_output_dir(trial)
        whole = Path(run) / f"{PREFIX_CHECKPOINT_DIR}-{self.state.global_step}" / BATCHES_NAME
        if self.args.should_save:
            whole.unlink(missing_ok=True)  # of a run that was resumed further back
        limit, self.args.save_total_limit = self.args.save_total_limit, None
        try:
            super()._save_checkpoint(model, trial)
        finally:
            self.args.save_total_limit = limit
        self.accelerator.wait_for_everyone()
        if self.args.should_save:
            mark = {**self._batches(), "weights_alone": self.args.save_only_model}
            whole.write_text(json.dumps(mark, indent=2), encoding="utf-8")
            rotate_checkpoints(run, limit, self.state.best_model_checkpoint, use_mtime=True)
