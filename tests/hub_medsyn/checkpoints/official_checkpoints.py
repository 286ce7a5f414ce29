"""Small models with the modules and names of the methods' published code, and what that code computes with them.

Written from the methods' formulas with torch, torchvision and BERT alone; nothing here comes from `hub_medsyn`.
"""

from __future__ import annotations

from pathlib import Path

import torch
import torchvision
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import BertConfig, BertModel, BertTokenizer

from tests.fixtures.tiny_models import SPECIAL, WORDS, tiny_text_config

TEXTS = ["small left pleural effusion.", "cardiomegaly with edema"]
WIDTH = 32  # of the text encoder


def write_text_encoder(folder: Path, lower_case: bool = True, **changes) -> BertConfig:
    """A folder with the configuration and vocabulary of a tiny BERT, and no weights."""
    folder.mkdir()
    config = tiny_text_config(num_hidden_layers=6, **changes)
    config.save_pretrained(folder)
    (folder / "vocab.txt").write_text("\n".join((*SPECIAL, *WORDS)), encoding="utf-8")
    BertTokenizer(str(folder / "vocab.txt"), do_lower_case=lower_case).save_pretrained(folder)
    return config


def lively(module: nn.Module) -> nn.Module:
    """Gives every BatchNorm statistics, scale and shift of its own, so that each of them shows in the features."""
    for layer in module.modules():
        if isinstance(layer, nn.modules.batchnorm._BatchNorm):
            layer.running_mean.normal_(0, 0.2)
            layer.running_var.uniform_(0.5, 2)
            if layer.affine:
                nn.init.uniform_(layer.weight, 0.5, 1.5)
                nn.init.normal_(layer.bias, 0, 0.2)
    return module.eval()


def resnet(name: str) -> nn.Module:
    model = getattr(torchvision.models, name)(weights=None)
    model.fc = nn.Identity()
    return model


def resnet_features(model: nn.Module, pixels: Tensor) -> tuple[Tensor, Tensor]:
    """Pooled layer 4, `(images, width)`, and the map of layer 3, after enlarging to 299."""
    x = F.interpolate(pixels, (299, 299), mode="bilinear", align_corners=True)
    x = model.maxpool(model.relu(model.bn1(model.conv1(x))))
    regions = model.layer3(model.layer2(model.layer1(x)))
    return model.layer4(regions).mean((2, 3)), regions


def words_of(tokens: Tensor, ids: Tensor, tokenizer) -> Tensor:
    """`(tokens, dim)` of one text summed over the pieces of each word, up to the closing token."""
    words = []
    for vector, index in zip(tokens, ids.tolist(), strict=True):
        piece = tokenizer.convert_ids_to_tokens(index)
        if piece.startswith("##"):
            words[-1] = words[-1] + vector
        else:
            words.append(vector)
        if piece == "[SEP]":
            break
    return torch.stack(words)


class OfficialGLoRIA(nn.Module):
    def __init__(self, text: BertConfig, image: str = "resnet50", region_width: int = 1024):
        super().__init__()
        self.text_encoder, self.img_encoder = nn.Module(), nn.Module()
        self.text_encoder.model = BertModel(text)
        self.img_encoder.model = resnet(image)
        pooled_width = 2048 if image == "resnet50" else 512
        self.img_encoder.global_embedder = nn.Linear(pooled_width, WIDTH)
        self.img_encoder.local_embedder = nn.Conv2d(region_width, WIDTH, 1, bias=False)
        lively(self)

    @torch.no_grad()
    def features(self, pixels: Tensor, batch: dict[str, Tensor], tokenizer) -> dict[str, Tensor]:
        pooled, regions = resnet_features(self.img_encoder.model, pixels)
        hidden = self.text_encoder.model(**batch, output_hidden_states=True).hidden_states
        words = [
            words_of(tokens, ids, tokenizer) for tokens, ids in zip(sum(hidden[-4:]), batch["input_ids"], strict=True)
        ]
        return {
            "image_embeds": self.img_encoder.global_embedder(pooled),
            "text_embeds": torch.stack([word.sum(0) / 97 for word in words]),
            "regions": self.img_encoder.local_embedder(regions).flatten(2).transpose(1, 2),
            "words": nn.utils.rnn.pad_sequence(words, batch_first=True),
        }

    def lightning(self) -> dict:
        """What Lightning saves: names under `gloria.`, with the constants that older BERTs keep."""
        state = {f"gloria.{name}": value for name, value in self.state_dict().items()}
        state["gloria.text_encoder.model.embeddings.position_ids"] = torch.arange(64)[None]
        return {
            "epoch": 17,
            "global_step": 100,
            "pytorch-lightning_version": "1.1.4",
            "callbacks": {},
            "optimizer_states": [{"state": {0: {"step": 1, "exp_avg": torch.zeros(2)}}, "param_groups": []}],
            "lr_schedulers": [{"factor": 0.5, "best": 3.0}],
            "state_dict": state,
            "hyper_parameters": {"train": {"batch_size": 48}},
        }


class MGCAHead(nn.Module):
    def __init__(self, width: int, convolution: bool, hidden: int = 24, dim: int = 16):
        super().__init__()
        linear = (lambda *shape: nn.Conv1d(*shape, 1)) if convolution else nn.Linear
        last = nn.BatchNorm1d(dim, affine=False)
        self.head = nn.Sequential(linear(width, hidden), nn.BatchNorm1d(hidden), nn.ReLU(), linear(hidden, dim), last)


class OfficialMGCA(nn.Module):
    """With a ResNet-18, or with any ViT that is given."""

    def __init__(self, text: BertConfig, vit: nn.Module | None = None, vit_width: int = WIDTH):
        super().__init__()
        self.img_encoder_q, self.text_encoder_q = nn.Module(), nn.Module()
        self.img_encoder_q.model = resnet("resnet18") if vit is None else vit
        self.text_encoder_q.model = BertModel(text, add_pooling_layer=False)
        pooled, regions = (512, 256) if vit is None else (vit_width, vit_width)
        self.img_encoder_q.global_embed = MGCAHead(pooled, False)
        self.img_encoder_q.local_embed = MGCAHead(regions, True)
        self.text_encoder_q.global_embed = MGCAHead(WIDTH, False)
        self.text_encoder_q.local_embed = MGCAHead(WIDTH, True)
        self.patch_local_atten_layer = nn.MultiheadAttention(16, 1, batch_first=True)
        self.word_local_atten_layer = nn.MultiheadAttention(16, 1, batch_first=True)
        self.prototype_layer = nn.Linear(16, 12, bias=False)
        self.is_vit = vit is not None
        lively(self)

    @torch.no_grad()
    def features(self, pixels: Tensor, batch: dict[str, Tensor], tokenizer) -> dict[str, Tensor]:
        image, text = self.img_encoder_q, self.text_encoder_q
        if self.is_vit:
            pooled, regions, attention = vit_features(image.model.state_dict(), pixels)
        else:
            pooled, maps = resnet_features(image.model, pixels)
            regions, attention = maps.flatten(2).transpose(1, 2), None
        tables = text.model.embeddings
        # The published embeddings have no segments: what BERT is going to add for them is taken away before.
        without_segments = tables.word_embeddings(batch["input_ids"]) - tables.token_type_embeddings.weight[0]
        tokens = text.model(inputs_embeds=without_segments, attention_mask=batch["attention_mask"]).last_hidden_state
        words = torch.zeros(len(tokens), 111, WIDTH)  # without the opening token
        for row, ids in enumerate(batch["input_ids"]):
            own = words_of(tokens[row], ids, tokenizer)[1:]
            words[row, : len(own)] = own
        embeds = {
            "image_embeds": image.global_embed.head(pooled),
            "text_embeds": text.global_embed.head(tokens[:, 0]),
            "regions": image.local_embed.head(regions.transpose(1, 2)).transpose(1, 2),
            "words": text.local_embed.head(words.transpose(1, 2)).transpose(1, 2),
        }
        rows = F.normalize(self.prototype_layer.weight, dim=1)
        embeds["image_prototypes"] = F.normalize(embeds["image_embeds"], dim=-1) @ rows.T
        embeds["text_prototypes"] = F.normalize(embeds["text_embeds"], dim=-1) @ rows.T
        return embeds if attention is None else {**embeds, "region_weights": attention}

    def published_state(self) -> dict[str, Tensor]:
        """No segment embeddings, and a cross-attention in each layer that is never used."""
        state = self.state_dict()
        state.pop("text_encoder_q.model.embeddings.token_type_embeddings.weight")
        layers = [name for name in state if ".attention." in name and name.startswith("text_encoder_q")]
        for name in layers:
            state[name.replace(".attention.", ".crossattention.", 1)] = torch.rand_like(state[name])
        state["text_encoder_q.model.embeddings.position_ids"] = torch.arange(64)[None]
        return state


def vit_features(state: dict[str, Tensor], pixels: Tensor, heads: int = 2) -> tuple[Tensor, Tensor, Tensor]:
    """Class token, patch tokens and the class token's attention in the last block, of a ViT's tensors by name."""

    def linear(x, name):
        return F.linear(x, state[f"{name}.weight"], state[f"{name}.bias"])

    def norm(x, name):
        return F.layer_norm(x, x.shape[-1:], state[f"{name}.weight"], state[f"{name}.bias"], eps=1e-6)

    patch = state["patch_embed.proj.weight"].shape[-1]
    x = F.conv2d(pixels, state["patch_embed.proj.weight"], state["patch_embed.proj.bias"], stride=patch)
    x = x.flatten(2).transpose(1, 2)
    x = torch.cat([state["cls_token"].expand(len(x), -1, -1), x], 1) + state["pos_embed"]
    depth = 1 + max(int(name.split(".")[1]) for name in state if name.startswith("blocks."))
    for block in (f"blocks.{number}" for number in range(depth)):
        query, key, value = linear(norm(x, f"{block}.norm1"), f"{block}.attn.qkv").chunk(3, -1)
        query, key, value = (t.unflatten(-1, (heads, -1)).transpose(1, 2) for t in (query, key, value))
        attention = (query @ key.transpose(2, 3) / query.shape[-1] ** 0.5).softmax(-1)
        x = x + linear((attention @ value).transpose(1, 2).flatten(2), f"{block}.attn.proj")
        x = x + linear(F.gelu(linear(norm(x, f"{block}.norm2"), f"{block}.mlp.fc1")), f"{block}.mlp.fc2")
    x = norm(x, "norm")
    return x[:, 0], x[:, 1:], attention[:, :, 0, 1:].mean(1)


class OfficialConVIRT(nn.Module):
    def __init__(self, text: BertConfig, dim: int = 16):
        super().__init__()
        self.bert_model = BertModel(text)
        self.bert_l1, self.bert_l2 = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, dim)
        self.res_features = nn.Sequential(*list(torchvision.models.resnet18(weights=None).children())[:-1])
        self.res_l1, self.res_l2 = nn.Linear(512, 512), nn.Linear(512, dim)
        lively(self)

    @torch.no_grad()
    def features(self, pixels: Tensor, batch: dict[str, Tensor], tokenizer) -> dict[str, Tensor]:
        mask = batch["attention_mask"][..., None].float()
        mean = (self.bert_model(**batch).last_hidden_state * mask).sum(1) / mask.sum(1)
        pooled = self.res_features(pixels).flatten(1)
        return {
            "image_embeds": self.res_l2(F.relu(self.res_l1(pooled))),
            "text_embeds": self.bert_l2(F.relu(self.bert_l1(mean))),
        }
