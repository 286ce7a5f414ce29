"""How many keyed hashes of Open-i's reports somebody guesses who has the commonest sections of other reports.

```bash
python benchmarks/report_hash_guessing.py --data <folder of reports.jsonl>
```

Every second report is attacked with the 1,000 commonest texts of each section, counted on the others. A report is
guessed if each of its sections is among them: the attacker tries all combinations under every study id.
"""

from __future__ import annotations

import argparse
import csv
import json
import sys
from collections import Counter
from pathlib import Path
from unittest import mock

from hub_medsyn.policy.report_hashes import report_hashes

FORMS = {"findings and impression": ("findings", "impression")}
FORMS["whole report"] = ("indication", "comparison", "findings", "impression")


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="folder of reports.jsonl")
    parser.add_argument("--commonest", type=int, default=1000, help="texts of each section that are known")
    parser.add_argument("--out", type=Path, default=Path(__file__).with_suffix(".csv"))
    args = parser.parse_args(argv)
    rows = [json.loads(line) for line in (args.data / "reports.jsonl").read_text(encoding="utf-8").splitlines()]
    rows = [row for row in rows if row["impression"] and row["findings"]]
    known, attacked = rows[::2], rows[1::2]
    with open(args.out, "w", newline="") as file:
        writer = csv.writer(file)
        header = ["report", "min_other_words", "reports", "hashed", "guessed", "hashed_no_stock", "guessed_no_stock"]
        writer.writerow(header)
        for form, sections in FORMS.items():
            lists = {
                name: {text for text, _ in Counter(row[name] for row in known).most_common(args.commonest)}
                for name in sections
            }
            likely = [all(row[name] in lists[name] for name in sections) for row in attacked]
            whole = ["\n".join(f"{name.upper()}: {row[name]}" for name in sections) for row in attacked]
            reports = [
                (text, row["impression"], str(row["uid"]), str(row["uid"]))
                for text, row in zip(whole, attacked, strict=True)
            ]
            for words in (0, 15, 25, 30, 35, 40, 45):
                with mock.patch.object(report_hashes, "MIN_OTHER_WORDS", words):
                    each = [report_hashes.report_hash(*report[:3]) for report in reports]
                    unique = report_hashes.report_hashes(reports)
                counts = []
                for hashes in (each, unique):
                    counts.append(sum(hashed is not None for hashed in hashes))
                    counts.append(
                        sum(hashed is not None and guess for hashed, guess in zip(hashes, likely, strict=True))
                    )
                writer.writerow([form, words, len(reports), *counts])
    print(args.out.read_text(), end="")
    return 0


if __name__ == "__main__":
    sys.exit(main())
