"""A small CNN in PyTorch, from scratch, on an exported split; it needs torch, pandas and Pillow, not this package.

    python docs/pytorch_example.py MANIFEST IMAGES OUT

MANIFEST is the table that `crackutils splits` writes, IMAGES the folder with Negative/ and Positive/. It writes
OUT/test.csv and OUT/val.csv, with the columns file and p_crack.
"""

import sys
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from PIL import Image
from torch import nn

SIDE, EPOCHS, BATCH = 96, 8, 64


def read_part(table: pd.DataFrame, images: Path) -> tuple[torch.Tensor, torch.Tensor]:
    """Return pictures, uint8 (n, 3, SIDE, SIDE), and labels, float (n,)."""
    pictures = [Image.open(images / file).convert("RGB").resize((SIDE, SIDE)) for file in table["file"]]
    pixels = torch.from_numpy(np.stack([np.asarray(picture) for picture in pictures])).permute(0, 3, 1, 2)
    return pixels, torch.tensor(table["label"].to_numpy(), dtype=torch.float32)


def build() -> nn.Sequential:
    """Return four blocks of convolution, BatchNorm, ReLU and pooling, and one logit."""
    layers: list[nn.Module] = []
    for before, after in ((3, 16), (16, 32), (32, 64), (64, 128)):
        layers += [
            nn.Conv2d(before, after, 3, padding=1, bias=False),
            nn.BatchNorm2d(after),
            nn.ReLU(),
            nn.MaxPool2d(2),
        ]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Dropout(0.2), nn.Linear(128, 1))


def predict(model: nn.Module, pixels: torch.Tensor) -> torch.Tensor:
    """Return the logits of pictures, (n,)."""
    model.eval()
    with torch.no_grad():
        return torch.cat([model(batch / 255).squeeze(1) for batch in pixels.split(BATCH)])


def main(manifest: str, images: str, out: str) -> None:
    """Train, keep the epoch with the lowest validation loss, and write predictions."""
    torch.manual_seed(0)
    parts = dict(list(pd.read_csv(manifest).groupby("split")))
    x, y = read_part(parts["train"], Path(images))
    x_val, y_val = read_part(parts["val"], Path(images))
    model, loss, best = build(), nn.BCEWithLogitsLoss(), (float("inf"), {})
    adam = torch.optim.Adam(model.parameters(), 2e-3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(adam, EPOCHS)
    for epoch in range(EPOCHS):
        model.train()
        for rows in torch.randperm(len(x)).split(BATCH):
            flips = [side for side in (2, 3) if torch.rand(1) < 0.5]
            adam.zero_grad()
            loss(model(x[rows].flip(flips) / 255).squeeze(1), y[rows]).backward()
            adam.step()
        schedule.step()
        measured = loss(predict(model, x_val), y_val).item()
        print(f"epoch {epoch + 1}: validation loss {measured:.4f}", flush=True)
        best = min(best, (measured, {k: v.clone() for k, v in model.state_dict().items()}), key=lambda pair: pair[0])
    model.load_state_dict(best[1])
    Path(out).mkdir(parents=True, exist_ok=True)
    for part in ("val", "test"):
        p = torch.sigmoid(predict(model, read_part(parts[part], Path(images))[0])).numpy()
        parts[part][["file"]].assign(p_crack=p).to_csv(Path(out) / f"{part}.csv", index=False)


if __name__ == "__main__":
    main(*sys.argv[1:])
