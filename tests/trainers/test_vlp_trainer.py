"""The trainer: what moves and what does not, resume, loss parts, and the batches it stops at."""

import json

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from transformers import VisionTextDualEncoderProcessor

from tests.fixtures.tiny_models import tiny_convirt, tiny_gloria, tiny_image_processor, tiny_tokenizer
from tests.trainers.data.image_pairs import image_pairs
from trainers.method_trainers import ConVIRTTrainer
from trainers.training_arguments import VLPTrainingArguments
from trainers.vlp_trainer import NonFiniteLossError, takes_batch_statistics


def arguments(folder, **settings):
    settings = {
        "per_device_train_batch_size": 4,
        "per_device_eval_batch_size": 4,
        "num_train_epochs": 2,
        "learning_rate": 1e-3,
        "logging_steps": 1,
        "save_strategy": "no",
        "disable_tqdm": True,
        "use_cpu": True,
        **settings,
    }
    return VLPTrainingArguments(output_dir=str(folder), **settings)


def trainer_of(folder, model=None, train_dataset=None, eval_dataset=None, **settings):
    return ConVIRTTrainer(
        model=model or tiny_convirt(),
        args=arguments(folder, **settings),
        train_dataset=train_dataset or image_pairs(),
        eval_dataset=eval_dataset,
        processor=VisionTextDualEncoderProcessor(tiny_image_processor(), tiny_tokenizer()),
    )


@pytest.mark.parametrize("kind", ["resnet", "vit"])
@pytest.mark.parametrize(
    "switches",
    [
        {},
        {"frozen_text_layers": 1, "freeze_text_embeddings": True},
        {"preset": "official", "frozen_text_layers": 1},
        {"freeze_batch_norm": True},
    ],
)
def test_every_trainable_parameter_changes_and_no_frozen_one(kind, switches, tmp_path):
    trainer = trainer_of(tmp_path, tiny_convirt(kind, **switches))
    before = {name: value.clone() for name, value in trainer.model.named_parameters()}
    trainer.train()
    frozen = 0
    for name, parameter in trainer.model.named_parameters():
        assert torch.isfinite(parameter).all()
        assert torch.equal(parameter, before[name]) is not parameter.requires_grad, name
        frozen += not parameter.requires_grad
    assert (frozen > 0) == ("frozen_text_layers" in switches)


def test_resume_equals_the_straight_run_step_for_step(tmp_path):
    def losses(trainer):
        return [(entry["step"], entry["loss"]) for entry in trainer.state.log_history if "loss" in entry]

    straight = trainer_of(tmp_path / "straight", num_train_epochs=3)
    straight.train()
    steps = len(straight.train_sampler)
    saving = {"num_train_epochs": 3, "save_strategy": "steps", "save_total_limit": None}
    for at in (steps - 2, steps, steps + 1):  # within an epoch, between two, within the next
        first = trainer_of(tmp_path / f"run{at}", save_steps=at, **saving)
        first.train()
        checkpoint = tmp_path / f"run{at}" / f"checkpoint-{at}"
        assert (checkpoint / "model.safetensors").is_file() and not list(checkpoint.glob("*.bin"))
        resumed = trainer_of(tmp_path / f"run{at}", tiny_convirt(seed=9), save_steps=at, **saving)
        resumed.train(resume_from_checkpoint=str(checkpoint))
        assert losses(resumed) == losses(straight)
        for name, value in straight.model.state_dict().items():
            assert torch.equal(resumed.model.state_dict()[name], value), name


def test_a_resume_with_other_batches_is_refused(tmp_path):
    trainer = trainer_of(tmp_path, save_strategy="epoch", num_train_epochs=1)
    trainer.train()
    checkpoint = next(tmp_path.glob("checkpoint-*"))
    with pytest.raises(ValueError, match="global_batch_size 4 then, 6 now"):
        trainer_of(tmp_path, per_device_train_batch_size=6).train(resume_from_checkpoint=str(checkpoint))
    saved = json.loads((checkpoint / "batches.json").read_text())
    (checkpoint / "batches.json").write_text(json.dumps({**saved, "processes": 2}))
    with pytest.raises(ValueError, match="processes 2 then, 1 now"):
        trainer_of(tmp_path).train(resume_from_checkpoint=str(checkpoint))
    with pytest.raises(FileNotFoundError, match="not a checkpoint of this trainer"):
        trainer_of(tmp_path).train(resume_from_checkpoint=str(tmp_path))


def test_a_resume_on_other_data_or_settings_is_refused_and_names_them(tmp_path):
    saving = {"save_strategy": "steps", "save_steps": 2, "max_steps": 2}
    trainer_of(tmp_path, train_dataset=image_pairs(), **saving).train()
    checkpoint = str(tmp_path / "checkpoint-2")

    def refused(pairs, **settings) -> str:
        trainer = trainer_of(tmp_path, train_dataset=pairs, **saving, **settings)
        with pytest.raises(ValueError, match="cannot be resumed with other data or settings") as caught:
            trainer.train(resume_from_checkpoint=checkpoint)
        return str(caught.value)

    other_text, other_id = image_pairs(), image_pairs()
    other_text.texts[3] = "small left hydrothorax."
    other_id.ids[3] = "image999"
    for pairs in (other_text, other_id):
        message = refused(pairs)
        assert f"(ids_and_texts {image_pairs().fingerprint()} then, {pairs.fingerprint()} now)" in message
        assert "hydrothorax" not in message
    assert "(text_sampling sentence then, full now)" in refused(image_pairs(text_sampling="full"))
    assert "(augmentation image then, crop now)" in refused(image_pairs(augmentation="crop"))
    assert "(horizontal_flip False then, True now)" in refused(image_pairs(flip=True))
    assert "(learning_rate 0.001 then, 0.002 now)" in refused(image_pairs(), learning_rate=2e-3)
    cosine = refused(image_pairs(), lr_scheduler_type="cosine")
    assert "(lr_scheduler_type linear then, cosine now)" in cosine
    assert trainer_of(tmp_path, **saving).train(resume_from_checkpoint=checkpoint).global_step == 2
    saved = json.loads((tmp_path / "checkpoint-2" / "batches.json").read_text())
    del saved["learning_rate"]
    (tmp_path / "checkpoint-2" / "batches.json").write_text(json.dumps(saved))
    assert "learning_rate not recorded then" in refused(image_pairs())


def test_a_resume_with_another_model_is_refused_and_one_of_another_length_told(tmp_path, caplog):
    saving = {"save_strategy": "steps", "save_steps": 2, "max_steps": 2}
    trainer_of(tmp_path, **saving).train()
    checkpoint = str(tmp_path / "checkpoint-2")
    colder = trainer_of(tmp_path, tiny_convirt(temperature_global=0.05), **saving)
    with pytest.raises(ValueError, match=r"\(temperature_global 0.1 then, 0.05 now\)"):
        colder.train(resume_from_checkpoint=checkpoint)
    tiny_gloria().config.save_pretrained(checkpoint)
    with pytest.raises(ValueError, match="model_type medsyn-gloria then, medsyn-convirt now"):
        trainer_of(tmp_path, **saving).train(resume_from_checkpoint=checkpoint)
    tiny_convirt().config.save_pretrained(checkpoint)
    trainer_of(tmp_path, **saving).train(resume_from_checkpoint=checkpoint)
    assert "as in no straight run" not in caplog.text
    longer = trainer_of(tmp_path / "longer", **{**saving, "max_steps": 3})
    assert longer.train(resume_from_checkpoint=checkpoint).global_step == 3
    assert "of a run of 2 steps and is resumed for 3 in all" in caplog.text


def test_weights_alone_are_not_gone_on_with(tmp_path):
    saving = {"save_strategy": "steps", "save_steps": 1, "max_steps": 1, "save_only_model": True}
    trainer_of(tmp_path, **saving).train()
    with pytest.raises(ValueError, match="holds weights alone"):
        trainer_of(tmp_path, **{**saving, "max_steps": 2}).train(resume_from_checkpoint=str(tmp_path / "checkpoint-1"))


def test_saved_model_is_safetensors_and_reloads(tmp_path):
    trainer = trainer_of(tmp_path, num_train_epochs=1)
    trainer.train()
    trainer.save_model()
    saved = load_file(tmp_path / "model.safetensors")
    assert all(torch.equal(saved[name], value) for name, value in trainer.model.state_dict().items())
    assert (tmp_path / "tokenizer.json").is_file() and (tmp_path / "processor_config.json").is_file()


def test_loss_parts_and_collisions_are_logged_and_evaluation_has_a_loss(tmp_path):
    evaluated = image_pairs(9, repeats=2, augmentation="none")
    trainer = trainer_of(tmp_path, eval_dataset=evaluated, num_train_epochs=1, seed=1)
    trainer.train()
    first = trainer.state.log_history[0]
    assert first["loss_global"] == pytest.approx(first["loss"], abs=1e-4)
    assert 0 < first["repeats_kept_apart"] < 1 and first["rows_waiting"] == trainer.train_sampler.rows_waiting
    rare = trainer_of(tmp_path, num_train_epochs=2, seed=1, logging_strategy="epoch")
    rare.train()
    printed = [entry["repeats_kept_apart"] for entry in rare.state.log_history if "repeats_kept_apart" in entry]
    assert printed == [first["repeats_kept_apart"]]
    metrics = trainer.evaluate()
    assert metrics["eval_loss"] > 0 and metrics["eval_loss_global"] == pytest.approx(metrics["eval_loss"], abs=1e-5)
    assert trainer.evaluate()["eval_loss"] == metrics["eval_loss"]
    single = trainer_of(tmp_path, eval_dataset=image_pairs(3, repeats=3, augmentation="none"))
    with pytest.raises(ValueError, match="at least 2 texts"):
        single.evaluate()


def test_which_models_take_batch_statistics():
    resnet = tiny_convirt("resnet")
    assert takes_batch_statistics(resnet)
    assert not takes_batch_statistics(torch.nn.SyncBatchNorm.convert_sync_batchnorm(resnet))
    assert not takes_batch_statistics(tiny_convirt("resnet", freeze_batch_norm=True))
    assert not takes_batch_statistics(tiny_convirt("vit"))


def test_a_checkpoint_with_every_step_is_loaded_and_not_trained_further(tmp_path):
    saving = {"save_strategy": "steps", "save_steps": 7, "max_steps": 7}  # within an epoch
    trained = trainer_of(tmp_path, **saving)
    trained.train()
    resumed = trainer_of(tmp_path, tiny_convirt(seed=9), **saving)
    assert resumed.train(resume_from_checkpoint=str(tmp_path / "checkpoint-7")).global_step == 7
    assert resumed.state.global_step == 7 and resumed.state.epoch == trained.state.epoch
    for name, value in trained.model.state_dict().items():
        assert torch.equal(resumed.model.state_dict()[name], value), name


@pytest.mark.parametrize(
    "length", [{"max_steps": 7}, {"num_train_epochs": 1.5}, {"num_train_epochs": 2, "gradient_accumulation_steps": 2}]
)
def test_planned_steps_are_those_that_training_takes(length, tmp_path):
    trainer = trainer_of(tmp_path, **length)
    trainer.train()
    assert trainer.planned_steps() == trainer.state.global_step == trainer.state.max_steps


def test_evaluation_batches_shrink_to_the_texts_there_are(tmp_path):
    trainer = trainer_of(tmp_path, eval_dataset=image_pairs(3, repeats=1, augmentation="none"))
    batch = next(iter(trainer.get_eval_dataloader()))
    assert len(batch["ids"]) == 3


def test_evaluation_counts_every_row_once_and_by_its_batch(tmp_path):
    pairs = image_pairs(11, repeats=0, augmentation="none")
    trainer = trainer_of(tmp_path, eval_dataset=pairs)
    batches = trainer.eval_batches(pairs).batches
    assert sorted(map(len, batches)) == [3, 4, 4] and sorted(sum(batches, [])) == list(range(11))
    seen = [name for batch in trainer.get_eval_dataloader() for name in batch["ids"]]
    assert sorted(seen) == sorted(pairs.ids)
    output = trainer.evaluation_loop(trainer.get_eval_dataloader(), "evaluation")
    assert output.num_samples == 11
    losses = []
    trainer.model.eval()
    for rows in batches:
        batch = trainer.data_collator([pairs[row] for row in rows])
        batch.pop("ids")
        with torch.no_grad():
            losses.append(trainer.model(**batch).loss.item())
    expected = np.average(losses, weights=[len(rows) for rows in batches])
    assert output.metrics["eval_loss"] == pytest.approx(expected, rel=1e-5)


def test_gradient_accumulation_and_workers_see_the_same_items(tmp_path):
    def run(**settings):
        trainer = trainer_of(tmp_path, num_train_epochs=1, **settings)
        trainer.train()
        return trainer

    plain, workers = run(), run(dataloader_num_workers=1)
    for name, value in plain.model.state_dict().items():
        assert torch.equal(workers.model.state_dict()[name], value), name
    assert run(gradient_accumulation_steps=2).state.global_step == -(-plain.state.global_step // 2)


def test_a_nan_loss_names_the_batch_by_ids_without_text(tmp_path):
    trainer = trainer_of(tmp_path)
    with torch.no_grad():
        trainer.model.text_head[0].weight.fill_(float("nan"))
    with pytest.raises(NonFiniteLossError, match=r"the loss is nan at step 0.*image0\d\d") as caught:
        trainer.train()
    message = str(caught.value)
    assert message.count("image0") == 4 and "effusion" not in message and "process" not in message


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"per_device_train_batch_size": 1}, "batch of 1 has no negatives"),
        ({"per_device_train_batch_size": 30}, "24 rows hold 19 different texts"),
        ({"remove_unused_columns": True}, "leave it False"),
        ({"accelerator_config": {"split_batches": False}}, "split_batches=False"),
        ({"data_seed": 3}, "data_seed=3 would have no effect"),
        ({"label_smoothing_factor": 0.1}, "label_smoothing_factor=0.1 would have no effect"),
        ({"auto_find_batch_size": True}, "auto_find_batch_size=True would have no effect"),
        ({"dataloader_drop_last": True}, "dataloader_drop_last=True would have no effect"),
    ],
)
def test_impossible_settings_are_refused(settings, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        trainer_of(tmp_path, **settings)


def test_texts_are_cut_at_the_encoder_limit(tmp_path):
    pairs = image_pairs()
    pairs.texts[0] = "effusion " * 500
    collator = trainer_of(tmp_path, train_dataset=pairs, max_text_tokens=512).data_collator
    pairs.text_sampling = "full"
    assert collator([pairs[0]])["input_ids"].shape == (1, 64)
    assert trainer_of(tmp_path, train_dataset=pairs, max_text_tokens=8).data_collator.max_length == 8
