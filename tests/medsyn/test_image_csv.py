import json

import pytest

from medsyn.image_csv import Box, ImageColumns, image_rows

ALL = ImageColumns(view="view", boxes="boxes", mask="mask", annotated="looked")


def write(folder, header, *rows):
    path = folder / "images.csv"
    path.write_text("\n".join([header, *rows]) + "\n")
    return path


def test_every_column_is_read(tmp_path):
    boxes = json.dumps([{"label": "Mass", "x": 1, "y": 2, "w": 3, "h": 4}]).replace('"', '""')
    path = write(
        tmp_path,
        "file,patient_id,labels,split,view,boxes,mask,looked",
        f'a.png,p1, Edema | Mass|,VAL,PA,"{boxes}",m.png,yes',
        "b.png,p2,,test,,[],,",
        "c.png,p3,,dev,,,,",
    )
    first, second, third = image_rows(path, ALL)
    assert (first.file, first.patient, first.split, first.view) == ("a.png", "p1", "validation", "PA")
    assert first.labels == ("Edema", "Mass") and first.mask == "m.png" and first.annotated
    assert first.boxes == (Box("Mass", 1, 2, 3, 4),) and first.boxes[0].corners == (1, 2, 4, 6)
    assert second.boxes == () and third.boxes is None  # nothing found; nobody looked
    assert second.mask is second.view is None and second.labels == () and not second.annotated
    assert first.where == f"{path}, row 1"


def test_only_named_columns_are_needed(tmp_path):
    path = write(tmp_path, "image,who", "a.png,p1")
    (row,) = image_rows(path, ImageColumns("image", "who", labels=None, split=None))
    assert row.split is None and row.labels == () and row.boxes is None
    with pytest.raises(ValueError, match="no column 'split'"):
        list(image_rows(path, ImageColumns("image", "who", labels=None)))


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (",p1,,train,,,,", "row 2: names no file; fill 'file' or remove the row"),
        ("a.png, ,,train,,,,", "row 2: names no patient; fill 'patient_id'"),
        ("a.png,unknown,,train,,,,", "row 2: names no patient"),
        ("a.png,XXXX,,train,,,,", "row 2: names no patient"),
        (
            'a.png,p1,,train,,"[{""label"": null, ""x"": 1, ""y"": 1, ""w"": 1, ""h"": 1}]",,',
            "row 2: box x 1, y 1, w 1, h 1 names no finding",
        ),
        ("a.png,p1,,holdout,,,,", "row 2: split 'holdout' is not one of train"),
        ("a.png,p1,,,,,,", "row 2: split '' is not one of train"),
        ("a.png,p1,,train,,nothing,,", "row 2: the boxes are not"),
        (
            'a.png,p1,,train,,"[{""label"": null, ""x"": 1, ""y"": 1, ""w"": 1, ""h"": 1}]",,',
            "row 2: box x 1, y 1, w 1, h 1 names no finding",
        ),
        ('a.png,p1,,train,,"[{""label"": ""Mass"", ""x"": 1}]",,', "row 2: the boxes are not"),
        (
            'a.png,p1,,train,,"[{""label"": ""Mass"", ""x"": 1e999, ""y"": 1, ""w"": 1, ""h"": 1}]",,',
            "row 2: box x inf, y 1, w 1, h 1 is not made of finite numbers",
        ),
    ],
)
def test_bad_rows_are_named_with_the_remedy(tmp_path, row, message):
    path = write(tmp_path, "file,patient_id,labels,split,view,boxes,mask,looked", "x.png,p0,,test,,,,", row)
    with pytest.raises(ValueError, match=message):
        list(image_rows(path, ALL))


@pytest.mark.parametrize("nothing", ["nan", "None", "N/A", "<NA>"])
def test_spellings_of_nothing_are_empty(tmp_path, nothing):
    header = "file,patient_id,labels,split,view,boxes,mask,looked"
    path = write(tmp_path, header, f"a.png,p1,{nothing},test,{nothing},{nothing},{nothing},{nothing}")
    (row,) = image_rows(path, ALL)
    assert row.labels == () and row.boxes is row.mask is row.view is None and not row.annotated
    with pytest.raises(ValueError, match="row 1: names no patient"):
        list(image_rows(write(tmp_path, header, f"a.png,{nothing},,test,,,,"), ALL))
    with pytest.raises(ValueError, match="row 1: split '' is not one of"):
        list(image_rows(write(tmp_path, header, f"a.png,p1,,{nothing},,,,"), ALL))


def test_a_label_of_nothing_beside_others_is_left_out(tmp_path):
    path = write(tmp_path, "file,patient_id,labels,split", "a.png,p1,Edema|None| nan |<NA>|Mass,train")
    (row,) = image_rows(path, ImageColumns())
    assert row.labels == ("Edema", "Mass")
