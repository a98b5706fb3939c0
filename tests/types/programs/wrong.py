"""Programs with a mistake a line: what a checker that knew every name as Any would miss. Each says its mistake."""

import numpy as np

import tilegrad as tg
from tilegrad import Tensor, nn, optim
from tilegrad.nn import functional as F

x = tg.zeros(2, 3)
model = nn.Linear(3, 2)


@tg.capture
def step(images: Tensor) -> Tensor:
    return images


@tg.no_grad()
def frozen(images: Tensor) -> Tensor:
    return images


x.no_such_method()  # no attribute
x.relu_(1, 2)  # too many arguments
x.softmax()  # no dim
x.sum(axes=1)  # another name
x.add_(1, beta=2)  # another name, in place
x.max(1).item()  # a pair
x.size(0).item()  # an int
x.T()  # a property
x.backward(retain=True)  # another name
x.logsumexp("dim")  # a string for a dimension, through a decorator
tg.no_such_function(x)  # no attribute
F.no_such_function(x)  # no attribute
F.softplus(x, gamma=1)  # another name, through a decorator
nn.init.normal_(x, sigma=1)  # another name, through a decorator
model("images")  # no tensor
model(x, x)  # too many arguments
step("images")  # no tensor
step(x).no_such_method()  # no attribute
frozen(1)  # no tensor
optim.Adam(model.parameters(), lr="fast")  # a string for a number
text: str = x + 1  # a tensor
flag: bool = x == 1  # a tensor
numbers: list[int] = x.numpy()  # an array
np.zeros(3).no_such_method()  # no attribute: NumPy's types are there
