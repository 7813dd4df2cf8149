"""Fine-tune a network of torchvision with selective adversarial training, save it, and load it in plain torch.

    python examples/own_loop.py [weights.pt]

No data and no weights are downloaded: the images are made here. Put your own in place of `images` and `network`.
"""

import sys
from pathlib import Path

import torch
import torchvision
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, TensorDataset

from seladv import pgd, select

ATTACK = {"eps": 8 / 255, "step_size": 2 / 255, "steps": 3}
CLASSES = 3
SIZE = 16


def images(count: int, seed: int) -> TensorDataset:
    """Images [count, 3, SIZE, SIZE] in [0, 1]: upright, lying and no stripes in noise; and their classes [count]."""
    generator = torch.Generator().manual_seed(seed)
    y = torch.randint(CLASSES, (count,), generator=generator)
    wave = 0.15 * torch.sin(torch.arange(SIZE) * torch.pi / 4)
    patterns = torch.stack([wave.expand(SIZE, SIZE), wave[:, None].expand(SIZE, SIZE), torch.zeros(SIZE, SIZE)])
    noise = 0.1 * torch.randn(count, 3, SIZE, SIZE, generator=generator)
    return TensorDataset((0.5 + patterns[y, None] + noise).clamp(0, 1), y)


def network(weights: str | None = None) -> nn.Module:
    """A ResNet-18 that normalises its images inside. `weights="DEFAULT"` downloads ImageNet's, to fine-tune."""
    model = torchvision.models.resnet18(weights=weights)
    model.fc = nn.Linear(model.fc.in_features, CLASSES)  # a head for these classes
    return nn.Sequential(torchvision.transforms.Normalize([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]), model)


def train(model: nn.Module, batches: DataLoader[tuple[Tensor, ...]], *, epochs: int, device: str) -> None:
    """The loop of the README: half of every batch is attacked."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    bf16 = device.startswith("cuda") and torch.cuda.is_bf16_supported(including_emulation=False)
    for epoch in range(epochs):
        for x, y in batches:
            x, y = x.to(device, copy=True), y.to(device)  # a copy: the next lines write into x
            with torch.autocast(x.device.type, torch.bfloat16, enabled=bf16):
                chosen = select(model, x, y, len(x) // 2, by="margin")
                x[chosen] = pgd(model, x[chosen], y[chosen], **ATTACK)
                loss = cross_entropy(model(x), y)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        print(f"epoch {epoch + 1}: loss {loss.item():.3f}")


def accuracy(model: nn.Module, data: TensorDataset, *, attacked: bool, device: str) -> float:
    """Percent of the images that are classified correctly, clean or under PGD."""
    x, y = (part.to(device) for part in data.tensors)
    model.eval()
    x = pgd(model, x, y, **ATTACK) if attacked else x
    with torch.no_grad():
        return 100 * (model(x).argmax(dim=1) == y).float().mean().item()


def main(path: Path, *, count: int = 192, epochs: int = 3) -> None:
    """Train, save, load again, and evaluate what was loaded."""
    torch.manual_seed(0)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    model = network().to(device)
    train(model, DataLoader(images(count, seed=0), batch_size=16, shuffle=True), epochs=epochs, device=device)
    torch.save(model.state_dict(), path)

    loaded = network().to(device)
    loaded.load_state_dict(torch.load(path, weights_only=True))
    test = images(count // 3, seed=1)
    clean, robust = (accuracy(loaded, test, attacked=attacked, device=device) for attacked in (False, True))
    print(f"{path}: clean {clean:.1f} %, under PGD {robust:.1f} %")


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "weights.pt"))
