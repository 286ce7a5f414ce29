"""The command line of `medsyn pretrain`: help, early usage errors, YAML files of options, packaged configurations."""

import re
import subprocess
import sys

import pytest
import yaml

from trainers.arguments import COMMON, launch_config, launch_configs
from trainers.pretrain import main, parse

NEEDED = ["--output_dir", "out"]


def test_the_short_help_shows_our_options_and_the_common_ones_once(capsys):
    with pytest.raises(SystemExit, match="0"):
        main(["--help"])
    shown = capsys.readouterr().out
    titles = ["\nthe run:\n", "\nthe model:\n", "\nthe data:\n", "\nthe training (common"]
    assert sorted(titles, key=shown.index) == titles
    for name in (*COMMON, "model", "dataset", "config", "help-all"):
        assert len(re.findall(rf"^  --{name}\b", shown, re.MULTILINE)) == 1, name
    assert "--fsdp" not in shown


def test_help_all_adds_the_options_of_transformers(capsys):
    with pytest.raises(SystemExit, match="0"):
        main(["--help-all"])
    shown = capsys.readouterr().out
    assert all(f"--{name}" in shown for name in (*COMMON, "model", "dataset", "fsdp", "deepspeed"))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--model", "clip"], "invalid choice: 'clip'"),
        (["--preset", "best"], "invalid choice: 'best'"),
        (["--image_size", "large"], "invalid int value: 'large'"),
        ([], "required: --output_dir"),
        (["--print-config", "tpu"], "invalid choice: 'tpu'"),
    ],
)
def test_a_typo_and_help_cost_no_import_of_torch(arguments, message):
    program = (
        "import sys\nfrom trainers.pretrain import main\n"
        f"try:\n    main({arguments!r})\nexcept SystemExit as stop:\n"
        "    assert not {'torch', 'transformers'} & set(sys.modules)\n    sys.exit(stop.code)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 2 and message in done.stderr, done.stderr


def test_flags_win_over_the_file_and_the_file_over_the_preset(tmp_path):
    file = tmp_path / "run.yaml"
    file.write_text(
        "model: mgca\nlearning_rate: 1.0e-3\ntext_columns: [findings, impression]\nbf16: null\nuse-cpu: true\n"
        "num_train_epochs: 7\nhorizontal_flip: true\n"
    )
    model, data, training = parse([*NEEDED, "--config", str(file), "--num_train_epochs", "3"])
    assert model.model == "mgca" and data.text_columns == ["findings", "impression"] and data.horizontal_flip
    assert training.learning_rate == 1e-3 and training.use_cpu and training.num_train_epochs == 3
    assert parse([*NEEDED, f"--config={file}"])[2].num_train_epochs == 7


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("a: [", "run.yaml is not a YAML file"),
        ("- 1\n- 2\n", "run.yaml holds no options"),
        ("", "run.yaml holds no options"),
        ("optim: {name: adam}\n", "run.yaml: the value of 'optim' is nested"),
        ("learning_rat: 1\n", "run.yaml names 'learning_rat', which is no option"),
    ],
)
def test_a_file_that_cannot_be_used_is_named(content, message, tmp_path, capsys):
    (tmp_path / "run.yaml").write_text(content)
    assert main([*NEEDED, "--config", str(tmp_path / "run.yaml")]) == 1
    assert message in capsys.readouterr().err
    assert main([*NEEDED, "--config", str(tmp_path / "none.yaml")]) == 1
    assert "none.yaml: No such file" in capsys.readouterr().err


@pytest.mark.parametrize("name", launch_configs())
def test_packaged_configurations_are_printed(name, capsys):
    assert main(["--print-config", name]) == 0
    assert yaml.safe_load(capsys.readouterr().out) == yaml.safe_load(launch_config(name))


def test_early_stopping_keeps_the_best(capsys):
    training = parse([*NEEDED, "--early_stopping_patience", "2", "--use_cpu"])[2]
    assert training.load_best_model_at_end and training.metric_for_best_model == "eval_loss"
    assert training.greater_is_better is False
    with pytest.raises(SystemExit, match="2"):
        main([*NEEDED, "--early_stopping_patience", "0"])
    assert "early_stopping_patience=0 is below 1" in capsys.readouterr().err
