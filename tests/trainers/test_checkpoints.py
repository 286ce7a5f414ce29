"""Going on from a checkpoint: torn ones, finished runs, the best epoch, and equality with the straight run."""

import shutil

import pytest
import torch
from safetensors.torch import load_file
from transformers import TrainerCallback

from tests.fixtures.tiny_models import tiny_gloria, tiny_mgca
from tests.trainers.data.image_pairs import image_pairs
from tests.trainers.test_gloria_mgca_trainers import trainer_of
from trainers.checkpoints import last_checkpoint

EVERY_STEP = {"save_strategy": "steps", "save_steps": 1, "save_total_limit": None}


def losses(trainer) -> list[tuple[int, float]]:
    return [(entry["step"], entry["loss"]) for entry in trainer.state.log_history if "loss" in entry]


def same_weights(model, state: dict) -> bool:
    return all(torch.equal(value, state[name]) for name, value in model.state_dict().items())


@pytest.mark.parametrize("make", [tiny_gloria, tiny_mgca])
def test_resume_equals_the_straight_run_step_for_step(make, tmp_path):
    straight = trainer_of(tmp_path, make("vit"), **EVERY_STEP)
    straight.train()
    epoch = len(straight.train_sampler)
    for at in (epoch - 1, epoch, epoch + 1):  # MGCA's prototypes are frozen for the first epoch
        resumed = trainer_of(tmp_path / "resumed", make("vit", seed=9))
        resumed.train(resume_from_checkpoint=str(tmp_path / f"checkpoint-{at}"))
        assert losses(resumed) == losses(straight) and len(losses(straight)) == 2 * epoch
        assert same_weights(resumed.model, straight.model.state_dict())


def test_prototypes_stay_frozen_after_a_resume_within_their_epochs(tmp_path):
    frozen = {"num_train_epochs": 2}
    straight = trainer_of(tmp_path, tiny_mgca("vit", frozen_prototype_epochs=2), **frozen, **EVERY_STEP)
    before = straight.model.prototypes.weight.clone()
    straight.train()
    resumed = trainer_of(tmp_path / "resumed", tiny_mgca("vit", seed=9, frozen_prototype_epochs=2), **frozen)
    resumed.train(resume_from_checkpoint=str(tmp_path / "checkpoint-1"))
    assert torch.equal(resumed.model.prototypes.weight, before)
    assert not torch.equal(resumed.model.prototypes.weight, tiny_mgca("vit", seed=9).prototypes.weight)


def test_the_last_whole_checkpoint_is_taken_and_torn_ones_are_named(tmp_path, caplog):
    trainer_of(tmp_path, tiny_gloria("vit"), max_steps=3, **EVERY_STEP).train()
    assert last_checkpoint(tmp_path) == str(tmp_path / "checkpoint-3") and not caplog.records
    (tmp_path / "checkpoint-3" / "batches.json").unlink()
    shutil.rmtree(tmp_path / "checkpoint-2")
    (tmp_path / "checkpoint-2").mkdir()
    assert last_checkpoint(tmp_path) == str(tmp_path / "checkpoint-1")
    assert "checkpoint-3 and checkpoint-2" in caplog.text and "resuming from checkpoint-1" in caplog.text
    with pytest.raises(FileNotFoundError, match="checkpoint-3 is not a checkpoint.*or not written to the end"):
        trainer_of(tmp_path, tiny_gloria("vit")).train(resume_from_checkpoint=str(tmp_path / "checkpoint-3"))
    shutil.rmtree(tmp_path / "checkpoint-1")
    with pytest.raises(FileNotFoundError, match="checkpoint-2 was not written to the end; remove it"):
        last_checkpoint(tmp_path)
    with pytest.raises(FileNotFoundError, match="there is no checkpoint in .*nowhere to resume from$"):
        last_checkpoint(tmp_path / "nowhere")


@pytest.mark.parametrize("killed_in", ["_save", "_save_rng_state", "_batches"])
def test_a_run_killed_while_saving_goes_on_from_the_checkpoint_before(killed_in, tmp_path, monkeypatch):
    saving = {**EVERY_STEP, "save_total_limit": 1, "max_steps": 3}
    killed = trainer_of(tmp_path, tiny_gloria("vit"), **saving)
    write = getattr(killed, killed_in)

    class StaleMark(TrainerCallback):
        """What a run leaves that was resumed further back."""

        def on_save(self, args, state, control, **kwargs):
            (tmp_path / "checkpoint-2").mkdir()
            (tmp_path / "checkpoint-2" / "batches.json").write_text("{}")

    killed.add_callback(StaleMark())

    def kill(*args, **kwargs):
        if killed.state.global_step == 2:
            raise KeyboardInterrupt
        return write(*args, **kwargs)

    monkeypatch.setattr(killed, killed_in, kill)
    with pytest.raises(KeyboardInterrupt):
        killed.train()
    assert last_checkpoint(tmp_path) == str(tmp_path / "checkpoint-1")
    resumed = trainer_of(tmp_path, tiny_gloria("vit", seed=9), **saving)
    resumed.train(resume_from_checkpoint=last_checkpoint(tmp_path))
    assert [step for step, _ in losses(resumed)] == [1, 2, 3]
    assert [path.name for path in tmp_path.glob("checkpoint-*")] == ["checkpoint-3"]


def test_the_best_epoch_is_kept_and_loaded_at_the_end(tmp_path, monkeypatch):
    def trainer(limit: int, seed: int = 0, worse_from: int = 2):
        made = trainer_of(
            tmp_path / f"limit{limit}",
            tiny_gloria("vit", seed=seed),
            image_pairs(12, repeats=2, augmentation="none"),
            num_train_epochs=3,
            save_strategy="epoch",
            eval_strategy="epoch",
            save_total_limit=limit,
            load_best_model_at_end=True,
            metric_for_best_model="eval_loss",
        )
        evaluate = made.evaluate

        def measured(*args, **kwargs):
            metrics = evaluate(*args, **kwargs)
            metrics["eval_loss"] += 10 * (made.state.epoch >= worse_from)
            made.state.log_history[-1]["eval_loss"] = metrics["eval_loss"]
            return metrics

        monkeypatch.setattr(made, "evaluate", measured)
        return made

    kept = trainer(limit=1)
    steps = len(kept.train_sampler)
    kept.train()
    best = tmp_path / "limit1" / f"checkpoint-{steps}"
    assert [best] == list((tmp_path / "limit1").glob("checkpoint-*"))
    assert same_weights(kept.model, load_file(best / "model.safetensors"))
    assert kept.state.best_metric < 10 and kept.state.global_step == 3 * steps

    trainer(limit=2).train()
    names = {path.name for path in (tmp_path / "limit2").glob("checkpoint-*")}
    assert names == {f"checkpoint-{steps}", f"checkpoint-{3 * steps}"}
    resumed = trainer(limit=2, seed=9)  # of a finished run: not trained further
    resumed.train(resume_from_checkpoint=last_checkpoint(tmp_path / "limit2"))
    assert resumed.state.global_step == 3 * steps
    assert same_weights(resumed.model, kept.model.state_dict())
