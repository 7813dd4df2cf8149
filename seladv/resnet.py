"""ResNet-18 for 32×32 images. Images come in [0, 1]; logits go out."""

import torch
from torch import Tensor, nn
from torchvision.models.resnet import BasicBlock, resnet18

MEAN, STD = (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)  # of CIFAR-10's training images, by channel


class Normalize(nn.Module):
    """(x - mean) / std by channel, inside the network: so that ε keeps its meaning in [0, 1] for every attack."""

    scale: Tensor
    shift: Tensor

    def __init__(self, mean: tuple[float, ...], std: tuple[float, ...]):
        super().__init__()
        # One multiplication and one addition; not saved with the weights, since the code states them.
        scale = 1 / torch.tensor(std).view(-1, 1, 1)
        self.register_buffer("scale", scale, persistent=False)
        self.register_buffer("shift", -torch.tensor(mean).view(-1, 1, 1) * scale, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        return x * self.scale + self.shift


def resnet18_cifar(classes: int = 10, *, width: int = 64) -> nn.Module:
    """torchvision's ResNet-18 (He et al. 2016) with CIFAR's stem: 3×3, stride 1, no max-pool.

    Args:
        classes: how many logits.
        width: channels of the first stage; 64 is the original, and 16 needs about a twelfth of the work.
    """
    network = resnet18(num_classes=classes)
    if width != 64:  # torchvision's own constructor knows no other
        network.inplanes = width
        network.bn1 = nn.BatchNorm2d(width)
        for stage, stride in enumerate((1, 2, 2, 2)):
            setattr(network, f"layer{stage + 1}", network._make_layer(BasicBlock, width << stage, 2, stride=stride))
        network.fc = nn.Linear(width * 8, classes)
    network.conv1 = nn.Conv2d(3, width, 3, padding=1, bias=False)
    network.maxpool = nn.Identity()
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")  # as torchvision's own
    return nn.Sequential(Normalize(MEAN, STD), network)
