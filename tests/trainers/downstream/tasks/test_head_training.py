import pytest
import torch

from trainers.downstream.tasks.detection_maps import DetectionSettings
from trainers.downstream.tasks.head_training import training_arguments
from trainers.downstream.tasks.segmentation import SegmentationSettings
from trainers.downstream.tasks.trained_head import HeadSettings

ALL = pytest.mark.parametrize("settings", [HeadSettings, SegmentationSettings, DetectionSettings])


@ALL
@pytest.mark.parametrize(("name", "value"), [("epochs", 0), ("patience", 0), ("batch_size", 0), ("device", "tpu")])
def test_settings_that_mean_nothing_are_refused(settings, name, value):
    with pytest.raises(ValueError, match=f"{name} '?{value}"):
        settings(**{name: value})


@ALL
@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_gpu_that_is_not_there_is_not_passed_over(settings):
    with pytest.raises(ValueError, match="torch sees no GPU"):
        settings(device="cuda")


@ALL
def test_heads_are_trained_at_a_constant_rate_without_clipping_by_seed(settings, tmp_path):
    arguments = training_arguments(str(tmp_path), settings(epochs=3, batch_size=5), seed=7)
    assert (arguments.num_train_epochs, arguments.per_device_train_batch_size, arguments.seed) == (3, 5, 7)
    assert arguments.lr_scheduler_type == "constant" and arguments.max_grad_norm == 0 and arguments.n_gpu <= 1
