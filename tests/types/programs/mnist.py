"""The two nets of the examples, trained as a user would write it, with every name annotated."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator

import numpy as np

import tilegrad as tg
from tilegrad import Tensor, nn, optim
from tilegrad.data import DataLoader, Dataset, Subset, TensorDataset, image_batch, mnist, random_split
from tilegrad.nn import functional as F


class MLP(nn.Module):
    def __init__(self, hidden: int = 128, p: float = 0.1) -> None:
        super().__init__()
        self.layers = nn.ModuleList([nn.Linear(784, hidden), nn.Linear(hidden, 64)])
        self.out = nn.Linear(64, 10)
        self.dropout = nn.Dropout(p)
        self.register_buffer("seen", tg.zeros(1, dtype=tg.int64))

    def forward(self, x: Tensor) -> Tensor:
        x = x.flatten(1)
        for layer in self.layers:
            x = F.relu(layer(x))
        return self.out(self.dropout(x))


class CNN(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(1, 32, 3), nn.BatchNorm2d(32), nn.ReLU(), nn.MaxPool2d(2),
            nn.Conv2d(32, 64, kernel_size=3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(),
        )  # fmt: skip
        self.head = nn.Linear(64 * 6 * 6, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.body(x))


class Squares(Dataset):
    def __getitem__(self, index: int) -> tuple[float, float]:
        return float(index), float(index) ** 2

    def __len__(self) -> int:
        return 10


def load(split: str) -> TensorDataset:
    images, labels = mnist(split=split)
    x = tg.tensor(images, dtype=tg.float32).unsqueeze(1) / 255
    t = tg.from_numpy(labels.astype(np.int64))
    return TensorDataset(x, t)


def batches(data: Dataset, size: int) -> Iterator[tuple[Tensor, Tensor]]:
    yield from DataLoader(data, batch_size=size, shuffle=True, drop_last=True)


def train(model: nn.Module, data: Dataset, epochs: int, device: str = "cpu") -> list[float]:
    model = model.to(device).train()
    loader = DataLoader(data, batch_size=64, shuffle=True)
    optimizer = optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0.01)
    scheduler = optim.lr_scheduler.OneCycleLR(optimizer, max_lr=1e-3, total_steps=epochs * len(loader))
    criterion = nn.CrossEntropyLoss(label_smoothing=0.1)
    losses: list[float] = []
    for _ in range(epochs):
        total = 0.0
        for x, t in loader:
            optimizer.zero_grad()
            loss = criterion(model(x.to(device)), t.to(device))
            loss.backward()
            norm = nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            scheduler.step()
            total += loss.item()
            if not float(norm) < 10.0 or loss.item() != loss.item():
                raise RuntimeError(f"diverged: {loss.item():.4f}, lr {scheduler.get_last_lr()[0]:.2e}")
        losses.append(total / len(loader))
    return losses


@tg.no_grad()
def accuracy(model: nn.Module, data: Dataset) -> float:
    model.eval()
    right, n = 0, 0
    for x, t in batches(data, 500):
        found = model(x).argmax(dim=1)
        right += int((found == t).sum())
        n += len(t)
    return right / n


def predict(model: nn.Module, x: Tensor) -> Tensor:
    with tg.no_grad():
        return model(x)


def probabilities(model: CNN, images: np.ndarray) -> np.ndarray:
    with tg.no_grad():
        return F.softmax(model(tg.as_tensor(images)), dim=-1).cpu().numpy()


def captured(model: nn.Module, images: Tensor, labels: Tensor) -> list[float]:
    optimizer = optim.SGD(model.parameters(), lr=0.1, momentum=0.9, nesterov=True)
    schedule = optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=100)

    @tg.capture
    def step(index: Tensor) -> Tensor:
        loss = F.cross_entropy(model(image_batch(images, index, 0.13, 0.31)), labels[index])
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        schedule.step()
        return loss

    @tg.capture(warmup=3, steps=2)
    def two(x: Tensor, scale: float = 1.0) -> dict[str, Tensor]:
        return {"mean": model(x).mean() * scale}

    class Trainer:
        @tg.capture
        def step(self, x: Tensor) -> Tensor:
            return model(x)

        @tg.no_grad()
        def score(self, x: Tensor) -> float:
            return self.step(x).mean().item()

    print(Trainer().score(images))
    means: Tensor = two(tg.zeros(2, 64, 1, 28, 28))["mean"]
    losses = [step(index) for index in tg.randperm(len(labels), device=images.device).split(64)]
    print(step.summary(), means.shape)
    return tg.stack(losses).tolist()


def checkpoint(model: nn.Module, optimizer: optim.Optimizer, path: str) -> None:
    state: OrderedDict[str, Tensor] = model.state_dict()
    np.savez(path, allow_pickle=False, **{name: value.cpu().numpy() for name, value in state.items()})
    arrays = dict(np.load(path))
    missing, unexpected = model.load_state_dict(arrays, strict=False)
    assert missing == [] and unexpected == []
    optimizer.load_state_dict(optimizer.state_dict())
    for name, parameter in model.named_parameters():
        print(name, tuple(parameter.shape), parameter.dtype, parameter.numel(), parameter.requires_grad)


def main() -> None:
    tg.manual_seed(0)
    device = "cuda" if tg.cuda.is_available() else "cpu"
    whole = load("train")
    part, rest = random_split(whole, [0.9, 0.1], generator=tg.Generator(0))
    small = Subset(part, range(1000))
    for model in (MLP(), CNN()):
        print(model, train(model, small, epochs=2, device=device), accuracy(model, rest))
    net = nn.Sequential(nn.Flatten(), nn.Linear(784, 10))
    first, tail = net[0], net[1:]
    print(first, len(tail), predict(net, tg.randn(2, 1, 28, 28)).shape)
    for xs, ys in DataLoader(Squares(), batch_size=4):
        print(xs + ys)


if __name__ == "__main__":
    main()
