"""The segmentation benchmarks run whole, on drawn lungs and a small encoder."""

import numpy as np
import pandas as pd
from PIL import Image

from benchmarks import segmentation_lungs


def test_lungs(tmp_path):
    folder, rows = tmp_path / "covid_cohen", []
    (folder / "masks").mkdir(parents=True)
    rng = np.random.default_rng(0)
    for number in range(20):
        mask = np.zeros((40, 48), dtype=np.uint8)
        mask[8:34, 6:20] = mask[8:34, 28:42] = 255
        name = f"{number}.png"
        Image.fromarray(np.clip(rng.normal(180, 20, mask.shape) - mask / 2, 0, 255).astype(np.uint8)).save(
            folder / name
        )
        Image.fromarray(mask).save(folder / "masks" / name)
        rows.append({"file": name, "patient_id": f"patient{number}", "lung_mask": f"masks/{name}" if number else ""})
    pd.DataFrame(rows).to_csv(folder / "covid_cohen.csv", index=False)
    arguments = ["--real-data", str(tmp_path), "--encoder", "small=random:mobilenetv3_small_050", "--size", "32"]
    arguments += [
        "--epochs",
        "1",
        "--seeds",
        "1",
        "--out",
        str(tmp_path / "out"),
        "--pictures",
        str(tmp_path / "seen"),
    ]
    assert segmentation_lungs.main(arguments) == 0
    table = pd.read_csv(tmp_path / "out" / "segmentation_lungs.csv").set_index("encoder")
    assert list(table.index) == ["mean training mask", "small"]
    assert table.loc["mean training mask", "dice_per_image"] > 0.9  # all lungs are where they always are
    assert table.loc["small", "epochs"] == 1 and 0 <= table.loc["small", "dice_official"] <= 1
    assert "5 test images of covid_cohen (11 to learn from, 3 to stop by" in (
        tmp_path / "out" / "segmentation_lungs.md"
    ).read_text(encoding="utf-8")
    assert Image.open(tmp_path / "seen" / "small.png").size == (1024, 512)
