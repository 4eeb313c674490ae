"""Training official weights starts from the reference's losses: fixtures G of ../shared/golden."""

import pytest
import torch

from official_files import close, golden_json, golden_tensors, needs_golden, release_weights, released_model
from reference_losses import combined, distance, joint, kd_rows, online_rows, s2t_part, unit_ce

needs_golden()
CASES, PAD_ID = golden_json("G_train")["cases"], golden_json("weights_info")["llm_pad_token_id"]


@pytest.fixture(scope="module")
def model():
    return released_model(release_weights())


def tensor(case, name):
    value = golden_tensors("G_train")[f"{case}.{name}"]
    return value.long() if value.dtype == torch.int32 else value


def near(expected):
    """Losses reach a thousand, where float32 itself is coarser than 1e-4."""
    return pytest.approx(expected, abs=1e-4, rel=1e-6)


def features(case):
    scale, stored = golden_json("A_s2t")["mel_scale"], golden_tensors("A_s2t")
    return torch.stack([stored[f"mel{name}_i8"].float() * scale for row in CASES[case]["audios"] for name in row])


def heard(model, case):
    has_transcripts = f"{case}.asr_targets" in golden_tensors("G_train")
    transcripts = tensor(case, "asr_targets") if has_transcripts else None
    return s2t_part(model.s2t, tensor(case, "input_ids"), tensor(case, "labels"), PAD_ID, features(case), transcripts)


@pytest.mark.parametrize("case", [name for name in CASES if name.startswith("train_")])
@torch.no_grad()
def test_s2t(model, case):
    expected, part = CASES[case], heard(model, case)
    assert float(part.ctc) == near(expected["ctc"])
    assert float(part.ce) == near(expected["ce"])
    assert float(part.loss) == near(expected["loss"])
    stored = tensor(case, "last_hidden_every7")
    real = part.mask[:, ::7].bool()
    close(part.states[:, ::7][real], stored[:, : real.shape[1]][real])
    if len(expected["audios"][0]) == 1:  # the stage itself gives the same
        ids, transcripts = tensor(case, "input_ids"), tensor(case, "asr_targets").flatten(0, 1)
        output = model.s2t(
            ids, (ids != PAD_ID).long(), features(case), labels=tensor(case, "labels"), ctc_labels=transcripts
        )
        assert float(output.loss) == near(expected["loss"])


@torch.no_grad()
def test_finetune_kd(model):
    expected, part = CASES["finetune_kd"], heard(model, "finetune_kd")
    aligned = model.denoise(part.states)
    label_ids = [[token for token in row if token >= 0] for row in tensor("finetune_kd", "labels").tolist()]
    starts = [int((row != -100).nonzero()[0]) - 1 for row in part.labels]
    assert starts == expected["text_start_index"]
    embeds, labels, mask, text, target = kd_rows(
        model, aligned, label_ids, starts, tensor("finetune_kd", "sub_lengths"), tensor("finetune_kd", "unit_targets")
    )
    assert torch.equal(mask, tensor("finetune_kd", "t2u_attention_mask"))
    assert torch.equal(labels, tensor("finetune_kd", "t2u_labels"))
    close(model.echo_decoder.state_projection(embeds), tensor("finetune_kd", "t2u_inputs_embeds"))
    check_units(unit_ce(model, embeds, labels, mask), distance(text, target), expected)


def check_units(ce, cosine, expected):
    """The unit decoder's losses; returns their sum."""
    total, weight = combined(ce, cosine)
    assert float(ce) == near(expected["t2u_ce"])
    assert float(cosine) == near(expected["cosine_loss"])
    assert weight == near(expected["cosine_weight"])
    if "s2t_part" not in expected:
        assert float(total) == near(expected["total_loss"])
    return total


@torch.no_grad()
def test_finetune(model):
    """Both stages at once; states at the labels themselves stand for the text."""
    expected, part = CASES["finetune"], heard(model, "finetune")
    assert float(part.ctc) == near(expected["ctc"])
    assert float(part.loss) == near(expected["s2t_part"])
    ids, labels = tensor("finetune", "t2u_input_ids"), tensor("finetune", "t2u_labels")
    aligned = model.denoise(part.states)
    embeds = model.echo_decoder.embed(ids)
    cosines = []
    for row, own in enumerate(tensor("finetune", "labels")):
        meant = aligned[row, part.labels[row] != -100]
        cosines.append(distance(meant[None], model.echo_decoder.embed(own[own >= 0])[None]))
        embeds[row, (own >= 0).nonzero().flatten()] = meant
    total = check_units(unit_ce(model, embeds, labels, ids != PAD_ID), torch.stack(cosines).mean(), expected)
    assert float(joint(part.loss, total)) == near(expected["total_loss"])


@torch.no_grad()
def test_pretrain(model):
    """T2C alone: text in, units out."""
    ids, labels = tensor("finetune", "t2u_input_ids"), tensor("finetune", "t2u_labels")
    ce = unit_ce(model, model.echo_decoder.embed(ids), labels, ids != PAD_ID)
    assert float(ce) == near(CASES["pretrain"]["total_loss"])


@torch.no_grad()
def test_online(model):
    expected = CASES["online_direct"]
    aligned = model.denoise(tensor("online", "hidden"))
    embeds, text, target = online_rows(
        model,
        aligned,
        expected["text_start_index"],
        tensor("online", "t2u_input_ids"),
        tensor("online", "sub_lengths"),
        tensor("online", "unit_targets"),
    )
    assert list(embeds.shape) == expected["embeds_shape"]
    close(model.echo_decoder.state_projection(embeds), tensor("online", "embeds"))
    weight = tensor("online", "attention_mask").flatten(0, 1)
    cosine = distance(text.flatten(0, 1), target.flatten(0, 1), weight)
    assert float(cosine) == near(expected["cosine_loss"])
