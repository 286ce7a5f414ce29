"""The detection benchmark runs whole, on a small encoder."""

from benchmarks import detection_step


def test_step(capsys):
    small = ["--encoder", "mobilenetv3_small_050", "--neck-width", "8", "--size", "64", "--film", "96"]
    assert detection_step.main([*small, "--batch-size", "2", "--repeats", "1"]) == 0
    row = next(line for line in capsys.readouterr().out.splitlines() if line.startswith("| mobilenetv3"))
    cells = [cell.strip() for cell in row.strip("|").split("|")]
    assert cells[:2] == ["mobilenetv3_small_050", "8"] and float(cells[5]) > 1
    # float32 maps of an image: 288 x 2 x 2, 24 x 4 x 4 and 16 x 8 x 8
    assert cells[6] == f"{(1152 + 384 + 1024) * 4 / 1e6:.1f}"
