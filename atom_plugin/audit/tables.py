"""An audit as tables, as CSV and as JSON, and its scores image by image."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from atom_plugin.audit.copies import Copies
from atom_plugin.audit.rates import FALSE_POSITIVE_RATES, AttackRates, Estimate
from atom_plugin.audit.result import ALL, ATTACKS, Audit, AuditedSet
from atom_plugin.runtime.text import printable

_TPR = {rate: f"tpr_at_{100 * rate:g}_percent_fpr" for rate in FALSE_POSITIVE_RATES}


def audit_table(audit: Audit) -> str:
    """The examined images, a row for each set, group of members and attack, and a row of copies for each set."""
    from prettytable import PrettyTable

    attacks = PrettyTable(["set", "members", "attack", "AUC", "balanced accuracy", *(_heading(rate) for rate in _TPR)])
    copies = PrettyTable(["set", "copies in pixels", "nearest / real", "copies in embedding", "nearest / real "])
    for drawn in (attacks, copies):
        drawn.align = "l"
    control = {(ALL, attack): rates for attack, rates in audit.control.items()}
    for name, found_rates in [*((printable(each.name), each.rates) for each in audit.sets), (_CONTROL, control)]:
        for (group, attack), rates in found_rates.items():
            estimates = [rates.auc, rates.balanced_accuracy, *rates.tpr.values()]
            attacks.add_row([name, f"{group} {rates.members:,}", attack, *map(_cell, estimates)])
    for each in audit.sets:
        cells = [cell for found in (each.pixels, each.embedding) for cell in (_count(found), f"{found.ratio:.2f}")]
        copies.add_row([printable(each.name), *cells])
    return "\n".join([*_heading_lines(audit), "", attacks.get_string(), "", _COPIES, "", copies.get_string()])


def as_csv(audit: Audit) -> str:
    """A line for each set, group of members and attack; copies are repeated in every line of their set."""
    return _written([row for each in audit.sets for row in _rows(each)])


def scores_csv(audit: Audit) -> str:
    """A line for each set and examined image: its index, its relation to the set, and its scores."""
    examined, source = audit.examined, audit.examined.source
    lines = []
    for each in audit.sets:
        for place, (row, label) in enumerate(zip(audit.rows.tolist(), audit.images.labels.tolist(), strict=True)):
            lines.append(
                {
                    "set": each.name,
                    "split": "train" if audit.is_member[place] else examined.on,
                    "row": row,
                    "class": source.class_names[label],
                    "member": int(audit.is_member[place]),
                    "drawn": int(audit.drawn[place]),
                    "own": "" if each.own is None else int(each.own[place]),
                    **{f"{name}_score": each.scores[name][place] if name in each.scores else "" for name in ATTACKS},
                }
            )
    return _written(lines)


def to_json(audit: Audit) -> dict[str, Any]:
    """Plain JSON values: an object for each set, and the success of each attack if no member was seen."""
    sets = [
        {
            "set": each.name,
            "method": each.synthetic_set.provenance.method,
            "images": len(each.synthetic_set),
            "networks": each.networks,
            "shadow_networks": each.shadows,
            "non_members_are": audit.examined.on,
            "attacks": [
                {"group": group, "attack": attack, **_rates(rates)} for (group, attack), rates in each.rates.items()
            ],
            "copies": {"pixels": _copies(each.pixels), "embedding": _copies(each.embedding)},
        }
        for each in audit.sets
    ]
    return {"sets": sets, "control": {attack: _rates(rates) for attack, rates in audit.control.items()}}


def _rows(each: AuditedSet) -> list[dict[str, Any]]:
    copies = {
        f"{where}_{name}": value
        for where, found in (("pixel", each.pixels), ("embedding", each.embedding))
        for name, value in _copies(found).items()
    }
    return [
        {
            "set": each.name,
            "method": each.synthetic_set.provenance.method,
            "networks": each.networks,
            "shadow_networks": each.shadows,
            "group": group,
            "attack": attack,
            **_flat(_rates(rates)),
            **copies,
        }
        for (group, attack), rates in each.rates.items()
    ]


def _rates(rates: AttackRates) -> dict[str, Any]:
    estimates = {"auc": rates.auc, "balanced_accuracy": rates.balanced_accuracy}
    estimates |= {_TPR[rate]: estimate for rate, estimate in rates.tpr.items() if estimate is not None}
    found = {name: asdict(estimate) for name, estimate in estimates.items()}
    missing = {name: None for name in _TPR.values() if name not in found}
    return {"members": rates.members, "non_members": rates.non_members, **found, **missing}


def _flat(values: Mapping[str, Any]) -> dict[str, Any]:
    """An estimate as three columns, empty if there is none."""
    flat: dict[str, Any] = {}
    for name, value in values.items():
        if name in ("members", "non_members"):
            flat[name] = value
            continue
        for part in ("value", "low", "high"):
            flat[name if part == "value" else f"{name}_{part}"] = None if value is None else value[part]
    return flat


def _copies(found: Copies) -> dict[str, Any]:
    return {"copies": found.count, "threshold": found.threshold, "ratio": found.ratio}


def _written(rows: Sequence[Mapping[str, Any]]) -> str:
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def _heading_lines(audit: Audit) -> list[str]:
    examined, first = audit.examined, audit.sets[0]
    source = examined.source
    return [
        f"{source.name}: {int((audit.is_member & audit.drawn).sum()):,} of {len(source.train):,} members, and "
        f"{len(examined.others):,} of {len(examined.outside):,} {examined.on} images, which are no members.",
        f"{first.networks} networks on each set, {first.shadows} shadow networks; AUC 0.5 is guessing. In brackets the middle "
        "95 % over resampled images.",
    ]


_CONTROL = "control: no member seen"
_COPIES = (
    "Copies: images nearer to a member than all but 1 % of the non-members; and the median distance to the "
    "nearest\nmember, divided by that of the non-members."
)


def _heading(rate: float) -> str:
    return f"TPR at {100 * rate:g} % FPR"


def _cell(estimate: Estimate | None) -> str:
    if estimate is None:
        return "too few images"
    return f"{estimate.value:.3f} [{estimate.low:.3f}, {estimate.high:.3f}]"


def _count(found: Copies) -> str:
    return f"{found.count} of {len(found.synthetic.rows)}"
