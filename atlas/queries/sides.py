"""Which tokens a neuron pushes: where it fires below zero, those that its value vector lowers."""

from __future__ import annotations


def pushed(fires: str, of: str = "n") -> str:
    """SQL of the columns promoted and suppressed of a table, as neurons act with the activation `fires`.

    Below zero the two are exchanged, and their logits turned. Where `fires` is null, as in older atlases,
    they are as the value vector has them.
    """
    turned = "list_transform({}.{}, lambda p: {{'token': p.token, 'logit': -p.logit}})"
    sides = ("promoted", "suppressed"), ("suppressed", "promoted")
    return ", ".join(
        f"CASE WHEN {fires} < 0 THEN {turned.format(of, other)} ELSE {of}.{side} END AS {side}"
        for side, other in sides
    )
