"""The benchmark of dense heads runs whole, on a small encoder, and its sizes are those of the feature maps."""

from benchmarks import dense_step

SMALL = ["--encoder", "mobilenetv3_small_050", "--batch-size", "2", "--repeats", "1"]


def cells(capsys) -> list[str]:
    row = next(line for line in capsys.readouterr().out.splitlines() if line.startswith("| mobilenetv3"))
    return [cell.strip() for cell in row.strip("|").split("|")]


def test_segment(capsys):
    assert dense_step.main(["segment", *SMALL, "--size", "32"]) == 0
    # float32 maps of an image: 16 x 16 x 16, 8 x 8 x 8, 16 x 4 x 4, 24 x 2 x 2 and 288 x 1 x 1
    assert cells(capsys)[-1] == f"{(4096 + 512 + 256 + 96 + 288) * 4 / 1e6:.1f}"


def test_detect(capsys):
    assert dense_step.main(["detect", *SMALL, "--neck-width", "8", "--size", "64", "--image", "96"]) == 0
    row = cells(capsys)
    assert row[:2] == ["mobilenetv3_small_050", "8"] and float(row[5]) > 1
    # float32 maps of an image: 288 x 2 x 2, 24 x 4 x 4 and 16 x 8 x 8
    assert row[6] == f"{(1152 + 384 + 1024) * 4 / 1e6:.1f}"
