"""Train torchvision's ResNet-18 on an exported split; it needs torchvision, pandas and Pillow, not this package.

    python docs/pytorch_example.py MANIFEST IMAGES OUT [imagenet]

MANIFEST is the table that `crackutils splits` writes, IMAGES the folder with Negative/ and Positive/. It writes
OUT/test.csv and OUT/val.csv, with the columns file and p_crack. With `imagenet` it starts from pretrained weights,
which torchvision downloads, else from random ones.
"""

import sys
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from PIL import Image
from torchvision.models import ResNet18_Weights, resnet18
from torchvision.transforms.v2.functional import normalize

SIDE, EPOCHS, BATCH = 96, 5, 32


def read_part(table: pd.DataFrame, images: Path) -> tuple[torch.Tensor, torch.Tensor]:
    """Return pictures, float (n, 3, SIDE, SIDE) as ImageNet's are normalised, and labels, float (n,)."""
    pictures = [Image.open(images / file).convert("RGB").resize((SIDE, SIDE)) for file in table["file"]]
    pixels = torch.from_numpy(np.stack([np.asarray(picture) for picture in pictures])).permute(0, 3, 1, 2) / 255
    x = normalize(pixels, [0.485, 0.456, 0.406], [0.229, 0.224, 0.225])
    return x, torch.tensor(table["label"].to_numpy(), dtype=torch.float32)


def predict(model: torch.nn.Module, x: torch.Tensor) -> torch.Tensor:
    """Return the logits of pictures, (n,)."""
    model.eval()
    with torch.no_grad():
        return torch.cat([model(batch).squeeze(1) for batch in x.split(BATCH)])


def main(manifest: str, images: str, out: str, weights: str = "random") -> None:
    """Train, keep the epoch with the lowest validation loss, and write predictions."""
    torch.manual_seed(0)
    parts = dict(list(pd.read_csv(manifest).groupby("split")))
    (x, y), (x_val, y_val) = (read_part(parts[name], Path(images)) for name in ("train", "val"))
    model = resnet18(weights=ResNet18_Weights.DEFAULT if weights == "imagenet" else None)
    model.fc = torch.nn.Linear(model.fc.in_features, 1)
    loss, adam = torch.nn.BCEWithLogitsLoss(), torch.optim.AdamW(model.parameters(), 1e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(adam, 1e-3, epochs=EPOCHS, steps_per_epoch=-(-len(x) // BATCH))
    best = (float("inf"), {})
    for epoch in range(EPOCHS):
        model.train()
        for rows in torch.randperm(len(x)).split(BATCH):
            flips = [side for side in (2, 3) if torch.rand(1) < 0.5]
            adam.zero_grad()
            loss(model(x[rows].flip(flips)).squeeze(1), y[rows]).backward()
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
