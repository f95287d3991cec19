"""Well-known architectures in plain torch, with the parameter counts that were published for them.

Only what decides the count is written: layers and their sizes. Nothing here is ever run forward.
Sources of the counts: the papers and the model cards of torchvision and of the released weights.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise

import torch
from torch import nn


def lenet5() -> nn.Module:
    """LeNet-5 (LeCun et al. 1998), all feature maps of C3 connected."""
    return nn.Sequential(
        *(nn.Conv2d(1, 6, 5), nn.Tanh(), nn.AvgPool2d(2), nn.Conv2d(6, 16, 5), nn.Tanh()),
        *(nn.AvgPool2d(2), nn.Flatten(), nn.Linear(400, 120), nn.Tanh()),
        *(nn.Linear(120, 84), nn.Tanh(), nn.Linear(84, 10)),
    )


def alexnet() -> nn.Module:
    """AlexNet in its one-tower form (Krizhevsky 2014)."""
    features = [(3, 64, 11), (64, 192, 5), (192, 384, 3), (384, 256, 3), (256, 256, 3)]
    sizes = [(256 * 6 * 6, 4096), (4096, 4096), (4096, 1000)]
    return nn.Sequential(*(nn.Conv2d(*s) for s in features), *(nn.Linear(*s) for s in sizes))


def vgg(plan: Sequence[int]) -> nn.Module:
    """VGG (Simonyan and Zisserman 2014): 3x3 convolutions, then three linear layers."""
    convolutions = [nn.Conv2d(i, o, 3) for i, o in zip([3, *plan], plan, strict=False)]
    sizes = [(512 * 7 * 7, 4096), (4096, 4096), (4096, 1000)]
    return nn.Sequential(*convolutions, *(nn.Linear(*s) for s in sizes))


def conv_bn(inputs: int, outputs: int, kernel: int = 1, groups: int = 1) -> nn.Module:
    """A convolution without bias and its batch norm."""
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, kernel, groups=groups, bias=False), nn.BatchNorm2d(outputs)
    )


def resnet(
    blocks: Sequence[int], bottleneck: bool, groups: int = 1, width: float = 1.0
) -> nn.Module:
    """ResNet (He et al. 2015), ResNeXt with groups, wide ResNet with a width."""
    parts: list[nn.Module] = [conv_bn(3, 64, 7)]
    inputs, grow = 64, 4 if bottleneck else 1
    for stage, repeats in enumerate(blocks):
        planes = 64 * 2**stage
        middle, outputs = int(planes * width), planes * grow
        for i in range(repeats):
            if bottleneck:
                sizes = [(inputs, middle, 1, 1), (middle, middle, 3, groups), (middle, outputs)]
            else:
                sizes = [(inputs, planes, 3), (planes, planes, 3)]
            parts += [conv_bn(*s) for s in sizes]
            if i == 0 and inputs != outputs:
                parts.append(conv_bn(inputs, outputs))
            inputs = outputs
    return nn.Sequential(*parts, nn.AdaptiveAvgPool2d(1), nn.Linear(inputs, 1000))


def densenet(blocks: Sequence[int], growth: int = 32) -> nn.Module:
    """DenseNet-BC (Huang et al. 2016)."""
    parts: list[nn.Module] = [conv_bn(3, 64, 7)]
    width = 64
    for i, layers in enumerate(blocks):
        for _ in range(layers):
            parts += [nn.BatchNorm2d(width), nn.Conv2d(width, 4 * growth, 1, bias=False)]
            parts += [nn.BatchNorm2d(4 * growth), nn.Conv2d(4 * growth, growth, 3, bias=False)]
            width += growth
        if i + 1 < len(blocks):
            parts += [nn.BatchNorm2d(width), nn.Conv2d(width, width // 2, 1, bias=False)]
            width //= 2
    return nn.Sequential(*parts, nn.BatchNorm2d(width), nn.Linear(width, 1000))


def mobilenet_v2() -> nn.Module:
    """MobileNetV2 (Sandler et al. 2018): inverted residuals with depth-wise convolutions."""
    parts, inputs = [conv_bn(3, 32, 3)], 32
    plan = [(1, 16, 1), (6, 24, 2), (6, 32, 3), (6, 64, 4), (6, 96, 3), (6, 160, 3), (6, 320, 1)]
    for expand, outputs, repeats in plan:
        for _ in range(repeats):
            hidden = inputs * expand
            if expand > 1:
                parts.append(conv_bn(inputs, hidden))
            parts += [conv_bn(hidden, hidden, 3, hidden), conv_bn(hidden, outputs)]
            inputs = outputs
    return nn.Sequential(*parts, conv_bn(320, 1280), nn.Dropout(0.2), nn.Linear(1280, 1000))


def efficientnet_b0() -> nn.Module:
    """EfficientNet-B0 (Tan and Le 2019): inverted residuals with squeeze and excitation."""
    parts, inputs = [conv_bn(3, 32, 3)], 32
    plan = [(1, 16, 1, 3), (6, 24, 2, 3), (6, 40, 2, 5), (6, 80, 3, 3)]
    plan += [(6, 112, 3, 5), (6, 192, 4, 5), (6, 320, 1, 3)]
    for expand, outputs, repeats, kernel in plan:
        for _ in range(repeats):
            hidden, squeezed = inputs * expand, max(1, inputs // 4)
            if expand > 1:
                parts.append(conv_bn(inputs, hidden))
            parts += [conv_bn(hidden, hidden, kernel, hidden)]
            parts += [nn.Conv2d(hidden, squeezed, 1), nn.Conv2d(squeezed, hidden, 1)]
            parts += [conv_bn(hidden, outputs)]
            inputs = outputs
    return nn.Sequential(*parts, conv_bn(320, 1280), nn.Linear(1280, 1000))


def squeezenet(first: tuple[int, int, int]) -> nn.Module:
    """SqueezeNet (Iandola et al. 2016): fire modules."""
    parts: list[nn.Module] = [nn.Conv2d(*first)]
    inputs = first[1]
    for squeeze in (16, 16, 32, 32, 48, 48, 64, 64):
        expand = 4 * squeeze
        parts += [nn.Conv2d(inputs, squeeze, 1)]
        parts += [nn.Conv2d(squeeze, expand, 1), nn.Conv2d(squeeze, expand, 3)]
        inputs = 2 * expand
    return nn.Sequential(*parts, nn.Dropout(0.5), nn.Conv2d(inputs, 1000, 1))


def googlenet() -> nn.Module:
    """GoogLeNet (Szegedy et al. 2014) with batch norm, without its auxiliary classifiers."""
    parts: list[nn.Module] = [conv_bn(3, 64, 7), conv_bn(64, 64), conv_bn(64, 192, 3)]
    plan = [
        *((192, 64, 96, 128, 16, 32, 32), (256, 128, 128, 192, 32, 96, 64)),
        *((480, 192, 96, 208, 16, 48, 64), (512, 160, 112, 224, 24, 64, 64)),
        *((512, 128, 128, 256, 24, 64, 64), (512, 112, 144, 288, 32, 64, 64)),
        *((528, 256, 160, 320, 32, 128, 128), (832, 256, 160, 320, 32, 128, 128)),
        (832, 384, 192, 384, 48, 128, 128),
    ]
    for i, one, three_in, three, five_in, five, pool in plan:
        # The "5x5" branch of the released weights is 3x3.
        parts += [conv_bn(i, one), conv_bn(i, three_in), conv_bn(three_in, three, 3)]
        parts += [conv_bn(i, five_in), conv_bn(five_in, five, 3), conv_bn(i, pool)]
    return nn.Sequential(*parts, nn.Dropout(0.2), nn.Linear(1024, 1000))


def unet() -> nn.Module:
    """U-Net (Ronneberger et al. 2015), one channel in, two classes out."""
    widths = [1, 64, 128, 256, 512, 1024]
    parts: list[nn.Module] = []
    for i, o in pairwise(widths):
        parts += [nn.Conv2d(i, o, 3), nn.Conv2d(o, o, 3)]
    for o in (512, 256, 128, 64):
        parts += [nn.ConvTranspose2d(2 * o, o, 2), nn.Conv2d(2 * o, o, 3), nn.Conv2d(o, o, 3)]
    return nn.Sequential(*parts, nn.Conv2d(64, 2, 1))


def dcgan_generator() -> nn.Module:
    """The generator of DCGAN (Radford et al. 2015), 64x64 images from 100 numbers."""
    widths = [100, 512, 256, 128, 64]
    parts: list[nn.Module] = []
    for i, o in pairwise(widths):
        parts += [nn.ConvTranspose2d(i, o, 4, bias=False), nn.BatchNorm2d(o)]
    return nn.Sequential(*parts, nn.ConvTranspose2d(64, 3, 4, bias=False))


def dcgan_discriminator() -> nn.Module:
    """The discriminator of DCGAN."""
    parts: list[nn.Module] = [nn.Conv2d(3, 64, 4, bias=False)]
    for i, o in ((64, 128), (128, 256), (256, 512)):
        parts += [nn.Conv2d(i, o, 4, bias=False), nn.BatchNorm2d(o)]
    return nn.Sequential(*parts, nn.Conv2d(512, 1, 4, bias=False))


class VisionTransformer(nn.Module):
    """ViT (Dosovitskiy et al. 2020): its class token and positions are bare parameters."""

    def __init__(self, width: int, depth: int, heads: int, patch: int) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, width, patch, stride=patch)
        self.token = nn.Parameter(torch.zeros(1, 1, width))
        self.positions = nn.Parameter(torch.zeros(1, (224 // patch) ** 2 + 1, width))
        layer = nn.TransformerEncoderLayer(width, heads, 4 * width, batch_first=True)
        self.encoder = nn.TransformerEncoder(
            layer, depth, nn.LayerNorm(width), enable_nested_tensor=False
        )
        self.head = nn.Linear(width, 1000)


def mixer(width: int = 768, depth: int = 12) -> nn.Module:
    """MLP-Mixer B/16 (Tolstikhin et al. 2021)."""
    parts: list[nn.Module] = [nn.Conv2d(3, width, 16)]
    for _ in range(depth):
        parts += [nn.LayerNorm(width), nn.Linear(196, 384), nn.GELU(), nn.Linear(384, 196)]
        parts += [nn.LayerNorm(width), nn.Linear(width, 3072), nn.GELU(), nn.Linear(3072, width)]
    return nn.Sequential(*parts, nn.LayerNorm(width), nn.Linear(width, 1000))


class ConvNeXtBlock(nn.Module):
    """Depth-wise 7x7, two linear layers and a learned scale per channel."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.depthwise = nn.Conv2d(width, width, 7, groups=width)
        self.norm = nn.LayerNorm(width)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.Linear(4 * width, width))
        self.scale = nn.Parameter(torch.ones(width))


def convnext_tiny() -> nn.Module:
    """ConvNeXt-T (Liu et al. 2022)."""
    parts: list[nn.Module] = [nn.Conv2d(3, 96, 4), nn.LayerNorm(96)]
    for width, depth, after in ((96, 3, 192), (192, 3, 384), (384, 9, 768), (768, 3, 0)):
        parts += [ConvNeXtBlock(width) for _ in range(depth)]
        if after:
            parts += [nn.LayerNorm(width), nn.Conv2d(width, after, 2)]
    return nn.Sequential(*parts, nn.LayerNorm(768), nn.Linear(768, 1000))


def bert(
    width: int, depth: int, vocabulary: int = 30522, positions: int = 512, types: int = 2
) -> nn.Module:
    """BERT (Devlin et al. 2018) with its pooler; RoBERTa with other tables."""
    parts: list[nn.Module] = [nn.Embedding(vocabulary, width), nn.Embedding(positions, width)]
    if types:
        parts.append(nn.Embedding(types, width))
    layer = nn.TransformerEncoderLayer(width, width // 64, 4 * width, batch_first=True)
    parts += [nn.LayerNorm(width), nn.TransformerEncoder(layer, depth, enable_nested_tensor=False)]
    return nn.Sequential(*parts, nn.Linear(width, width))


def distilbert() -> nn.Module:
    """DistilBERT (Sanh et al. 2019): six layers, no token types, no pooler."""
    layer = nn.TransformerEncoderLayer(768, 12, 3072, batch_first=True)
    encoder = nn.TransformerEncoder(layer, 6, enable_nested_tensor=False)
    return nn.Sequential(
        nn.Embedding(30522, 768), nn.Embedding(512, 768), nn.LayerNorm(768), encoder
    )


def gpt2(width: int, depth: int) -> nn.Module:
    """GPT-2 (Radford et al. 2019); the output layer is the token table."""
    tokens = nn.Embedding(50257, width)
    parts: list[nn.Module] = [tokens, nn.Embedding(1024, width)]
    for _ in range(depth):
        parts += [nn.LayerNorm(width), nn.Linear(width, 3 * width), nn.Linear(width, width)]
        parts += [nn.LayerNorm(width), nn.Linear(width, 4 * width), nn.Linear(4 * width, width)]
    head = nn.Linear(width, 50257, bias=False)
    head.weight = tokens.weight
    return nn.Sequential(*parts, nn.LayerNorm(width), head)


def llama(width: int, depth: int, ff: int, keys: int | None = None) -> nn.Module:
    """LLaMA (Touvron et al. 2023); with fewer keys than width, Mistral (Jiang et al. 2023)."""
    keys = keys or width
    parts: list[nn.Module] = [nn.Embedding(32000, width)]
    for _ in range(depth):
        sizes = [(width, width), (width, keys), (width, keys), (width, width)]
        sizes += [(width, ff), (width, ff), (ff, width)]
        parts += [nn.RMSNorm(width), nn.RMSNorm(width)]
        parts += [nn.Linear(*s, bias=False) for s in sizes]
    return nn.Sequential(*parts, nn.RMSNorm(width), nn.Linear(width, 32000, bias=False))


def t5(width: int, ff: int, depth: int, heads: int) -> nn.Module:
    """T5 (Raffel et al. 2019): one table for encoder, decoder and output; no biases."""
    table = nn.Embedding(32128, width)
    parts: list[nn.Module] = [table]
    for attentions in (1, 2):
        parts.append(nn.Embedding(32, heads))  # relative positions, in the first layer only
        for _ in range(depth):
            parts += [nn.RMSNorm(width) for _ in range(attentions + 1)]
            parts += [nn.Linear(width, width, bias=False) for _ in range(4 * attentions)]
            parts += [nn.Linear(width, ff, bias=False), nn.Linear(ff, width, bias=False)]
        parts.append(nn.RMSNorm(width))
    head = nn.Linear(width, 32128, bias=False)
    head.weight = table.weight
    return nn.Sequential(*parts, table, head)


def lstm_language_model() -> nn.Module:
    """The large LSTM language model of Zaremba et al. (2014), published as 66 million."""
    return nn.Sequential(
        nn.Embedding(10_000, 1500), nn.LSTM(1500, 1500, 2), nn.Linear(1500, 10_000)
    )


def word2vec() -> nn.Module:
    """word2vec (Mikolov et al. 2013): three million words and phrases, 300 numbers each way."""
    return nn.Sequential(nn.Embedding(3_000_000, 300), nn.Embedding(3_000_000, 300))


VGG16 = [64, 64, 128, 128, *[256] * 3, *[512] * 6]
ARCHITECTURES: dict[str, tuple[Callable[[], nn.Module], int]] = {
    "LeNet-5": (lenet5, 61_706),
    "AlexNet": (alexnet, 61_100_840),
    "VGG-11": (lambda: vgg([64, 128, 256, 256, *[512] * 4]), 132_863_336),
    "VGG-16": (lambda: vgg(VGG16), 138_357_544),
    "VGG-19": (lambda: vgg([64, 64, 128, 128, *[256] * 4, *[512] * 8]), 143_667_240),
    "ResNet-18": (lambda: resnet([2, 2, 2, 2], False), 11_689_512),
    "ResNet-34": (lambda: resnet([3, 4, 6, 3], False), 21_797_672),
    "ResNet-50": (lambda: resnet([3, 4, 6, 3], True), 25_557_032),
    "ResNet-101": (lambda: resnet([3, 4, 23, 3], True), 44_549_160),
    "ResNet-152": (lambda: resnet([3, 8, 36, 3], True), 60_192_808),
    "ResNeXt-50 32x4d": (lambda: resnet([3, 4, 6, 3], True, 32, 2.0), 25_028_904),
    "Wide ResNet-50-2": (lambda: resnet([3, 4, 6, 3], True, 1, 2.0), 68_883_240),
    "DenseNet-121": (lambda: densenet([6, 12, 24, 16]), 7_978_856),
    "DenseNet-169": (lambda: densenet([6, 12, 32, 32]), 14_149_480),
    "MobileNetV2": (mobilenet_v2, 3_504_872),
    "EfficientNet-B0": (efficientnet_b0, 5_288_548),
    "SqueezeNet 1.0": (lambda: squeezenet((3, 96, 7)), 1_248_424),
    "SqueezeNet 1.1": (lambda: squeezenet((3, 64, 3)), 1_235_496),
    "GoogLeNet": (googlenet, 6_624_904),
    "U-Net": (unet, 31_030_658),
    "DCGAN generator": (dcgan_generator, 3_576_704),
    "DCGAN discriminator": (dcgan_discriminator, 2_765_568),
    "ViT-B/16": (lambda: VisionTransformer(768, 12, 12, 16), 86_567_656),
    "ViT-B/32": (lambda: VisionTransformer(768, 12, 12, 32), 88_224_232),
    "ViT-L/16": (lambda: VisionTransformer(1024, 24, 16, 16), 304_326_632),
    "MLP-Mixer B/16": (mixer, 59_880_472),
    "ConvNeXt-T": (convnext_tiny, 28_589_128),
    "Transformer, base": (lambda: nn.Transformer(batch_first=True), 44_140_544),
    "BERT-base": (lambda: bert(768, 12), 109_482_240),
    "BERT-large": (lambda: bert(1024, 24), 335_141_888),
    "RoBERTa-base": (lambda: bert(768, 12, 50265, 514, 1), 124_645_632),
    "DistilBERT": (distilbert, 66_362_880),
    "GPT-2 small": (lambda: gpt2(768, 12), 124_439_808),
    "GPT-2 medium": (lambda: gpt2(1024, 24), 354_823_168),
    "GPT-2 XL": (lambda: gpt2(1600, 48), 1_557_611_200),
    "T5-small": (lambda: t5(512, 2048, 6, 8), 60_506_624),
    "T5-base": (lambda: t5(768, 3072, 12, 12), 222_903_552),
    "LLaMA-7B": (lambda: llama(4096, 32, 11008), 6_738_415_616),
    "LLaMA-13B": (lambda: llama(5120, 40, 13824), 13_015_864_320),
    "Mistral-7B": (lambda: llama(4096, 32, 14336, 1024), 7_241_732_096),
    "LSTM language model": (lstm_language_model, 66_034_000),
    "word2vec": (word2vec, 1_800_000_000),
}
"""Factories and published counts; build them under ``torch.device("meta")``."""
