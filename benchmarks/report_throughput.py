"""How fast a MIMIC-CXR folder is read: parse, find the sections, clean, count and label, and how much memory it takes.

A folder in MIMIC-CXR's layout (zipped reports, metadata, split) is made of reports of our grammar and read through
`read_mimic_cxr` and `Funnel`; every kept report is labelled. One process. The reader remembers sentences that it has
read, and the grammar repeats itself more than people do, so there are two rows: `remembered`, and `forgotten`, where
its memory is cleared before each report: the slowest there can be. Peak memory is that of the reading process (Linux),
taken at a quarter of the reports and at the end: what grows is the index of studies and ids. `minutes_for_227835` is
the rate scaled to all of MIMIC-CXR, not a measurement.

    python benchmarks/report_throughput.py --num-samples 20000
"""

from __future__ import annotations

import argparse
import gzip
import multiprocessing
import tempfile
import time
import zipfile
from pathlib import Path

from benchmarks.record import machine_facts, write_csv
from dataset_builder.reports.grammar import write_reports

MIMIC_CXR_STUDIES = 227_835


def write_folder(folder: Path, num_samples: int) -> None:
    """`num_samples` studies of one image each."""
    with (
        zipfile.ZipFile(folder / "mimic-cxr-reports.zip", "w", zipfile.ZIP_DEFLATED) as archive,
        gzip.open(folder / "mimic-cxr-2.0.0-metadata.csv.gz", "wt") as metadata,
        gzip.open(folder / "mimic-cxr-2.0.0-split.csv.gz", "wt") as split,
    ):
        metadata.write("dicom_id,subject_id,study_id,ViewPosition\n")
        split.write("dicom_id,study_id,subject_id,split\n")
        for number, record in enumerate(write_reports(num_samples)):
            subject, study = 10_000_000 + number // 3, 50_000_000 + number
            archive.writestr(f"files/p{str(subject)[:2]}/p{subject}/s{study}.txt", record.report)
            metadata.write(f"{number:044x},{subject},{study},{record.view or 'PA'}\n")
            split.write(f"{number:044x},{study},{subject},train\n")


def peak_megabytes() -> float:
    status = Path("/proc/self/status").read_text()
    return int(next(line for line in status.splitlines() if line.startswith("VmHWM")).split()[1]) / 1024


def read_folder(folder: Path, forget: bool, quarter: int) -> tuple[int, float, float, float]:
    """(reports, seconds, peak MB after the first quarter, peak MB at the end)."""
    from dataset_builder.pipeline.rows import text_labels
    from dataset_builder.reports import labeler
    from dataset_builder.reports.funnel import Funnel
    from dataset_builder.reports.mimic_cxr import read_mimic_cxr

    started = time.perf_counter()
    funnel = Funnel()
    early = 0.0
    for number, record in enumerate(funnel(read_mimic_cxr(folder)), start=1):
        if forget:
            labeler._read_sentence.cache_clear()
            labeler._read_labels.cache_clear()
        text_labels(record)
        if number == quarter:
            early = peak_megabytes()
    return funnel.counts["all"], time.perf_counter() - started, early, peak_megabytes()


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--num-samples", type=int, default=20_000, help="reports to write and read")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/report_throughput.csv"), help="table to write")
    args = parser.parse_args(argv)

    rows = []
    spawn = multiprocessing.get_context("spawn")
    with tempfile.TemporaryDirectory() as folder:
        write_folder(Path(folder), args.num_samples)
        for sentences in ("remembered", "forgotten"):
            with spawn.Pool(1) as pool:  # a process of its own, so that each has its own peak
                read = pool.apply(read_folder, (Path(folder), sentences == "forgotten", args.num_samples // 4))
            reports, seconds, early, peak = read
            minutes = MIMIC_CXR_STUDIES / (reports / seconds) / 60
            rows.append(
                {
                    "sentences": sentences,
                    "reports": reports,
                    "seconds": round(seconds, 1),
                    "reports_per_second": round(reports / seconds),
                    "minutes_for_227835": round(minutes, 1),
                    "peak_mb_quarter": round(early),
                    "peak_mb": round(peak),
                    **machine_facts(),
                }
            )
    write_csv(args.out, rows)
    print(args.out.read_text())
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
