"""Distillation in two processes with PyTorch's DistributedDataParallel, and in one, compared.

    python examples/torch_ddp.py [--steps 20]

The model and the padded sequences are those of torch_characters.py. The two processes get unequal
numbers of characters. DistributedDataParallel averages gradients over the processes, so each
process divides its loss by the characters of the whole batch over the number of processes.
"""

import argparse
import tempfile
from pathlib import Path

try:
    import torch
    from torch_characters import PADDING, Characters, Texts, bits_per_character, read_texts, train

    from kdloss.torch import kd_loss
except ImportError as error:
    raise SystemExit(
        f"torch_ddp.py: error: {error}; pip install 'kdloss[examples,torch]'"
    ) from None

PROCESSES = 2
BATCH = 32


def distil(rank: int, processes: int, steps: int, folder: Path) -> None:
    """Train the student in one of some processes; the first one saves it."""
    torch.set_num_threads(1)
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{folder}/meet{processes}", rank=rank, world_size=processes
    )
    task = torch.load(folder / "task.pt")
    symbols = task["symbols"]
    teacher, student = Characters(symbols, 96), Characters(symbols, 32)
    teacher.load_state_dict(task["teacher"])
    student.load_state_dict(task["student"])
    model = torch.nn.parallel.DistributedDataParallel(student)
    optimizer = torch.optim.SGD(model.parameters(), 1.0)
    for step in range(steps):
        first = step * BATCH % (len(task["texts"][0]) - BATCH)
        batch = Texts(*(x[first : first + BATCH] for x in task["texts"]))
        mine = Texts(*(x[rank::processes] for x in batch))
        characters = (batch.following != PADDING).sum()
        with torch.no_grad():
            logits = teacher(mine.symbols)
        loss = kd_loss(
            model(mine.symbols), logits, mine.following, tau=2.0, normalizer=characters / processes
        )
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    if rank == 0:
        torch.save(student.state_dict(), folder / f"student{processes}.pt")
    torch.distributed.barrier()
    torch.distributed.destroy_process_group()


def main() -> None:
    """Train in one process and in two, and print how far the two students are apart."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=20, help="steps of the student (20)")
    steps = parser.parse_args().steps
    torch.set_num_threads(1)
    torch.manual_seed(0)
    texts, symbols = read_texts()
    held_out = Texts(*(x[:200] for x in texts))
    teacher = train(Characters(symbols, 96), Texts(*(x[200:] for x in texts)), epochs=2)
    task = {
        "symbols": symbols,
        "texts": [x[200:] for x in texts],
        "teacher": teacher.state_dict(),
        "student": Characters(symbols, 32).state_dict(),
    }
    students = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        torch.save(task, folder / "task.pt")
        for processes in (1, PROCESSES):
            torch.multiprocessing.spawn(distil, (processes, steps, folder), processes)
            students.append(torch.load(folder / f"student{processes}.pt"))
    one, two = students
    apart = max((one[key] - two[key]).abs().max().item() for key in one)
    model = Characters(symbols, 32)
    model.load_state_dict(two)
    print(f"largest difference of a weight, one process and two: {apart:.1e}")
    print(f"bits per character on held-out texts: {bits_per_character(model, held_out):.2f}")


if __name__ == "__main__":
    main()
