"""What a net says of images that it does not learn from."""

from __future__ import annotations

import tilegrad as tg
from tilegrad import Tensor, nn
from tilegrad.nn import functional as F
from training.images import Images

BATCH = 500


class Evaluation:
    """A model's logits and figures on a data set. On a GPU a batch is one CUDA graph (tilegrad.capture)."""

    def __init__(self, model: nn.Module, data: Images) -> None:
        def forward(index: Tensor) -> Tensor:
            return model(data.batch(index)[0])

        self.model, self.data = model, data
        self.forward = tg.capture(forward) if data.labels.is_cuda else forward

    @tg.no_grad()
    def logits(self) -> Tensor:
        """(N, 10), of all images in their order."""
        self.model.eval()
        numbers = tg.arange(len(self.data), device=self.data.labels.device)
        return tg.cat([self.forward(index) for index in numbers.split(BATCH)])

    def figures(self, logits: Tensor) -> dict[str, float]:
        """The mean cross-entropy, and the share of images whose largest logit is the label's."""
        labels = self.data.labels
        right = (logits.argmax(1) == labels).sum().item()
        return {"loss": F.cross_entropy(logits, labels).item(), "accuracy": right / len(labels)}
