"""A small character model distilled from a larger one, on padded sequences, with PyTorch.

    python examples/torch_characters.py [--seeds 1] [--epochs 60]

The texts are the Spanish messages of the Django wheel. Sequences are padded with the label -100,
and the loss is the mean over the characters of a batch.
"""

import argparse
import math
import statistics
from typing import NamedTuple

try:
    import torch
    from languages import read_catalogues
    from torch import Tensor

    from kdloss.torch import kd_loss
except ImportError as error:
    raise SystemExit(
        f"torch_characters.py: error: {error}; pip install 'kdloss[examples,torch]'"
    ) from None

PADDING = -100
END = 0  # the symbol before and after each text
LONGEST = 80
BATCH = 32


class Texts(NamedTuple):
    """Symbols (texts, length) and the symbol that follows each, PADDING after the end."""

    symbols: Tensor
    following: Tensor


class Characters(torch.nn.Module):
    """Logits (..., length, symbols) of the next symbol, from a GRU."""

    def __init__(self, symbols: int, width: int) -> None:
        super().__init__()
        self.embedding = torch.nn.Embedding(symbols, 32)
        self.gru = torch.nn.GRU(32, width, batch_first=True)
        self.output = torch.nn.Linear(width, symbols)

    def forward(self, symbols: Tensor) -> Tensor:
        logits: Tensor = self.output(self.gru(self.embedding(symbols))[0])
        return logits


def read_texts() -> tuple[Texts, int]:
    """Spanish texts in random order, and the number of symbols."""
    texts = [row.text[:LONGEST] for row in read_catalogues() if row.language == "es"]
    alphabet = {c: i for i, c in enumerate(sorted(set("".join(texts))), start=1)}
    symbols = torch.full((len(texts), LONGEST + 1), END)
    following = torch.full_like(symbols, PADDING)
    for i, text in enumerate(texts):
        code = torch.tensor([alphabet[c] for c in text])
        symbols[i, 1 : len(text) + 1] = following[i, : len(text)] = code
        following[i, len(text)] = END
    order = torch.randperm(len(texts))
    return Texts(symbols[order], following[order]), len(alphabet) + 1


def train(
    model: torch.nn.Module, texts: Texts, epochs: int, teacher: torch.nn.Module | None = None
) -> torch.nn.Module:
    """Adam on the loss; without a teacher, on the texts alone."""
    optimizer = torch.optim.Adam(model.parameters(), 5e-3)
    for _ in range(epochs):
        for rows in torch.randperm(len(texts.symbols)).split(BATCH):
            symbols, following = texts.symbols[rows], texts.following[rows]
            if teacher is None:
                loss = kd_loss(model(symbols), None, following, alpha=1.0)
            else:
                with torch.no_grad():
                    logits = teacher(symbols)
                loss = kd_loss(model(symbols), logits, following, alpha=0.5, tau=2.0)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    return model


@torch.no_grad()
def bits_per_character(model: torch.nn.Module, texts: Texts) -> float:
    loss = kd_loss(model(texts.symbols), None, texts.following, alpha=1.0)
    return loss.item() / math.log(2)


def run(seed: int, epochs: int) -> dict[str, float]:
    """Bits per character on held-out texts."""
    torch.manual_seed(seed)
    texts, symbols = read_texts()
    held_out, students, teachers = (
        Texts(*(x[part] for x in texts))
        for part in (slice(0, 200), slice(200, 400), slice(400, None))
    )
    large = train(Characters(symbols, 128), teachers, epochs // 5)
    alone = train(Characters(symbols, 32), students, epochs)
    distilled = train(Characters(symbols, 32), students, epochs, large)
    return {
        "200 texts": bits_per_character(alone, held_out),
        "+ teacher, same texts": bits_per_character(distilled, held_out),
        "the teacher itself": bits_per_character(large, held_out),
    }


def main() -> None:
    """Print the mean and standard deviation over the seeds."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=1, help="how many seeds (1)")
    parser.add_argument("--epochs", type=int, default=60, help="epochs of the student (60)")
    options = parser.parse_args()
    torch.set_num_threads(1)  # the networks are too small for more
    runs = [run(seed, options.epochs) for seed in range(options.seeds)]
    print("bits per character on 200 held-out texts")
    for name in runs[0]:
        found = [bits[name] for bits in runs]
        spread = statistics.stdev(found) if len(found) > 1 else 0.0
        print(f"{name:22} {statistics.mean(found):.2f} ± {spread:.2f}")


if __name__ == "__main__":
    main()
