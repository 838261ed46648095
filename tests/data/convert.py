"""Writes kd_hard_cases.bin, which the C++ tests read, from kd_hard_cases.npz.

Everything is little-endian and without padding. The file is an int64 count of cases, and for each
case

    name_length, value_size, rows, classes    int64; value_size is 4 (float32) or 8 (float64)
    name                                      name_length bytes of ASCII
    tau                                       float64
    student, teacher                          value_size-byte floats, (rows, classes)
    labels                                    int64, (rows,)
    hard, soft                                float64, (rows,): exact, without the weight alpha
    grad_hard, grad_soft                      float64, (rows, classes)

arrays row after row. Run it in its folder: python convert.py
"""

from pathlib import Path

import numpy as np


def main() -> None:
    folder = Path(__file__).parent
    with (
        np.load(folder / "kd_hard_cases.npz") as cases,
        open(folder / "kd_hard_cases.bin", "wb") as out,
    ):

        def write(values: object, kind: str) -> None:
            out.write(np.ascontiguousarray(values, dtype=kind).tobytes())

        count = int(cases["count"])
        write(count, "<i8")
        for i in range(count):
            name = str(cases[f"name_{i}"]).encode("ascii")
            student = cases[f"student_{i}"]
            write([len(name), student.itemsize, *student.shape], "<i8")
            out.write(name)
            write(cases[f"tau_{i}"], "<f8")
            for logits in ("student", "teacher"):
                write(cases[f"{logits}_{i}"], f"<f{student.itemsize}")
            write(cases[f"labels_{i}"], "<i8")
            for result in ("hard", "soft", "grad_hard", "grad_soft"):
                write(cases[f"{result}_{i}"], "<f8")


if __name__ == "__main__":
    main()
